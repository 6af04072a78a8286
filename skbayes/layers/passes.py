"""A network with normal weights: one pass with its random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from skbayes.layers.variational import (
    Noise,
    VariationalLayer,
    convert,
    layers_of,
    takes_channels_last,
)
from skbayes.model.inputs import Inputs
from skbayes.model.network import MLPNetwork

Units = Mapping[str, tuple[Tensor | None, Tensor | None]]
"""Factors of the input and output units of layers, by their names."""


class VariationalNetwork:
    """A network's module with variational layers in the place of its own.

    theta's network part stays flat; linear and convolution layers take means and variances, all
    other parameters are drawn once in a pass, the same for all rows.

    Parameters
    ----------
    network : MLPNetwork or ModuleNetwork
        The network.
    rows : Tensor of shape (n, ...)
        A few rows as `plain_rows` gives them, in the type and on the device to work with.
    noise : Noise
        Random numbers.
    estimator : {"local", "weight", "flipout", "mean"}
        How outputs are drawn, see `VariationalLayer`; "weight" draws all parameters once.

    Attributes
    ----------
    layers : dict of str to VariationalLayer
        By the names of the parts that they stand for, in the order of their calls.
    names : list of str
        Names of the parameters in the module, in the order of theta.
    slices : dict of str to slice
        Where they lie in theta.
    flipped : set of str
        Those that theta has transposed.
    is_noisy : ndarray of shape (n_params,)
        Which parameters are of a variational layer.
    """

    @classmethod
    def of(cls, log_posterior, noise: Noise, estimator: str = "local") -> VariationalNetwork:
        """That of a log posterior, tried out on its first rows."""
        rows = log_posterior.rows(np.arange(min(log_posterior.n, 2)))
        return cls(log_posterior.network, plain_rows(rows.inputs), noise, estimator)

    def __init__(self, network, rows: Tensor, noise: Noise, estimator: str = "local") -> None:
        self.network, self.noise, self.estimator = network, noise, estimator
        if isinstance(network, MLPNetwork):
            like = np.zeros(network.n_params)
            module = network.to_module(like).to(dtype=rows.dtype, device=rows.device)
            self.names = [name for name, _ in module.named_parameters()]
            self.flipped = {name for name in self.names if name.endswith("weight")}
        else:
            module = network.new_module(rows.dtype, rows.device)
            self.names = [name for name, _ in network.parameters()]
            self.flipped = network.transposed
        shapes = [shape for _, shape in network.parameters()]
        self._shapes = dict(zip(self.names, shapes, strict=True))
        self._sizes = [math.prod(shape) for shape in shapes]
        stops = np.cumsum(self._sizes)
        self.slices = {
            name: slice(int(stop - size), int(stop))
            for name, stop, size in zip(self.names, stops, self._sizes, strict=True)
        }
        names = [
            name for name in layers_of(module, rows) if f"{name}.weight".lstrip(".") in self.slices
        ]
        self._frozen_bias = {  # biases that are not inferred
            name: part.bias.detach()
            for name, part in module.named_modules()
            if name in names
            and part.bias is not None
            and f"{name}.bias".lstrip(".") not in self.slices
        }
        channels_last = takes_channels_last(module, rows)
        self.module = convert(module, noise, set(names))
        parts = dict(self.module.named_modules())
        self.layers: dict[str, VariationalLayer] = {name: parts[name] for name in names}  # type: ignore[misc]
        for layer in self.layers.values():
            layer.estimator = "mean" if estimator == "weight" else estimator
            layer.channels_last = channels_last and len(layer.weight_shape) == 4
        mine = {f"{name}.{kind}".lstrip(".") for name in names for kind in ("weight", "bias")}
        self._others = [name for name in self.names if name not in mine]
        self.is_noisy = np.zeros(network.n_params, dtype=bool)
        for name in mine & set(self.names):
            self.is_noisy[self.slices[name]] = True

    def forward(
        self,
        mean: Tensor,
        var: Tensor | None,
        x: Tensor,
        units: Units | None = None,
        *,
        draws_others: bool = True,
    ) -> Tensor:
        """Outputs (1, n_outputs, n) of rows x, with noise.

        Parameters
        ----------
        mean, var : Tensor of shape (n_params,)
            Moments of the weights; without variances they are what they are.
        x : Tensor of shape (n, ...)
            Rows.
        units : dict, optional
            Factors of units by the names of layers.
        draws_others : bool
            Whether parameters that are of no variational layer are random, or at their means.
        """
        if var is not None and self.estimator == "weight":
            mean, var = self.noise.draw(mean, var), None
        elif self.estimator == "mean":
            var = None
        means = self.cut(mean)
        variances = {} if var is None else self.cut(var)
        for name, layer in self.layers.items():
            weight, bias = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
            layer.put(
                means[weight],
                means.get(bias, self._frozen_bias.get(name)),
                variances.get(weight),
                variances.get(bias),
                *(units or {}).get(name, (None, None)),
            )
        others = {
            name: self.noise.draw(means[name], variances[name])
            if variances and draws_others
            else means[name]
            for name in self._others
        }
        try:
            values = functional_call(self.module, others, (x,)) if others else self.module(x)
        finally:
            for layer in self.layers.values():
                layer.put(None, None)
        if not isinstance(self.network, MLPNetwork):
            values = self.network.columns(values)
        return values.mT[None]

    def cut(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters as the module has them, views of a flat tensor (n_params,)."""
        parts = flat.split(self._sizes)
        out = {}
        for name, part in zip(self.names, parts, strict=True):
            values = part.view(self._shapes[name])
            out[name] = values.mT if name in self.flipped else values
        return out

    def scaled_squares(self, flat: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """Squares of the layers' weights times factors, (n_params,); zero for all else.

        Factors go by the names of layers and broadcast with the weight as the module has it.
        """
        out = []
        by_weight = {f"{name}.weight".lstrip("."): values for name, values in factors.items()}
        for name, part in self.cut(flat).items():
            if name in by_weight:
                values = part * part * by_weight[name]
                out.append((values.mT if name in self.flipped else values).reshape(-1))
            else:
                out.append(part.new_zeros(part.numel()))
        return torch.cat(out)


def plain_rows(inputs) -> Tensor:
    """Rows (n, ...) as a torch module takes them, of `Inputs` or `TensorInputs` in memory."""
    if isinstance(inputs, Inputs):
        return inputs.plain()
    return inputs.block(slice(0, 1), slice(0, inputs.n))
