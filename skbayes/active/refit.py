"""Fitting the estimator inside a learner, anew or from where it stopped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone, is_regressor
from sklearn.pipeline import Pipeline

from skbayes.active.rows import take


class FrontError(ValueError):
    """What is before the final estimator of a pipeline cannot be fitted to the pool."""


def fit_anew(estimator, X, y, weight):
    """A fitted clone."""
    return clone(estimator).fit(X, y, **_weight_argument(estimator, weight))


def goes_on(estimator) -> bool:
    """Whether the final estimator has ``warm_start=True`` and can learn new rows so.

    Ensembles of scikit-learn mean something else by it: they add members.
    """
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    ensemble = type(estimator).__module__.startswith("sklearn.ensemble")
    return bool(getattr(estimator, "warm_start", False)) and not ensemble


def fit_on(estimator, fitted, pool, X, y, weight, new=None):
    """An estimator that goes on from its last fit.

    Posteriors that take new rows by ``partial_fit`` get those; all others are fitted with
    ``warm_start=True``.

    What is before the final estimator of a pipeline is fitted once, on the whole pool and without
    labels, and then stays, so that the weights keep their meaning.

    Parameters
    ----------
    estimator : object
        As the user gave it.
    fitted : object or None
        What this function returned last; None at first, or when classes have changed.
    pool : rows
        All of X.
    X, y, weight
        Rows that have labels, their labels and weights (or None).
    new : ndarray of int, optional
        Which of these rows came since the last fit, where nothing else has changed.

    Returns
    -------
    object
        Fitted; a new pipeline around the same final estimator, where there is one.
    """
    if not isinstance(estimator, Pipeline):
        out = clone(estimator) if fitted is None else fitted
        if weight is None and hasattr(out, "predict_draws") and hasattr(out, "partial_fit"):
            known = {} if is_regressor(out) else {"classes": np.unique(y)}
            if fitted is None:
                return out.partial_fit(X, y, **known)
            if new is not None:
                return out.partial_fit(take(X, new), y[new]) if len(new) else out
            return clone(estimator).partial_fit(X, y, **known)
        return out.fit(X, y, **_weight_argument(estimator, weight))
    out = clone(estimator) if fitted is None else copy.copy(fitted)
    name, final = out.steps[-1]
    if len(out.steps) > 1:
        front = out[:-1]
        if fitted is None:
            try:
                front.fit(pool)
            except (TypeError, ValueError) as error:
                raise FrontError(
                    "With warm_start=True what is before the final estimator of a pipeline is "
                    "fitted once, to all rows of the pool and without labels, which does not work "
                    f"here; pass warm_start=False where it needs labels. It says: {error}"
                ) from error
            if isinstance(final, Pipeline):
                pool = front.transform(pool)
        X = front.transform(X)
        out.steps = [*front.steps, (name, final)]  # with a memory, copies have been fitted
    last = final if fitted is not None and _is_fitted(final) else None
    final = fit_on(estimator.steps[-1][1], last, pool, X, y, weight, new)
    out.steps = [*out.steps[:-1], (name, final)]
    return out


def _is_fitted(estimator) -> bool:
    """Whether an estimator has what a fit leaves behind."""
    if isinstance(estimator, Pipeline):
        return _is_fitted(estimator.steps[-1][1])
    return any(name.endswith("_") and not name.startswith("_") for name in vars(estimator))


def _weight_argument(estimator, weight) -> dict[str, Any]:
    """How an estimator's ``fit`` takes the weights of rows."""
    if weight is None:
        return {}
    name = "sample_weight"
    if not get_config()["enable_metadata_routing"]:
        while True:
            if isinstance(estimator, Pipeline):
                name = f"{_path(name)}{estimator.steps[-1][0]}__sample_weight"
                estimator = estimator.steps[-1][1]
            elif hasattr(estimator, "estimator") and hasattr(estimator, "refit"):
                estimator = estimator.estimator
            else:
                break
    return {name: weight}


def _path(name: str) -> str:
    return name[: -len("sample_weight")]
