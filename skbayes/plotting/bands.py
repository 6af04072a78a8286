"""Predictions with their bands, over one feature."""

from __future__ import annotations

import numpy as np

from skbayes.plotting._common import (
    DATA,
    EPISTEMIC,
    MEAN,
    TOTAL,
    Target,
    as_table,
    column,
    final_of,
    grid_over,
    one_or_all,
    resolve_axes,
    rows_with,
    values_of,
)


class PredictiveBandDisplay:
    """Predictive mean, total band and epistemic band over one feature.

    Of a regressor the outer band is the central interval of the posterior predictive (noise and
    weights), the inner one the central interval of the draws' means (weights only). Of a
    classifier the line is the probability of a class, and the band holds the draws' probabilities
    of it.

    Make it with `from_estimator`.

    Parameters
    ----------
    grid : ndarray of shape (n_grid,)
        Values of the feature.
    mean : ndarray of shape (n_grid,)
        Predictive mean, or probability.
    epistemic : ndarray of shape (n_grid, 2)
        Ends of the interval of the draws' means or probabilities.
    total : ndarray of shape (n_grid, 2) or None
        Ends of the predictive interval; None for classifiers.
    x, y : ndarray of shape (n,) or None
        Data points; of a classifier y is whether the row is of the class, 0 or 1.
    coverage : float
        Probability inside the bands.
    feature_name, target_name : str
        Labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.plotting import PredictiveBandDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = BayesianMLPRegressor((), method="anchored", random_state=0).fit(X, y)
    >>> display = PredictiveBandDisplay.from_estimator(
    ...     reg, X, feature=2, y=y)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        grid,
        mean,
        epistemic,
        total=None,
        x=None,
        y=None,
        coverage=0.9,
        feature_name="x",
        target_name="y",
    ):
        self.grid = grid
        self.mean = mean
        self.epistemic = epistemic
        self.total = total
        self.x = x
        self.y = y
        self.coverage = coverage
        self.feature_name = feature_name
        self.target_name = target_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        feature=0,
        y=None,
        *,
        coverage=0.9,
        target=None,
        grid_resolution=200,
        grid_range=None,
        ax=None,
        **kwargs,
    ):
        """Predict over a grid of one feature, the others at their medians, and draw.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows that give the range of the feature and the medians of the others.
        feature : int or str, default=0
            Column of X.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
            Targets of the rows, drawn as points.
        coverage : float, default=0.9
            Probability inside the bands.
        target : object, optional
            Class of a classifier (default the last of ``classes_``), or number of the output of a
            regressor with several (default 0).
        grid_resolution : int, default=200
            Points of the grid.
        grid_range : tuple of two floats, optional
            Ends of the grid; default the least and the greatest value in X.
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        PredictiveBandDisplay
        """
        transformers, final = final_of(estimator, "predict_draws")
        X = as_table(X)
        index, name = column(X, feature)
        grid = grid_over(values_of(X, index), grid_range, grid_resolution)
        inside = transformers(rows_with(X, {index: grid}))
        shown = Target(final, target)
        draws = shown.draws(inside)
        tails = [(1 - coverage) / 2, (1 + coverage) / 2]
        total = None
        if not shown.is_classifier:
            total = shown.output(final.predict_interval(inside, coverage), axis=1)
        display = cls(
            grid=grid,
            mean=draws.mean(0),
            epistemic=np.quantile(draws, tails, axis=0).T,
            total=total,
            x=None if y is None else values_of(X, index),
            y=None if y is None else shown.of(y),
            coverage=coverage,
            feature_name=name,
            target_name=shown.name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, legend=True, line_kw=None, scatter_kw=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default a new figure.
        legend : bool, default=True
            Whether to draw a legend.
        line_kw, scatter_kw : dict, optional
            Passed to matplotlib's ``plot`` for the mean and ``scatter`` for the data.

        Returns
        -------
        PredictiveBandDisplay
        """
        self.figure_, axes = resolve_axes(ax, 1)
        ax = self.ax_ = one_or_all(axes)
        percent = f"{100 * self.coverage:g} %"
        if self.total is not None:
            label = f"{percent}, noise and weights"
            ax.fill_between(self.grid, *self.total.T, color=TOTAL, lw=0, label=label)
        label = f"{percent}, weights"
        ax.fill_between(self.grid, *self.epistemic.T, color=EPISTEMIC, lw=0, label=label)
        ax.plot(self.grid, self.mean, **{"color": MEAN, "label": "mean", **(line_kw or {})})
        if self.y is not None:
            style = {"s": 12, "color": DATA, "lw": 0, "alpha": 0.6, "label": "data"}
            ax.scatter(self.x, self.y, **{**style, **(scatter_kw or {})})
        ax.set(xlabel=self.feature_name, ylabel=self.target_name)
        ax.margins(x=0)
        if legend:
            ax.legend(fontsize="small")
        return self
