"""Hamiltonian Monte Carlo."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.adaptation import DualAveraging, RunningVariance, windows
from skbayes.inference.base import Method, points, to_numpy
from skbayes.inference.chains import run_chains
from skbayes.inference.ensemble import Ensemble
from skbayes.posterior import Posterior

DIVERGENCE = 1000.0  # energy error from which a trajectory counts as diverged


class HMC(Method):
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
        Chains, all moved in one batch.
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

    def chain_count(self):
        """Number of chains."""
        return self.n_chains

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._require("n_chains", "n_draws", "thin", "max_leapfrog")
        self._require("n_warmup", low=0)
        self._positive("trajectory_length")
        self._positive("step_size", or_in=(None,))
        self._require("target_accept", kind=(int, float), low=0.05, high=0.999)
        check_init(self)

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Sample, see `Method.run`."""
        if theta0 is None:
            theta0, stopped = start(self.init, log_posterior, streams, on_step)
            if stopped is not None:
                return stopped
        kernel = _HMCKernel(self, log_posterior, theta0)
        kernel.find_step_size(streams)
        return run_chains(
            kernel,
            log_posterior.layout,
            streams,
            n_warmup=self.n_warmup,
            n_draws=self.n_draws,
            thin=self.thin,
            on_step=on_step,
        )


def check_init(method) -> None:
    """Check the ``init`` of a method that starts chains."""
    if method.init is None or (isinstance(method.init, str) and method.init == "prior"):
        return
    if not isinstance(method.init, Method):
        raise ValueError(
            f"{type(method).__name__}: init={method.init!r} is not allowed; it must be a method "
            'object such as Ensemble(), "prior", or None.'
        )
    method.init.check()


def start(init, log_posterior, streams, on_step) -> tuple[Tensor, Posterior | None]:
    """Starting points of chains, (n_chains, n_params), from streams of their own.

    After Ctrl-C the second value is what was reached, which then is the answer of the run.
    """
    own = streams.child(0)
    if isinstance(init, str):
        return log_posterior.sample_prior(own), None
    if init is None:
        init = Ensemble(n_members=streams.n_chains)
    elif init.chain_count() != streams.n_chains:
        own = streams.child(0, init.chain_count())
    members = init.run(log_posterior, None, own, on_step)
    # with fewer members than chains, some chains share a start
    theta = members.last_state[np.arange(streams.n_chains) % members.n_chains]
    theta = torch.as_tensor(theta, dtype=log_posterior.dtype, device=log_posterior.device)
    if not members.interrupted:
        return theta, None
    message = (
        "Sampling was interrupted before it began: the chains' starting points stand for draws."
    )
    return theta, points(theta, log_posterior, members.loss_curve, [message], True)


class _HMCKernel:
    """The state of all chains, see `skbayes.inference.chains.Kernel`."""

    def __init__(self, method: HMC, log_posterior, theta: Tensor) -> None:
        self.method, self.log_posterior = method, log_posterior
        self.theta = theta
        self.value, self.grad = log_posterior.value_and_grad(theta)
        if not bool(torch.isfinite(self.value).all()):
            raise ValueError("The log posterior is not finite where the chains start.")
        self.inverse_mass = torch.ones_like(theta[:1])  # (1, n_params)
        first = 0.1 if method.step_size is None else float(method.step_size)
        self.averaging = DualAveraging(np.full(len(theta), first), method.target_accept)
        self.running = RunningVariance()
        self.schedule = windows(method.n_warmup)

    def step(self, streams, iteration):
        method = self.method
        momentum = self._momentum(streams)
        uniform = streams.uniform(1, device=self.theta.device)[:, 0]
        step_size = self.averaging.step_size
        jitter = 1.0 - 2.0 / 3.0 * _van_der_corput(iteration + 1)
        length = jitter * method.trajectory_length
        n_steps = int(np.clip(np.ceil(length / np.median(step_size)), 1, method.max_leapfrog))
        theta, new_momentum, value, grad = self._leapfrog(momentum, step_size, n_steps)
        # H - H': differences of the log densities and of the kinetic energies
        kinetic, new_kinetic = self._kinetic(momentum), self._kinetic(new_momentum)
        error = (value - self.value) + (kinetic - new_kinetic)
        error = torch.where(torch.isfinite(error), error, torch.full_like(error, -torch.inf))
        accepted = torch.log(uniform) < error
        energy = kinetic - self.value  # of the point that the trajectory starts from
        self.theta = torch.where(accepted[:, None], theta, self.theta)
        self.grad = torch.where(accepted[:, None], grad, self.grad)
        self.value = torch.where(accepted, value, self.value)
        return {
            "log_prob": to_numpy(self.value),
            "acceptance": to_numpy(error.clamp_max(0.0).exp()),
            "diverging": to_numpy(error < -DIVERGENCE),
            "energy": to_numpy(energy),
            "energy_error": to_numpy(-error),
            "n_leapfrog": np.full(len(step_size), n_steps),
        }

    def adapt(self, iteration, n_warmup, stats):
        first, ends, _ = self.schedule
        self.averaging.update(stats["acceptance"])
        if ends and first <= iteration < ends[-1]:
            self.running.add(self.theta)
            if iteration + 1 in ends:
                self.inverse_mass = self.running.variance().to(self.theta.dtype)[None]
                self.running.reset()
                self.averaging.restart(self.averaging.finish())
        if iteration + 1 == n_warmup:
            self.averaging.finish()

    def adapted(self):
        return {
            "step_size": self.averaging.step_size.copy(),
            "inverse_mass": to_numpy(self.inverse_mass[0]),
        }

    def find_step_size(self, streams) -> None:
        """Double or halve each chain's step until one leapfrog step is accepted half the time.

        Hoffman and Gelman (2014), algorithm 4.
        """
        if self.method.step_size is not None:
            return
        own = streams.child(1)
        step_size = self.averaging.step_size.copy()
        momentum = self._momentum(own)
        direction = np.zeros(len(step_size))
        for _ in range(60):
            _, new_momentum, value, _ = self._leapfrog(momentum, step_size, 1)
            error = value - self.value + self._kinetic(momentum) - self._kinetic(new_momentum)
            error = to_numpy(torch.nan_to_num(error, nan=-torch.inf))
            up = np.where(error > np.log(0.5), 1.0, -1.0)
            direction = np.where(direction == 0.0, up, direction)
            moving = direction == up
            if not moving.any():
                break
            step_size = np.where(moving, step_size * 2.0**direction, step_size)
        self.averaging.restart(step_size)

    def _momentum(self, streams) -> Tensor:
        normal = streams.normal(
            self.theta.shape[1], dtype=self.theta.dtype, device=self.theta.device
        )
        return normal * torch.rsqrt(self.inverse_mass)

    def _kinetic(self, momentum: Tensor) -> Tensor:
        p = momentum.double()
        return 0.5 * (p * p * self.inverse_mass.double()).sum(1)

    def _leapfrog(
        self, momentum: Tensor, step_size: np.ndarray, n_steps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Follow all chains for ``n_steps``; one gradient a step, and one value at the end."""
        epsilon = torch.as_tensor(
            step_size[:, None], dtype=self.theta.dtype, device=self.theta.device
        )
        drift = epsilon * self.inverse_mass
        theta = self.theta.clone()
        p = torch.addcmul(momentum, epsilon, self.grad, value=0.5)
        for _ in range(n_steps - 1):
            theta.addcmul_(drift, p)
            p.addcmul_(epsilon, self.log_posterior.grad(theta))
        theta.addcmul_(drift, p)
        value, grad = self.log_posterior.value_and_grad(theta)
        p.addcmul_(epsilon, grad, value=0.5)
        return theta, p, value, grad


def _van_der_corput(i: int) -> float:
    """The i-th number of the van der Corput sequence of base 2, in (0, 1)."""
    out, scale = 0.0, 0.5
    while i:
        out += scale * (i & 1)
        i >>= 1
        scale *= 0.5
    return out
