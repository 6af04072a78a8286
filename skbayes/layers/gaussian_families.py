"""Families on flat theta: a point, and normals with covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from skbayes.layers.families import Family
from skbayes.layers.kl import LOG_2PI
from skbayes.layers.variational import Noise


class FlatFamily(Family):
    """A family of which only draws of theta are needed, see `FlatObjective`.

    Parameters
    ----------
    mean : Tensor of shape (n_params,)
        Where to start.
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.detach().clone().requires_grad_()
        self.leaves = [self.mean]

    def centre(self):
        """See `Family.centre`."""
        return self.mean.detach()

    def draw(self, n: int, noise: Noise) -> Tensor:
        """Draws of theta, (n, n_params), differentiable by the leaves."""
        raise NotImplementedError("abstract")

    def log_prob(self, theta: Tensor) -> Tensor | None:
        """Log density of draws (n,), differentiable by them and by the leaves.

        None where it has none.
        """
        raise NotImplementedError("abstract")

    def sample(self, n, noise):
        """See `Family.sample`."""
        return self.draw(n, noise).detach()


class Delta(FlatFamily):
    """A single point: the bound, without its infinite entropy, is the log posterior density."""

    def draw(self, n, noise):
        """See `FlatFamily.draw`."""
        return self.mean.expand(n, -1)

    def log_prob(self, theta):
        """See `FlatFamily.log_prob`."""
        return None

    def moments(self):
        """See `Family.moments`."""
        return self.mean, torch.zeros_like(self.mean)


class LowRank(FlatFamily):
    r"""A normal whose covariance is diagonal plus a matrix of low rank.

    .. math:: q(\theta) = N(m, \operatorname{diag}(d^2) + U U^T), \qquad
              \theta = m + d \circ \epsilon + U \zeta

    Ong, Nott and Smith (2018). m, log d and U, (n_params, rank), are trained. U starts small and
    random, since at zero its expected gradient is zero.

    Parameters
    ----------
    mean, std : Tensor of shape (n_params,)
        Where to start; U is in units of these deviations.
    rank : int
        Columns of U.
    noise : Noise
        For U's start.
    """

    def __init__(self, mean, std: Tensor, rank: int, noise: Noise) -> None:
        super().__init__(mean)
        self._unit = std.detach()[:, None]
        self.log_scale = std.detach().log().requires_grad_()
        start = 0.3 * rank**-0.5 * noise.normal(len(std), rank, like=mean)
        self._factor = start.requires_grad_()
        self.leaves = [self.mean, self.log_scale, self._factor]

    @property
    def factor(self) -> Tensor:
        """The matrix U, (n_params, rank)."""
        return self._factor * self._unit

    def draw(self, n, noise):
        """See `FlatFamily.draw`."""
        epsilon = noise.normal(n, len(self.mean), like=self.mean)
        zeta = noise.normal(n, self.factor.shape[1], like=self.mean)
        return self.mean + epsilon * self.log_scale.exp() + zeta @ self.factor.mT

    def log_prob(self, theta):
        """See `FlatFamily.log_prob`; by the matrix determinant lemma and Woodbury's identity."""
        inverse = torch.exp(-self.log_scale)
        white = (theta - self.mean) * inverse  # (n, n_params)
        scaled = self.factor * inverse[:, None]
        inner = scaled.mT @ scaled
        inner = inner + torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        root = torch.linalg.cholesky(inner)
        along = torch.linalg.solve_triangular(root, (white @ scaled).mT, upper=False)
        square = (white * white).sum(1) - (along * along).sum(0)
        log_det = self.log_scale.sum() + root.diagonal().log().sum()
        return -0.5 * square - log_det - 0.5 * LOG_2PI * theta.shape[1]

    def moments(self):
        """See `Family.moments`."""
        return self.mean, torch.exp(2.0 * self.log_scale) + self.factor.square().sum(1)


class FullRank(FlatFamily):
    r"""A normal with any covariance, by its Cholesky factor.

    .. math:: q(\theta) = N(m, L L^T), \qquad \theta = m + L \epsilon

    Titsias and Lazaro-Gredilla (2014); Kucukelbir et al. (2017). m, the logarithm of L's diagonal
    and what is below it are trained. The part below is measured in units of its row's starting
    deviation, so that a step means the same in all rows.

    Parameters
    ----------
    mean, std : Tensor of shape (n_params,)
        Where to start.
    """

    def __init__(self, mean, std: Tensor) -> None:
        super().__init__(mean)
        self.log_diagonal = std.detach().log().requires_grad_()
        self._unit = std.detach()[:, None]
        self.below = torch.zeros((len(std), len(std)), dtype=std.dtype, device=std.device)
        self.below.requires_grad_()
        self.leaves = [self.mean, self.log_diagonal, self.below]

    def root(self) -> Tensor:
        """The Cholesky factor L, (n_params, n_params)."""
        below = torch.tril(self.below, -1) * self._unit
        return below + torch.diag(self.log_diagonal.exp())

    def draw(self, n, noise):
        """See `FlatFamily.draw`."""
        epsilon = noise.normal(n, len(self.mean), like=self.mean)
        return self.mean + epsilon @ self.root().mT

    def log_prob(self, theta):
        """See `FlatFamily.log_prob`."""
        centred = (theta - self.mean).mT
        white = torch.linalg.solve_triangular(self.root(), centred, upper=False)
        constant = self.log_diagonal.sum() + 0.5 * LOG_2PI * theta.shape[1]
        return -0.5 * (white * white).sum(0) - constant

    def moments(self):
        """See `Family.moments`."""
        return self.mean, self.root().square().sum(1)
