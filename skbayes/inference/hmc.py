"""Hamiltonian Monte Carlo."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import (
    ChainMethod,
    GradientKernel,
    jitter,
    part_of,
    with_prefix,
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
    and M is replaced by the inverse variances within chains after windows of doubling length. The
    length of a trajectory is jittered, so that no oscillation of the posterior is in step with it;
    the jitter is a fixed low-discrepancy sequence, the same for all chains, which leaves the
    target invariant.

    With ``trajectory_length="chees"`` the longest length T is tuned too, by stochastic ascent on

    .. math:: \text{ChEES} = \tfrac14 E\left[\left(\|x' - \mu\|^2
              - \|x - \mu\|^2\right)^2\right]

    (Hoffman, Radul and Sountsov, 2021, equations 11 to 13; x is theta in posterior deviations),
    whose gradient is averaged over the chains. The paper takes the mean over chains for
    :math:`\mu`; here every chain has its own running mean, because chains may sit in different
    modes. The gradient of 4 chains is noisy, so that T may end far from the best and differ from
    seed to seed; about 16 chains steady it, and then all of them are moved in one batch.

    With ``persistence`` :math:`\alpha > 0` a part of the last momentum is kept (Horowitz, 1991),

    .. math:: p \leftarrow \alpha p + \sqrt{1 - \alpha^2}\, p_{\text{new}},
              \qquad p_{\text{new}} \sim N(0, M),

    and is turned round where a proposal is not accepted.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size``: four, or all of them with ChEES.
    n_warmup : int, default=500
        Iterations that tune and are thrown away.
    n_draws : int, default=500
        Draws kept per chain.
    thin : int, default=1
        Iterations per draw kept.
    trajectory_length : float or "chees", default=3.0
        Longest time of a trajectory, in posterior standard deviations (those of the masses); the
        jitter takes between a third and all of it. "chees" tunes it, from 3.
    max_leapfrog : int, default=200
        Most leapfrog steps per trajectory.
    step_size : float or None, default=None
        First step size; None finds one.
    target_accept : float, default=0.8
        Mean acceptance that the step sizes are tuned for.
    persistence : float, default=0.0
        Part of the momentum that is kept from one trajectory to the next, at least 0 and below 1.
    metric : {"diagonal", "low_rank"}, default="diagonal"
        Shape of M: a diagonal, or a diagonal corrected in up to 20 directions in which the draws
        of the warm-up reach furthest. The second costs more per step, and needs a warm-up long
        enough to know these directions.
    marginalize : bool or "auto", default="auto"
        Whether the output layer (with heteroscedastic noise the mean's part of it) is integrated
        out, exactly, and drawn given all else for each draw kept: the same posterior in fewer
        dimensions, which mixes several times faster. It needs normal noise, of a single output
        if heteroscedastic, and a `NormalPrior`. "auto" does so where that holds and the last
        hidden layer has at most 128 units, since the cost of a gradient grows with their square.
    init : Method, "prior" or None, default=None
        Where chains start: at the members that another method fits, at draws from the prior, or
        (None) at the members of an `Ensemble` trained on batches of 200 rows.
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
        persistence=0.0,
        metric="diagonal",
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
        self.persistence = persistence
        self.metric = metric
        self.marginalize = marginalize
        self.init = init

    @property
    def group_size(self) -> int:  # type: ignore[override]
        """Chains that share their adaptation: all of them where ChEES averages over them."""
        return self.n_chains if self.trajectory_length == "chees" else ChainMethod.group_size

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("max_leapfrog")
        self._positive("trajectory_length", or_in=("chees",))
        self._require("persistence", kind=(int, float), low=0.0, high=0.999)

    def _kernel(self, log_posterior, theta):
        return _HMCKernel(self, log_posterior, theta)


class _HMCKernel(GradientKernel):
    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        self.last_momentum: Tensor | None = None  # where some of it is kept
        self.chees: _ChEES | None = None
        if method.trajectory_length == "chees":
            self.chees = _ChEES(theta)

    def step(self, streams, iteration):
        method, chees = self.method, self.chees
        momentum = self.momentum(streams)
        if self.last_momentum is not None:
            keep = method.persistence
            momentum = keep * self.last_momentum + (1.0 - keep**2) ** 0.5 * momentum
        longest = method.trajectory_length if chees is None else chees.length
        part = jitter(iteration)
        n_steps = self.n_steps(part * longest)
        proposal = self.propose(momentum, self.tuner.step_size, n_steps)
        if chees is not None and iteration < method.n_warmup:
            velocity = self.metric.velocity(proposal.momentum)
            chees.see(self.theta, proposal, velocity, part, self.metric.scale)
        accepted, stats = self.metropolis(streams, proposal, n_steps)
        if method.persistence > 0.0:
            self.last_momentum = torch.where(accepted[:, None], proposal.momentum, -momentum)
        return stats

    def adapt(self, iteration, n_warmup, stats):
        metric = self.metric
        super().adapt(iteration, n_warmup, stats)
        if self.metric is not metric:
            self.last_momentum = None  # it belongs to the old masses
        if self.chees is not None:
            longest = self.method.max_leapfrog * float(np.median(self.tuner.step_size))
            self.chees.update(longest)
            if iteration + 1 == n_warmup:
                self.chees.length = self.chees.mean_length

    def adapted(self):
        more = {}
        if self.chees is not None:
            more["trajectory_length"] = np.full(len(self.theta), self.chees.length)
        return {**super().adapted(), **more}

    def state(self):
        out = super().state()
        if self.last_momentum is not None:
            out["last_momentum"] = to_numpy(self.last_momentum)
        if self.chees is not None:
            out.update(with_prefix("chees", self.chees.state()))
        return out

    def restore(self, state):
        super().restore(state)
        if "last_momentum" in state:
            self.last_momentum = self.tensor(state["last_momentum"])
        if self.chees is not None:
            self.chees.restore(part_of(state, "chees"))
            self.chees.centre = self.tensor(state["chees.centre"])


class _ChEES:
    """Ascent of log T by Adam without momentum, as the paper has it (rate 0.025, beta_2 0.95)."""

    def __init__(self, theta: Tensor) -> None:
        self.length = self.mean_length = 3.0
        self.square, self.t = 0.0, 0
        self.centre = theta.clone()
        self.gradient = 0.0

    def see(self, theta, proposal, velocity, part, scale) -> None:
        """Estimate the gradient by log T from one trajectory of every chain."""
        start = ((theta - self.centre) / scale).double()
        end = ((proposal.theta - self.centre) / scale).double()
        gain = (end**2).sum(1) - (start**2).sum(1)
        along = (end * (velocity / scale).double()).sum(1)
        weight = proposal.error.clamp_max(0.0).exp()
        each = torch.nan_to_num(part * gain * along * weight, nan=0.0, posinf=0.0, neginf=0.0)
        self.gradient = float(each.sum() / weight.sum().clamp_min(1e-12))
        # the weight of new points never falls below a hundredth: early ones are forgotten
        self.centre = torch.lerp(self.centre, theta, max(0.01, 1.0 / (self.t + 1)))

    def update(self, longest: float) -> None:
        """Take one step; T stays below what the most leapfrog steps can reach."""
        self.t += 1
        self.square = 0.95 * self.square + 0.05 * self.gradient**2
        root = (self.square / (1.0 - 0.95**self.t)) ** 0.5
        step = 0.025 * self.gradient / (root + 1e-12)
        self.length = float(np.clip(self.length * np.exp(step), 0.1, max(0.1, longest)))
        share = self.t**-0.75
        self.mean_length = float(self.mean_length ** (1.0 - share) * self.length**share)

    def state(self) -> dict[str, np.ndarray]:
        names = ("length", "mean_length", "square", "t")
        out = {name: np.array(getattr(self, name)) for name in names}
        return {**out, "centre": to_numpy(self.centre)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for name in ("length", "mean_length", "square"):
            setattr(self, name, float(state[name]))
        self.t = int(state["t"])
