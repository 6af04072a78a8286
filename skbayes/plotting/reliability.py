"""Whether probabilities and intervals hold what they promise."""

from __future__ import annotations

import numpy as np
from sklearn.base import is_classifier

from skbayes.pipeline import split_pipeline
from skbayes.plotting._common import MEAN, final_of, one_or_all, resolve_axes


class ReliabilityDisplay:
    """Reliability diagram.

    Of a classifier: rows are sorted into bins by the probability of the predicted class (the
    confidence), and the share of right predictions in a bin is set against the mean confidence.
    On the diagonal the probabilities are calibrated; below it they are too sure. The bars show
    how many rows a bin holds.

    Of a regressor: the share of targets inside the central predictive interval, against the
    coverage that the interval claims.

    Make it with `from_estimator`.

    Parameters
    ----------
    expected : ndarray of shape (n_points,)
        Mean confidence of each bin that is not empty, or nominal coverage.
    observed : ndarray of shape (n_points,)
        Share of right predictions, or of targets inside.
    counts : ndarray of shape (n_bins,) or None
        Rows in each bin, empty ones too; None for regressors.
    edges : ndarray of shape (n_bins + 1,) or None
        Ends of the bins.
    error : float or None
        Expected calibration error; None for regressors.
    name : str
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of two Axes
        Where it was drawn: the diagram, and the counts below it, if they are drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from skbayes import BayesianMLPClassifier
    >>> from skbayes.plotting import ReliabilityDisplay
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = BayesianMLPClassifier((), random_state=0).fit(X[::2], y[::2])
    >>> display = ReliabilityDisplay.from_estimator(clf, X[1::2], y[1::2])  # doctest: +SKIP
    """

    def __init__(self, *, expected, observed, counts=None, edges=None, error=None, name=None):
        self.expected = expected
        self.observed = observed
        self.counts = counts
        self.edges = edges
        self.error = error
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, n_bins=10, name=None, ax=None, **kwargs):
        """Predict and count, and draw.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one. Any classifier with
            ``predict_proba`` will do.
        X : array-like of shape (n_samples, n_features)
            Rows that the estimator has not seen.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets. Several outputs of a regressor are counted together.
        n_bins : int, default=10
            Bins of equal width on [0, 1]; of a regressor, coverages 1 / n_bins, 2 / n_bins, ...
        name : str, optional
            For the legend; default the name of the estimator's class.
        ax : matplotlib Axes or two of them, optional
            Where to draw: the diagram alone, or the diagram and the counts; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        ReliabilityDisplay
        """
        name = type(split_pipeline(estimator)[1]).__name__ if name is None else name
        if is_classifier(estimator):
            display = cls(**_of_classifier(estimator, X, y, n_bins), name=name)
        else:
            display = cls(**_of_regressor(estimator, X, y, n_bins), name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, name=None, legend=True, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or two of them, optional
            The diagram alone, or the diagram and the counts; default a new figure. Several
            displays can share their axes.
        name : str, optional
            For the legend.
        legend : bool, default=True
            Whether to draw a legend.
        **kwargs : dict
            Passed to matplotlib's ``plot`` for the line.

        Returns
        -------
        ReliabilityDisplay
        """
        n_panels = 1 if self.counts is None else 2
        if ax is not None:
            n_panels = np.atleast_1d(np.asarray(ax, dtype=object)).size
        new: dict = {"figsize": (4.6, 4.6)}
        if n_panels == 2:
            new = {"figsize": (4.6, 5.4), "shape": (2, 1)}
            new |= {"sharex": True, "height_ratios": (3, 1)}
        self.figure_, axes = resolve_axes(ax, n_panels, **new)
        name = self.name if name is None else name
        label = name if self.error is None else f"{name}, ECE {self.error:.3f}"
        top = axes[0]
        if not any(line.get_gid() == "ideal" for line in top.lines):
            top.plot([0, 1], [0, 1], color="0.6", lw=1, ls="--", gid="ideal")
        n_lines = sum(line.get_gid() == "reliability" for line in top.lines)
        colour = MEAN if n_lines == 0 else f"C{n_lines}"
        style = {"marker": "o", "ms": 4, "color": colour, "label": label, "gid": "reliability"}
        (line,) = top.plot(self.expected, self.observed, **{**style, **kwargs})
        classes = self.counts is not None
        across = "mean confidence" if classes else "coverage claimed"
        top.set_ylabel("share of right predictions" if classes else "share of targets inside")
        if n_panels == 2 and classes:
            axes[1].stairs(self.counts, self.edges, color=line.get_color(), fill=False, lw=1.5)
            axes[1].set(xlabel=across, ylabel="rows", ylim=(0, None))
        else:
            top.set_xlabel(across)
        low = 0.0
        if classes:
            low = self.edges[np.flatnonzero(self.counts)[0]]
            if n_lines:
                low = min(low, top.get_xlim()[0] + 0.02)
        top.set(xlim=(low - 0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=None)
        if legend:
            top.legend(fontsize="small", loc="best")
        self.ax_ = one_or_all(axes)
        return self


def _of_classifier(estimator, X, y, n_bins: int) -> dict:
    from skbayes.metrics import expected_calibration_error

    classes = np.asarray(split_pipeline(estimator)[1].classes_)
    proba = estimator.predict_proba(X)
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError("y has several labels; this display needs one.")
    confidence = proba.max(1)
    right = classes[proba.argmax(1)] == y
    edges = np.linspace(0, 1, n_bins + 1)
    # bin k holds edges[k] < confidence <= edges[k + 1]
    number = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    counts = np.bincount(number, minlength=n_bins)
    filled = counts > 0
    return {
        "expected": np.bincount(number, confidence, n_bins)[filled] / counts[filled],
        "observed": np.bincount(number, right, n_bins)[filled] / counts[filled],
        "counts": counts,
        "edges": edges,
        "error": float(expected_calibration_error(y, proba, n_bins=n_bins)),
    }


def _of_regressor(estimator, X, y, n_bins: int) -> dict:
    transformers, final = final_of(estimator, "predict_quantiles")
    nominal = np.arange(1, n_bins) / n_bins
    y = np.asarray(y, dtype=float)[..., None]
    inside = transformers(X)
    quantiles = final.predict_quantiles(inside, np.r_[(1 - nominal) / 2, (1 + nominal) / 2])
    lower, upper = np.split(quantiles, 2, axis=-1)
    holds = (lower <= y) & (y <= upper)
    return {"expected": nominal, "observed": holds.reshape(-1, len(nominal)).mean(0)}
