"""Minibatch training with early stopping on a held-out bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.density.importance import normal_points
from skbayes.density.model import VAE
from skbayes.density.networks import flatten
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
    interrupted: bool
    path: list[tuple[float, int]]
    """Rates, and steps at each, that led to the best held-out bound."""
    falling: bool = False
    """Whether the last step came while the held-out loss still fell."""


class Rows(NamedTuple):
    """What is trained on."""

    take: Callable[[np.ndarray], Tensor]
    """``take(index)`` gives values (batch, n_columns) in the type of the model."""
    n: int
    weight: np.ndarray | None = None


HELD_OUT_POINTS = 16
"""Points of q per row at least for the held-out bound."""

CUT = 0.3
N_CUTS = 2


def train(
    model: VAE,
    objective: Objective,
    rows: Rows,
    held_out: Tensor,
    schedule: Schedule,
    seed: int,
    *,
    held_out_weight: np.ndarray | None = None,
    on_step: Callable[[int, int, float, float], None] | None = None,
) -> Trained:
    """Train a model in place; it ends with the weights of the best held-out bound.

    Parameters
    ----------
    model : VAE
        On the device of the rows.
    objective : Objective
        What is minimised.
    rows : Rows
        What is trained on.
    held_out : Tensor of shape (m, n_columns)
        Rows for the held-out bound.
    schedule : Schedule
        How long and how fast.
    seed : int
        For the order of the rows and the points of q.
    held_out_weight : ndarray, optional
        Weights of the held-out rows.
    on_step : callable, optional
        ``on_step(done, total, loss, held_out_loss)`` at every evaluation.
    """
    stepper = Stepper(model, objective, rows, schedule, seed)
    flat = stepper.flat
    per_epoch = math.ceil(rows.n / stepper.batch)
    n_steps = per_epoch * schedule.max_epochs
    every = max(1, min(schedule.evaluate_every, n_steps))
    points = _held_out_points(model, objective, len(held_out), flat)
    held_out_total = len(held_out) if held_out_weight is None else held_out_weight.sum()
    share = _shares(held_out_weight, len(held_out), held_out_total, flat)
    best_flat = flat.clone()
    best = _evaluate(model, objective, held_out, points, share)
    losses: list[float] = []
    curve = [best]
    since, cuts, rate = 0, 0, schedule.learning_rate
    path: list[tuple[float, int]] = []
    segments: list[tuple[float, int]] = []
    in_segment = 0
    running, counted, interrupted = 0.0, 0, False
    try:
        while stepper.t < n_steps:
            running += stepper.step(rate)
            counted += 1
            in_segment += 1
            if stepper.t % every and stepper.t < n_steps:
                continue
            losses.append(running / counted)
            running, counted = 0.0, 0
            value = _evaluate(model, objective, held_out, points, share)
            curve.append(value)
            if on_step is not None:
                on_step(stepper.t, n_steps, losses[-1], value)
            if value < (best - 1e-6 * abs(best) if math.isfinite(best) else best):
                best, since = value, 0
                best_flat.copy_(flat)
                path = [*segments, (rate, in_segment)]
            else:
                since += 1
            if since >= schedule.patience:
                if cuts == N_CUTS:
                    break
                flat.copy_(best_flat)
                stepper.restart()
                segments, in_segment = list(path), 0
                rate, since, cuts = rate * CUT, schedule.patience // 2, cuts + 1
    except KeyboardInterrupt:
        interrupted = True
    flat.copy_(best_flat)
    falling = not interrupted and stepper.t >= n_steps and cuts == 0 and _falling(curve)
    return Trained(model.to_numpy(), losses, curve, best, stepper.t, interrupted, path, falling)


def _falling(curve: list[float]) -> bool:
    """Whether a curve ends at its lowest, and its last quarter brought a twentieth of its fall.

    Less than a hundredth of a nat does not count.
    """
    before, after = curve[: -(len(curve) // 4)], curve[-(len(curve) // 4) :]
    if len(curve) < 4 or not math.isfinite(curve[0]) or min(curve) < curve[-1]:
        return False
    return min(before) - min(after) > max(0.05 * (curve[0] - curve[-1]), 0.01)


def replay(
    model: VAE,
    objective: Objective,
    rows: Rows,
    schedule: Schedule,
    seed: int,
    path: list[tuple[float, int]],
    on_step: Callable[[int, int, float], None],
) -> None:
    """Train for the steps of a path, without held-out rows."""
    stepper = Stepper(model, objective, rows, schedule, seed)
    total = sum(steps for _, steps in path)
    for rate, steps in path:
        for _ in range(steps):
            loss = stepper.step(rate)
            on_step(stepper.t, total, loss)
        stepper.restart()


class Stepper:
    """Minibatches and Adam on one vector of weights.

    Parameters are those of `train`.
    """

    def __init__(
        self, model: VAE, objective: Objective, rows: Rows, schedule: Schedule, seed: int
    ) -> None:
        self.model, self.objective, self.rows, self.schedule = model, objective, rows, schedule
        self.rng = np.random.default_rng(seed)
        self.flat, self.grad = flatten(model)
        self.batch = min(schedule.batch_size, rows.n)
        self.weight_sum = float(rows.n) if rows.weight is None else float(rows.weight.sum())
        self.total = self.weight_sum
        self.t = 0
        self._order = np.empty(0, dtype=np.int64)
        self._kind: Any = np.float64 if self.flat.dtype == torch.float64 else np.float32
        self.restart()

    def restart(self) -> None:
        """Forget Adam's moments."""
        self.optimiser = Adam(self.flat)

    def state(self) -> dict[str, Any]:
        """Step number and Adam's moments, as numpy."""
        adam = self.optimiser
        m, v = adam.m.cpu().numpy().copy(), adam.v.cpu().numpy().copy()
        return {"t": self.t, "adam_t": adam.t, "m": m, "v": v}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.t, self.optimiser.t = state["t"], state["adam_t"]
        self.optimiser.m.copy_(torch.as_tensor(state["m"]))
        self.optimiser.v.copy_(torch.as_tensor(state["v"]))

    def step(self, rate: float) -> float:
        """One step; gives the loss per row."""
        model, objective, schedule = self.model, self.objective, self.schedule
        index = self._next_rows()
        v = self.rows.take(index)
        shape = (objective.n_points, len(index), model.n_noise)
        eps = torch.as_tensor(
            self.rng.standard_normal(shape, dtype=self._kind), device=self.flat.device
        )
        weight = self.rows.weight
        if weight is not None:  # over the mean of all rows, so that no batch counts too much
            weight = weight[index] * (self.rows.n / self.weight_sum)
        share = _shares(weight, len(index), len(index), self.flat)
        warm = min(1.0, (self.t + 1) / schedule.warm_up) if schedule.warm_up else 1.0
        self.grad.zero_()
        with torch.enable_grad():
            loss, out = objective.loss(model, v, eps, share, warm)
            prior = model.head.penalty(out, schedule.prior_scale) + model.prior.penalty()
            prior = prior + warm * model.weights_kl()
            (loss + prior / self.total).backward()
        norm = float(torch.linalg.vector_norm(self.grad))
        self.t += 1
        if math.isfinite(norm):  # a batch that overflows is left out
            if norm > CLIP:
                self.grad.mul_(CLIP / norm)
            self.optimiser.step(self.flat, self.grad, rate * min(1.0, self.t / 20))
        objective.after_step(model, v, rate)
        return float(loss.detach())

    def _next_rows(self) -> np.ndarray:
        """The next batch of a shuffled pass."""
        n, batch = self.rows.n, self.batch
        if n > MOST_SHUFFLED:  # an order of all rows would take more memory than it is worth
            return np.sort(self.rng.integers(n, size=batch))
        if not len(self._order):
            self._order = self.rng.permutation(n)
        index, self._order = self._order[:batch], self._order[batch:]
        return index


CLIP = 100.0
"""Largest norm of the gradient of the loss per row."""


MOST_SHUFFLED = 1 << 21


def _shares(weight: np.ndarray | None, n: int, total: float, like: Tensor) -> Tensor:
    """Weights of n rows over their total."""
    if weight is None:
        return torch.full((n,), 1.0 / total, dtype=like.dtype, device=like.device)
    return torch.as_tensor(weight / total, dtype=like.dtype, device=like.device)


def _held_out_points(model: VAE, objective: Objective, n_rows: int, like: Tensor) -> Tensor:
    """The same points at every evaluation, so that bounds can be compared."""
    n_points = max(HELD_OUT_POINTS, 2 ** math.ceil(math.log2(max(1, objective.n_points))))
    if not objective.has_density:  # a point for each row
        points = normal_points(n_rows, model.n_noise, seed=0)
        return torch.as_tensor(points, dtype=like.dtype, device=like.device)[None]
    points = normal_points(n_points, model.n_noise, seed=0)
    return torch.as_tensor(points, dtype=like.dtype, device=like.device)[:, None]


def _evaluate(model: VAE, objective: Objective, v: Tensor, points: Tensor, share: Tensor) -> float:
    """The held-out bound as a loss per row, without warm-up."""
    with torch.no_grad():
        value = float(objective.held_out(model, v, points, share))
    return value if math.isfinite(value) else math.inf
