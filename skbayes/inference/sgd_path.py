"""The path of SGD at a constant rate around modes, and the moments of its snapshots."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import OnStep
from skbayes.inference.optimizers import SGD
from skbayes.inference.streams import Streams

RATE = 1.0
"""Default rate times largest curvature, over 1 - momentum; see `default_rate`."""

EXCESS = 3.0
"""Rise of the loss, in nats per row, from which a path counts as diverged."""

MOST_HALVINGS = 20


class Path(NamedTuple):
    """Where SGD has been, for each of several modes at once; all tensors are in float64."""

    mean: Tensor
    """Average of the snapshots and the start, (n_modes, n_params)."""

    variance: Tensor
    """Mean square minus squared mean of the same, (n_modes, n_params)."""

    deviations: Tensor
    """Last snapshots less the running average when they were taken, (n_modes, k, n_params)."""

    last: Tensor
    """Where SGD stopped, (n_modes, n_params), in the dtype of theta."""

    rate: np.ndarray
    """Learning rates that were used, (n_modes,)."""

    losses: np.ndarray
    """Mean over the steps before each snapshot of the loss per row, (n_modes, n_snapshots)."""

    messages: list[str]
    interrupted: bool


class _Moments:
    """Running mean and variance (Welford's recursion) and the last deviations."""

    def __init__(self, theta: Tensor, rank: int) -> None:
        self.mean, self.square = theta.double(), torch.zeros_like(theta, dtype=torch.float64)
        self.count, self.rank = 1, rank
        self.deviations: list[Tensor] = []

    def add(self, theta: Tensor) -> None:
        """Take in a snapshot, (n_modes, n_params)."""
        exact = theta.double()
        self.count += 1
        delta = exact - self.mean
        self.mean = self.mean + delta / self.count
        after = exact - self.mean
        self.square += delta * after
        self.deviations = [*self.deviations, after][-self.rank :]


def collect(
    log_posterior,
    theta: Tensor,
    streams: Streams,
    *,
    learning_rate: float | None,
    momentum: float,
    batch_size: int | None,
    n_snapshots: int,
    thin: int | None,
    rank: int,
    on_step: OnStep | None = None,
) -> Path:
    r"""Follow momentum SGD at a constant rate and average what it passes.

    After every ``thin`` steps (Maddox et al., 2019, algorithm 1; the start counts as the first)

    .. math:: \bar\theta \leftarrow \frac{k \bar\theta + \theta}{k + 1}, \qquad
              \overline{\theta^2} \leftarrow \frac{k \overline{\theta^2} + \theta^2}{k + 1},
              \qquad \hat D \leftarrow [\hat D, \theta - \bar\theta] .

    Each step takes rows at random with replacement, as theories of SGD have it. (In shuffled epochs
    the noise cancels at their ends, where snapshots would be taken: slow directions then hardly
    vary. On three small tables the log scores of held-out rows were the same within 0.01, but for
    the largest rates.)
    The variance :math:`\overline{\theta^2} - \bar\theta^2` is computed by Welford's recursion in
    float64, so that it cannot come out negative. A path whose loss leaves that of its start by
    more than 3 nats per row has diverged; all begin again, those with half the rate.

    Parameters
    ----------
    log_posterior, theta, streams
        The target, the modes (n_modes, n_params), and one random stream per mode.
    learning_rate : float or None
        On the mean loss per row; None is `default_rate`.
    momentum : float
        Of SGD.
    batch_size : int or None
        Rows per step; None is a tenth of them, at most 128.
    n_snapshots : int
        Points that are averaged.
    thin : int or None
        Steps per snapshot; None is as many as an epoch has, at least 10 and at most 50.
    rank : int
        Deviations kept.
    on_step : callable, optional
        Progress.

    Returns
    -------
    Path
    """
    n = log_posterior.n
    batch_size = max(1, min(128, n // 10)) if batch_size is None else min(batch_size, n)
    if thin is None:
        thin = int(np.clip(math.ceil(n / batch_size), 10, 50))
    if learning_rate is None:
        rate = default_rate(log_posterior, theta, streams.child(5), momentum)
    else:
        rate = np.full(len(theta), float(learning_rate))
    first = rate.copy()
    for _ in range(MOST_HALVINGS + 1):
        path, lost = _follow(
            log_posterior,
            theta,
            streams,
            rate,
            momentum,
            batch_size,
            n_snapshots,
            thin,
            rank,
            on_step,
        )
        if path.interrupted or not lost.any():
            break
        rate = np.where(lost, 0.5 * rate, rate)
    else:
        raise ValueError(
            f"SGD diverges from where it starts, even at the learning rate {rate.min():.2g}: "
            "standardise X and y, or take another init."
        )
    lowered = rate < first
    if lowered.any() and learning_rate is not None:
        path.messages.append(
            f"SGD diverged at learning_rate={learning_rate}; {int(lowered.sum())} of {len(rate)} "
            f"paths took less, down to {rate.min():.2g}. Lower learning_rate, or leave it None."
        )
    return path


def default_rate(log_posterior, theta: Tensor, streams: Streams, momentum: float) -> np.ndarray:
    r"""Learning rates in proportion to what is stable, (n_modes,).

    .. math:: \eta = (1 - \mu) / \lambda_{\max}

    with the largest curvature of the mean loss per row at the mode, found by 12 power iterations
    on at most 1,024 rows (products with the Hessian by differences of gradients). A fixed rate
    would not do: the curvature grows with the inverse variance of the noise. The factor one was
    chosen by held-out log scores, see `SWAG`.
    """
    n = log_posterior.n
    rows = np.arange(n) if n <= 1024 else np.sort(streams.permutation(n)[0][:1024])
    target = log_posterior.minibatch(rows)
    v = streams.normal(theta.shape[1], dtype=theta.dtype, device=theta.device)
    step = 1e-3 if theta.dtype == torch.float32 else 1e-5
    size = step * (1.0 + torch.linalg.vector_norm(theta, dim=1, keepdim=True))
    curvature = torch.ones(len(theta), dtype=torch.float64, device=theta.device)
    for _ in range(12):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-30)
        ahead = target.grad(theta + size * v).clone()
        v = (target.grad(theta - size * v) - ahead) / (2.0 * size)
        curvature = torch.linalg.vector_norm(v.double(), dim=1) / log_posterior.total_weight
    curvature = torch.nan_to_num(curvature, nan=1.0, posinf=1.0).clamp_min(1e-6)
    return RATE * (1.0 - momentum) / curvature.cpu().numpy()


def _follow(
    log_posterior, theta0, streams, rate, momentum, batch_size, n_snapshots, thin, rank, on_step
) -> tuple[Path, np.ndarray]:
    """One pass of `collect`, which ends where a path is lost; and which paths are, (n_modes,)."""
    theta, moments = theta0.clone(), _Moments(theta0, rank)
    optimiser, total_weight = SGD(theta, momentum), log_posterior.total_weight
    n = log_posterior.n
    column = torch.as_tensor(rate[:, None] / -total_weight, dtype=theta.dtype, device=theta.device)
    # always the same rows: a minibatch of few may be far from the mean by chance
    check = log_posterior.minibatch(_some_rows(n, streams))
    least = check(theta) - EXCESS * total_weight
    losses: list[np.ndarray] = []
    lost = np.zeros(len(theta), dtype=bool)
    interrupted = False
    try:
        for k in range(n_snapshots):
            loss = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
            for _ in range(thin):
                index = streams.rows(n, batch_size)
                value, grad = log_posterior.minibatch(index).value_and_grad(theta)
                optimiser.step(theta, grad.mul(column), 1.0)
                loss -= value / (thin * total_weight)
            losses.append(loss.cpu().numpy())
            fine = (check(theta) > least) & torch.isfinite(theta).all(1)
            lost = ~fine.cpu().numpy()
            if lost.any():
                break
            moments.add(theta)
            if on_step is not None:
                on_step(k + 1, n_snapshots, f"average, loss {losses[-1].mean():.4g}")
    except KeyboardInterrupt:
        interrupted = True
    deviations = moments.deviations or [torch.zeros_like(moments.mean)]
    path = Path(
        moments.mean,
        moments.square / moments.count,
        torch.stack(deviations, 1),
        theta,
        rate,
        np.stack(losses, 1) if losses else np.empty((len(theta), 0)),
        [],
        interrupted,
    )
    return path, lost


def _some_rows(n: int, streams: Streams) -> np.ndarray:
    """At most 4,096 rows, the same for all modes."""
    return np.arange(n) if n <= 4096 else streams.permutation(n)[0][:4096]
