"""The meta-estimator that chooses what to label next."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_consistent_length, column_or_1d

from skbayes.active.batch import top
from skbayes.active.checks import (
    check_indices,
    check_labels,
    check_number,
    check_parameters,
    resolve_acquisition,
    resolve_batch,
    resolve_rules,
)
from skbayes.active.delegate import DelegatingMixin
from skbayes.active.draws import Draws
from skbayes.active.journal import Journal
from skbayes.active.missing import empty_labels, is_missing, known_labels, resolve_marker
from skbayes.active.refit import fit_anew, fit_on, goes_on
from skbayes.active.rows import as_rows, n_rows, take
from skbayes.validation import check_sample_weight, draw_seed

STOP_ROWS = 1000
"""Rows at most that stopping rules look at."""


class ActiveLearner(MetaEstimatorMixin, DelegatingMixin):
    r"""Choose what to label next, by expected utility.

    Labels cost; rows do not. The learner holds a pool of rows, few of which have labels. It fits
    an estimator to these, and asks for the label of the row that is worth most,

    .. math:: x_* = \arg\max_x U(x), \qquad \text{such as } U(x) = I(y; \theta \mid x, D),

    what the label would tell of the weights.

    Parameters
    ----------
    estimator : object
        A classifier or a regressor of one output, also at the end of a pipeline or in a search.
        Where it has ``warm_start=True``, it goes on from its last fit after every answer; what is
        before it in a pipeline is then fitted once, on all rows of the pool, without labels.
    acquisition : str or Acquisition, default="auto"
        What a label is worth, see `skbayes.active.Acquisition`. "auto" looks at the draws of the
        final estimator where it has them, and is the margin for other classifiers and for more
        than two classes.
    batch : {"top", "power", "batch_bald", "log_det"} or Batch, default="power"
        How several rows are chosen at once, see `skbayes.active.batch`. A single one is always
        that of largest utility.
    classes : array-like or None, default=None
        All classes, where labels are to be checked, or where -1 is one of them. None lets new
        classes come at any time.
    missing_label : object, default="auto"
        What marks rows without a label in y: -1 for integer classes, NaN for floats and in
        regression, None for objects.
    stopping : Stopping, list of Stopping, or None, default=None
        When `run` ends before its budget is spent, see `skbayes.active.stopping`; the first rule
        of several that applies.
    random_state : int, RandomState instance or None, default=None
        Seed of ties, samples and batches. `query` gives the same answer until something is taught.

    Attributes
    ----------
    estimator_ : object
        The estimator, fitted to what is labelled; not there as long as it cannot be.
    X_ : rows
        The pool.
    labels_ : ndarray of shape (n_rows,)
        Labels so far, with ``missing_label_`` where there is none.
    missing_label_ : object
        What marks rows without a label.
    classes_ : ndarray of shape (n_classes,)
        Of the estimator inside.
    n_answers_ : int
        Rows taught since `fit`.
    history_ : list of dict
        One entry for each fit: ``n_labelled``, ``indices`` that were taught before it,
        ``utilities`` of these when they were asked about (NaN where they were not), ``seconds``
        of the fit.
    stop_reason_ : str or None
        What made a stopping rule apply.

    References
    ----------
    Settles (2012), Active Learning. Houlsby et al. (2011), Bayesian Active Learning for
    Classification and Preference Learning.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skbayes import ActiveLearner
    >>> X, truth = load_iris(return_X_y=True)
    >>> y = np.full(150, -1)
    >>> y[[0, 60, 120]] = truth[[0, 60, 120]]
    >>> learner = ActiveLearner(LogisticRegression(max_iter=500), random_state=0).fit(X, y)
    >>> i = learner.query()
    >>> learner = learner.teach(i, truth[i])
    >>> learner = learner.run(lambda indices, rows: truth[indices], budget=15)
    >>> len(learner.labelled_()[1])
    19
    >>> bool(learner.score(X, truth) > 0.9)
    True
    """

    def __init__(
        self,
        estimator,
        acquisition="auto",
        batch="power",
        classes=None,
        missing_label="auto",
        stopping=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.acquisition = acquisition
        self.batch = batch
        self.classes = classes
        self.missing_label = missing_label
        self.stopping = stopping
        self.random_state = random_state

    # ------------------------------------------------------------------ fitting

    def fit(self, X, y=None, sample_weight=None):
        """Take the pool, and fit the estimator to the rows that have labels.

        Parameters
        ----------
        X : rows
            The pool, as the estimator takes it: array, sparse matrix, data frame, list of texts.
            It is kept, not copied.
        y : array-like of shape (n_rows,), optional
            Labels, with ``missing_label`` where there is none. None: no row has one.
        sample_weight : array-like of shape (n_rows,), optional
            Weights of the rows; those of rows without labels do not matter.

        Returns
        -------
        self : object
            The learner. It has no ``estimator_`` as long as there are no labels, or labels of one
            class with which the estimator cannot be fitted; `query` then chooses at random.

        Raises
        ------
        ValueError
            If a parameter or the labels are not allowed; the message names what is.
        """
        check_parameters(self)
        self.close_store()
        X = as_rows(X)
        regression = is_regressor(self.estimator)
        if y is None:
            labels = empty_labels(n_rows(X), regression)
        else:
            labels = column_or_1d(as_rows(y), warn=True)
            labels = np.array(labels, dtype=np.float64) if regression else np.array(labels)
        check_consistent_length(X, labels)
        if not len(labels):
            raise ValueError("Found array with 0 sample(s), while a minimum of 1 is required.")
        marker = resolve_marker(labels, self.missing_label, self.classes, regression)
        if marker is None and labels.dtype.kind in "iu" and self.classes is None:
            raise ValueError(
                f"missing_label=None does not go with y of type {labels.dtype}; mark rows without "
                "a label by -1, or pass y as objects."
            )
        self.missing_label_ = marker
        self._regression = regression
        known = np.flatnonzero(~is_missing(labels, marker))
        check_labels(labels[known], self, regression)
        weight = check_sample_weight(sample_weight, len(labels))
        self.X_ = X
        self._journal = Journal(labels, weight, marker)
        seed = draw_seed(self.random_state)
        self._seed = seed
        rng = np.random.default_rng([seed, 1])
        unknown = np.setdiff1d(np.arange(len(labels)), known)
        among = unknown if len(unknown) else known
        self._stop_rows = np.sort(rng.choice(among, min(STOP_ROWS, len(among)), replace=False))
        self._stop_memory: list[dict[str, Any]] = [{} for _ in resolve_rules(self.stopping)]
        self.stop_reason_: str | None = None
        self.history_: list[dict[str, Any]] = []
        self._asked: dict[int, float] = {}
        self.__dict__.pop("estimator_", None)
        self._refit(np.empty(0, dtype=int))
        return self

    def teach(self, indices, y, sample_weight=None, refit=True):
        """Give labels of rows of the pool.

        Rows that have one already get the new one. With an open store the answers are on disk
        when this returns.

        Parameters
        ----------
        indices : int or array-like of shape (n,)
            Rows of the pool.
        y : label or array-like of shape (n,)
            Their labels.
        sample_weight : array-like of shape (n,), optional
            Their weights.
        refit : bool, default=True
            Whether to fit the estimator. If not, it is fitted when it is next asked for.

        Returns
        -------
        self : object
            The learner.

        Raises
        ------
        ValueError
            If labels are missing or not allowed; nothing is taught then.
        """
        self._check_fitted()
        rows = check_indices("indices", np.atleast_1d(indices), n_rows(self.X_))
        single = np.ndim(y) == 0
        values = np.empty(1, dtype=object) if single else column_or_1d(as_rows(y))
        if single:
            values[0] = y.item() if isinstance(y, np.generic) else y
            values = values.astype(float) if self._regression else values
        values = known_labels(np.asarray(values))
        if self._regression:
            values = values.astype(np.float64)
        if len(values) != len(rows):
            raise ValueError(f"y has {len(values)} labels, but there are {len(rows)} indices.")
        if len(np.unique(rows)) < len(rows):
            raise ValueError("indices hold a row twice; give every row one label.")
        if is_missing(values, self.missing_label_).any():
            raise ValueError(
                f"y holds {self.missing_label_!r}, which marks rows without a label; pass these "
                "rows to skip."
            )
        check_labels(values, self, self._regression)
        weight = check_sample_weight(sample_weight, len(rows)) if len(rows) else None
        if not len(rows):
            return self
        self._journal.label(rows, values, weight)
        if refit:
            self._refit(rows)
        return self

    def skip(self, indices):
        """Ask no more about rows, which stay without a label.

        Parameters
        ----------
        indices : int or array-like of shape (n,)
            Rows of the pool.

        Returns
        -------
        self : object
            The learner.
        """
        self._check_fitted()
        self._journal.skip(check_indices("indices", np.atleast_1d(indices), n_rows(self.X_)))
        return self

    def undo(self, refit=True):
        """Take back what this learner was last taught or told to skip.

        Parameters
        ----------
        refit : bool, default=True
            As in `teach`.

        Returns
        -------
        ndarray of shape (n,)
            The rows; empty where there is nothing to take back.
        """
        self._check_fitted()
        rows, was_label = self._journal.undo()
        if was_label and refit:
            self._refit(rows)
        return rows

    def run(self, oracle, budget, n_per_query=1):
        """Query and teach until the budget is spent.

        Parameters
        ----------
        oracle : callable
            ``oracle(indices, X_rows) -> labels``. Rows whose label it gives as missing are
            skipped.
        budget : int
            Rows to ask about.
        n_per_query : int, default=1
            Rows at once.

        Returns
        -------
        self : object
            The learner. It stops early where no rows are left, or a stopping rule applies
            (``stop_reason_``).
        """
        self._check_fitted()
        check_number("n_per_query", n_per_query)
        left = check_number("budget", budget)
        while left > 0 and self.stop_reason_ is None and self._journal.open_rows().any():
            rows = self.query(min(n_per_query, left))
            given = column_or_1d(as_rows(oracle(rows, take(self.X_, rows))))
            given = np.asarray(given)
            if len(given) != len(rows):
                raise ValueError(f"oracle gave {len(given)} labels for {len(rows)} rows.")
            missing = is_missing(given, self.missing_label_)
            if missing.any():
                self.skip(rows[missing])
            self.teach(rows[~missing], given[~missing])
            left -= len(rows)
        return self

    # ------------------------------------------------------------------ asking

    def query(self, n=1, X=None, candidates=None, return_utilities=False):
        """Choose the rows whose labels are worth most.

        Parameters
        ----------
        n : int, default=1
            Rows; fewer are given where fewer are left.
        X : rows, optional
            Rows to choose from instead of the pool; all of them count as unlabelled.
        candidates : array-like of int, optional
            Rows among which to choose. Those that have labels or were skipped are left out.
        return_utilities : bool, default=False
            Whether to return the utilities too.

        Returns
        -------
        indices : ndarray of shape (n,)
            Rows of X, best first. One row is always that of largest utility.
        utilities : ndarray of shape (n_rows,)
            Only with ``return_utilities=True``: NaN at rows that were no candidates.

        Raises
        ------
        ValueError
            If there is no candidate, or the acquisition function does not go with the estimator.
        """
        self._check_fitted()
        n = check_number("n", n)
        self._journal.sync()
        if self._is_stale():
            self._refit(np.empty(0, dtype=int))
        own = X is None
        pool = self.X_ if own else as_rows(X)
        among = self._journal.open_rows() if own else np.ones(n_rows(pool), dtype=bool)
        if candidates is not None:
            chosen = np.zeros(len(among), dtype=bool)
            chosen[check_indices("candidates", candidates, len(among))] = True
            among = among & chosen
        rows = np.flatnonzero(among)
        if not len(rows):
            raise ValueError("There is no row without a label to choose from.")
        rng = np.random.default_rng([self._seed, 2, self._journal.n_events])
        n = min(n, len(rows))
        utilities, draws = self._utilities(pool, rows, rng)
        if n == 1 or draws is None:
            chosen = top(utilities, n, rng)
        else:
            chosen = self._batch(utilities, n, rng, pool, rows, draws)
        if own:
            self._asked.update(zip(rows[chosen].tolist(), utilities[chosen].tolist(), strict=True))
        if not return_utilities:
            return rows[chosen]
        out = np.full(len(among), np.nan)
        out[rows] = utilities
        return rows[chosen], out

    def _utilities(self, pool, rows, rng):
        """Utilities of rows; and the draws, None where there is no model."""
        if not hasattr(self, "estimator_"):
            return rng.random(len(rows)), None
        acquisition = resolve_acquisition(self.acquisition)
        draws = Draws(self.estimator_, acquisition.n_draws)
        known = take(self.X_, self._journal.labelled_rows())
        utilities = acquisition(draws, pool, rows, known, rng)
        if not np.isfinite(utilities).all():
            raise ValueError(
                f"The utilities of {int((~np.isfinite(utilities)).sum())} rows are not finite; "
                "the estimator's predictions there are not."
            )
        return utilities, draws

    def _batch(self, utilities, n, rng, pool, rows, draws):
        """Positions of a batch among the rows."""
        method = resolve_batch(self.batch)
        if not method.needs_draws:
            return method.select(utilities, n, rng)
        if not draws.several:
            raise ValueError(
                f"batch={self.batch!r} needs draws, but {type(draws.final).__name__} has neither "
                "predict_draws nor members; use 'power' or 'top'."
            )
        some = top(utilities, max(n, min(method.n_candidates, len(rows))), rng)
        found = draws(take(pool, rows[some]))
        return some[method.select(utilities[some], n, rng, found)]

    # ------------------------------------------------------------- what is known

    def labelled_(self):
        """Rows that have labels.

        Returns
        -------
        X : rows
            Of the pool's own kind.
        y : ndarray of shape (n_labelled,)
            Labels.
        sample_weight : ndarray of shape (n_labelled,) or None
            Weights, None where there never were any.
        """
        self._check_fitted()
        journal = self._journal
        rows = journal.labelled_rows()
        weight = None if journal.weights is None else journal.weights[rows]
        return take(self.X_, rows), known_labels(journal.labels[rows]), weight

    @property
    def labels_(self):
        """Labels so far, (n_rows,), with ``missing_label_`` where there is none."""
        return self._state().labels.copy()

    @property
    def n_answers_(self):
        """Rows taught since `fit`."""
        return self._state().n_answers

    @property
    def acquisition_name_(self):
        """The acquisition function that `query` uses, which "auto" has chosen."""
        model = self._model_for("acquisition_name_")
        acquisition = resolve_acquisition(self.acquisition)
        return acquisition.resolve(Draws(model, acquisition.n_draws))

    def _state(self) -> Journal:
        if "_journal" not in self.__dict__:
            raise AttributeError("The learner has no pool yet; call fit.")
        return self._journal

    # -------------------------------------------------------------- label store

    def open_store(self, path, annotator=None):
        """Keep all answers in a file from now on, and take those that are in it.

        Parameters
        ----------
        path : str or path-like
            An SQLite file, made where it does not exist. Several learners on the same rows may
            have it open at once; `query` takes what others have answered meanwhile.
        annotator : str, optional
            Name that is written with the answers.

        Returns
        -------
        self : object
            The learner.

        Raises
        ------
        ValueError
            If the file holds labels of another X.
        """
        self._check_fitted()
        self._journal.open_store(path, self.X_, annotator)
        if self._is_stale():
            self._refit(np.empty(0, dtype=int))
        return self

    def close_store(self):
        """Close the file that `open_store` opened; the learner goes on without it."""
        if "_journal" in self.__dict__:
            self._journal.close()
        return self

    def serve(self, **options):
        """Open a page for labelling in the browser, see `skbayes.active.serve.serve`.

        Parameters
        ----------
        **options : dict
            ``port``, ``show``, ``X_test``, ``y_test`` and others, see there.

        Returns
        -------
        LabellingServer
            The running server.
        """
        from skbayes.active.serve import serve

        self._check_fitted()
        return serve(self, **options)

    # ------------------------------------------------------------------- helpers

    def _refit(self, taught) -> None:
        """Fit the estimator to the labels; without it where that cannot be done."""
        self._fitted_version = self._journal.version
        X, y, weight = self.labelled_()
        begin = time.perf_counter()
        if not len(y):
            self.__dict__.pop("estimator_", None)
        else:
            one_class = not self._regression and len(np.unique(y)) < 2
            pool_left = len(y) < n_rows(self.X_)
            try:
                self.estimator_ = self._fitted(X, y, weight)
            except ValueError:
                if not (one_class and pool_left):
                    raise
                self.__dict__.pop("estimator_", None)  # until there is another class
        self.history_.append(
            {
                "n_labelled": len(y),
                "indices": np.asarray(taught).tolist(),
                "utilities": [self._asked.get(int(i), np.nan) for i in taught],
                "seconds": time.perf_counter() - begin,
            }
        )
        self._look_at_rules()

    def _fitted(self, X, y, weight):
        """The estimator fitted to the labels, from its last fit on where it can be."""
        rows = self._journal.labelled_rows()
        if not goes_on(self.estimator):
            if len(rows) == n_rows(self.X_):
                X = self.X_
            return fit_anew(self.estimator, X, y, weight)
        last = self.__dict__.get("estimator_")
        if last is not None and not self._regression:
            known = np.asarray(last.classes_)
            if not np.array_equal(known, np.unique(y)):
                last = None
        seen = getattr(self, "_seen", {}) if last is not None else {}
        self._seen = dict(zip(rows.tolist(), y.tolist(), strict=True))
        new = None
        if all(i in self._seen and self._seen[i] == label for i, label in seen.items()):
            new = np.flatnonzero([i not in seen for i in self._seen])
        return fit_on(self.estimator, last, self.X_, rows, X, y, weight, new)

    def _is_stale(self) -> bool:
        """Whether labels have changed since the last fit."""
        return self._fitted_version != self._journal.version

    def _look_at_rules(self) -> None:
        """Ask the stopping rules."""
        rules = resolve_rules(self.stopping)
        if not rules:
            return
        X = take(self.X_, self._stop_rows)
        model = self.__dict__.get("estimator_")
        self.stop_reason_ = None
        for rule, memory in zip(rules, self._stop_memory, strict=True):
            reason = rule.reason(memory, model, X, self.n_answers_)
            if reason is not None and self.stop_reason_ is None:
                self.stop_reason_ = f"{type(rule).__name__}: {reason}"

    def _check_fitted(self) -> None:
        if "_journal" not in self.__dict__:
            raise NotFittedError("This ActiveLearner has no pool yet; call fit.")
