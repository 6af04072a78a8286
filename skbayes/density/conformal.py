"""Conformal p-values: how many known normal rows score as low as a new one."""

from __future__ import annotations

import math

import numpy as np


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
