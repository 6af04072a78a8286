"""Limited-memory BFGS for many chains at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Interrupted, OnStep


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
    try:
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
                # within the rounding of the loss its slope decides
                # (Hager and Zhang, 2005, equation 4)
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
            if on_step is not None:
                on_step(iteration + 1, max_iter, f"{text}, loss {float(loss.mean()):.4g}")
    except KeyboardInterrupt:
        raise Interrupted(x.to(dtype), np.stack(losses, 1)) from None
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
