"""Batches: which rows to ask about together."""

from __future__ import annotations

import numpy as np
from scipy.special import entr
from sklearn.base import BaseEstimator

from skbayes.active.acquisition import BLOCK
from skbayes.active.moments import Moments
from skbayes.counts import check_own_count


class Batch(BaseEstimator):
    """A way to choose several rows at once."""

    needs_draws = False
    """Whether it looks at the draws of the candidates, not at their utilities alone."""

    def check(self) -> None:
        """Raise a ValueError that names the parameter, its value and what is allowed."""

    def select(
        self, utilities, n: int, rng: np.random.Generator, draws=None, n_labelled=None
    ) -> np.ndarray:
        """Positions of n different candidates, best first.

        Parameters
        ----------
        utilities : ndarray of shape (n_candidates,)
            What each is worth alone; not below zero where a method takes logarithms.
        n : int
            Rows to choose, at most the number of candidates.
        rng : Generator
            For ties and chance.
        draws : ndarray or Moments, optional
            Draws at the candidates, where ``needs_draws``.
        n_labelled : int, optional
            Rows that have labels already; None: enough of them.
        """
        raise NotImplementedError("abstract")


class Top(Batch):
    """The n rows of largest utility. They may all say the same."""

    def select(self, utilities, n, rng, draws=None, n_labelled=None):
        """Choose, see `Batch.select`."""
        return top(utilities, n, rng)


class Power(Batch):
    r"""Rows drawn without repetition, with probabilities in proportion to a power of the utility.

    .. math:: P(i) \propto s_i^\beta, \qquad \text{the } n \text{ largest of } \log s_i
              + \epsilon_i, \quad \epsilon_i \sim \text{Gumbel}(0, 1 / \beta)

    Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron and Gal (2021). Utilities change
    once the first answers are in; chance keeps a batch from being all of one kind, at no cost.

    The paper takes beta = 1 for information, which is near zero for most rows. The margin of a big
    pool is not: thousands of middling rows then outweigh the best ones, and the choice is nearly
    one at random. Hence "auto", the least beta, not below 1, at which the probabilities are those
    of no more than

    .. math:: 16\, n\, \max(1, n_\text{explore} / n_\text{labelled})

    equal rows, by the exponential of their entropy. The last factor is there since a model of a few
    labels asks in the wrong places, and may never come to see a rare class; Sahan, Smidl and Marik
    (2021) take rows at random at first.

    Parameters
    ----------
    beta : float or "auto", default="auto"
        Power; large values come near to `Top`.
    n_explore : int, default=50
        Labels below which "auto" lets more rows count; without effect on a number, and, as all of
        `Power`, on a query for a single row, which is that of largest utility.
    """

    def __init__(self, beta="auto", n_explore=50):
        self.beta = beta
        self.n_explore = n_explore

    def check(self):
        """Check the parameters, see `Batch.check`."""
        check_own_count(self, "n_explore", 0)
        value = self.beta
        if isinstance(value, str) and value == "auto":
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | np.number)
            or not 0 < value < np.inf
        ):
            raise ValueError(
                f"Power: beta={value!r} is not allowed; it must be 'auto' or a number over 0."
            )

    def select(self, utilities, n, rng, draws=None, n_labelled=None):
        """Choose, see `Batch.select`."""
        logs = np.log(np.maximum(utilities, 1e-300))
        beta = self.beta
        if isinstance(beta, str):
            more = 1.0 if n_labelled is None else self.n_explore / max(1, n_labelled)
            beta = _least_power(logs, N_EQUAL * n * max(1.0, more))
        return top(logs + rng.gumbel(size=len(logs)) / beta, n, rng)


def _least_power(logs: np.ndarray, n_equal: float) -> float:
    """The least power from 1 on that leaves at most so many rows in effect, to a thousandth."""
    logs = logs - logs.max()

    def n_effective(beta: float) -> float:
        p = np.exp(beta * logs)
        return float(np.exp(entr(p / p.sum()).sum()))

    low, high = 1.0, HIGHEST_POWER
    if n_effective(low) <= n_equal:
        return low
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if n_effective(middle) > n_equal else (low, middle)
    return high


N_EQUAL = 16.0
"""Rows that count in effect, for each row of a batch, at most."""

HIGHEST_POWER = 1e6
"""Beyond which rows differ by rounding only."""


class BatchBALD(Batch):
    r"""Greedy choice by the information that all labels of the batch have together.

    .. math:: I(y_1, \dots, y_b; \theta \mid D) = H[y_1, \dots, y_b]
              - \frac1K \sum_k \sum_i H[p_k(y_i)]

    Kirsch, van Amersfoort and Gal (2019). Greedy choice reaches at least 1 - 1/e of the best
    batch's information. Up to ``n_configurations`` configurations of the labels chosen so far,
    the joint entropy is exact; beyond, configurations are drawn from every draw of the weights in
    equal numbers, with a standard error of some 0.01 nats at 10,000 (see `joint_information`).
    Information is at most log K, so that K draws tell little of batches of many rows.

    Parameters
    ----------
    n_configurations : int, default=10000
        Configurations of labels at most.
    n_candidates : int, default=5000
        Rows that take part, those of largest utility alone.
    """

    needs_draws = True

    def __init__(self, n_configurations=10_000, n_candidates=5000):
        self.n_configurations = n_configurations
        self.n_candidates = n_candidates

    def check(self):
        """Check the parameters, see `Batch.check`."""
        check_own_count(self, "n_configurations")
        check_own_count(self, "n_candidates")

    def select(self, utilities, n, rng, draws=None, n_labelled=None):
        """Choose, see `Batch.select`; the first row is that of largest utility."""
        if isinstance(draws, Moments) or draws is None:
            raise ValueError("batch='batch_bald' is for classifiers; regressors have 'log_det'.")
        proba = np.exp(draws)
        noise = entr(proba).sum(2).mean(0)  # E_k H[p_k], (N,)
        chosen = [int(top(utilities, 1, rng)[0])]
        while len(chosen) < n:
            configurations, log_q = _configurations(proba[:, chosen], self.n_configurations, rng)
            gains = _joint_entropies(configurations, log_q, proba) - noise
            gains[chosen] = -np.inf
            chosen.append(int(top(gains, 1, rng)[0]))
        return np.array(chosen)


class LogDet(Batch):
    r"""Greedy choice by the information that all answers have together, for regressors.

    .. math:: \tfrac12 \log \det\big(I + S^{-1/2} \Sigma S^{-1/2}\big)

    with :math:`\Sigma` the covariance of the draws' means and S the diagonal of the mean noise
    variances: the mutual information of a normal model. A row that an earlier one tells of is
    worth less.

    Parameters
    ----------
    n_candidates : int, default=5000
        Rows that take part, those of largest utility alone.
    """

    needs_draws = True

    def __init__(self, n_candidates=5000):
        self.n_candidates = n_candidates

    def check(self):
        """Check the parameter, see `Batch.check`."""
        check_own_count(self, "n_candidates")

    def select(self, utilities, n, rng, draws=None, n_labelled=None):
        """Choose, see `Batch.select`; the first row is that of largest utility."""
        if not isinstance(draws, Moments):
            raise ValueError("batch='log_det' is for regressors; classifiers have 'batch_bald'.")
        if draws.noise is None or len(draws.mean) < 2:
            raise ValueError(
                "batch='log_det' needs draws with their noise, as predict_draws gives them."
            )
        mean = draws.mean - draws.mean.mean(0)
        f = mean / np.sqrt((len(mean) - 1) * (draws.noise**2).mean(0))  # f'f is S^-1/2 Sigma S^-1/2
        chosen = [int(top(utilities, 1, rng)[0])]
        inverse = np.eye(len(f))  # (I + sum of f f')^-1 over the rows chosen
        while len(chosen) < n:
            last = inverse @ f[:, chosen[-1]]
            inverse -= np.outer(last, last) / (1.0 + f[:, chosen[-1]] @ last)
            gains = np.einsum("kn,kn->n", f, inverse @ f)
            gains[chosen] = -np.inf
            chosen.append(int(top(gains, 1, rng)[0]))
        return np.array(chosen)


BATCHES: dict[str, type[Batch]] = {
    "top": Top,
    "power": Power,
    "batch_bald": BatchBALD,
    "log_det": LogDet,
}
"""Batch methods by the names that ``batch=`` takes."""


def top(utilities: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of the n largest, best first; exact ties in random order."""
    among = np.arange(len(utilities))
    if n < len(utilities):
        hurdle = np.partition(utilities, len(utilities) - n)[len(utilities) - n]
        among = np.flatnonzero(utilities >= hurdle)
    return among[np.lexsort((rng.random(len(among)), -utilities[among]))][:n]


def joint_information(
    log_proba: np.ndarray, n_configurations: int = 10_000, random_state=None
) -> tuple[float, float]:
    """Mutual information of the labels of a few rows, all together, and the weights.

    Parameters
    ----------
    log_proba : ndarray of shape (n_draws, n, n_classes)
        Each draw's log probabilities.
    n_configurations : int, default=10000
        Configurations of labels at most; where there are more, that many are drawn.
    random_state : int or None, default=None
        Seed.

    Returns
    -------
    value : float
        In nats.
    standard_error : float
        Of the Monte Carlo estimate; zero where all configurations were counted.
    """
    rng = np.random.default_rng(random_state)
    proba = np.exp(np.asarray(log_proba, dtype=np.float64))
    noise = entr(proba).sum(2).mean(0).sum()
    n_all = float(proba.shape[2]) ** proba.shape[1]
    likelihoods, _ = _configurations(proba, n_configurations, rng)
    with np.errstate(divide="ignore"):
        log_q = _log_mean(likelihoods)
    if n_all <= n_configurations:
        q = np.exp(log_q)
        return float(-(q * np.where(q > 0, log_q, 0.0)).sum() - noise), 0.0
    error = log_q.std(ddof=1) / np.sqrt(len(log_q))
    return float(-log_q.mean() - noise), float(error)


def _configurations(proba, most, rng):
    """Labels of the rows chosen so far, by their log likelihood under every draw, (M, K).

    All there are, or some drawn: the second array is None then, else log of their weights.
    """
    n_draws, n_rows, n_classes = proba.shape
    with np.errstate(divide="ignore"):
        logs = np.log(proba)
    if float(n_classes) ** n_rows <= most:
        out = np.zeros((1, n_draws))
        for i in range(n_rows):
            out = (out[:, None] + logs[:, i].T[None]).reshape(-1, n_draws)
        return out, _log_mean(out)
    theta = np.repeat(np.arange(n_draws), -(-most // n_draws))
    out = np.zeros((len(theta), n_draws))
    for i in range(n_rows):
        below = proba[:, i].cumsum(1)[theta, :-1] < rng.random((len(theta), 1))
        out += logs[:, i].T[below.sum(1)]
    return out, None


def _log_mean(logs: np.ndarray) -> np.ndarray:
    """Log of the mean over draws, (M,)."""
    largest = logs.max(1, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logs - largest).mean(1)) + largest[:, 0]


def _joint_entropies(configurations, log_q, proba) -> np.ndarray:
    r"""Entropy of each candidate's label together with those of the rows chosen, (n,).

    With :math:`r = \frac1K \sum_k P_k(\text{configuration})\, p_k(c)`: the sum of -r log r over
    all configurations, or, where these were drawn from q, the mean of -(r / q) log r.
    """
    n_draws, n, n_classes = proba.shape
    exact = log_q is not None
    largest = configurations.max(1, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    scaled = np.exp(configurations - largest) / n_draws  # (M, K), so that products do not vanish
    q = scaled.sum(1)
    weight = np.exp(largest[:, 0]) if exact else 1.0 / (q * len(q))
    out = np.empty(n)
    size = max(1, BLOCK // (n_classes * len(scaled)))
    for start in range(0, n, size):
        part = proba[:, start : start + size]
        r = scaled @ part.reshape(n_draws, -1)  # (M, n C)
        shift = r * np.where(r > 0, largest, 0.0)
        value = weight @ (entr(r) - shift)
        out[start : start + size] = value.reshape(-1, n_classes).sum(1)
    return out
