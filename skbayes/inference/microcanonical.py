r"""Microcanonical (isokinetic) dynamics: the particle has a direction, and its speed is one.

Positions are whitened by the metric's diagonal: :math:`x = \theta / s`. The direction u has unit
length. Robnik, De Luca, Silverstein and Seljak (2023, "Microcanonical Hamiltonian Monte Carlo");
the update of the direction in closed form is Ver Steeg and Galstyan's (2021).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import GradientKernel, Proposal, refused_if_not_finite


class MicrocanonicalKernel(GradientKernel):
    """What the adjusted and the unadjusted sampler share."""

    def __init__(self, method, log_posterior, theta: Tensor) -> None:
        if theta.shape[1] < 2:
            raise ValueError(
                f"{type(method).__name__} needs at least 2 parameters, but theta has "
                f"{theta.shape[1]}: use another method, such as NUTS()."
            )
        super().__init__(method, log_posterior, theta)

    def momentum(self, streams) -> Tensor:
        """Directions, uniform on the sphere, (n_chains, n_params)."""
        like = self.theta
        normal = streams.normal(like.shape[1], dtype=like.dtype, device=like.device)
        return normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)

    def kick(self, u: Tensor, grad: Tensor, step: np.ndarray) -> np.ndarray:
        r"""Turn the directions along the gradient, in place; return the change of log speed.

        With g the whitened gradient, e = g / \|g\| and
        :math:`\delta = \epsilon \|g\| / (d - 1)`,

        .. math:: u \leftarrow \frac{u + e\,(\sinh \delta + (e \cdot u)(\cosh \delta - 1))}
                  {\cosh \delta + (e \cdot u) \sinh \delta}, \qquad
                  \Delta K = (d - 1) \log(\cosh \delta + (e \cdot u) \sinh \delta),

        computed with exp(-delta), which cannot overflow.

        Parameters
        ----------
        u, grad : Tensor of shape (n_chains, n_params)
            Directions, which are written over, and the gradient by theta.
        step : ndarray of shape (n_chains,)
            Epsilon: half a step at the ends of a trajectory.

        Returns
        -------
        ndarray of shape (n_chains,)
            The change of the kinetic energy.
        """
        d = u.shape[1]
        g = grad * self.metric.scale
        norm = np.sqrt(to_numpy(torch.linalg.vecdot(g, g)).astype(float))
        along = to_numpy(torch.linalg.vecdot(u, g)).astype(float) / np.maximum(norm, 1e-300)
        along = np.clip(along, -1.0, 1.0)
        delta = step * norm / (d - 1)
        zeta = np.exp(-delta)
        below = np.maximum(
            (1.0 + along) + (1.0 - along) * zeta**2, 1e-300
        )  # 2 exp(-delta) times the denominator
        towards = (1.0 - zeta) * (1.0 + zeta + along * (1.0 - zeta))
        towards = towards / below / np.maximum(norm, 1e-300)
        u.mul_(self.column(2.0 * zeta / below)).addcmul_(g, self.column(towards))
        # against a steep gradient the two terms cancel, and rounding would remain
        u /= torch.linalg.vector_norm(u, dim=1, keepdim=True)
        return (d - 1) * (delta + np.log(0.5 * below))

    def follow(
        self, u: Tensor, step: np.ndarray, n_steps: int, theta: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
        """Leapfrog steps from ``theta``, whose gradient is ``grad``; u is written over.

        Returns
        -------
        theta, value, grad : Tensor
            The end.
        kinetic : ndarray of shape (n_chains,)
            Change of the kinetic energy on the way.
        """
        theta = theta.clone()
        drift = self.column(step) * self.metric.scale
        kinetic = self.kick(u, grad, 0.5 * step)
        for _ in range(n_steps - 1):
            theta.addcmul_(drift, u)
            kinetic += self.kick(u, self.log_posterior.grad(theta), step)
        theta.addcmul_(drift, u)
        value, grad = self.log_posterior.value_and_grad(theta)
        kinetic += self.kick(u, grad, 0.5 * step)
        return theta, value, grad, kinetic

    def propose(self, momentum, step_size, n_steps):
        """The end of a trajectory, see `GradientKernel.propose`; the momentum is the direction."""
        u = momentum.clone()
        theta, value, grad, kinetic = self.follow(u, step_size, n_steps, self.theta, self.grad)
        error = (value - self.value) - torch.as_tensor(kinetic, device=value.device)
        return Proposal(theta, u, value, grad, refused_if_not_finite(error))
