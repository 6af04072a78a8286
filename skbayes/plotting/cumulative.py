"""Predictive density by the number of draws: whether more draws or chains would help."""

from __future__ import annotations

import numpy as np

from skbayes.metrics import cumulative_log_predictive_density
from skbayes.plotting._common import DATA, resolve_axes


class CumulativeDensityDisplay:
    """Mean log predictive density of the first draws, by their number.

    One thin line per chain, and a thick one for all chains together. Where a line still rises, more
    draws predict better. Where the thick line lies far above the thin ones, the chains have found
    different functions, and more chains predict better (Sommer et al., 2024).

    Make it with `from_estimator`.

    Parameters
    ----------
    chains : ndarray of shape (n_chains, n_draws)
        Mean log density of each chain's first draws.
    pooled : ndarray of shape (n_draws,)
        The same for the first draws of all chains together.
    count_name : str
        What is counted.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    See Also
    --------
    skbayes.metrics.cumulative_log_predictive_density : The numbers.

    References
    ----------
    Sommer, Wimmer, Papamarkou, Bothmann, Bischl and Ruegamer (2024), Connecting the Dots: Is
    Mode-Connectedness the Key to Feasible Sample-Based Inference in Bayesian Neural Networks?

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.inference import HMC
    >>> from skbayes.plotting import CumulativeDensityDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> method = HMC(n_warmup=200, n_draws=100)
    >>> reg = BayesianMLPRegressor((), method=method, random_state=0).fit(X[::2], y[::2])
    >>> display = CumulativeDensityDisplay.from_estimator(reg, X[1::2], y[1::2])  # doctest: +SKIP
    """

    def __init__(self, *, chains, pooled, count_name="draws per chain"):
        self.chains = chains
        self.pooled = pooled
        self.count_name = count_name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, ax=None, **kwargs):
        """Compute the densities, and draw.

        Parameters
        ----------
        estimator : object
            Fitted estimator, or a pipeline or search that ends in one. The members of an ensemble
            count as the draws of one chain.
        X : array-like of shape (n_samples, n_features)
            Rows, best ones that were held out.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        CumulativeDensityDisplay
        """
        found = cumulative_log_predictive_density(estimator, X, y)
        name = "draws per chain" if len(found.chains) > 1 else "draws"
        return cls(chains=found.chains, pooled=found.pooled, count_name=name).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot`` for the line of all chains.

        Returns
        -------
        CumulativeDensityDisplay
        """
        self.figure_, (self.ax_,) = resolve_axes(ax, 1, figsize=(5.5, 3.8))
        number = np.arange(1, len(self.pooled) + 1)
        n_chains = len(self.chains)
        if n_chains > 1:
            for chain, values in enumerate(self.chains):
                label = "each chain" if chain == 0 else None
                self.ax_.plot(number, values, lw=0.9, color=f"C{chain % 10}", label=label)
        label = f"all {n_chains} chains" if n_chains > 1 else "all draws"
        self.ax_.plot(number, self.pooled, **{"lw": 2.0, "color": DATA, "label": label, **kwargs})
        self.ax_.set_xscale("log", base=2)
        self.ax_.xaxis.set_major_formatter("{x:g}")
        self.ax_.set_xlabel(self.count_name)
        self.ax_.set_ylabel("mean log predictive density")
        self.ax_.legend(frameon=False, loc="lower right")
        return self
