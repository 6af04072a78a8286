"""Random-walk Metropolis."""

from __future__ import annotations

import numpy as np

from skbayes.inference.kernel import (
    ChainMethod,
    GradientKernel,
    Proposal,
    refused_if_not_finite,
)


class Metropolis(ChainMethod):
    r"""Random-walk Metropolis (Metropolis et al., 1953), adapted.

    .. math:: \theta' = \theta + \epsilon\, M^{-1/2} z, \quad z \sim N(0, I), \qquad
              P(\text{accept}) = \min\{1, p(\theta' \mid D) / p(\theta \mid D)\}

    While warming up, epsilon is tuned to the acceptance 0.234 that is best in many dimensions
    (Roberts, Gelman and Gilks, 1997, corollary 1.2) from 2.38 / sqrt(d), and M is replaced by the
    inverse variances within chains. It needs no gradient, and a number of steps that grows with
    the dimension: for the weights of networks it is here to be compared with.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=5000
        Iterations that tune and are thrown away.
    n_draws : int, default=1000
        Draws kept per chain.
    thin : int, default=20
        Iterations per draw kept.
    step_size : float or None, default=None
        First epsilon; None is 2.38 / sqrt(n_params).
    target_accept : float, default=0.234
        Mean acceptance that the step sizes are tuned for.
    metric : {"diagonal", "low_rank"}, default="diagonal"
        Shape of M: see `HMC`.
    marginalize : bool or "auto", default="auto"
        Whether the output layer (with heteroscedastic noise the mean's part of it) is integrated
        out, exactly, and drawn given all else for each draw kept: the same posterior in fewer
        dimensions, which mixes several times faster. It needs normal noise, of a single output
        if heteroscedastic, and a `NormalPrior`. "auto" does so where that holds and the last
        hidden layer has at most 128 units, since the cost of a gradient grows with their square.
    init : Method, "prior" or None, default=None
        Where chains start: see `HMC`.
    """

    def __init__(
        self,
        n_chains=4,
        n_warmup=5000,
        n_draws=1000,
        thin=20,
        step_size=None,
        target_accept=0.234,
        metric="diagonal",
        marginalize="auto",
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.step_size = step_size
        self.target_accept = target_accept
        self.metric = metric
        self.marginalize = marginalize
        self.init = init

    def _kernel(self, log_posterior, theta):
        return _MetropolisKernel(self, log_posterior, theta)


class _MetropolisKernel(GradientKernel):
    def evaluate(self, theta):
        return self.log_posterior(theta), theta[:, :0]  # there is no gradient

    def find_step_size(self, streams):
        if self.method.step_size is None:
            first = np.full(len(self.theta), 2.38 / self.theta.shape[1] ** 0.5)
            self.tuner.restart(first)

    def step(self, streams, iteration):
        # velocity(momentum) has the covariance M^-1, as a proposal should
        direction = self.metric.velocity(self.momentum(streams))
        theta = self.theta + self.column(self.tuner.step_size) * direction
        value, grad = self.evaluate(theta)
        error = refused_if_not_finite(value - self.value)
        return self.metropolis(streams, Proposal(theta, direction, value, grad, error), 0)[1]
