"""The estimator inside a learner, and what it was fitted to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from skbayes.active.journal import Journal
from skbayes.active.missing import known_labels
from skbayes.active.refit import FrontError, fit_anew, fit_on, goes_on
from skbayes.active.rows import n_rows, take


class Fitting:
    """The fitted estimator; its state changes where a fit has succeeded, and not before.

    Attributes
    ----------
    estimator : object or None
        Fitted; None where there is no model.
    version : int or None
        Of the labels that it was fitted to, see `Journal.version`.
    """

    def __init__(self) -> None:
        self.estimator: Any = None
        self.version: int | None = None
        self._seen: dict[int, tuple] = {}  # rows, with the label and the weight that they had
        self._weighted = False
        self._enough = np.inf  # labels with which there was a model

    def refit(self, estimator, pool, journal: Journal, regression: bool) -> None:
        """Fit to the labels of a journal, anew or from the last fit on.

        As long as the estimator could not be fitted to so few labels, or to those of one class,
        its errors mean that there is no model yet.

        Raises
        ------
        Exception
            What the fit has raised; the model then still is to be fitted, and where it would have
            gone on from the last fit, which may be half changed, it begins anew.
        """
        version, rows = journal.version, journal.labelled_rows()
        y = known_labels(journal.labels[rows])
        fitted, few = None, not len(y)
        if not few:
            one_class = not regression and len(np.unique(y)) < 2
            few = len(y) < n_rows(pool) and (one_class or len(y) < self._enough)
            try:
                fitted = self._fit(estimator, pool, journal, rows, y, regression)
                if few:
                    fitted.predict(take(pool, rows[:1]))  # some fit without complaint
            except BaseException as error:
                if goes_on(estimator):
                    self.estimator, self.version = None, None
                early = isinstance(error, ValueError) and not isinstance(error, FrontError)
                if not (few and early):
                    raise
                if not one_class:
                    warnings.warn(
                        f"There is no model yet: with {len(y)} labels its fit says: {error}",
                        stacklevel=4,
                    )
                fitted = None
        self.estimator, self.version = fitted, version
        if fitted is not None:
            self._enough = min(self._enough, len(y))
            self._seen = _known(rows, y, journal.weights)
            self._weighted = journal.weights is not None

    def _fit(self, estimator, pool, journal: Journal, rows, y, regression: bool):
        """The estimator fitted to the labels."""
        whole = len(rows) == n_rows(pool)
        X = pool if whole else take(pool, rows)
        weight = None if journal.weights is None else journal.weights[rows]
        if not goes_on(estimator):
            return fit_anew(estimator, X, y, weight)
        last, new = self.estimator, None
        if last is not None and not regression:
            if not np.array_equal(np.asarray(last.classes_), np.unique(y)):
                last = None
        if last is not None and weight is None and not self._weighted:
            now = _known(rows, y, None)
            if all(now.get(i) == known for i, known in self._seen.items()):
                new = np.flatnonzero([i not in self._seen for i in now])
        return fit_on(estimator, last, pool, X, y, weight, new)


def _known(rows, y, weights) -> dict[int, tuple]:
    """Rows with their labels and weights."""
    own = np.ones(len(rows)) if weights is None else weights[rows]
    return dict(zip(rows.tolist(), zip(y.tolist(), own.tolist(), strict=True), strict=True))
