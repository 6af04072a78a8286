"""Conformal p-values: how many known normal rows score as low as a new one."""

from __future__ import annotations

import math

import numpy as np

ROUNDING = 1e-9
"""Scores closer than this are the same: a row's may differ in the last digits between two calls."""


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    r"""Conformal p-values of scores (high is normal), given scores of normal rows.

    .. math:: p = \frac{1 + \#\{i : s_i \le s\}}{m + 1}

    Vovk, Gammerman and Shafer (2005), section 2.2. Where the new row and the m calibration rows are
    exchangeable, :math:`P(p \le \alpha) \le \alpha`.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Of new rows.
    calibration : ndarray of shape (m,)
        Of rows that the model was not fitted on.

    Returns
    -------
    ndarray of shape (n,)
        Between 1 / (m + 1) and 1.
    """
    order = np.sort(calibration)
    return (1.0 + np.searchsorted(order, scores, side="right")) / (len(order) + 1.0)


def cross_scores(scores: np.ndarray, calibration: list[np.ndarray]) -> np.ndarray:
    r"""One score per row from those of K folds, such that its p-value is the cross-conformal one.

    .. math:: p = \frac{1 + \sum_k \#\{i \in k : s_k(x_i) \le s_k(x)\}}{n + 1}

    Vovk (2015), cross-conformal predictors: every model's score is compared with its own
    calibration rows. The score is the mean over the models, moved between the two pooled
    calibration scores where its count belongs, so that `p_values` and `threshold` of the pooled
    ones apply.

    Parameters
    ----------
    scores : ndarray of shape (K, n)
        Of the rows by each model, on one scale.
    calibration : list of ndarray
        Of each model's calibration rows.

    Returns
    -------
    ndarray of shape (n,)
    """
    mean = scores.mean(0)
    pooled = np.sort(np.concatenate(calibration))
    count = sum(
        np.searchsorted(np.sort(own), s + ROUNDING * (1.0 + np.abs(s)), side="right")
        for s, own in zip(scores, calibration, strict=True)
    )
    m = len(pooled)
    small = max((pooled[-1] - pooled[0]) / m, 1e-12)
    low = np.where(count > 0, pooled[np.maximum(count - 1, 0)], -np.inf)
    high = np.where(count < m, pooled[np.minimum(count, m - 1)], np.inf)
    out = mean.copy()
    # into the gap in the order of the means, without ties
    inside = (count > 0) & (count < m)
    gap = np.maximum(high[inside] - low[inside], 0.0)
    u = (mean[inside] - low[inside]) / np.maximum(gap, 1e-12) - 0.5
    out[inside] = low[inside] + gap * (0.5 + 0.5 * u / (0.5 + np.abs(u)) * (1 - 1e-6))
    lowest, highest = count == 0, count == m
    out[lowest] = pooled[0] - _positive(pooled[0] - mean[lowest], small)
    out[highest] = pooled[-1] + _positive(mean[highest] - pooled[-1], small)
    return out


def _positive(d: np.ndarray, width: float) -> np.ndarray:
    """About d where it is above ``width``, and rising to it from near zero where it is below."""
    root = np.hypot(d, width)
    return 0.5 * np.where(d > 0, d + root, width**2 / (root - np.minimum(d, 0.0)))


def threshold(calibration: np.ndarray, rate: float) -> float | None:
    """Score below which p < rate, or None where no p-value can be that small."""
    m = len(calibration)
    # p < rate where fewer than this many calibration scores are as low
    allowed = math.ceil(rate * (m + 1) - 1e-9) - 2
    if allowed < 0:
        return None
    return float(np.sort(calibration)[min(allowed, m - 1)])


def smooth_ranks(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the reference scores below each score, in (0, 1), without ties.

    Between the reference scores it is interpolated; below the smallest and above the largest it
    goes on with the distance, so that two rows outside the range still have different ranks.
    """
    order = np.sort(reference)
    m = len(order)
    share = (np.arange(m) + 0.5) / m
    out = np.interp(scores, order, share)
    tail = order[: max(2, m // 10)]
    low = max(float(tail.mean() - order[0]), 1e-12)
    below = scores < order[0]
    far = (order[0] - scores[below]) / low
    out[below] = share[0] / (1.0 + far)
    tail = order[-max(2, m // 10) :]
    high = max(float(order[-1] - tail.mean()), 1e-12)
    above = scores > order[-1]
    out[above] = 1.0 - (1.0 - share[-1]) / (1.0 + (scores[above] - order[-1]) / high)
    return out
