"""From draws of functions to predictive distributions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, xlogy


class Uncertainty(NamedTuple):
    """Parts of predictive uncertainty.

    Attributes
    ----------
    total, aleatoric, epistemic : ndarray
        ``total = aleatoric + epistemic``. For classifiers in nats, (n,) or (n, n_labels): entropy
        of the averaged probabilities, average entropy of the draws' probabilities, and their
        difference, the mutual information of label and weights. For regressors variances in the
        squared units of y, (n,) or (n, n_outputs): average noise variance, and variance of the
        draws' means.
    """

    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


def entropy_parts(proba: np.ndarray, binary: bool) -> Uncertainty:
    r"""Split the entropy of averaged probabilities.

    .. math:: H[\bar p] = \frac1S \sum_s H[p_s] + I(y; \theta), \qquad
              \bar p = \frac1S \sum_s p_s

    Depeweg et al. (2018), equation 4.

    Parameters
    ----------
    proba : ndarray of shape (n_draws, n, n_classes)
        Each draw's probabilities; with ``binary``, those of independent labels being 1.
    binary : bool
        Whether the last axis holds labels instead of classes.
    """

    def entropy(p: np.ndarray) -> np.ndarray:
        if binary:
            return -xlogy(p, p) - xlogy(1 - p, 1 - p)
        return -xlogy(p, p).sum(-1)

    total = entropy(proba.mean(0))
    aleatoric = entropy(proba).mean(0)
    # the difference of two sums may fall below zero by rounding
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0.0))


def variance_parts(mean: np.ndarray, std: np.ndarray) -> Uncertainty:
    r"""Split the variance of a mixture of normals (the law of total variance).

    .. math:: \operatorname{Var}[y] = \frac1S \sum_s \sigma_s^2
              + \frac1S \sum_s (\mu_s - \bar\mu)^2

    Parameters
    ----------
    mean, std : ndarray of shape (n_draws, ...)
        Each draw's mean and noise.
    """
    aleatoric = (std**2).mean(0)
    epistemic = mean.var(0)
    return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)


def mixture_quantiles(mean: np.ndarray, std: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    r"""Quantiles of equal mixtures of normals.

    Solves :math:`\frac1S \sum_s \Phi((q - \mu_s) / \sigma_s) = p` by Newton's method, kept inside
    a bracket: the quantile of a mixture lies between the least and the greatest of its parts'.

    Parameters
    ----------
    mean, std : ndarray of shape (n_draws, n)
        Parts of the mixtures.
    quantiles : ndarray of shape (k,)
        Probabilities p in (0, 1).

    Returns
    -------
    ndarray of shape (n, k)
    """
    out = np.empty((mean.shape[1], len(quantiles)))
    centre = mean.mean(0)
    spread = np.sqrt((std**2).mean(0) + mean.var(0))
    for j, p in enumerate(quantiles):
        parts = mean + std * ndtri(p)
        low, high = parts.min(0), parts.max(0)
        x = np.clip(centre + spread * ndtri(p), low, high)
        active = np.arange(mean.shape[1])
        for _ in range(100):
            m, s = mean[:, active], std[:, active]
            z = (x[active] - m) / s
            miss = ndtr(z).mean(0) - p
            density = (np.exp(-0.5 * z * z) / s).mean(0) / np.sqrt(2 * np.pi)
            above = miss > 0
            high[active] = np.where(above, x[active], high[active])
            low[active] = np.where(above, low[active], x[active])
            with np.errstate(divide="ignore", invalid="ignore"):
                step = miss / density
            new = x[active] - step
            middle = 0.5 * (low[active] + high[active])
            outside = ~((new >= low[active]) & (new <= high[active]))
            new = np.where(outside, middle, new)
            moved = np.abs(new - x[active])
            x[active] = new
            scale = spread[active]
            going = (moved > 1e-10 * scale) & (high[active] - low[active] > 1e-10 * scale)
            active = active[going]
            if not len(active):
                break
        out[:, j] = x
    return out
