"""Optimisers for many chains at once: momentum SGD, Adam and L-BFGS.

All of them minimise the negative log posterior divided by the sum of the rows' weights, so that
learning rates mean the same whatever the size of the data.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import OnStep
from skbayes.inference.streams import Streams


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
        root = 1 - self.beta2**self.t
        size = rate / (1 - self.beta1**self.t)
        denominator = (self.v / root).sqrt_().add_(self.epsilon)
        theta.addcdiv_(self.m, denominator, value=-size)

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
    on_step: OnStep | None = None,
    text: str = "optimise",
) -> tuple[Tensor, np.ndarray, list[str]]:
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

    Returns
    -------
    theta : Tensor of shape (n_chains, n_params)
    losses : ndarray of shape (n_chains, n_iter)
    messages : list of str
        What to tell the user.
    """
    n = log_posterior.n
    small = n <= 5000 and log_posterior.n_params <= 5000
    linear = len(log_posterior.network.layers) == 1
    first = {"auto": "none" if linear and small else "adam", "lbfgs": "none"}.get(solver, solver)
    last = solver == "lbfgs" or (solver == "auto" and small)
    losses, messages = [], []
    if first != "none":
        if batch_size is None:
            batch_size = n if n <= 1024 else 256
        batch_size = min(batch_size, n)
        epochs = max_epochs
        if epochs is None:
            epochs = max(20, math.ceil(steps * batch_size / n))
        default = 0.05 if first == "sgd" else 0.01
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
        losses.append(loss)
        if loss.shape[1] < epochs:
            last = False
            messages.append(
                f"The fit was interrupted after {loss.shape[1]} of {epochs} epochs; it stays as it "
                "is."
            )
    if last:
        max_iter = 1000 if max_epochs is None else max_epochs
        theta, loss, converged = lbfgs(
            log_posterior, theta, max_iter=max_iter, tol=tol, gain=gain, on_step=on_step, text=text
        )
        losses.append(loss)
        if not converged.all():
            messages.append(
                f"{int((~converged).sum())} of {len(theta)} modes were not reached in "
                f"{loss.shape[1] - 1} iterations of L-BFGS; raise max_epochs, or standardise X."
            )
    return theta, np.concatenate(losses, 1), messages


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
        Mean over the epoch's batches of the negative log posterior per row; fewer than
        ``max_epochs`` after Ctrl-C.
    """
    theta = theta.clone()
    optimiser = first_order(solver, theta, momentum)
    n, total_weight = log_posterior.n, log_posterior.total_weight
    full = batch_size >= n
    per_epoch = 1 if full else math.ceil(n / batch_size)
    total, t = per_epoch * max_epochs, 0
    losses = []
    loss = torch.zeros(theta.shape[0], dtype=torch.float64, device=theta.device)
    try:
        for epoch in range(max_epochs):
            loss.zero_()
            for index in [None] if full else batches(streams, n, batch_size):
                target = log_posterior if index is None else log_posterior.minibatch(index)
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
    return theta, np.stack(losses, 1)


def lbfgs(
    log_posterior,
    theta: Tensor,
    *,
    max_iter: int,
    tol: float = 1e-6,
    gain: float = 0.0,
    memory: int = 20,
    on_step: OnStep | None = None,
    text: str = "optimise",
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Limited-memory BFGS for every chain, all evaluated together.

    The direction is that of Nocedal and Wright (2006), algorithm 7.5, in the matrix form of Byrd,
    Nocedal and Schnabel (1994), equation 3.13, so that all chains and all pairs are a few batched
    products. Steps are found by backtracking to the Armijo condition; a pair without positive
    curvature is left out. A chain is done when the largest entry of its gradient per row is below
    ``tol``, when its last 20 steps won less than ``gain`` nats of log posterior, or when its loss
    has stopped falling beyond the rounding of its float type.

    Returns
    -------
    theta : Tensor of shape (n_chains, n_params)
    losses : ndarray of shape (n_chains, n_iter)
    converged : ndarray of bool, shape (n_chains,)
    """
    n = log_posterior.total_weight
    dtype = theta.dtype

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = log_posterior.value_and_grad(x)
        return -value / n, grad.double().mul_(-1.0 / n)

    x = theta.double()
    loss, grad = evaluate(theta)
    pairs = _Pairs(x, memory)
    losses = [loss.cpu().numpy()]
    done = grad.abs().amax(1) <= tol
    small = torch.zeros_like(loss)  # iterations in a row with next to no gain
    # rounding of the loss: of its sum in float64, or of the terms in float32
    rounding = 1e-15 if dtype == torch.float64 else 1e-8
    for iteration in range(max_iter):
        if bool(done.all()):
            break
        direction = pairs.direction(grad)
        slope = (direction * grad).sum(1)
        bad = ~(slope < 0)
        if bool(bad.any()):
            direction = torch.where(bad[:, None], -grad, direction)
            slope = (direction * grad).sum(1)
        step = torch.ones_like(loss)
        if iteration == 0:
            step /= grad.norm(dim=1).clamp_min(1.0)
        direction[done] = 0.0
        new_x, new_loss, new_grad = x.clone(), loss.clone(), grad.clone()
        pending = ~done
        for _ in range(25):
            # theta is rounded first, so that losses belong to the points that are kept
            trial = (x + step[:, None] * direction).to(dtype)
            trial_loss, trial_grad = evaluate(trial)
            good = trial_loss <= loss + 1e-4 * step * slope
            # within the rounding of the loss its slope decides (Hager and Zhang, 2005, equation 4)
            flat = trial_loss <= loss + rounding * loss.abs().clamp_min(1.0)
            good |= flat & ((trial_grad * direction).sum(1).abs() <= 0.5 * slope.abs())
            good &= pending
            new_x = torch.where(good[:, None], trial.double(), new_x)
            new_loss = torch.where(good, trial_loss, new_loss)
            new_grad = torch.where(good[:, None], trial_grad, new_grad)
            pending &= ~good
            if not bool(pending.any()):
                break
            # minimum of the parabola through both losses and the slope, kept within bounds
            bend = 2.0 * (trial_loss - loss - step * slope)
            best = -slope * step**2 / bend
            best = torch.where(torch.isfinite(best), best, 0.1 * step)
            best = torch.minimum(torch.maximum(best, 0.1 * step), 0.5 * step)
            step = torch.where(pending, best, step)
        pairs.add(new_x - x, new_grad - grad)
        drop = loss - new_loss
        tiny = drop <= rounding * loss.abs().clamp_min(1.0)
        small = torch.where(tiny, small + 1, torch.zeros_like(small))
        x, loss, grad = new_x, new_loss, new_grad
        done |= (grad.abs().amax(1) <= tol) | (small >= 10) | pending
        losses.append(loss.cpu().numpy())
        if gain > 0 and len(losses) > 20:
            won = torch.as_tensor(losses[-21] - losses[-1], device=loss.device)
            done |= won * n < gain
        try:
            if on_step is not None:
                on_step(iteration + 1, max_iter, f"{text}, loss {float(loss.mean()):.4g}")
        except KeyboardInterrupt:
            break
    return x.to(dtype), np.stack(losses, 1), done.cpu().numpy()


class _Pairs:
    """The last steps s and changes of the gradient y of every chain, as matrices.

    With S, Y holding m pairs as rows, R the upper triangle of S Y^T and D its diagonal,

        H g = gamma g + [S^T, gamma Y^T] [[R^-T (D + gamma Y Y^T) R^-1, -R^-T], [-R^-1, 0]]
              [S g, gamma Y g].
    """

    def __init__(self, like: Tensor, memory: int) -> None:
        self.memory = memory
        n_chains, n_params = like.shape
        self.s, self.y = like.new_zeros(2, n_chains, 0, n_params)
        self.gamma = like.new_ones(n_chains)

    def add(self, s: Tensor, y: Tensor) -> None:
        """Take in one pair per chain; pairs without positive curvature become zeros."""
        curvature = (s * y).sum(1)
        good = curvature > 1e-10 * s.norm(dim=1) * y.norm(dim=1)
        s, y = s * good[:, None], y * good[:, None]
        self.gamma = torch.where(good, curvature / (y * y).sum(1).clamp_min(1e-300), self.gamma)
        self.s = torch.cat([self.s[:, -(self.memory - 1) :], s[:, None]], 1)
        self.y = torch.cat([self.y[:, -(self.memory - 1) :], y[:, None]], 1)

    def direction(self, grad: Tensor) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient."""
        if not self.s.shape[1]:
            return -grad
        gamma = self.gamma[:, None, None]
        product = self.s @ self.y.mT  # (chains, m, m)
        diagonal = product.diagonal(dim1=1, dim2=2)
        # a pair that was left out has zeros all over; a one on the diagonal makes it harmless
        r = product.triu() + torch.diag_embed((diagonal == 0).to(product))
        sg, yg = self.s @ grad[:, :, None], gamma * (self.y @ grad[:, :, None])
        inner = torch.linalg.solve_triangular(r, sg, upper=True)
        middle = diagonal[:, :, None] * inner + gamma * (self.y @ (self.y.mT @ inner)) - yg
        top = torch.linalg.solve_triangular(r.mT, middle, upper=False)
        step = gamma[:, :, 0] * grad + (self.s.mT @ top - gamma * (self.y.mT @ inner))[:, :, 0]
        return -step
