"""Optimisers for many chains at once: momentum SGD and Adam, and the choice among all.

All of them minimise the negative log posterior divided by the sum of the rows' weights, so that
learning rates mean the same whatever the size of the data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Interrupted, OnStep
from skbayes.inference.lbfgs import lbfgs
from skbayes.inference.minibatches import Minibatches, on_disk
from skbayes.inference.streams import Streams


class Climb(NamedTuple):
    """What `climb` reached."""

    theta: Tensor
    """Modes, (n_chains, n_params)."""

    losses: np.ndarray
    """Negative log posterior per row over the iterations, (n_chains, n_iter)."""

    messages: list[str]
    """What to tell the user."""

    interrupted: bool
    """Whether Ctrl-C ended it early."""


class SGD:
    r"""Stochastic gradient descent with momentum.

    .. math:: m \leftarrow \mu m - \eta g, \qquad \theta \leftarrow \theta + m

    Polyak (1964); Sutskever et al. (2013), equations 1 and 2.
    """

    def __init__(self, theta: Tensor, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.velocity = torch.zeros_like(theta)

    def step(self, theta: Tensor, grad: Tensor, rate: float) -> None:
        """Move theta in place, down the gradient."""
        self.velocity.mul_(self.momentum).sub_(grad, alpha=rate)
        theta.add_(self.velocity)

    def keep(self, chains: Tensor) -> None:
        """Go on with some of the chains only."""
        self.velocity = self.velocity[chains]


class Adam:
    r"""Adam, Kingma and Ba (2015), algorithm 1.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              \theta \leftarrow \theta - \eta \hat m / (\sqrt{\hat v} + \epsilon)

    with hats for m / (1 - beta_1^t) and v / (1 - beta_2^t).
    """

    def __init__(
        self, theta: Tensor, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        self.beta1, self.beta2, self.epsilon, self.t = beta1, beta2, epsilon, 0
        self.m, self.v = torch.zeros_like(theta), torch.zeros_like(theta)

    def step(self, theta: Tensor, grad: Tensor, rate: float) -> None:
        """Move theta in place, down the gradient."""
        self.t += 1
        self.m.lerp_(grad, 1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        # the corrections of m and v are numbers: they go into the step, not into the arrays
        root = (1 - self.beta2**self.t) ** 0.5
        size = rate * root / (1 - self.beta1**self.t)
        theta.addcdiv_(self.m, self.v.sqrt().add_(self.epsilon * root), value=-size)

    def keep(self, chains: Tensor) -> None:
        """Go on with some of the chains only."""
        self.m, self.v = self.m[chains], self.v[chains]


def first_order(name: str, theta: Tensor, momentum: float) -> SGD | Adam:
    """Make the optimiser with the given name, "sgd" or "adam"."""
    return SGD(theta, momentum) if name == "sgd" else Adam(theta)


def batches(streams: Streams, rows: np.ndarray | int, batch_size: int):
    """One epoch of minibatches, shuffled for each chain: index (n_chains, batch).

    ``rows`` is the number of rows, or the rows of each chain, (n_chains, n).
    """
    n = rows if isinstance(rows, int) else rows.shape[1]
    order = streams.permutation(n)
    if not isinstance(rows, int):
        order = np.take_along_axis(rows, order, 1)
    for start in range(0, n, batch_size):
        yield order[:, start : start + batch_size]


def epoch_of(log_posterior, streams: Streams, batch_size: int, feed, t: int, n_steps: int):
    """The log posteriors of one epoch's steps, from step t on; ``feed`` reads rows from disk."""
    if feed is not None:
        for k in range(n_steps):
            window, index = feed.draw(streams, t + k)
            yield window.minibatch(index)
    elif batch_size >= log_posterior.n:
        yield log_posterior
    else:
        for index in batches(streams, log_posterior.n, batch_size):
            yield log_posterior.minibatch(index)


def climb(
    log_posterior,
    theta: Tensor,
    streams: Streams,
    *,
    solver: str,
    learning_rate: float | None,
    momentum: float = 0.9,
    batch_size: int | None = None,
    max_epochs: int | None = None,
    steps: int,
    tol: float = 1e-6,
    gain: float = 0.0,
    polish: int | None = None,
    on_step: OnStep | None = None,
    text: str = "optimise",
) -> Climb:
    """Climb to modes with one solver, or with what suits the size of the problem.

    ``solver="auto"`` is L-BFGS for a linear model, whose log posterior has one mode; for a network
    Adam, which leaves plateaus where L-BFGS stops, and for up to 5,000 rows and 5,000 weights
    L-BFGS after it, which reaches the mode itself.

    Parameters
    ----------
    log_posterior, theta, streams
        As methods have them.
    solver : {"auto", "adam", "sgd", "lbfgs"}
        See above.
    learning_rate, batch_size, max_epochs
        None where they are to be chosen: 0.01 for Adam and 0.05 for SGD; 256 rows, or all up to
        1,024; as many epochs as ``steps`` take, at least 20, and 1,000 iterations of L-BFGS.
    momentum, tol, gain, on_step, text
        Of the solvers.
    steps : int
        Steps of Adam or SGD where ``max_epochs`` is None.
    polish : int, optional
        Iterations of L-BFGS at most after Adam, where being near the mode is enough.

    Returns
    -------
    Climb
    """
    n = log_posterior.n
    small = n <= 5000 and log_posterior.n_params <= 5000
    linear = log_posterior.network.is_linear
    first = {"auto": "none" if linear and small else "adam", "lbfgs": "none"}.get(solver, solver)
    last = solver == "lbfgs" or (solver == "auto" and small)
    losses: list[np.ndarray] = []
    messages: list[str] = []
    if first != "none":
        if batch_size is None:
            batch_size = n if n <= 1024 else 256
        batch_size = min(batch_size, n)
        epochs = max_epochs
        if epochs is None:
            epochs = max(20, math.ceil(steps * batch_size / n))
        default = 0.05 if first == "sgd" else 0.01
        try:
            theta, loss = descend(
                log_posterior,
                theta,
                streams,
                solver=first,
                learning_rate=default if learning_rate is None else learning_rate,
                momentum=momentum,
                batch_size=batch_size,
                max_epochs=epochs,
                on_step=on_step,
                text=text,
            )
        except Interrupted as stop:
            return _stopped(stop, losses)
        losses.append(loss)
    if last:
        max_iter = 1000 if max_epochs is None else max_epochs
        near = False
        if first != "none" and polish is not None:
            near, max_iter = True, min(max_iter, polish)
        try:
            theta, loss, converged = lbfgs(
                log_posterior,
                theta,
                max_iter=max_iter,
                tol=tol,
                gain=gain,
                on_step=on_step,
                text=text,
            )
        except Interrupted as stop:
            return _stopped(stop, losses)
        losses.append(loss)
        if not converged.all() and not near:
            messages.append(
                f"{int((~converged).sum())} of {len(theta)} modes were not reached in "
                f"{loss.shape[1] - 1} iterations of L-BFGS; raise max_epochs, or standardise X."
            )
    return Climb(theta, np.concatenate(losses, 1), messages, False)


def _stopped(stop: Interrupted, losses: list[np.ndarray]) -> Climb:
    """What to return after Ctrl-C."""
    curve = np.concatenate([*losses, stop.losses], 1)
    message = f"The fit was interrupted after {curve.shape[1]} iterations; it stays as it is."
    return Climb(stop.theta, curve, [message], True)


def descend(
    log_posterior,
    theta: Tensor,
    streams: Streams,
    *,
    solver: str,
    learning_rate: float,
    momentum: float,
    batch_size: int,
    max_epochs: int,
    on_step: OnStep | None = None,
    text: str = "optimise",
) -> tuple[Tensor, np.ndarray]:
    """Run momentum SGD or Adam for a number of epochs, the rate falling as a half cosine.

    Loshchilov and Hutter (2017), equation 5, with one cycle.

    Returns
    -------
    theta : Tensor of shape (n_chains, n_params)
    losses : ndarray of shape (n_chains, n_epochs)
        Mean over the epoch's batches of the negative log posterior per row.

    Raises
    ------
    Interrupted
        After Ctrl-C, with what was reached.
    """
    theta = theta.clone()
    optimiser = first_order(solver, theta, momentum)
    n, total_weight = log_posterior.n, log_posterior.total_weight
    full = batch_size >= n
    per_epoch = 1 if full else math.ceil(n / batch_size)
    total, t = per_epoch * max_epochs, 0
    feed = Minibatches(log_posterior, batch_size) if on_disk(log_posterior) else None
    losses = []
    loss = torch.zeros(theta.shape[0], dtype=torch.float64, device=theta.device)
    try:
        for epoch in range(max_epochs):
            loss.zero_()
            for target in epoch_of(log_posterior, streams, batch_size, feed, t, per_epoch):
                value, grad = target.value_and_grad(theta)
                rate = 0.5 * learning_rate * (1 + math.cos(math.pi * t / total))
                optimiser.step(theta, grad.mul_(-1.0 / total_weight), rate)
                loss -= value
                t += 1
            losses.append(loss.cpu().numpy() / (per_epoch * total_weight))
            if on_step is not None:
                on_step(epoch + 1, max_epochs, f"{text}, loss {np.mean(losses[-1]):.4g}")
    except KeyboardInterrupt:
        if not losses:
            raise  # nothing was gained yet
        raise Interrupted(theta, np.stack(losses, 1)) from None
    return theta, np.stack(losses, 1)
