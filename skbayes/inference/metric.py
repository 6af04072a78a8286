"""Euclidean metrics: how far each direction of theta reaches, and momenta to suit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.adaptation import RunningVariance
from skbayes.inference.base import to_numpy

METRICS = ("diagonal", "low_rank")


class DiagonalMetric:
    r"""Masses that are the inverse variances of theta, :math:`M^{-1} = D = diag(s^2)`.

    Parameters
    ----------
    variance : Tensor of shape (1, n_params)
        Variances :math:`s^2`.
    """

    def __init__(self, variance: Tensor) -> None:
        self.variance = variance
        self.scale = variance.sqrt()
        self._exact = variance.double()

    def momentum(self, normal: Tensor) -> Tensor:
        """Momenta from standard normal numbers, both (n_chains, n_params)."""
        return normal / self.scale

    def velocity(self, momentum: Tensor) -> Tensor:
        """:math:`M^{-1} p`, (n_chains, n_params)."""
        return momentum * self.variance

    def kinetic(self, momentum: Tensor) -> Tensor:
        """:math:`p^T M^{-1} p / 2`, (n_chains,) in float64."""
        p = momentum.double()
        return 0.5 * (p * p).mul_(self._exact).sum(1)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that make the metric again, see `restore_metric`."""
        return {"variance": to_numpy(self.variance)}


class LowRankMetric(DiagonalMetric):
    r"""A diagonal, corrected in the few directions where theta is much longer or shorter.

    .. math:: M^{-1} = D^{1/2} (I + U (\Lambda - I) U^T) D^{1/2}

    with U (n_params, k) the eigenvectors of the correlations of the draws whose eigenvalues,
    Lambda, are furthest from one.

    Parameters
    ----------
    variance : Tensor of shape (1, n_params)
        Diagonal of D.
    vectors : Tensor of shape (n_params, k)
        U, orthonormal.
    values : Tensor of shape (k,)
        Diagonal of Lambda.
    """

    def __init__(self, variance: Tensor, vectors: Tensor, values: Tensor) -> None:
        super().__init__(variance)
        self.vectors, self.values = vectors, values

    def momentum(self, normal):
        """See `DiagonalMetric.momentum`."""
        along = (normal @ self.vectors) * (self.values.rsqrt() - 1.0)
        return (normal + along @ self.vectors.T) / self.scale

    def velocity(self, momentum):
        """See `DiagonalMetric.velocity`."""
        scaled = momentum * self.scale
        along = (scaled @ self.vectors) * (self.values - 1.0)
        return (scaled + along @ self.vectors.T) * self.scale

    def kinetic(self, momentum):
        """See `DiagonalMetric.kinetic`."""
        scaled = momentum.double() * self.scale.double()
        along = scaled @ self.vectors.double()
        return 0.5 * ((scaled**2).sum(1) + along**2 @ (self.values.double() - 1.0))

    def state(self):
        """See `DiagonalMetric.state`."""
        return {
            **super().state(),
            "vectors": to_numpy(self.vectors),
            "values": to_numpy(self.values),
        }


def restore_metric(state: dict[str, np.ndarray], like: Tensor) -> DiagonalMetric:
    """Make a metric from what its ``state`` gave."""
    parts = {k: torch.as_tensor(v, dtype=like.dtype, device=like.device) for k, v in state.items()}
    return LowRankMetric(**parts) if "vectors" in parts else DiagonalMetric(**parts)


class MetricEstimate:
    """Collects the draws of a window of the warm-up and makes a metric of them.

    Parameters
    ----------
    kind : {"diagonal", "low_rank"}
        Which metric.
    rank : int
        Directions of a low-rank metric at most.
    """

    def __init__(self, kind: str, rank: int = 20) -> None:
        self.kind, self.rank = kind, rank
        self.running = RunningVariance()
        self.draws: list[Tensor] = []

    def add(self, theta: Tensor) -> None:
        """Take in the chains' points, (n_chains, n_params)."""
        self.running.add(theta)
        if self.kind == "low_rank":
            self.draws.append(theta)

    def finish(self, like: Tensor) -> DiagonalMetric:
        """Make the metric and forget the draws."""
        variance = self.running.variance().to(like.dtype)[None]
        if self.kind == "diagonal":
            self.running.reset()
            return DiagonalMetric(variance)
        x = torch.stack(self.draws).double()  # (draws, n_chains, n_params)
        n = x.shape[0] * x.shape[1]
        # what lies between the chains is left out, as in the variances
        white = ((x - x.mean(0)) / variance.double().sqrt()).reshape(n, -1)
        self.running.reset()
        self.draws = []
        # eigenvalues of the correlation shrunk towards one, as if five more draws were white
        _, singular, vectors = torch.linalg.svd(white, full_matrices=False)
        values = (singular**2 + 5.0) / (n + 5.0)
        far = values.log().abs().argsort(descending=True)
        # directions that the draws do not span look short for lack of draws: only long ones count
        far = far[values[far] > 1.5][: self.rank]
        return LowRankMetric(
            variance, vectors[far].T.contiguous().to(like.dtype), values[far].to(like.dtype)
        )

    def state(self) -> dict[str, np.ndarray]:
        """Arrays of everything collected so far."""
        out = self.running.state()
        if self.draws:
            out["draws"] = to_numpy(torch.stack(self.draws))
        return out

    def restore(self, state: dict[str, np.ndarray], like: Tensor) -> None:
        """Go on from what `state` gave."""
        self.running.restore(state, like.device)
        if "draws" in state:
            self.draws = list(torch.as_tensor(state["draws"], dtype=like.dtype, device=like.device))
