"""Acquisition functions of regressors, on each draw's mean and noise.

All take `Moments` and give utilities (n,). What is known of the mean counts, never the noise: where
the noise varies, the total variance would send requests to where labels say least.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK = 1 << 22


class Moments(NamedTuple):
    """What a regressor says of rows."""

    mean: np.ndarray
    """Each draw's mean, (n_draws, n)."""

    noise: np.ndarray | None = None
    """Each draw's standard deviation of the noise, (n_draws, n); None where it is not told."""

    spread: np.ndarray | None = None
    """Standard deviation (n,) of the prediction, where it comes without draws."""


def variance(moments: Moments) -> np.ndarray:
    r"""Variance of the draws' means, :math:`\frac{1}{K-1} \sum_k (\mu_k - \bar\mu)^2`.

    Where there are no draws, the variance that the model gives.
    """
    if moments.spread is not None:
        return moments.spread**2
    return moments.mean.var(0, ddof=1)


def bald(moments: Moments, corrected: bool = True) -> np.ndarray:
    r"""Mutual information of the answer and the weights, by matched moments.

    .. math:: I(y; \theta \mid x, D) \approx \tfrac12 \frac1K \sum_k
              \log \frac{V(x)}{\sigma_k^2(x)}, \qquad
              V = \operatorname{Var}_k \mu_k + \frac1K \sum_k \sigma_k^2

    An upper bound, since a normal has the largest entropy of all densities of a variance.
    ``corrected`` takes the unbiased variance of the means.
    """
    noise = _noise(moments) ** 2
    total = moments.mean.var(0, ddof=int(corrected)) + noise.mean(0)
    return np.maximum(0.5 * (np.log(total) - np.log(noise).mean(0)), 0.0)


def epig(moments: Moments, targets: Moments, corrected: bool = True) -> np.ndarray:
    r"""Expected predictive information gain, by matched moments.

    .. math:: E_{x_*} \big[-\tfrac12 \log(1 - \rho^2)\big], \qquad
              \rho^2 = \frac{\operatorname{Cov}_k(\mu, \mu_*)^2}{V V_*}

    with V the variance of the means plus the mean variance of the noise. ``corrected`` takes an
    estimate of the squared covariance that has no bias for normal draws.
    """
    total, star = _total(moments), _total(targets)

    def gain(squared, rows):
        share = squared / (star[rows, None] * total)
        return -0.5 * np.log1p(-np.minimum(share, 1.0 - 1e-12))

    return _over_targets(moments, targets, corrected, gain)


def expected_error(moments: Moments, targets: Moments, corrected: bool = True) -> np.ndarray:
    r"""Expected fall of the squared error at the targets.

    .. math:: E_{x_*} \big[\operatorname{Cov}_k(\mu, \mu_*)^2 / V \big]

    Cohn (1996), for any model with draws. ``corrected`` as in `epig`.
    """
    total = _total(moments)
    return _over_targets(moments, targets, corrected, lambda squared, _: squared / total)


def _total(moments: Moments) -> np.ndarray:
    """Variance of the prediction with its noise, (n,)."""
    return moments.mean.var(0, ddof=1) + (_noise(moments) ** 2).mean(0)


def _noise(moments: Moments) -> np.ndarray:
    """Noise of the draws, (n_draws, n)."""
    if moments.noise is None:
        raise ValueError("The noise of the draws is needed, which is not told.")
    return moments.noise


def _over_targets(moments, targets, corrected, gain) -> np.ndarray:
    """Mean over targets of a gain that depends on squared covariances, (n,)."""
    mean, star = moments.mean, targets.mean
    size = len(mean) - 1
    centred, centred_star = mean - mean.mean(0), star - star.mean(0)
    own, own_star = mean.var(0, ddof=1), star.var(0, ddof=1)
    out = np.zeros(mean.shape[1])
    block = max(1, BLOCK // max(1, mean.shape[1]))
    for start in range(0, star.shape[1], block):
        rows = slice(start, start + block)
        squared = (centred_star[:, rows].T @ centred / size) ** 2  # (targets, n)
        if corrected and size >= 2:
            # E c^2 = C^2 + (V V* + C^2) / m and E v v* = V V* + 2 C^2 / m, for normal draws
            chance = own_star[rows, None] * own / size
            squared = size**2 * (squared - chance) / ((size - 1) * (size + 2))
        out += gain(squared, rows).sum(0)
    return out / star.shape[1]
