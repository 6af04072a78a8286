"""Curves of low loss between two modes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import OnStep
from skbayes.inference.optimizers import Adam
from skbayes.inference.streams import Streams


class Curve(NamedTuple):
    r"""A quadratic Bezier curve from one mode to another.

    .. math:: \phi(t) = (1 - t)^2 \theta_0 + 2 t (1 - t) b + t^2 \theta_1, \qquad 0 \le t \le 1

    (Garipov et al., 2018, section 3.2).
    """

    ends: Tensor
    """The modes, (2, n_params)."""

    bend: Tensor
    """b, (n_params,)."""

    losses: np.ndarray
    """Loss per row over the steps, (n_steps,)."""

    interrupted: bool

    def points(self, t) -> Tensor:
        """The curve at some t (k,), (k, n_params)."""
        t = torch.as_tensor(t, dtype=self.bend.dtype, device=self.bend.device)[:, None]
        return (1 - t) ** 2 * self.ends[0] + 2 * t * (1 - t) * self.bend + t**2 * self.ends[1]

    def plane(self) -> tuple[Tensor, Tensor]:
        """The plane of the curve: its centre (n_params,) and two directions (n_params, 2).

        The centre is half way between the modes, which lie at 1 and -1 on the first axis; the
        second is perpendicular to it, towards the bend, and equally long.
        """
        centre = self.ends.mean(0)
        first = self.ends[0] - centre
        square = (first * first).sum()
        towards = self.bend - centre
        second = towards - (towards @ first) / square * first
        second = second * (square.sqrt() / torch.linalg.vector_norm(second))
        return centre, torch.stack([first, second], 1)


def train_curve(
    log_posterior,
    ends: Tensor,
    streams: Streams,
    *,
    n_steps: int = 1000,
    learning_rate: float = 0.01,
    batch_size: int = 128,
    on_step: OnStep | None = None,
) -> Curve:
    r"""Bend the line between two modes so that the loss is low all along it.

    Garipov et al. (2018), equation 2: the expected loss for t uniform in [0, 1],

    .. math:: \min_b \int_0^1 L(\phi(t))\, dt, \qquad
              \nabla_b L(\phi(t)) = 2 t (1 - t)\, \nabla L(\phi(t)),

    with L the negative log posterior per row. Each step of Adam, whose rate falls as a half
    cosine, takes as many t as there are streams, one from each of as many equal parts of [0, 1],
    all in one batch, each with its own minibatch. (The paper takes one t a step.)

    Parameters
    ----------
    log_posterior : LogPosterior
        The target.
    ends : Tensor of shape (2, n_params)
        The modes, which stay.
    streams : Streams
        One random stream for each t of a step.
    n_steps, learning_rate, batch_size
        Of the optimiser.
    on_step : callable, optional
        Progress.

    Returns
    -------
    Curve
    """
    bend = ends.mean(0, keepdim=True)
    optimiser, n, k = Adam(bend), log_posterior.n, streams.n_chains
    losses: list[float] = []
    interrupted = False
    parts = torch.arange(k, dtype=torch.float64)[:, None]
    try:
        for step in range(n_steps):
            t = ((parts + streams.uniform(1)) / k).to(ends)
            rows = log_posterior
            if batch_size < n:
                rows = log_posterior.minibatch(streams.rows(n, batch_size))
            weight = 2 * t * (1 - t)
            theta = (1 - t) ** 2 * ends[:1] + weight * bend + t**2 * ends[1:]
            value, grad = rows.value_and_grad(theta)
            mean = (weight * grad).mean(0, keepdim=True) / -log_posterior.total_weight
            rate = 0.5 * learning_rate * (1 + np.cos(np.pi * step / n_steps))
            optimiser.step(bend, mean, rate)
            losses.append(float(-value.mean()) / log_posterior.total_weight)
            if on_step is not None:
                on_step(step + 1, n_steps, f"curve, loss {losses[-1]:.4g}")
    except KeyboardInterrupt:
        interrupted = True
    return Curve(ends, bend[0], np.array(losses), interrupted)
