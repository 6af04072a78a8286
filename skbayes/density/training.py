"""Minibatch training with early stopping on a held-out bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.density.importance import log_density, normal_points
from skbayes.density.model import VAE
from skbayes.density.objectives import Objective
from skbayes.inference.optimizers import Adam


class Schedule(NamedTuple):
    """How long and how fast to train."""

    batch_size: int
    max_epochs: int
    learning_rate: float
    warm_up: int
    """Steps in which the factor on the divergence grows from 0 to 1."""
    patience: int
    """Evaluations without a better held-out bound after which the rate is cut, then the end."""
    prior_scale: float
    evaluate_every: int = 50


class Trained(NamedTuple):
    """What training reached."""

    weights: dict[str, np.ndarray]
    loss_curve: list[float]
    validation_curve: list[float]
    best: float
    n_steps: int
    converged: bool
    interrupted: bool


CUT = 0.3
N_CUTS = 2


def train(
    model: VAE,
    objective: Objective,
    rows: Callable[[np.ndarray], Tensor],
    n: int,
    held_out: Tensor,
    schedule: Schedule,
    seed: int,
    *,
    weight: np.ndarray | None = None,
    held_out_weight: np.ndarray | None = None,
    total: float | None = None,
    on_step: Callable[[int, int, float, float], None] | None = None,
) -> Trained:
    """Train a model in place; it ends with the weights of the best held-out bound.

    Parameters
    ----------
    model : VAE
        Float32 or float64, on the device of what ``rows`` gives.
    objective : Objective
        What is minimised.
    rows : callable
        ``rows(index)`` gives values (batch, n_columns).
    n : int
        Number of rows.
    held_out : Tensor of shape (m, n_columns)
        Rows for the held-out bound.
    schedule : Schedule
        How long and how fast.
    seed : int
        For the order of the rows and the points of q.
    weight, held_out_weight : ndarray, optional
        Weights of the rows.
    total : float, optional
        Sum of the weights of all rows, which the priors are divided by.
    on_step : callable, optional
        ``on_step(done, total, loss, held_out_loss)`` at every evaluation.
    """
    rng = np.random.default_rng(seed)
    flat, grad = _flatten(model)
    optimiser = Adam(flat)
    like = flat
    batch = min(schedule.batch_size, n)
    per_epoch = math.ceil(n / batch)
    n_steps = per_epoch * schedule.max_epochs
    every = max(1, min(schedule.evaluate_every, n_steps))
    total = float(n) if total is None else total
    points = _held_out_points(model, objective, like)
    share_out = _shares(held_out_weight, len(held_out), like)
    best_flat = flat.clone()
    best = _evaluate(model, objective, held_out, points, share_out)
    losses: list[float] = []
    curve = [best]
    since, cuts, rate = 0, 0, schedule.learning_rate
    running, counted, step, interrupted, converged = 0.0, 0, 0, False, False
    order = np.empty(0, dtype=np.int64)
    kind = np.float64 if like.dtype == torch.float64 else np.float32
    try:
        while step < n_steps:
            index, order = _next_rows(order, n, batch, rng)
            v = rows(index)
            shape = (objective.n_points, len(index), model.n_noise)
            eps = torch.as_tensor(rng.standard_normal(shape, dtype=kind), device=like.device)
            share = _shares(None if weight is None else weight[index], len(index), like)
            warm = min(1.0, (step + 1) / schedule.warm_up) if schedule.warm_up else 1.0
            grad.zero_()
            with torch.enable_grad():
                loss, out = objective.loss(model, v, eps, share, warm)
                prior = model.head.penalty(out, schedule.prior_scale) + model.prior.penalty()
                (loss + prior / total).backward()
            norm = float(torch.linalg.vector_norm(grad))
            if math.isfinite(norm):
                if norm > CLIP:
                    grad.mul_(CLIP / norm)
                ramp = min(1.0, (step + 1) / 20)
                optimiser.step(flat, grad, rate * ramp)
            running += float(loss.detach())
            counted += 1
            step += 1
            if step % every and step < n_steps:
                continue
            losses.append(running / counted)
            running, counted = 0.0, 0
            value = _evaluate(model, objective, held_out, points, share_out)
            curve.append(value)
            if on_step is not None:
                on_step(step, n_steps, losses[-1], value)
            if value < best - 1e-6 * abs(best):
                best, since = value, 0
                best_flat.copy_(flat)
            else:
                since += 1
            if since >= schedule.patience:
                if cuts == N_CUTS:
                    converged = True
                    break
                flat.copy_(best_flat)
                optimiser = Adam(flat)
                rate, since, cuts = rate * CUT, schedule.patience // 2, cuts + 1
    except KeyboardInterrupt:
        interrupted = True
    flat.copy_(best_flat)
    return Trained(model.to_numpy(), losses, curve, best, step, converged, interrupted)


CLIP = 100.0
"""Largest norm of the gradient of the loss per row."""


def _flatten(model: VAE) -> tuple[Tensor, Tensor]:
    """One vector that all weights are views of, and one for their gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    grad = torch.zeros_like(flat)
    at = 0
    for p in parameters:
        p.data = flat[at : at + p.numel()].view_as(p)
        p.grad = grad[at : at + p.numel()].view_as(p)
        at += p.numel()
    return flat, grad


def _next_rows(order: np.ndarray, n: int, batch: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """The next batch, and what is left of a shuffled epoch."""
    if n > MOST_SHUFFLED:  # an order of all rows would take more memory than it is worth
        return np.sort(rng.integers(n, size=batch)), order
    if not len(order):
        order = rng.permutation(n)
    return order[:batch], order[batch:]


MOST_SHUFFLED = 1 << 21


def _shares(weight: np.ndarray | None, n: int, like: Tensor) -> Tensor:
    """Weights of a batch that sum to one."""
    if weight is None:
        return torch.full((n,), 1.0 / n, dtype=like.dtype, device=like.device)
    sum_ = weight.sum()
    values = weight / sum_ if sum_ > 0 else np.full(n, 1.0 / n)
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _held_out_points(model: VAE, objective: Objective, like: Tensor) -> Tensor:
    """The same points at every evaluation, so that bounds can be compared."""
    n_points = max(16, 2 ** math.ceil(math.log2(max(1, objective.n_points))))
    points = normal_points(n_points, model.n_noise, seed=0)
    return torch.as_tensor(points, dtype=like.dtype, device=like.device)[:, None]


def _evaluate(model: VAE, objective: Objective, v: Tensor, points: Tensor, share: Tensor) -> float:
    """The held-out bound as a loss per row, without warm-up."""
    with torch.no_grad():
        if objective.has_density:
            value = -float(share @ log_density(model, v, points))
        else:
            eps = points.expand(-1, len(v), -1)
            value = float(objective.loss(model, v, eps, share, 1.0)[0])
    return value if math.isfinite(value) else math.inf
