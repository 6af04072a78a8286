"""What is there to do with a network after variational dropout: prune it and take it away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skbayes.layers.bits import bit_precision, compression_ratio
from skbayes.layers.compact import compact
from skbayes.layers.pruning import Masks, apply_masks, sparsity
from skbayes.layers.sparse import SparseNetwork
from skbayes.model import Layout
from skbayes.posterior import Posterior


class Compression(NamedTuple):
    """By how much a network has shrunk, see `skbayes.layers.bits.compression_ratio`."""

    pruning: float
    """Weights of the whole network by those that are kept."""

    precision: float
    """Bits of the whole network (32 per weight) by those of the kept weights."""


class PrunedMixin:
    """Pruning, for an estimator that `VariationalDropout` has fitted."""

    kind: str
    posterior_: Posterior
    log_alpha_: dict[str, np.ndarray]
    _draws: np.ndarray  # of the network before it is pruned
    _layout: Layout

    def prune(self, threshold=None):
        """Remove what is mostly noise, from the network that `fit` found.

        What was removed before comes back first, so that thresholds can be tried one after the
        other. All predictions are then those of the pruned network: in every draw of the weights
        the removed ones are zero.

        Parameters
        ----------
        threshold : float, dict of str to float or None, default=None
            Weights, or groups of them, with log alpha at or above it are removed; infinity removes
            nothing. A dict has a threshold of its own for each name in ``log_alpha_``. None is 3;
            for ``kind="group"`` it is what `fit` found: 3, or lower where the training rows do not
            need the groups either, by the risk inflation criterion.

        Returns
        -------
        self : object
            The estimator, with other ``masks_``, ``sparsity_``, ``bit_precision_``,
            ``compression_ratio_`` and draws in ``posterior_``.

        Raises
        ------
        ValueError
            If a threshold is no number, or a dict does not have the names of ``log_alpha_``.
        """
        check_is_fitted(self, "posterior_")
        posterior = self.posterior_
        adapted: dict[str, Any] = posterior.adapted
        if threshold is None:
            threshold = adapted["threshold"]
        pruner = adapted["pruner"]
        self.masks_: Masks = pruner.masks(self.log_alpha_, threshold)
        self.threshold_ = dict(threshold) if isinstance(threshold, Mapping) else threshold
        keep = pruner.of_theta(self.masks_, self._layout.n_params)
        if self._draws.shape[2] > len(keep):  # statistics of batch normalisation
            keep = np.append(keep, np.ones(self._draws.shape[2] - len(keep), dtype=bool))
        posterior.draws = np.where(keep, self._draws, self._draws.dtype.type(0))
        self.sparsity_ = sparsity(self.masks_)
        means, variances = adapted["weight_mean"], adapted["weight_var"]
        self.bit_precision_: dict[str, int] = bit_precision(means, variances, self.masks_)
        self.compression_ratio_ = Compression(
            compression_ratio(self.masks_), compression_ratio(self.masks_, self.bit_precision_)
        )
        return self

    def to_module(self, whole_units=False):
        """A plain, smaller torch module: the pruned network at the mean of its weights.

        It maps what the network sees (X as ``standardize`` makes it) to its outputs: logits, or
        means in standardised units. `predict` averages over draws of the weights instead.

        Parameters
        ----------
        whole_units : bool, default=False
            Whether only whole units and channels are taken out, not single features or positions of
            a flattened image. Such a network can be trained on and pruned again, as the ``module``
            of another estimator, in less time.

        Returns
        -------
        torch.nn.Module
            See `skbayes.layers.compact.compact`.

        Raises
        ------
        ValueError
            If `torch.fx` cannot follow the module.
        """
        return compact(self._pruned_module(), whole_units)

    def to_sparse_network(self):
        """The pruned network at the mean of its weights as sparse matrices, for fast predictions.

        Returns
        -------
        SparseNetwork
            Maps what the network sees to its outputs, see `skbayes.layers.sparse.SparseNetwork`.

        Raises
        ------
        ValueError
            If the network does not end in a chain of linear layers.
        """
        return SparseNetwork(self._pruned_module())

    def _pruned_module(self) -> nn.Module:
        """The module with zeros in the place of what is removed, in float32."""
        check_is_fitted(self, "posterior_")
        posterior = self.posterior_
        n = self._layout.n_params
        mean = np.append(posterior.last_state[0, :n], self._draws[0, :, n:].mean(0))
        pruner: Any = posterior.adapted["pruner"]
        keep = pruner.of_theta(self.masks_, n)
        mean[:n] *= keep
        weights = self._layout.weights(mean[None].astype(np.float32))[0]
        return apply_masks(self._layout.network.to_module(weights), self.masks_)
