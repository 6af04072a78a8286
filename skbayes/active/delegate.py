"""What a learner takes over from the estimator inside: predictions, classes, tags, score."""

from __future__ import annotations

import copy

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.metaestimators import available_if

from skbayes.active.answers import as_labels
from skbayes.active.journal import Journal
from skbayes.active.missing import known_labels
from skbayes.active.rows import as_rows, take
from skbayes.pipeline import split_pipeline


def _inner_has(name: str):
    """Whether the estimator inside, or what is at its end, has a method."""

    def check(learner) -> bool:
        estimator = getattr(learner, "estimator_", learner.estimator)
        if hasattr(estimator, name):
            return True
        try:
            getattr(split_pipeline(estimator)[1], name)
        except ValueError:  # a search that has not been fitted
            getattr(estimator.estimator, name)
        return True

    return check


def _delegated(name: str, what: str):
    """A method of the estimator inside."""

    def method(self, X, *args, **kwargs):
        estimator = self._model()
        if not hasattr(estimator, name):
            transformers, estimator = split_pipeline(estimator)
            X = transformers(X)
        return getattr(estimator, name)(X, *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"ActiveLearner.{name}"
    method.__doc__ = (
        f"{what} See the estimator inside, whose further arguments are passed on.\n\n"
        "        Parameters\n        ----------\n        X : array-like\n            Rows.\n\n"
        "        Returns\n        -------\n        As the estimator inside gives it.\n        "
    )
    return available_if(_inner_has(name))(method)


class DelegatingMixin(BaseEstimator):
    """Adds what the estimator inside has, where it has it."""

    _journal: Journal

    def _refit(self) -> None:
        """Fit the estimator."""
        raise NotImplementedError("abstract")

    def _is_stale(self) -> bool:
        """Whether labels have changed since the last fit."""
        raise NotImplementedError("abstract")

    predict = _delegated("predict", "Predict.")
    predict_proba = _delegated("predict_proba", "Probabilities of the classes.")
    predict_log_proba = _delegated("predict_log_proba", "Logarithms of the probabilities.")
    decision_function = _delegated("decision_function", "Decision function.")
    predict_draws = _delegated("predict_draws", "Each draw's own prediction.")
    predict_uncertainty = _delegated("predict_uncertainty", "Parts of the uncertainty.")
    predict_interval = _delegated("predict_interval", "Central interval.")
    predict_quantiles = _delegated("predict_quantiles", "Quantiles.")
    log_predictive_density = _delegated("log_predictive_density", "Log density of targets.")
    sample_y = _delegated("sample_y", "Draws from the predictive distribution.")

    @available_if(_inner_has("score"))
    def score(self, X, y, sample_weight=None):
        """Score of the estimator on the rows that have labels.

        Parameters
        ----------
        X : rows
            Rows.
        y : array-like of shape (n_rows,)
            Labels; rows without one are left out.
        sample_weight : array-like of shape (n_rows,), optional
            Weights.

        Returns
        -------
        float
        """
        model = self._model()
        X, labels = as_rows(X), as_labels(y)
        check_consistent_length(X, labels)
        missing = self._journal.answers.unlabelled(labels)
        weight = {} if sample_weight is None else {"sample_weight": np.asarray(sample_weight)}
        if missing.any():
            rows = np.flatnonzero(~missing)
            X, labels = take(X, rows), known_labels(labels[rows])
            weight = {name: values[rows] for name, values in weight.items()}
            if not len(rows):
                raise ValueError("y holds no label to score by.")
        return model.score(X, labels, **weight)

    @property
    def classes_(self):
        """Classes of the estimator inside."""
        return self._model_for("classes_").classes_

    @property
    def n_features_in_(self):
        """Features of the estimator inside."""
        return self._model_for("n_features_in_").n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the features of the estimator inside."""
        return self._model_for("feature_names_in_").feature_names_in_

    def _model_for(self, name: str):
        """The fitted estimator, for an attribute that is not there without it."""
        try:
            return self._model()
        except NotFittedError:
            raise AttributeError(
                f"ActiveLearner has no {name} before its estimator is fitted."
            ) from None

    def __sklearn_is_fitted__(self):
        return hasattr(self, "estimator_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = copy.deepcopy(inner.classifier_tags)
        tags.regressor_tags = copy.deepcopy(inner.regressor_tags)
        tags.input_tags = copy.deepcopy(inner.input_tags)
        tags.input_tags.pairwise = False
        tags.non_deterministic = inner.non_deterministic
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        return tags

    def _bring_up_to_date(self) -> None:
        """Fit the estimator where labels have changed since the last fit."""
        if self._is_stale():
            self._refit()

    def _model(self):
        """The fitted estimator, brought up to date."""
        if "_journal" in self.__dict__:
            self._bring_up_to_date()
        if not hasattr(self, "estimator_"):
            what = "has no labels that its estimator can be fitted to; teach it some"
            if "_journal" not in self.__dict__:
                what = "is not fitted yet; call fit"
            raise NotFittedError(f"This ActiveLearner {what}.")
        return self.estimator_
