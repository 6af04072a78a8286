"""Effective sample sizes of Markov chains, of many quantities at once."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft


def effective_size(values: np.ndarray) -> np.ndarray:
    r"""Effective sample size of sequences as they are, neither ranked nor split.

    For m sequences of n draws with autocovariances :math:`\hat\gamma_{jt}` (divided by n),

    .. math:: W = \frac{1}{m} \sum_j \frac{n}{n - 1} \hat\gamma_{j0}, \quad
              V = \frac{n - 1}{n} W + \frac{1}{m - 1} \sum_j (\bar x_j - \bar x)^2, \quad
              \hat\rho_t = 1 - \frac{W - \frac{1}{m} \sum_j \hat\gamma_{jt}}{V},

    .. math:: \hat\tau = -1 + 2 \sum_{s < k} \min_{r \le s} (\hat\rho_{2r} + \hat\rho_{2r+1})
              + \hat\rho_{2k}, \qquad \text{ESS} = m n / \hat\tau,

    where the k-th pair is the first whose sum is not positive, and the last term counts where it is
    positive (Vehtari et al., 2021, section 3.2, after Geyer, 1992). No ESS is over
    :math:`m n \log_{10}(m n)`. All of it is that of Stan and ArviZ.

    Parameters
    ----------
    values : ndarray of shape (m, n, k)
        Sequences of k quantities, n at least 2.

    Returns
    -------
    ndarray of shape (k,)
        m n for a quantity that never varies.
    """
    m, n, _ = values.shape
    x = np.asarray(values, dtype=np.float64)
    means = x.mean(1)
    length = next_fast_len(2 * n, real=True)
    power: np.ndarray | float = 0.0
    for chain, mean in zip(x, means, strict=True):
        spectrum = rfft(chain - mean, length, axis=0)
        power = power + (spectrum.real**2 + spectrum.imag**2)
    covariance = irfft(power, length, axis=0)[:n] / (m * n)  # the mean over sequences, (n, k)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (means.var(0, ddof=1) if m > 1 else 0.0)
    varies = np.ptp(x, axis=(0, 1)) >= np.finfo(float).resolution
    rho = 1.0 - (within - covariance) / np.where(varies, total, 1.0)
    rho[0] = 1.0
    pairs = np.arange(max(1, (n - 1) // 2))  # the last lags are left out, as too noisy
    sums = rho[2 * pairs] + rho[2 * pairs + 1]
    ends = sums <= 0.0
    ends[-1] = True
    last = ends.argmax(0)
    decreasing = np.minimum.accumulate(sums, axis=0)
    own = np.arange(len(last))
    even = rho[2 * last, own]
    even = np.where((even > 0.0) | (sums[last, own] >= 0.0), even, 0.0)
    tau = -1.0 + 2.0 * (decreasing * (pairs[:, None] < last)).sum(0) + even
    size = m * n
    return np.where(varies, size / np.maximum(tau, 1.0 / np.log10(size)), size)
