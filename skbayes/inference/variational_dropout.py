"""Variational dropout: training, draws, and what there is to prune by."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from skbayes.inference.ascent import ascend
from skbayes.inference.base import Method, to_numpy
from skbayes.layers.dropout_families import KLS, DropoutFamily, SparseDropout, UnitDropout
from skbayes.layers.group_families import GroupDropout, HorseshoeDropout
from skbayes.layers.groups import is_chain
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.pruning import (
    BY_LOG_ALPHA,
    Masks,
    check_threshold,
    group_masks,
    local_masks,
    sparsity,
)
from skbayes.layers.variational import Noise
from skbayes.posterior import Posterior

STEPS = 4000  # at least, where max_epochs is None
THRESHOLD = 3.0
"""Log alpha from which on weights go, where none is given (Molchanov et al., 2017)."""
STEP = 0.25  # by which the threshold of groups falls
MOST_ROWS, BLOCK = 10_000, 1000  # of training rows that decide on it, and of these at once
KINDS = ("gaussian", "variational", "sparse", "group")
STARTS = {"sparse": -10.0, "group": -9.0}
"""Where the logarithm of the variances starts, by kind."""


class VariationalDropout(Method):
    """What `VariationalDropoutClassifier` and `VariationalDropoutRegressor` run.

    Their parameters have the same names and are described there.
    """

    needs = frozenset({"network", "likelihood"})
    reads_from_disk = True
    keeps_on_disk = True

    def __init__(
        self,
        kind="sparse",
        rate=0.2,
        per="layer",
        correlated=False,
        group_prior="normal_jeffreys",
        horseshoe_scale=1e-5,
        kl="molchanov",
        init_log_var=None,
        max_epochs=None,
        batch_size=None,
        learning_rate=None,
        kl_warmup=0.3,
        threshold=None,
        n_draws=30,
    ):
        self.kind = kind
        self.rate = rate
        self.per = per
        self.correlated = correlated
        self.group_prior = group_prior
        self.horseshoe_scale = horseshoe_scale
        self.kl = kl
        self.init_log_var = init_log_var
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.kl_warmup = kl_warmup
        self.threshold = threshold
        self.n_draws = n_draws

    def chain_count(self):
        """One q."""
        return 1

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("kind", KINDS)
        self._choice("per", ("layer", "unit"))
        self._choice("correlated", (True, False))
        self._choice("group_prior", ("normal_jeffreys", "horseshoe"))
        self._choice("kl", tuple(KLS))
        self._require("rate", kind=Real, low=0, high=0.5, above=True)
        self._positive("horseshoe_scale")
        self._positive("learning_rate", or_in=(None,))
        self._require("init_log_var", kind=Real, low=-30, high=0, or_in=(None,))
        self._require("max_epochs", "batch_size", or_in=(None,))
        self._require("n_draws")
        if isinstance(self.kl_warmup, Integral):
            self._require("kl_warmup", low=0)
        else:
            self._require("kl_warmup", kind=Real, low=0, high=1)
        if self.threshold is not None:
            check_threshold(self.threshold, BY_LOG_ALPHA)

    def run(self, log_posterior, theta0, streams, on_step=None, store=None):
        """Train, and draw from q, see `Method.run`."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        noise = Noise(int(streams.generators[0].integers(2**62)), log_posterior.device)
        network = VariationalNetwork.of(log_posterior, noise)
        if not network.layers:
            raise ValueError(
                "The module has no linear or convolution layer whose noise could be learned "
                "(torch.nn.Linear, Conv1d or Conv2d, used once in a pass)."
            )
        family = self._family(log_posterior, theta[0], network)
        pruner = Pruner.of(family, log_posterior.network, theta[0])
        n = log_posterior.n
        batch_size = min(self.batch_size or 128, n)
        per_epoch = math.ceil(n / batch_size)
        max_epochs = self.max_epochs or max(50, math.ceil(STEPS / per_epoch))
        steps = per_epoch * max_epochs
        shown = THRESHOLD if self.threshold is None else self.threshold
        warm = self.kl_warmup
        warm = int(warm) if isinstance(warm, Integral) else round(warm * max_epochs)
        ascent = ascend(
            Objective(log_posterior, family, network),
            streams,
            learning_rate=self.learning_rate or float(np.clip(120 / steps, 0.001, 0.03)),
            batch_size=batch_size,
            max_epochs=max_epochs,
            kl_warmup=warm,
            schedule="linear",
            on_step=on_step,
            after_epoch=lambda: pruner.sparsity(family.log_alpha(), shown),
            store=store,
        )
        curves = ascent.records
        with torch.no_grad():
            draws = family.sample(self.n_draws, noise)
        means, variances = family.weight_moments()
        adapted: dict[str, Any] = {
            "log_alpha": family.log_alpha(),
            "weight_mean": means,
            "weight_var": variances,
            "sparsity_curve": {
                name: np.array([entry[name] for entry in curves]) for name in curves[0]
            },
            "pruner": pruner,
            "threshold": THRESHOLD,
        }
        if self.kind == "group":
            adapted["threshold"] = threshold_of_groups(log_posterior, family, pruner)
        return Posterior(
            to_numpy(draws)[None],
            log_posterior.layout,
            adapted=adapted,
            last_state=to_numpy(family.centre())[None],
            loss_curve=ascent.losses[None],
            independent=True,
            messages=ascent.messages,
            interrupted=ascent.interrupted,
        )

    def _family(self, log_posterior, mean, network) -> DropoutFamily:
        """The family of this kind at its start."""
        shared = (log_posterior, mean, network, self.kl)
        if self.kind in ("gaussian", "variational"):
            return UnitDropout(
                *shared,
                log_alpha=math.log(self.rate) - math.log1p(-self.rate),
                learned=self.kind == "variational",
                per=self.per if self.kind == "variational" else "layer",
                correlated=self.correlated,
            )
        start = STARTS[self.kind] if self.init_log_var is None else float(self.init_log_var)
        if self.kind == "sparse":
            return SparseDropout(*shared, init_log_var=start)
        if self.group_prior == "horseshoe":
            return HorseshoeDropout(*shared, scale=self.horseshoe_scale, init_log_var=start)
        return GroupDropout(*shared, init_log_var=start)


class Pruner:
    """Turns rates and a threshold into masks of weights and of theta.

    In numpy and plain Python, so that it can be kept.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Of the weights as the module has them, by their names, in the order of their layers' calls.
    sides : dict of str to {"weight", "in", "out", "layer"}
        What a rate of each weight belongs to.
    chain : bool
        Whether the units of each layer are the inputs of the next, and go nowhere else.
    places : dict of str to tuple
        Where the entries of a parameter lie in theta (start, stop), and whether theta has them
        transposed.
    blocks : dict of str to int
        Groups of channels of each layer that see only each other.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        sides: dict[str, str],
        chain: bool,
        places: dict[str, tuple[int, int, bool]],
        blocks: dict[str, int],
    ) -> None:
        self.shapes, self.sides, self.chain = shapes, sides, chain
        self.places, self.blocks = places, blocks

    @classmethod
    def of(cls, family: DropoutFamily, network, like) -> Pruner:
        """That of a family on a network."""
        own = family.network
        shapes = {
            n: layer.weight_shape
            for n, layer in zip(family.names, own.layers.values(), strict=True)
        }
        sides = dict(zip(family.names, family.sides_of_rates(), strict=True))
        module = network.to_module(np.zeros(network.n_params, dtype=np.float32))
        places = {
            name: (part.start, part.stop, name in own.flipped) for name, part in own.slices.items()
        }
        layers = own.layers.values()
        blocks = {n: layer.n_blocks for n, layer in zip(family.names, layers, strict=True)}
        chain = is_chain(module, list(own.layers)) and set(blocks.values()) == {1}
        return cls(shapes, sides, chain, places, blocks)

    def masks(self, log_alpha: dict[str, np.ndarray], threshold) -> Masks:
        """Weights that are kept, where log alpha is below the threshold and they lead somewhere."""
        below = local_masks(log_alpha, threshold)
        kinds = set(self.sides.values())
        if kinds == {"weight"}:
            if not self.chain:
                return below
            # what leads to a unit that leads nowhere goes too
            used = {
                n: np.asarray(keep.any(axis=(0, *range(2, keep.ndim)))) for n, keep in below.items()
            }
            onward = group_masks(self.shapes, used)
            return {n: keep & onward[n] for n, keep in below.items()}
        if kinds == {"layer"}:
            return {n: np.full(self.shapes[n], bool(keep.all())) for n, keep in below.items()}
        inputs = {n: keep for n, keep in below.items() if self.sides[n] == "in"}
        outputs = {n: keep for n, keep in below.items() if self.sides[n] == "out"}
        if self.chain:
            return group_masks(self.shapes, inputs, outputs)
        return {name: self._own_mask(name, keep) for name, keep in below.items()}

    def _own_mask(self, name: str, keep: np.ndarray) -> np.ndarray:
        """Mask of a weight by the units that it keeps itself, on its own side."""
        shape = self.shapes[name]
        if self.sides[name] == "out":
            pairs = np.repeat(keep[:, None], shape[1], 1)
        else:
            # with groups of channels, an output sees the inputs of its own group only
            first = np.arange(shape[0]) // (shape[0] // self.blocks[name]) * shape[1]
            pairs = keep[first[:, None] + np.arange(shape[1])]
        return np.broadcast_to(pairs.reshape(*pairs.shape, *(1,) * (len(shape) - 2)), shape).copy()

    def sparsity(self, log_alpha: dict[str, np.ndarray], threshold: float) -> dict[str, float]:
        """Share of each weight's entries that goes, and of all."""
        return sparsity(self.masks(log_alpha, threshold))

    def of_theta(self, masks: Masks, n_params: int) -> np.ndarray:
        """Entries of theta (n_params,) that are kept.

        The bias of an output that is removed as a group goes with it.
        """
        out = np.ones(n_params, dtype=bool)
        for name, mask in masks.items():
            start, stop, flipped = self.places[name]
            out[start:stop] = (mask.T if flipped else mask).ravel()
            bias = name.removesuffix("weight") + "bias"
            if self.sides[name] == "out" and bias in self.places:
                start, stop, _ = self.places[bias]
                out[start:stop] = mask.reshape(len(mask), -1).any(1)
        return out


def threshold_of_groups(log_posterior, family: DropoutFamily, pruner: Pruner) -> float:
    r"""Threshold of log alpha by which groups go that the training rows do not need.

    Of 3 and the quarters below it, the one with the largest

    .. math:: \log p(y \mid \theta) - k \log G,

    theta being the mean of the k groups that it keeps of G: the risk inflation criterion (Foster
    and George, 1994), 2 log G of deviance for a variable, by which the best of G groups that mean
    nothing still goes. The bound alone keeps such a group in every ten or twenty.
    """
    log_alpha = family.log_alpha()
    values = np.concatenate([part.ravel() for part in log_alpha.values()])
    centre, n = family.centre(), min(log_posterior.n, MOST_ROWS)
    index = np.linspace(0, log_posterior.n - 1, n).round().astype(int)
    blocks = [log_posterior.rows(part) for part in np.array_split(index, math.ceil(n / BLOCK))]

    def fit_at(threshold: float) -> float:
        keep = pruner.of_theta(pruner.masks(log_alpha, threshold), log_posterior.network.n_params)
        theta = centre.clone()
        theta[: len(keep)] *= torch.as_tensor(keep, device=theta.device)
        log_likelihood = sum(float(rows.log_likelihood(theta[None])) for rows in blocks)
        return log_likelihood * log_posterior.n / n

    price = math.log(len(values))
    threshold = best = THRESHOLD
    with torch.no_grad():
        left = int((values < threshold).sum())
        highest = fit_at(threshold) - left * price
        while left:
            threshold -= STEP
            now = int((values < threshold).sum())
            if now == left:
                continue
            left, fit = now, fit_at(threshold)
            if fit - left * price >= highest:
                highest, best = fit - left * price, threshold
            elif fit < highest:  # and would be if all groups that are left went at no loss
                break
    return best
