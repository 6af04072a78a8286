"""Seeing through pipelines and searches to the estimator at their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.pipeline import Pipeline


def split_pipeline(estimator) -> tuple[Callable[[Any], Any], Any]:
    """Split a fitted estimator into what maps X and what predicts.

    Sees through `sklearn.pipeline.Pipeline` and through fitted searches (what has a
    ``best_estimator_``), nested in any order.

    Parameters
    ----------
    estimator : object
        A fitted estimator, pipeline or search.

    Returns
    -------
    transformers : callable
        Maps X to what the final estimator is given; returns X itself where nothing comes before.
    final : object
        The estimator at the end.

    Raises
    ------
    ValueError
        If a search has not been fitted, or did not refit its best estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.pipeline import split_pipeline
    >>> X, y = load_diabetes(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), BayesianMLPRegressor((), method="map"))
    >>> transformers, final = split_pipeline(pipeline.fit(X, y))
    >>> type(final).__name__
    'BayesianMLPRegressor'
    >>> final.predict_interval(transformers(X[:3])).shape
    (3, 2)
    """
    steps: list[Any] = []
    while True:
        if isinstance(estimator, Pipeline):
            if len(estimator.steps) > 1:
                steps.append(estimator[:-1])
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif _is_search(estimator):
            raise ValueError(
                f"{type(estimator).__name__} has no best_estimator_; fit it, with refit=True."
            )
        else:
            break

    def transformers(X):
        for step in steps:
            X = step.transform(X)
        return X

    return transformers, estimator


def _is_search(estimator) -> bool:
    """Whether this is a search of scikit-learn: it wraps an estimator and scores candidates."""
    return hasattr(estimator, "estimator") and hasattr(estimator, "refit")
