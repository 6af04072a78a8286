"""What a fitted estimator says of rows: draws, members of a committee, or one prediction."""

from __future__ import annotations

import inspect

import numpy as np
from scipy.special import log_expit, log_softmax
from sklearn.base import is_regressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)

from skbayes.active.moments import Moments
from skbayes.pipeline import split_pipeline

COMMITTEES = (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
"""Estimators whose members vote, each with the same task as the whole."""

BLOCK = 1 << 23
"""Numbers at most in the draws of one block of rows."""


class Draws:
    """Draws of an estimator's predictions.

    What is before the final estimator, in pipelines and searches, is seen through.

    Parameters
    ----------
    estimator : object
        A fitted classifier or regressor.
    n_draws : int, optional
        At most that many draws, of those that have more.

    Attributes
    ----------
    several : bool
        Whether there is more than one draw: `predict_draws`, or the members of a committee that
        vote with equal weights.
    """

    def __init__(self, estimator, n_draws: int | None = None) -> None:
        self.estimator, self.n_draws = estimator, n_draws
        self.transform, self.final = split_pipeline(estimator)
        self.regression = is_regressor(self.final)
        self.posterior = hasattr(self.final, "predict_draws")
        self.members = _members(self.final, n_draws)
        self.several = self.posterior or len(self.members) > 1
        posterior = getattr(self.final, "posterior_", None)
        self.n_known = None if posterior is None else posterior.n_chains * posterior.n_draws
        if self.n_known == 1:  # a mode, which does not disagree with itself
            self.several = self.posterior = False

    def __call__(self, X):
        """Log probabilities (n_draws, n, n_classes), or `Moments`."""
        if not self.several:
            return self._moments(X) if self.regression else self._log_proba(X)[None]
        X = self.transform(X)
        if not self.posterior:
            return self._members(X)
        draws = self.final.predict_draws(X, n_draws=self.n_draws)
        if not self.regression:
            return draws
        mean, noise = draws
        if mean.ndim == 3:
            raise ValueError("ActiveLearner takes regressors of one output.")
        return Moments(mean, noise)

    def rows_of_a_block(self, n_classes: int) -> int:
        """Rows whose draws fit into the memory of a block."""
        n_draws = 1
        if self.posterior:
            n_draws = self.n_known or 100
            n_draws = min(n_draws, self.n_draws or n_draws)
        elif self.several:
            n_draws = len(self.members)
        return max(64, BLOCK // (n_draws * max(n_classes, 2)))

    def _members(self, X):
        """Predictions of a committee's members."""
        final = self.final
        members = self.members
        if hasattr(X, "iloc") and not isinstance(final, VotingClassifier | VotingRegressor):
            X = X.to_numpy()  # as the whole gives it to its members
        columns = getattr(final, "estimators_features_", [slice(None)] * len(members))
        columns = columns[: len(members)]
        seen = [X if isinstance(c, slice) else X[:, c] for c in columns]
        if self.regression:
            mean = np.stack([m.predict(part) for m, part in zip(members, seen, strict=True)])
            return Moments(mean)
        out = []
        for member, part in zip(members, seen, strict=True):
            proba = np.zeros((part.shape[0], len(final.classes_)))
            if hasattr(member, "predict_proba"):
                # members of scikit-learn's ensembles know classes by their numbers
                proba[:, np.asarray(member.classes_).astype(int)] = member.predict_proba(part)
            else:
                proba[np.arange(len(proba)), member.predict(part).astype(int)] = 1.0
            out.append(proba)
        with np.errstate(divide="ignore"):
            return np.log(np.stack(out))

    def _log_proba(self, X):
        """Log probabilities of one classifier, (n, n_classes).

        Where there are none, those that a softmax makes of its decision function.
        """
        estimator = self.estimator
        if hasattr(estimator, "predict_proba"):
            with np.errstate(divide="ignore"):
                return np.log(estimator.predict_proba(X))
        if hasattr(estimator, "decision_function"):
            z = np.asarray(estimator.decision_function(X), dtype=np.float64)
            if z.ndim == 1:
                return np.stack([log_expit(-z), log_expit(z)], 1)
            if z.shape[1] == len(estimator.classes_):
                return log_softmax(z, axis=1)
        raise ValueError(
            f"{type(self.final).__name__} has neither predict_proba nor a decision_function of "
            "one column per class; only acquisition='random' works with it."
        )

    def _moments(self, X) -> Moments:
        """Mean of one regressor, and its deviation where it tells one."""
        says = "return_std" in inspect.signature(self.final.predict).parameters
        # one network's deviation is all noise
        if says and not hasattr(self.final, "predict_draws"):
            mean, std = self.final.predict(self.transform(X), return_std=True)
            return Moments(np.asarray(mean)[None], spread=np.asarray(std))
        raise ValueError(
            f"{type(self.final).__name__} tells nothing of its uncertainty (predict_draws, the "
            "members of a committee, or return_std); only acquisition='random' works with it."
        )


def _members(final, n_draws: int | None) -> list:
    """Members of a committee, which are draws where all have the same weight."""
    if not isinstance(final, COMMITTEES):
        return []
    weights = getattr(final, "weights", None)
    if weights is not None and len(np.unique(weights)) > 1:
        return []
    return [member for member in final.estimators_ if member is not None][:n_draws]
