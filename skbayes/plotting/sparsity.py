"""Networks that prune themselves: weights and dropout rates of layers, sparsity over epochs."""

from __future__ import annotations

import numpy as np

from skbayes.plotting._common import final_of, resolve_axes

REMOVED = "white"
LIMIT = 8.0  # of the scale of log alpha
TINY = 1e-16


class LayerWeightsDisplay:
    r"""Weights of each layer, those that are removed in white, and their dropout rates.

    Above, the posterior means: blue positive, red negative. Below, log alpha, from weights that
    are known well (dark) to weights that are noise (light); the mark on the scale is the
    threshold. A row is an output unit, a column an input; of a convolution, a column is a place in
    the kernel of an input channel.

    Make it with `from_estimator`.

    Parameters
    ----------
    weights : dict of str to ndarray
        Means of the weights, (n_out, n_in) or (n_out, n_in, ...), by the names of the layers.
    log_alpha : dict of str to ndarray
        Logarithm of the dropout rate of each weight, of the same shapes.
    masks : dict of str to ndarray of bool
        Weights that are kept, of the same shapes.
    threshold : float or dict of str to float
        Of log alpha.

    Attributes
    ----------
    ax_ : ndarray of shape (2, n_layers) of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    """

    def __init__(self, *, weights, log_alpha, masks, threshold=3.0):
        self.weights = weights
        self.log_alpha = log_alpha
        self.masks = masks
        self.threshold = threshold

    @classmethod
    def from_estimator(cls, estimator, *, layers=None, ax=None, **kwargs):
        """Take the layers of a fitted estimator, as it is pruned now, and draw.

        Parameters
        ----------
        estimator : object
            Fitted `~skbayes.VariationalDropoutClassifier` or regressor, or a pipeline or search
            that ends in one.
        layers : list of str, optional
            Names of weights, such as ``["0.weight"]``; default all.
        ax : array of matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        LayerWeightsDisplay

        Raises
        ------
        ValueError
            If the estimator has no dropout rates, or no such layer.
        """
        final = final_of(estimator, "prune", "masks_")[1]
        names = list(final.masks_) if layers is None else list(layers)
        for name in names:
            if name not in final.masks_:
                raise ValueError(f"{name!r} is not a layer; layers are {list(final.masks_)}.")
        mean, var = (final.posterior_.adapted[n] for n in ("weight_mean", "weight_var"))
        display = cls(
            weights={n: mean[n] for n in names},
            log_alpha={n: _of_weights(final.log_alpha_[n], mean[n], var[n]) for n in names},
            masks={n: final.masks_[n] for n in names},
            threshold=final.threshold_,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, quantile=0.99, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : array of matplotlib Axes, optional
            Two for each layer: first those of the weights, then those of log alpha; default a new
            figure.
        quantile : float, default=0.99
            Of the sizes of a layer's kept weights; weights beyond it have the full colour.
        **kwargs : dict
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        LayerWeightsDisplay
        """
        n = len(self.weights)
        self.figure_, axes = resolve_axes(ax, 2 * n, shape=(2, n), figsize=(3.4 * n + 0.6, 5.6))
        self.ax_ = axes.reshape(2, n)
        style = {"aspect": "auto", "interpolation": "nearest"} | kwargs
        for (above, below), (name, weight) in zip(self.ax_.T, self.weights.items(), strict=True):
            kept = self.masks[name]
            sizes = np.abs(weight[kept])
            reach = float(np.quantile(sizes, quantile)) if sizes.size else 1.0
            shown = np.ma.masked_array(weight, ~kept)
            image = above.imshow(_flat(shown), cmap="RdBu", vmin=-reach, vmax=reach, **style)
            above.set_facecolor(REMOVED)
            self.figure_.colorbar(image, ax=above, label="weight")
            above.set_title(f"{name}: {100 * (1 - kept.mean()):.1f} % removed")
            scale = {"cmap": "viridis", "vmin": -LIMIT, "vmax": LIMIT}
            image = below.imshow(_flat(self.log_alpha[name]), **scale, **style)
            bar = self.figure_.colorbar(image, ax=below, label=r"$\log\ \alpha$")
            own = self.threshold[name] if isinstance(self.threshold, dict) else self.threshold
            bar.ax.axhline(own, color="red")
            below.set_xlabel("input")
        for axes in self.ax_[:, 0]:
            axes.set_ylabel("output")
        return self


class SparsityCurveDisplay:
    """Share of removed weights over the epochs of training.

    Make it with `from_estimator`.

    Parameters
    ----------
    curves : dict of str to ndarray of shape (n_epochs,)
        Share of the weights of a layer that would be removed after each epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    """

    def __init__(self, *, curves):
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Take the curves of a fitted estimator, and draw.

        Parameters
        ----------
        estimator : object
            Fitted `~skbayes.VariationalDropoutClassifier` or regressor, or a pipeline or search
            that ends in one. The curves are those at its ``threshold``.
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        SparsityCurveDisplay
        """
        final = final_of(estimator, "sparsity_curve_")[1]
        return cls(curves=dict(final.sparsity_curve_)).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        SparsityCurveDisplay
        """
        self.figure_, (self.ax_,) = resolve_axes(ax, 1, figsize=(6.0, 4.0))
        for name, curve in self.curves.items():
            style = {"color": "0.2", "lw": 2.5} if name == "all" else {}
            epochs = np.arange(1, len(curve) + 1)
            self.ax_.plot(epochs, 100 * np.asarray(curve), label=name, **(style | kwargs))
        self.ax_.set(xlabel="epoch", ylabel="weights removed (%)", ylim=(-2, 102))
        self.ax_.legend(frameon=False)
        return self


def _of_weights(log_alpha: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Rates of each weight: those of the estimator, or, where its are of units, by the moments."""
    if np.shape(log_alpha) == mean.shape:
        return log_alpha
    return np.log(var + TINY) - np.log(mean**2 + TINY)


def _flat(weight: np.ndarray) -> np.ndarray:
    """As a matrix with a row for each output."""
    return weight.reshape(len(weight), -1)
