"""Which rows to ask about: utilities, and a batch of the best."""

from __future__ import annotations

import numpy as np

from skbayes.active.batch import Batch, top
from skbayes.active.draws import Draws
from skbayes.active.rows import n_rows, take
from skbayes.active.utility import Acquisition


def choose(
    draws: Draws | None,
    acquisition: Acquisition,
    batch: Batch,
    pool,
    rows: np.ndarray,
    unlabelled: np.ndarray,
    labelled,
    n: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows whose labels are worth most.

    Parameters
    ----------
    draws : Draws or None
        The fitted estimator; None: rows are taken at random.
    acquisition : Acquisition
        What a label is worth.
    batch : Batch
        How several are chosen. One is always that of largest utility.
    pool : rows
        All rows.
    rows : ndarray of int, shape (n_candidates,)
        Those among which to choose.
    unlabelled : ndarray of int
        All rows without a label, whose predictions count; candidates may be a part of them.
    labelled : rows
        Rows that have labels.
    n : int
        Rows to choose, at most the number of candidates.
    rng : Generator
        For ties, samples and chance.

    Returns
    -------
    chosen : ndarray of shape (n,)
        Positions among ``rows``, best first.
    utilities : ndarray of shape (n_candidates,)
    """
    if draws is None:
        utilities = rng.random(len(rows))
        return top(utilities, n, rng), utilities
    utilities = acquisition(draws, pool, rows, labelled, rng, unlabelled)
    odd = int((~np.isfinite(utilities)).sum())
    if odd:
        raise ValueError(
            f"The utilities of {odd} rows are not finite; the estimator's predictions there are "
            "not."
        )
    if n == 1:
        return top(utilities, n, rng), utilities
    known = n_rows(labelled)
    if not batch.needs_draws:
        return batch.select(utilities, n, rng, n_labelled=known), utilities
    if not draws.several:
        raise ValueError(
            f"batch={batch!r} needs draws, but {type(draws.final).__name__} has neither "
            "predict_draws nor members; use 'power' or 'top'."
        )
    some = top(utilities, max(n, min(batch.n_candidates, len(rows))), rng)
    found = draws(take(pool, rows[some]))
    return some[batch.select(utilities[some], n, rng, found, known)], utilities
