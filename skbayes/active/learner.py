"""The meta-estimator that chooses what to label next."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin, is_regressor
from sklearn.utils import check_consistent_length

from skbayes.active.answers import as_labels, read_pool
from skbayes.active.asking import choose
from skbayes.active.checks import (
    check_indices,
    check_parameters,
    resolve_acquisition,
    resolve_batch,
    resolve_rules,
)
from skbayes.active.delegate import DelegatingMixin
from skbayes.active.draws import Draws
from skbayes.active.fitting import Fitting
from skbayes.active.journal import Journal
from skbayes.active.keeping import KeepingMixin
from skbayes.active.missing import is_missing
from skbayes.active.rows import as_rows, n_rows, take
from skbayes.active.stopping import Rules
from skbayes.counts import check_count
from skbayes.validation import check_sample_weight, draw_seed

STOP_ROWS = 1000
"""Rows at most that stopping rules look at."""


class ActiveLearner(MetaEstimatorMixin, KeepingMixin, DelegatingMixin):
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
        Seed of ties, samples and batches. `query` gives the same answer until something is taught,
        skipped or taken back.

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
        One entry for each fit: ``n_labelled``, ``indices`` that were taught since the last,
        ``utilities`` of these when they were asked about (NaN where they were not), ``taken_back``
        the rows of answers that were taken back since the last, ``seconds`` of the fit.
    acquisition_name_ : str
        The acquisition function that `query` uses, which "auto" has chosen.
    stop_reason_ : str or None
        What made a stopping rule apply; looked at where there are more answers than before.

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
            The learner, without a store. It has no ``estimator_`` as long as there are no labels,
            or so few (or of one class) that the estimator cannot be fitted, which a warning then
            tells; `query` then chooses at random.

        Raises
        ------
        ValueError
            If a parameter or the labels are not allowed; the message names what is.
        """
        check_parameters(self)
        X = as_rows(X)
        labels, answers = read_pool(
            y, n_rows(X), self.missing_label, self.classes, is_regressor(self.estimator)
        )
        check_consistent_length(X, labels)
        if not len(labels):
            raise ValueError("Found array with 0 sample(s), while a minimum of 1 is required.")
        missing = is_missing(labels, answers.marker)
        weight = None if sample_weight is None else np.asarray(sample_weight)
        if weight is not None and weight.shape == labels.shape and not missing.all():
            weight = np.where(missing, 1.0, weight)
        weight = check_sample_weight(weight, len(labels))
        seed = draw_seed(self.random_state)
        self.close_store()
        self.X_, self.missing_label_ = X, answers.marker
        self._journal = Journal(labels, weight, answers)
        self._fitting, self._rules, self._seed = Fitting(), Rules(), seed
        rng = np.random.default_rng([seed, 1])
        among = np.flatnonzero(missing if missing.any() else ~missing)
        self._stop_rows = np.sort(rng.choice(among, min(STOP_ROWS, len(among)), replace=False))
        self.history_: list[dict[str, Any]] = []
        self._asked: dict[int, float] = {}
        self._refit()
        return self

    def teach(self, indices, y, sample_weight=None, refit=True):
        """Give labels of rows of the pool.

        Rows that have one already get the new one. With an open store the answers are on disk
        when this returns.

        Parameters
        ----------
        indices : int, array-like of shape (n,), or mask of all rows
            Rows of the pool.
        y : label or array-like of shape (n,)
            Their labels.
        sample_weight : array-like of shape (n,), optional
            Their weights; without them rows keep theirs, 1 at first.
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
        Exception
            What a fit of the estimator raises. The labels are kept then (and in the store), and
            the fit is tried again when the estimator is next asked for; `undo` takes them back.
        """
        self._state()
        rows, values = check_indices("indices", indices, n_rows(self.X_)), as_labels(y)
        if len(values) != len(rows):
            raise ValueError(f"y has {len(values)} labels, but there are {len(rows)} indices.")
        if len(np.unique(rows)) < len(rows):
            raise ValueError("indices hold a row twice; give every row one label.")
        if not len(rows):
            return self
        values = self._journal.read(values)
        self._journal.label(rows, values, check_sample_weight(sample_weight, len(rows)))
        if refit:
            self._refit()
        return self

    def skip(self, indices):
        """Ask no more about rows, which stay without a label.

        Parameters
        ----------
        indices : int, array-like of shape (n,), or mask of all rows
            Rows of the pool.

        Returns
        -------
        self : object
            The learner.
        """
        self._state()
        rows = check_indices("indices", indices, n_rows(self.X_))
        if len(rows):
            self._journal.skip(rows)
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
        self._state()
        rows, was_label = self._journal.undo()
        if was_label and refit:
            self._refit()
        return rows

    def run(self, oracle, budget, n_per_query=1):
        """Query and teach until the budget is spent.

        Parameters
        ----------
        oracle : callable
            ``oracle(indices, X_rows) -> labels``, one for each row. Rows whose label it gives as
            missing, NaN or None are skipped.
        budget : int
            Rows to ask about.
        n_per_query : int, default=1
            Rows at once.

        Returns
        -------
        self : object
            The learner. It stops early where no rows are left, or a stopping rule applies
            (``stop_reason_``).

        Raises
        ------
        ValueError
            If a label is not allowed; the others that came with it are taught first.
        """
        self._state()
        check_count("n_per_query", n_per_query)
        left = check_count("budget", budget)
        self._look_at_rules()  # which may have been changed
        while left > 0 and self.stop_reason_ is None and self._journal.open_rows().any():
            rows = self.query(min(n_per_query, left))
            given = as_labels(oracle(rows, take(self.X_, rows)))
            if len(given) != len(rows):
                raise ValueError(f"oracle gave {len(given)} labels for {len(rows)} rows.")
            left -= len(rows)
            absent = self._journal.answers.absent(given)
            self.skip(rows[absent])
            rows, given = rows[~absent], given[~absent]
            good, error = self._journal.answers.read_some(given, self._journal.family())
            self.teach(rows[good], given[good])
            if error is not None:
                raise ValueError(
                    f"The oracle's labels of rows {rows[~good].tolist()} are not allowed, the "
                    f"{good.sum()} others were taught: {error}"
                ) from error
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
        candidates : array-like of int, or mask of all rows, optional
            Rows among which to choose. Those that have labels or were skipped are left out. What
            a row is worth does not depend on the other candidates.
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
        self._state()
        n = check_count("n", n)
        self._journal.sync()
        self._bring_up_to_date()
        own = X is None
        pool = self.X_ if own else as_rows(X)
        among = self._journal.open_rows() if own else np.ones(n_rows(pool), dtype=bool)
        unlabelled = np.flatnonzero(among)
        if candidates is not None:
            chosen = np.zeros(len(among), dtype=bool)
            chosen[check_indices("candidates", candidates, len(among))] = True
            among = among & chosen
        rows = np.flatnonzero(among)
        if not len(rows):
            raise ValueError("There is no row without a label to choose from.")
        acquisition = resolve_acquisition(self.acquisition)
        draws = None
        if self._fitting.estimator is not None:
            draws = Draws(self._fitting.estimator, acquisition.n_draws)
        chosen, utilities = choose(
            draws,
            acquisition,
            resolve_batch(self.batch),
            pool,
            rows,
            unlabelled,
            take(self.X_, self._journal.labelled_rows()),
            min(n, len(rows)),
            np.random.default_rng([self._seed, 2, self._journal.n_events]),
        )
        if own:
            self._asked.update(zip(rows[chosen].tolist(), utilities[chosen].tolist(), strict=True))
        if not return_utilities:
            return rows[chosen]
        out = np.full(len(among), np.nan)
        out[rows] = utilities
        return rows[chosen], out

    @property
    def acquisition_name_(self):
        """The acquisition function that `query` uses, which "auto" has chosen."""
        model = self._model_for("acquisition_name_")
        acquisition = resolve_acquisition(self.acquisition)
        return acquisition.resolve(Draws(model, acquisition.n_draws))

    @property
    def estimator_(self):
        """The estimator, fitted to what is labelled."""
        fitting = self.__dict__.get("_fitting")
        if fitting is None or fitting.estimator is None:
            raise AttributeError("The learner has no fitted estimator yet.")
        return fitting.estimator

    @property
    def stop_reason_(self):
        """What made a stopping rule apply."""
        self._state()
        return self._rules.reason

    # ------------------------------------------------------------------- helpers

    _regression = property(lambda self: self._journal.answers.regression)

    def _refit(self) -> None:
        """Fit the estimator to the labels; without it where that cannot be done."""
        journal, begin = self._journal, time.perf_counter()
        self._fitting.refit(self.estimator, self.X_, journal, self._regression)
        labels = [event for event in journal.news if event.kind == "label"]
        targets = {event.target for event in journal.news if event.kind == "undo"}
        taught = [i for event in labels if event.uid not in targets for i in event.items]
        undone = [e for e in journal.news if e.kind == "undo" and journal.was_label(e)]
        self.history_.append(
            {
                "n_labelled": len(journal.labelled_rows()),
                "indices": taught,
                "utilities": [self._asked.get(i, np.nan) for i in taught],
                "taken_back": [i for event in undone for i in event.items],
                "seconds": time.perf_counter() - begin,
            }
        )
        journal.news.clear()
        self._look_at_rules()

    def _is_stale(self) -> bool:
        """Whether labels have changed since the last fit."""
        return self._fitting.version != self._journal.version

    def _look_at_rules(self) -> None:
        """Ask the stopping rules."""
        self._rules.look(
            resolve_rules(self.stopping),
            self._fitting.estimator,
            lambda: take(self.X_, self._stop_rows),
            self.n_answers_,
        )
