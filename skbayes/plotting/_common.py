"""What the displays share: matplotlib, axes, grids over a feature, predictions of the draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from skbayes.pipeline import split_pipeline

TOTAL, EPISTEMIC, MEAN, DATA = "#c6dbef", "#6baed6", "#08519c", "#252525"
"""Colours of bands, lines and data points."""


def pyplot() -> Any:
    """Import matplotlib, or say what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib. Install it with: pip install "skbayes[plot]"'
        ) from error
    return plt


def resolve_axes(ax, n_panels: int, **kwargs) -> tuple[Any, np.ndarray]:
    """Figure and axes (n_panels,): those of ``ax``, or new ones in a row made with ``kwargs``."""
    plt = pyplot()
    if ax is None:
        shape = kwargs.pop("shape", (1, n_panels))
        figure, axes = plt.subplots(*shape, squeeze=False, layout="constrained", **kwargs)
        return figure, axes.ravel()[:n_panels]
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) != n_panels:
        raise ValueError(f"ax holds {len(axes)} axes, but this plot has {n_panels} panels.")
    return axes[0].figure, axes


def one_or_all(axes: np.ndarray) -> Any:
    """Return the only one of the axes, or the array of them."""
    return axes[0] if len(axes) == 1 else axes


def final_of(estimator, *needs: str) -> tuple[Any, Any]:
    """Split the estimator, and check that its end is fitted and has the methods asked for."""
    transformers, final = split_pipeline(estimator)
    missing = [name for name in needs if not hasattr(final, name)]
    if missing:
        raise ValueError(
            f"{type(final).__name__} has no {', '.join(missing)}; this display needs a fitted "
            "estimator of skbayes, or a pipeline or search that ends in one."
        )
    check_is_fitted(final)
    return transformers, final


class Target:
    """Which class (classifiers) or output (regressors) is shown, and each draw's prediction of it.

    Parameters
    ----------
    final : estimator
        Fitted.
    target : object
        Label of a class, or number of an output; None is the last class or the first output.
    """

    def __init__(self, final, target=None) -> None:
        self.final, self.is_classifier = final, is_classifier(final)
        if self.is_classifier:
            classes = list(final.classes_)
            target = classes[-1] if target is None else target
            if target not in classes:
                raise ValueError(f"target={target!r} is not a class; classes are {classes}.")
            self.index, self.label = classes.index(target), target
            self.name = f"probability of {str(target)!r}"
        else:
            self.index = self.label = 0 if target is None else target
            self.name = "y" if target is None else f"output {target}"

    def draws(self, inside, n_draws: int | None = None) -> np.ndarray:
        """Probability or mean by each draw, (n_draws, n), for what the final estimator sees."""
        if self.is_classifier:
            return np.exp(self.final.predict_draws(inside, n_draws)[:, :, self.index])
        return self.output(self.final.predict_draws(inside, n_draws)[0])

    def output(self, values: np.ndarray, axis: int = 2) -> np.ndarray:
        """Take the shown output of values that have a third axis where outputs are several."""
        if values.ndim == 2 and self.index:
            raise ValueError(f"target={self.index!r} is not allowed; there is one output.")
        return np.take(values, self.index, axis=axis) if values.ndim == 3 else values

    def of(self, y) -> np.ndarray:
        """Take what data points are drawn at: y of the output, or whether y is the class."""
        y = np.asarray(y)
        if y.ndim == 2:
            return y[:, self.index].astype(float)
        return (y == self.label).astype(float) if self.is_classifier else y.astype(float)


def column(X, feature) -> tuple[int, str]:
    """Position and name of a feature given by either."""
    names = list(X.columns) if hasattr(X, "columns") else None
    n = X.shape[1]
    if isinstance(feature, str):
        if names is None or feature not in names:
            raise ValueError(f"feature={feature!r} is not a column of X.")
        return names.index(feature), feature
    if isinstance(feature, bool) or not isinstance(feature, (int, np.integer)):
        raise ValueError(f"feature={feature!r} is not allowed; it must be a column of X.")
    if not 0 <= feature < n:
        raise ValueError(f"feature={feature!r} is not allowed; X has {n} columns.")
    return int(feature), f"feature {feature}" if names is None else str(names[feature])


def as_table(X):
    """X as a data frame or a two-dimensional array."""
    if sp.issparse(X):
        raise ValueError("X is sparse; this display needs dense X.")
    if hasattr(X, "iloc"):
        return X
    X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X must have two dimensions, but has shape {X.shape}.")
    return X


def values_of(X, index: int) -> np.ndarray:
    """Column ``index`` of X as floats."""
    return np.asarray(X.iloc[:, index] if hasattr(X, "iloc") else X[:, index], dtype=float)


def rows_with(X, columns: dict[int, np.ndarray]):
    """Rows of the kind of X: the columns given, the others at their median (mode, if no number)."""
    n = len(next(iter(columns.values())))
    if not hasattr(X, "iloc"):
        rows = np.tile(np.median(X, axis=0), (n, 1)).astype(float)
        for index, values in columns.items():
            rows[:, index] = values
        return rows
    data = {}
    for index, name in enumerate(X.columns):
        series = X.iloc[:, index]
        if index in columns:
            data[name] = columns[index]
        elif series.dtype.kind in "fiu":
            data[name] = np.full(n, float(series.median()))
        else:
            data[name] = series.mode().iloc[[0]].repeat(n).to_numpy()
    return type(X)(data)


def grid_over(values: np.ndarray, grid_range, n: int) -> np.ndarray:
    """``n`` points over ``grid_range``, by default over the range of ``values``."""
    low, high = (values.min(), values.max()) if grid_range is None else grid_range
    return np.linspace(low, high, n)
