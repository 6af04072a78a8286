"""Metropolis-adjusted microcanonical Monte Carlo."""

from __future__ import annotations

from skbayes.inference.kernel import ChainMethod, jitter
from skbayes.inference.microcanonical import MicrocanonicalKernel


class AdjustedMCLMC(ChainMethod):
    r"""Metropolis-adjusted microcanonical Monte Carlo, which is exact.

    Robnik, Cohn-Gordon and Seljak (2025), without refreshment on the way.

    A trajectory starts in a direction u drawn from the sphere and follows

    .. math:: \dot x = u, \qquad \dot u = (I - u u^T) \nabla \log p(x \mid D) / (d - 1),
              \qquad x = \theta / s,

    by leapfrog steps (`skbayes.inference.microcanonical`). The point where it ends is accepted
    with the probability

    .. math:: \min\{1, e^{-W}\}, \qquad
              W = \sum_{\text{kicks}} \Delta K - \log p(\theta' \mid D) + \log p(\theta \mid D),

    where :math:`e^{\Delta K}` is the inverse of the volume that a kick gains, so that detailed
    balance holds. The speed never changes, whatever the depth of a valley, which suits the long
    and narrow posteriors of networks. The energy is not drawn anew, so that there is no E-BFMI.

    Step sizes, one per chain, are tuned by dual averaging, s by the deviations within chains;
    lengths are jittered as those of `HMC` are.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=500
        Iterations that tune and are thrown away.
    n_draws : int, default=500
        Draws kept per chain.
    thin : int, default=1
        Iterations per draw kept.
    trajectory_length : float or None, default=None
        Longest length of a trajectory, in posterior standard deviations; the jitter takes between
        a third and all of it. None is 1.5 sqrt(n_params).
    max_leapfrog : int, default=1000
        Most leapfrog steps per trajectory.
    step_size : float or None, default=None
        First step size; None finds one.
    target_accept : float, default=0.8
        Mean acceptance that the step sizes are tuned for.
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
        n_warmup=500,
        n_draws=500,
        thin=1,
        trajectory_length=None,
        max_leapfrog=1000,
        step_size=None,
        target_accept=0.8,
        marginalize="auto",
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.trajectory_length = trajectory_length
        self.max_leapfrog = max_leapfrog
        self.step_size = step_size
        self.target_accept = target_accept
        self.marginalize = marginalize
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("max_leapfrog")
        self._positive("trajectory_length", or_in=(None,))

    def _kernel(self, log_posterior, theta):
        return _AdjustedKernel(self, log_posterior, theta)


class _AdjustedKernel(MicrocanonicalKernel):
    def step(self, streams, iteration):
        longest = self.method.trajectory_length
        if longest is None:
            longest = 1.5 * self.theta.shape[1] ** 0.5
        n_steps = self.n_steps(jitter(iteration) * longest)
        proposal = self.propose(self.momentum(streams), self.tuner.step_size, n_steps)
        return self.metropolis(streams, proposal, n_steps)[1]
