"""Log densities by importance weighting, with the same points for every row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor

from skbayes.density.model import VAE

MEMORY = 1 << 25
"""Numbers that one chunk of rows may take, times a small factor."""


def normal_points(n_points: int, n_dims: int, seed: int) -> np.ndarray:
    """Standard normal quasi-random points (n_points, n_dims): a scrambled Sobol sequence."""
    sobol = qmc.Sobol(n_dims, scramble=True, rng=np.random.default_rng(seed), bits=30)
    # balanced only in powers of two; others are the beginning of the next
    uniform = sobol.random(1 << max(0, n_points - 1).bit_length())[:n_points]
    # the points of a scrambled net lie on a fine grid whose first line may be zero
    return ndtri(np.clip(uniform, 0.5**31, 1 - 0.5**31))


class Weighted(NamedTuple):
    """What importance weighting says of some rows."""

    rows: slice
    log_density: np.ndarray
    """(n,), real columns in standardised units."""

    ess: np.ndarray
    """Effective sample size of the weights, (n,)."""

    log_lik: np.ndarray | None
    """Mean of log p(x_j given z) under the weights, (n, n_columns)."""


def weigh(
    model: VAE,
    V: np.ndarray,
    points: np.ndarray,
    *,
    inflation: float = 1.0,
    by_column: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[Weighted]:
    r"""Importance weighting in double precision, in chunks of rows.

    .. math:: \log p(x) \approx \log \frac{1}{K} \sum_{k=1}^K
              \frac{p(x \mid z_k) p(z_k)}{q(z_k \mid x)}, \qquad z_k = \mu(x) + c\, \sigma(x) u_k

    Burda, Grosse and Salakhutdinov (2016). The points u_k are the same for all rows. The weights'
    effective sample size is :math:`(\sum w)^2 / \sum w^2`. With a posterior over the decoder's
    weights the mean is over its draws as well.

    Parameters
    ----------
    model : VAE
        In double precision, on ``device``.
    V : ndarray of shape (n, n_columns)
        Values.
    points : ndarray of shape (n_points, n_noise)
        Standard normal points.
    inflation : float
        c, a factor on the deviations of the proposal.
    by_column : bool
        Whether each column's part is wanted.
    device : torch.device
        Where to compute.
    """
    eps = torch.as_tensor(points, dtype=torch.float64, device=device)[:, None]
    with torch.no_grad():
        for rows in chunks(model, len(V), len(points)):
            v = torch.as_tensor(V[rows], dtype=torch.float64, device=device)
            mean, log_var = model.encode(v)
            log_var = log_var + 2.0 * math.log(inflation)
            log_weight, log_lik, _ = model.log_weights(v, mean, log_var, eps)
            total = torch.logsumexp(log_weight, 0)
            ess = torch.exp(2.0 * total - torch.logsumexp(2.0 * log_weight, 0))
            parts = None
            if by_column:
                share = torch.exp(log_weight - total)
                parts = torch.einsum("kn,knd->nd", share, log_lik).cpu().numpy()
            density = (total - math.log(len(log_weight))).cpu().numpy()
            yield Weighted(rows, density, ess.cpu().numpy(), parts)


def log_density(model: VAE, v: Tensor, eps: Tensor) -> Tensor:
    """Log density (n,) of a few rows, in the model's precision; eps (n_points, 1, n_noise)."""
    with torch.no_grad():
        mean, log_var = model.encode(v)
        log_weight, _, _ = model.log_weights(v, mean, log_var, eps)
        return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def chunks(model: VAE, n: int, n_points: int) -> Iterator[slice]:
    """Slices of rows whose computation fits into memory."""
    spec = model.spec
    width = max([spec.layout.n_inputs, model.head.n_outputs, spec.n_latent, *spec.hidden])
    if spec.prior in ("mixture", "vamp"):
        width = max(width, spec.n_components * spec.n_latent)
    size = max(1, min(4096, MEMORY // (8 * width * n_points * model.n_draws)))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
