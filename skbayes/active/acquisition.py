"""Acquisition functions of classifiers: how much the label of a row is worth.

All take each draw's log probabilities, (n_draws, n, n_classes), the same weights in all rows, and
give utilities (n,), in nats where they are information; the larger, the rather a row is asked
about. Sums are in float64, and entropies are finite where probabilities are zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import entr, logsumexp

BLOCK = 1 << 22
"""Numbers at most in an array that is made for a block of rows."""


def mean_log_proba(log_proba: np.ndarray) -> np.ndarray:
    """Log of the averaged probabilities, (n, n_classes)."""
    return logsumexp(log_proba, axis=0) - np.log(len(log_proba))


def margin(log_proba: np.ndarray) -> np.ndarray:
    r"""One minus the lead of the most probable class over the second.

    .. math:: 1 - (\bar p_{(1)} - \bar p_{(2)})

    Scheffer, Decomain and Wrobel (2001).
    """
    p = np.exp(mean_log_proba(log_proba))
    if p.shape[1] < 2:
        return np.zeros(len(p))
    top = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return 1.0 - (top[:, 1] - top[:, 0])


def entropy(log_proba: np.ndarray) -> np.ndarray:
    r"""Entropy of the averaged probabilities, :math:`H[\bar p]`."""
    return entr(np.exp(mean_log_proba(log_proba))).sum(1)


def least_confident(log_proba: np.ndarray) -> np.ndarray:
    r"""Probability of not being the most probable class, :math:`1 - \max_c \bar p_c`."""
    return 1.0 - np.exp(mean_log_proba(log_proba)).max(1)


def variance(log_proba: np.ndarray) -> np.ndarray:
    r"""Sum over classes of the variance of the draws' probabilities.

    .. math:: \sum_c \frac{1}{K - 1} \sum_k (p_{kc} - \bar p_c)^2
    """
    return np.exp(log_proba).var(0, ddof=1).sum(1)


def bald(log_proba: np.ndarray, corrected: bool = True) -> np.ndarray:
    r"""Mutual information of the label and the weights.

    .. math:: I(y; \theta \mid x, D) = H[\bar p] - \frac1K \sum_k H[p_k]

    Houlsby, Huszar, Ghahramani and Lengyel (2011), who call it Bayesian active learning by
    disagreement. It is also the mean Kullback-Leibler divergence of a committee's members from
    their average. From K draws it comes out too small by about one part in K, since the average
    has been made of the same draws; ``corrected`` multiplies it by K / (K - 1).
    """
    p = np.exp(log_proba)
    # p log p without a second logarithm; minus infinity times zero is zero
    each = -(p * np.where(p > 0, log_proba, 0.0)).sum(2).mean(0)
    value = np.maximum(entropy(log_proba) - each, 0.0)
    n_draws = len(log_proba)
    return value * n_draws / (n_draws - 1) if corrected else value


def qbc(log_proba: np.ndarray) -> np.ndarray:
    r"""Entropy of the votes of a committee, one vote of each draw.

    .. math:: H\big[\tfrac1K \sum_k 1(c = \arg\max_{c'} p_{kc'})\big]

    Dagan and Engelson (1995). (The other common form, the divergence of the members from their
    average, is `bald`.)
    """
    votes = log_proba.argmax(2)
    shares = np.stack([(votes == c).mean(0) for c in range(log_proba.shape[2])], 1)
    return entr(shares).sum(1)


def expected_utility(
    log_proba: np.ndarray,
    targets: np.ndarray,
    utility: Callable[[np.ndarray], np.ndarray],
    corrected: bool = True,
) -> np.ndarray:
    r"""Expected gain in a proper score on target rows, once the label is known.

    .. math:: U(x) = E_{x_*} E_{y \mid x, D} \big[ G(p(\cdot \mid x_*, x, y))
              - G(p(\cdot \mid x_*)) \big]

    with G the convex function that belongs to the score: minus the entropy for the logarithmic
    score, the sum of squares for Brier's, the largest probability for zero-one loss. The
    probabilities after the label come from the draws themselves,

    .. math:: p(y_* \mid x_*, x, y) = \frac{\sum_k p_k(y \mid x)\, p_k(y_* \mid x_*)}
              {\sum_k p_k(y \mid x)} .

    Few draws make chance correlations look like information, so that the plug-in value is too
    large (ten times at 5 draws, three times at 20). ``corrected`` subtracts its value with the
    draws of the targets in a random order (always the same one, which leaves none in its place),
    where only chance is left; this mends the mean from some 50 draws on. A shift would not do:
    draws of one chain lie side by side, and whole chains would meet.

    Parameters
    ----------
    log_proba : ndarray of shape (n_draws, n, n_classes)
        Candidates.
    targets : ndarray of shape (n_draws, n_targets, n_classes)
        Target rows, same draws.
    utility : callable
        G on arrays (..., n_classes), giving (...).
    corrected : bool
        See above; needs at least 2 draws.
    """
    value = _plug_in(log_proba, targets, utility)
    if corrected:
        value = value - _plug_in(log_proba, targets[elsewhere(len(targets))], utility)
    return value


def elsewhere(n: int) -> np.ndarray:
    """A random order of n draws, one cycle, always the same: none stays in its place."""
    cycle = np.random.default_rng(n).permutation(n)
    out = np.empty(n, dtype=np.intp)
    out[cycle] = np.roll(cycle, 1)
    return out


def _plug_in(log_proba, targets, utility) -> np.ndarray:
    """Expected utility with the draws as they are."""
    n_draws, n, n_classes = log_proba.shape
    n_targets = targets.shape[1]
    proba = np.exp(log_proba)
    star = np.exp(targets).reshape(n_draws, -1)  # (K, M C)
    before = utility(star.mean(0).reshape(n_targets, n_classes)).mean()
    out = np.empty(n)
    size = max(1, BLOCK // (n_classes * star.shape[1]))
    for start in range(0, n, size):
        part = proba[:, start : start + size]
        rows = part.reshape(n_draws, -1)  # (K, n C)
        total = rows.sum(0)
        safe = np.where(total > 0, total, 1.0)
        after = (rows / safe).T @ star  # p(y* | x*, x, y), (n C, M C)
        gains = utility(after.reshape(len(after), n_targets, n_classes)).mean(1)
        gains = (gains * total / n_draws).reshape(-1, n_classes).sum(1)
        out[start : start + size] = gains - before
    return out


def log_utility(p: np.ndarray) -> np.ndarray:
    """Minus the entropy: the G of the logarithmic score."""
    return -entr(p).sum(-1)


def brier_utility(p: np.ndarray) -> np.ndarray:
    """Sum of squares: the G of Brier's score."""
    return np.einsum("...c,...c->...", p, p)


def zero_one_utility(p: np.ndarray) -> np.ndarray:
    """Largest probability: the G of zero-one loss."""
    return p.max(-1)


UTILITIES = {"log": log_utility, "brier": brier_utility, "zero_one": zero_one_utility}
"""Convex functions by the names of their scores."""


def epig(log_proba: np.ndarray, targets: np.ndarray, corrected: bool = True) -> np.ndarray:
    r"""Expected predictive information gain, :math:`E_{x_*} I(y; y_* \mid x, x_*, D)`.

    Bickford Smith, Kirsch, Farquhar, Gal, Foster and Rainforth (2023): what the label tells of
    the predictions at the targets, rather than of the weights. It is `expected_utility` of the
    logarithmic score.
    """
    return expected_utility(log_proba, targets, log_utility, corrected)


def core_mse(log_proba: np.ndarray, targets: np.ndarray, corrected: bool = True) -> np.ndarray:
    """Expected gain in Brier's score, Tan, Du and Buntine (2021): see `expected_utility`."""
    return expected_utility(log_proba, targets, brier_utility, corrected)


def expected_error(
    log_proba: np.ndarray, targets: np.ndarray, corrected: bool = True
) -> np.ndarray:
    """Expected fall of the error rate, Roy and McCallum (2001): see `expected_utility`."""
    return expected_utility(log_proba, targets, zero_one_utility, corrected)
