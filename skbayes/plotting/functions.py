"""Functions drawn from the prior beside functions drawn from the posterior."""

from __future__ import annotations

from skbayes.plotting._common import (
    DATA,
    EPISTEMIC,
    MEAN,
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


class PriorPosteriorDisplay:
    """Functions that the prior holds possible, and those that remain after seeing the data.

    A function is the mean (regressors), or the probability of a class (classifiers), over one
    feature, the others at their medians.

    Make it with `from_estimator`.

    Parameters
    ----------
    grid : ndarray of shape (n_grid,)
        Values of the feature.
    prior, posterior : ndarray of shape (n_functions, n_grid)
        The functions.
    x, y : ndarray of shape (n,) or None
        Data points.
    feature_name, target_name : str
        Labels of the axes.

    Attributes
    ----------
    ax_ : ndarray of two matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    Examples
    --------
    >>> import numpy as np
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.plotting import PriorPosteriorDisplay
    >>> X = np.linspace(-2, 2, 60)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> reg = BayesianMLPRegressor((10,), noise=0.1, random_state=0).fit(X, y)
    >>> display = PriorPosteriorDisplay.from_estimator(reg, X, y=y)  # doctest: +SKIP
    """

    def __init__(
        self, *, grid, prior, posterior, x=None, y=None, feature_name="x", target_name="y"
    ):
        self.grid = grid
        self.prior = prior
        self.posterior = posterior
        self.x = x
        self.y = y
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
        n_functions=20,
        target=None,
        grid_resolution=200,
        grid_range=None,
        random_state=None,
        ax=None,
        **kwargs,
    ):
        """Draw functions from the prior and from the posterior.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows that give the range of the feature and the medians of the others.
        feature : int or str, default=0
            Column of X.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
            Targets of the rows, drawn as points beside the posterior.
        n_functions : int, default=20
            Functions in each panel; no more of the posterior than it has draws.
        target : object, optional
            Class of a classifier (default the last of ``classes_``), or number of the output of a
            regressor with several (default 0).
        grid_resolution : int, default=200
            Points of the grid.
        grid_range : tuple of two floats, optional
            Ends of the grid; default the least and the greatest value in X.
        random_state : int, RandomState instance or None, default=None
            Seed of the functions of the prior.
        ax : array of two matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        PriorPosteriorDisplay
        """
        transformers, final = final_of(estimator, "predict_draws", "sample_prior")
        X = as_table(X)
        index, name = column(X, feature)
        grid = grid_over(values_of(X, index), grid_range, grid_resolution)
        inside = transformers(rows_with(X, {index: grid}))
        shown = Target(final, target)
        prior = final.sample_prior(inside, n_functions, random_state)
        prior = prior[:, :, shown.index] if shown.is_classifier else shown.output(prior)
        display = cls(
            grid=grid,
            prior=prior,
            posterior=shown.draws(inside, n_functions),
            x=None if y is None else values_of(X, index),
            y=None if y is None else shown.of(y),
            feature_name=name,
            target_name=shown.name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, sharey=True, scatter_kw=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : array of two matplotlib Axes, optional
            Default a new figure.
        sharey : bool, default=True
            Whether both panels of a new figure have the same vertical axis.
        scatter_kw : dict, optional
            Passed to matplotlib's ``scatter`` for the data.
        **kwargs : dict
            Passed to matplotlib's ``plot`` for the functions.

        Returns
        -------
        PriorPosteriorDisplay
        """
        self.figure_, axes = resolve_axes(ax, 2, figsize=(8.0, 3.4), sharey=sharey)
        style = {"color": EPISTEMIC, "lw": 0.9, "alpha": 0.8, **kwargs}
        panels = zip(axes, ("prior", "posterior"), (self.prior, self.posterior), strict=True)
        for panel, title, functions in panels:
            panel.plot(self.grid, functions.T, **style)
            panel.set(title=title, xlabel=self.feature_name)
            panel.margins(x=0)
        axes[1].plot(self.grid, self.posterior.mean(0), color=MEAN, lw=1.5)
        if self.y is not None:
            points = {"s": 12, "color": DATA, "lw": 0, "zorder": 3, **(scatter_kw or {})}
            axes[1].scatter(self.x, self.y, **points)
        axes[0].set_ylabel(self.target_name)
        self.ax_ = one_or_all(axes)
        return self
