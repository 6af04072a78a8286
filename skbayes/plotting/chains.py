"""Traces and ranks of predictions: whether chains agree."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from sklearn.base import is_classifier

from skbayes.diagnostics import split_r_hat
from skbayes.plotting._common import final_of, one_or_all, resolve_axes


class TraceDisplay:
    """Trace of the predictions of each chain at a few rows.

    Weights of a network are not identified, so that their traces say little; what chains must
    agree on is what they predict. Good traces lie over each other and look like noise; the R-hat
    of each row is in the title of its panel.

    Make it with `from_estimator`.

    Parameters
    ----------
    values : ndarray of shape (n_chains, n_draws, n_points)
        Predictions: the mean (regressors), or the probability of a class (classifiers).
    rows : ndarray of shape (n_points,)
        Numbers of the rows.
    r_hat : ndarray of shape (n_points,)
        Rank-normalised split R-hat.
    value_name : str
        What was predicted.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of Axes
        Where it was drawn, one for each row.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.inference import HMC
    >>> from skbayes.plotting import TraceDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> method = HMC(n_warmup=200, n_draws=100)
    >>> reg = BayesianMLPRegressor((), method=method, random_state=0).fit(X, y)
    >>> display = TraceDisplay.from_estimator(reg, X)  # doctest: +SKIP
    """

    def __init__(self, *, values, rows, r_hat, value_name="prediction"):
        self.values = values
        self.rows = rows
        self.r_hat = r_hat
        self.value_name = value_name

    @classmethod
    def from_estimator(cls, estimator, X, *, n_points=4, ax=None, **kwargs):
        """Predict with every draw at some rows, and draw.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one, with chains: by
            ``method="hmc"``, not by an ensemble.
        X : array-like of shape (n_samples, n_features)
            Rows, of which ``n_points`` are taken, evenly spread.
        n_points : int, default=4
            Number of rows.
        ax : matplotlib Axes or array of Axes, optional
            Where to draw, one for each row; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        TraceDisplay
        """
        values, rows, name = _chains(estimator, X, n_points)
        display = cls(values=values, rows=rows, r_hat=split_r_hat(values), value_name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array of Axes, optional
            One for each row; default a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot`` for the traces.

        Returns
        -------
        TraceDisplay
        """
        n = len(self.rows)
        size = (7.0, 1.5 * n + 0.6)
        self.figure_, axes = resolve_axes(ax, n, shape=(n, 1), figsize=size, sharex=True)
        for k, panel in enumerate(axes):
            for chain, trace in enumerate(self.values[:, :, k]):
                style = {"lw": 0.6, "alpha": 0.8, "color": f"C{chain % 10}"}
                panel.plot(trace, **{**style, **kwargs})
            title = f"row {self.rows[k]}, R-hat {self.r_hat[k]:.3f}"
            panel.set_title(title, fontsize="medium", loc="left")
            panel.margins(x=0)
        axes[-1].set_xlabel("draw")
        _shared_label(self.figure_, axes, ax, self.value_name)
        self.ax_ = one_or_all(axes)
        return self


class RankDisplay:
    """Rank plots of predictions, Vehtari et al. (2021), section 4.

    The draws of all chains are ranked together, and the ranks of each chain are counted in bins.
    If all chains draw from the same distribution, each chain's counts are the same in all bins up
    to chance (the dashed line). A chain that leans to one side sits elsewhere; one that heaps up
    in the middle or at the ends has another width than the others.

    Make it with `from_estimator`.

    Parameters
    ----------
    counts : ndarray of shape (n_points, n_chains, n_bins)
        Draws of each chain whose rank falls into each bin.
    edges : ndarray of shape (n_bins + 1,)
        Ends of the bins.
    rows : ndarray of shape (n_points,)
        Numbers of the rows.
    value_name : str
        What was ranked.

    Attributes
    ----------
    ax_ : matplotlib Axes or ndarray of Axes
        Where it was drawn, one for each row.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.inference import HMC
    >>> from skbayes.plotting import RankDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> method = HMC(n_warmup=200, n_draws=100)
    >>> reg = BayesianMLPRegressor((), method=method, random_state=0).fit(X, y)
    >>> display = RankDisplay.from_estimator(reg, X)  # doctest: +SKIP
    """

    def __init__(self, *, counts, edges, rows, value_name="prediction"):
        self.counts = counts
        self.edges = edges
        self.rows = rows
        self.value_name = value_name

    @classmethod
    def from_estimator(cls, estimator, X, *, n_points=4, n_bins=20, ax=None, **kwargs):
        """Predict with every draw at some rows, rank, and draw.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one, with chains: by
            ``method="hmc"``, not by an ensemble.
        X : array-like of shape (n_samples, n_features)
            Rows, of which ``n_points`` are taken, evenly spread.
        n_points : int, default=4
            Number of rows.
        n_bins : int, default=20
            Bins of the ranks.
        ax : matplotlib Axes or array of Axes, optional
            Where to draw, one for each row; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        RankDisplay
        """
        values, rows, name = _chains(estimator, X, n_points)
        n_chains, n_draws, n_points = values.shape
        total = n_chains * n_draws
        # 1 to total; equal values share their mean rank
        ranks = rankdata(values.reshape(total, n_points), axis=0).reshape(values.shape)
        edges = np.linspace(0.5, total + 0.5, n_bins + 1)
        counts = np.array(
            [
                [np.histogram(ranks[chain, :, k], edges)[0] for chain in range(n_chains)]
                for k in range(n_points)
            ]
        )
        return cls(counts=counts, edges=edges, rows=rows, value_name=name).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or array of Axes, optional
            One for each row; default a new figure.
        **kwargs : dict
            Passed to matplotlib's ``bar``.

        Returns
        -------
        RankDisplay
        """
        n, n_chains, n_bins = self.counts.shape
        across = min(n, 2)
        down = -(-n // across)
        size = (3.6 * across, (0.45 * n_chains + 0.9) * down)
        new = {"shape": (down, across), "figsize": size, "sharex": True, "sharey": True}
        self.figure_, axes = resolve_axes(ax, n, **new)
        for extra in self.figure_.axes[n:] if ax is None else []:
            extra.remove()
        expected = self.counts.sum(2).mean() / n_bins
        step = 1.1 * max(self.counts.max(), 1)
        for k, panel in enumerate(axes):
            for chain in range(n_chains):
                base = (n_chains - 1 - chain) * step
                style = {"color": f"C{chain % 10}", "edgecolor": "white", "linewidth": 0.3}
                style |= {"width": np.diff(self.edges), "align": "edge", "bottom": base}
                panel.bar(self.edges[:-1], self.counts[k, chain], **{**style, **kwargs})
                panel.axhline(base + expected, color="0.2", lw=0.8, ls="--")
            panel.set_title(f"row {self.rows[k]}", fontsize="medium", loc="left")
            panel.set_xlim(self.edges[0], self.edges[-1])
            ticks = [(n_chains - 1 - chain) * step + expected for chain in range(n_chains)]
            panel.set_yticks(ticks, [f"chain {chain}" for chain in range(n_chains)])
            panel.tick_params(axis="y", length=0)
            if k >= n - across:
                panel.set_xlabel(f"rank of {self.value_name}")
                panel.tick_params(labelbottom=True)
        self.ax_ = one_or_all(axes)
        return self


def _chains(estimator, X, n_points: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Predictions (n_chains, n_draws, n_points), the rows' numbers, and what was predicted."""
    transformers, final = final_of(estimator, "predict_draws", "posterior_")
    posterior = final.posterior_
    if posterior.independent or posterior.n_draws < 4:
        raise ValueError(
            "This display needs chains with at least 4 draws each, as method='hmc' makes them; "
            f"the estimator has {posterior!r}."
        )
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    n = X.shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n_points, n)).round().astype(int))
    inside = transformers(X.iloc[rows] if hasattr(X, "iloc") else X[rows])
    if is_classifier(final):
        proba = np.exp(final.predict_draws(inside))
        # two classes: that of the second says it all; several: of the most probable of each row
        binary = proba.shape[2] == 2
        top = np.full(len(rows), 1) if binary else proba.mean(0).argmax(1)
        values = np.take_along_axis(proba, top[None, :, None], 2)[:, :, 0]
        name = f"probability of {str(final.classes_[1])!r}" if binary else "probability"
    else:
        mean = final.predict_draws(inside)[0]
        values, name = (mean, "mean") if mean.ndim == 2 else (mean[:, :, 0], "mean of output 0")
    return values.reshape(posterior.n_chains, posterior.n_draws, len(rows)), rows, name


def _shared_label(figure, axes: np.ndarray, ax, text: str) -> None:
    """One label for the vertical axes, or one each where the axes are the user's."""
    if ax is None:
        figure.supylabel(text, fontsize="medium")
    else:
        for panel in axes:
            panel.set_ylabel(text)
