"""Decision boundary and uncertainty over a plane of two features."""

from __future__ import annotations

import numpy as np

from skbayes.pipeline import split_pipeline
from skbayes.plotting._common import (
    as_table,
    column,
    final_of,
    one_or_all,
    pyplot,
    resolve_axes,
    rows_with,
    values_of,
)

RESPONSES = ("epistemic", "total", "proba")
TITLES = {
    "proba": "average over the posterior",
    "epistemic": "epistemic uncertainty (nats)",
    "total": "total uncertainty (nats)",
}


class DecisionBoundaryUncertaintyDisplay:
    """Decision boundary of a Bayesian classifier with its uncertainty, beside a point estimate's.

    A point estimate is as sure of itself far from the data as near them. The average over the
    posterior is not. The panels are, from left to right: the probabilities of
    ``point_estimator`` (if given), those of the Bayesian classifier (if ``point_estimator`` is
    given, or asked for by ``response="proba"``), and the uncertainty (unless
    ``response="proba"``). The black line is the decision boundary.

    Make it with `from_estimator`.

    Parameters
    ----------
    xx0, xx1 : ndarray of shape (n_grid, n_grid)
        The grid.
    proba : ndarray of shape (n_grid, n_grid, n_classes)
        Predictive probabilities.
    uncertainty : ndarray of shape (n_grid, n_grid) or None
        What ``response`` names, in nats; None for ``"proba"``.
    response : {"epistemic", "total", "proba"}
        What was asked for.
    point_proba : ndarray of shape (n_grid, n_grid, n_classes) or None
        Probabilities of the point estimate.
    x : ndarray of shape (n, 2) or None
        Data points, drawn if ``y`` is given.
    y : ndarray of shape (n,) or None
        Number of each point's class in ``classes``.
    classes : ndarray of shape (n_classes,)
        Labels.
    feature_names : tuple of two str
        Labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of Axes
        Where it was drawn; an array if there are several panels.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skbayes import BayesianMLPClassifier
    >>> from skbayes.plotting import DecisionBoundaryUncertaintyDisplay
    >>> X, y = make_moons(100, noise=0.2, random_state=0)
    >>> clf = BayesianMLPClassifier((10,), random_state=0).fit(X, y)
    >>> point = BayesianMLPClassifier((10,), method="map", random_state=0).fit(X, y)
    >>> display = DecisionBoundaryUncertaintyDisplay.from_estimator(
    ...     clf, X, y, point_estimator=point)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        xx0,
        xx1,
        proba,
        uncertainty=None,
        response="epistemic",
        point_proba=None,
        x=None,
        y=None,
        classes=(0, 1),
        feature_names=("feature 0", "feature 1"),
    ):
        self.xx0 = xx0
        self.xx1 = xx1
        self.proba = proba
        self.uncertainty = uncertainty
        self.response = response
        self.point_proba = point_proba
        self.x = x
        self.y = y
        self.classes = classes
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        point_estimator=None,
        response="epistemic",
        grid_resolution=100,
        eps=1.0,
        ax=None,
        **kwargs,
    ):
        """Predict over a grid of two features, and draw.

        Parameters
        ----------
        estimator : object
            Fitted classifier, or a pipeline or search that ends in one.
        X : array-like or DataFrame of shape (n_samples, 2)
            Rows that give the ranges of the features.
        y : array-like of shape (n_samples,), optional
            Labels; if given, the rows are drawn as points.
        point_estimator : object, optional
            A fitted classifier to compare with, such as the same network with ``method="map"``.
            Anything with ``predict_proba`` and the same classes will do.
        response : {"epistemic", "total", "proba"}, default="epistemic"
            The uncertainty that is shown, or only probabilities.
        grid_resolution : int, default=100
            Points of the grid along either feature.
        eps : float, default=1.0
            How far the grid reaches beyond the data, in the units of X.
        ax : matplotlib Axes or array of Axes, optional
            Where to draw, one for each panel; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        DecisionBoundaryUncertaintyDisplay
        """
        if response not in RESPONSES:
            raise ValueError(f"response={response!r} is not allowed; allowed are {RESPONSES}.")
        transformers, final = final_of(estimator, "predict_proba", "predict_uncertainty")
        X = as_table(X)
        if X.shape[1] != 2:
            raise ValueError(f"X must have two columns, but has {X.shape[1]}.")
        x = np.stack([values_of(X, 0), values_of(X, 1)], 1)
        axes = [
            np.linspace(low - eps, high + eps, grid_resolution)
            for low, high in zip(x.min(0), x.max(0), strict=True)
        ]
        xx0, xx1 = np.meshgrid(*axes)
        rows = rows_with(X, {0: xx0.ravel(), 1: xx1.ravel()})
        inside = transformers(rows)
        shape = (grid_resolution, grid_resolution, -1)
        point_proba = None
        if point_estimator is not None:
            classes = np.asarray(split_pipeline(point_estimator)[1].classes_)
            if not np.array_equal(classes, final.classes_):
                raise ValueError("point_estimator has other classes than estimator.")
            point_proba = point_estimator.predict_proba(rows).reshape(shape)
        uncertainty = None
        if response != "proba":
            uncertainty = getattr(final.predict_uncertainty(inside), response)
            if uncertainty.ndim > 1:
                raise ValueError("y has several labels; this display needs one.")
            uncertainty = uncertainty.reshape(shape[:2])
        display = cls(
            xx0=xx0,
            xx1=xx1,
            proba=final.predict_proba(inside).reshape(shape),
            uncertainty=uncertainty,
            response=response,
            point_proba=point_proba,
            x=None if y is None else x,
            y=None if y is None else np.searchsorted(final.classes_, y),
            classes=final.classes_,
            feature_names=(column(X, 0)[1], column(X, 1)[1]),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, point_title="point estimate", scatter_kw=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array of Axes, optional
            One for each panel; default a new figure.
        point_title : str, default="point estimate"
            Title of the panel of the point estimate.
        scatter_kw : dict, optional
            Passed to matplotlib's ``scatter`` for the data.

        Returns
        -------
        DecisionBoundaryUncertaintyDisplay
        """
        panels = []
        if self.point_proba is not None:
            panels.append((point_title, self.point_proba, None))
        if self.point_proba is not None or self.uncertainty is None:
            panels.append((TITLES["proba"], self.proba, None))
        if self.uncertainty is not None:
            panels.append((TITLES[self.response], self.proba, self.uncertainty))
        n = len(panels)
        size = (4.0 * n + 0.8, 3.6)
        self.figure_, axes = resolve_axes(ax, n, figsize=size, sharex=True, sharey=True)
        for panel, (title, proba, uncertainty) in zip(axes, panels, strict=True):
            last = panel is axes[-1] or uncertainty is not None
            # two panels of probabilities share the bar of the right one
            bar = last or panels[list(axes).index(panel) + 1][2] is not None
            self._draw(panel, proba, uncertainty, scatter_kw or {}, bar)
            panel.set(title=title, xlabel=self.feature_names[0])
        axes[0].set_ylabel(self.feature_names[1])
        self.ax_ = one_or_all(axes)
        return self

    def _draw(self, ax, proba, uncertainty, scatter_kw, bar):
        plt = pyplot()
        binary = proba.shape[2] == 2
        if uncertainty is not None:
            top = max(float(uncertainty.max()), 1e-12)
            levels = np.linspace(0, top, 13)
            filled = ax.contourf(self.xx0, self.xx1, uncertainty, levels, cmap="Purples")
            if bar:
                ticks = np.linspace(0, top, 4)
                self.figure_.colorbar(filled, ax=ax, ticks=ticks, format="%.2f")
        else:
            if binary:
                shown, label = proba[:, :, 1], f"probability of {str(self.classes[1])!r}"
                levels, cmap = np.linspace(0, 1, 21), "RdBu_r"
            else:
                shown, label = proba.max(2), "largest probability"
                levels, cmap = np.linspace(1 / proba.shape[2], 1, 13), "viridis"
            # the ends of the colours are left to the points
            span = {"vmin": -0.2, "vmax": 1.2} if binary else {}
            filled = ax.contourf(self.xx0, self.xx1, shown, levels, cmap=cmap, **span)
            if bar:
                ticks = np.linspace(levels[0], 1, 5)
                self.figure_.colorbar(filled, ax=ax, label=label, ticks=ticks, format="%.2f")
        for k in range(1 if binary else proba.shape[2]):
            # where class k is as probable as the best of the others
            margin = proba[:, :, k] - np.delete(proba, k, axis=2).max(2)
            if margin.min() < 0 < margin.max():
                ax.contour(self.xx0, self.xx1, margin, [0.0], colors="black", linewidths=1.2)
        if self.y is not None:
            for k in range(len(self.classes)):
                colour = plt.get_cmap("RdBu_r")(0.04 + 0.92 * k) if binary else f"C{k}"
                style = {"s": 14, "color": colour, "edgecolors": "white", "linewidths": 0.4}
                ax.scatter(*self.x[self.y == k].T, **{**style, **scatter_kw})
