"""Cyclical stochastic-gradient MCMC: from mode to mode, and draws in each."""

from __future__ import annotations

import math

from skbayes.inference.sgld import _SGLDKernel
from skbayes.inference.stochastic import StochasticMethod


class CSGMCMC(StochasticMethod):
    r"""Cyclical SGLD, Zhang, Li, Zhang, Chen and Wilson (2020), equation 1 and algorithm 1.

    The K steps are cut into M cycles, in each of which the step size falls from its largest value
    to zero,

    .. math:: \epsilon_k = \frac{\epsilon_0}{2} \left[\cos\left(\frac{\pi\,
              \operatorname{mod}(k - 1, \lceil K / M \rceil)}{\lceil K / M \rceil}\right)
              + 1\right].

    The first share of a cycle explores, as gradient descent without noise; after it the chain
    draws by `SGLD`. Large steps carry it to another mode, small ones describe that mode.

    Parameters
    ----------
    n_chains : int, default=4
        Chains.
    n_draws : int, default=40
        Draws kept per chain.
    draws_per_cycle : int, default=10
        Draws of each cycle, at equal numbers of its last steps; so M is ``n_draws`` over it.
    n_steps : int or None, default=None
        Steps per cycle; None is as many as 30 passes over the data take, at least 500.
    exploration : float, default=0.8
        Share of a cycle without noise and draws (beta in the paper).
    learning_rate : float or None, default=None
        Largest step, as of gradient descent on the mean loss per row. None is twice the inverse of
        the mean loss's largest curvature at each chain's start, half of what is stable there.
    batch_size, temperature, control_variates, init : object
        See `SGLD`.
    """

    n_warmup = 0
    safe_rate = 2.0

    def share_for_noise(self, n_rows):
        """One: the largest steps look for modes, see `StochasticMethod`."""
        return 1.0

    def __init__(
        self,
        n_chains=4,
        n_draws=40,
        draws_per_cycle=10,
        n_steps=None,
        batch_size=None,
        exploration=0.8,
        learning_rate=None,
        temperature=1.0,
        control_variates=False,
        init=None,
    ):
        self.n_chains = n_chains
        self.n_draws = n_draws
        self.draws_per_cycle = draws_per_cycle
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.exploration = exploration
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.control_variates = control_variates
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("draws_per_cycle")
        self._require("exploration", kind=(int, float), low=0, high=0.99)
        if self.n_steps is not None:
            left = self.n_steps - round(self.exploration * self.n_steps)
            if left < self.draws_per_cycle:
                raise ValueError(
                    f"CSGMCMC: draws_per_cycle={self.draws_per_cycle!r} is not allowed; with "
                    f"n_steps={self.n_steps!r} and exploration={self.exploration!r} a cycle has "
                    f"{left} steps to draw in."
                )

    def _kernel(self, log_posterior, theta):
        return _CyclicalKernel(self, log_posterior, theta)


class _CyclicalKernel(_SGLDKernel):
    """One iteration is one draw; the first of a cycle explores before it draws."""

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        if method.n_steps is None:
            self.n_steps = max(500, 30 * method.steps_of_a_pass(log_posterior.n))
        self.draws = method.draws_per_cycle
        passes = self.n_steps * self.batch_size / log_posterior.n
        self.with_value = passes >= self.draws and not self.minibatches.on_disk

    def size(self, t):
        return 0.5 * (math.cos(math.pi * (t % self.n_steps) / self.n_steps) + 1.0)

    def advance(self, streams, iteration):
        last = (iteration % self.draws + 1) / self.draws  # share of the sampling stage
        explored = round(self.method.exploration * self.n_steps)
        end = explored + round(last * (self.n_steps - explored))
        end += iteration // self.draws * self.n_steps
        size = 0.0
        while self.t < end:
            size = self.size(self.t)
            epsilon = self.rate * size
            if self.t % self.n_steps < explored:
                grad = self.gradient(self.batch(streams), self.theta)
                self.theta = self.theta + 0.5 * epsilon * grad
            else:
                self.move(streams, epsilon)
            self.t += 1
        return self._with_size({}, size)
