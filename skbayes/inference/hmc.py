"""Hamiltonian Monte Carlo."""

from __future__ import annotations

import numpy as np
import torch

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import (
    DIVERGENCE,
    ChainMethod,
    GradientKernel,
    metropolis_statistics,
    van_der_corput,
)


class HMC(ChainMethod):
    r"""Hamiltonian Monte Carlo (Duane et al., 1987; Neal, 2011).

    Each iteration draws a momentum p ~ N(0, M), follows Hamilton's equations of

    .. math:: H(\theta, p) = -\log p(\theta \mid D) + \tfrac12 p^T M^{-1} p

    by the leapfrog method (Neal, 2011, equations 2.28 to 2.30)

    .. math:: p \leftarrow p + \tfrac\epsilon2 \nabla \log p(\theta \mid D), \quad
              \theta \leftarrow \theta + \epsilon M^{-1} p, \quad
              p \leftarrow p + \tfrac\epsilon2 \nabla \log p(\theta \mid D),

    and accepts the end point with probability min(1, exp(H - H')). Energies are summed in float64
    whatever the dtype of theta, so that float32 does not spoil the comparison.

    While warming up, each chain's step size is tuned by dual averaging (Hoffman and Gelman, 2014),
    and the diagonal M is replaced by the inverse variances within chains after windows of doubling
    length. The length of a trajectory is jittered, so that no oscillation of the posterior is in
    step with it; the jitter is a fixed low-discrepancy sequence, the same for all chains, which
    leaves the target invariant.

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
    trajectory_length : float, default=3.0
        Longest time of a trajectory, in posterior standard deviations (those of the masses); the
        jitter takes between a third and all of it.
    max_leapfrog : int, default=200
        Most leapfrog steps per trajectory.
    step_size : float or None, default=None
        First step size; None finds one.
    target_accept : float, default=0.8
        Mean acceptance that the step sizes are tuned for.
    init : Method, "prior" or None, default=None
        Where chains start: at the members that another method fits, at draws from the prior, or
        (None) at the members of an `Ensemble`.
    """

    def __init__(
        self,
        n_chains=4,
        n_warmup=500,
        n_draws=500,
        thin=1,
        trajectory_length=3.0,
        max_leapfrog=200,
        step_size=None,
        target_accept=0.8,
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
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("max_leapfrog")
        self._positive("trajectory_length")

    def _kernel(self, log_posterior, theta):
        return _HMCKernel(self, log_posterior, theta)


class _HMCKernel(GradientKernel):
    def step(self, streams, iteration):
        method = self.method
        momentum = self.momentum(streams)
        uniform = streams.uniform(1, device=self.theta.device)[:, 0]
        step_size = self.averaging.step_size
        jitter = 1.0 - 2.0 / 3.0 * van_der_corput(iteration + 1)
        length = jitter * method.trajectory_length
        n_steps = int(np.clip(np.ceil(length / np.median(step_size)), 1, method.max_leapfrog))
        theta, new_momentum, value, grad = self.leapfrog(momentum, step_size, n_steps)
        # H - H': differences of the log densities and of the kinetic energies
        kinetic, new_kinetic = self.metric.kinetic(momentum), self.metric.kinetic(new_momentum)
        error = (value - self.value) + (kinetic - new_kinetic)
        error = torch.where(torch.isfinite(error), error, torch.full_like(error, -torch.inf))
        energy = kinetic - self.value  # of the point that the trajectory starts from
        self.accept(torch.log(uniform) < error, theta, value, grad)
        return {
            **metropolis_statistics(self, error, n_steps),
            "diverging": to_numpy(error < -DIVERGENCE),
            "energy": to_numpy(energy),
        }
