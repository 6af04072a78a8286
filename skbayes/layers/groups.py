"""Groups of weights that belong to one unit or channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from skbayes.layers.compact import LAYERS, layer_links
from skbayes.layers.passes import VariationalNetwork


class Groups:
    """The weights of the variational layers by input unit, or by output unit.

    Parameters
    ----------
    network : VariationalNetwork
        Has the layers.
    sides : mapping of str to {"in", "out"}
        The side of each layer by which its weights are grouped; the bias goes with the outputs.

    Attributes
    ----------
    sizes : list of int
        Groups of each layer.
    n : int
        Their sum.
    """

    def __init__(self, network: VariationalNetwork, sides: Mapping[str, str]) -> None:
        self.network, self.sides = network, dict(sides)
        layers = network.layers
        self.sizes = [
            layers[name].n_in if side == "in" else layers[name].n_out
            for name, side in self.sides.items()
        ]
        self.n = sum(self.sizes)
        index = np.full(len(network.is_noisy), self.n)  # the last one stands for no group
        start = 0
        for (name, side), size in zip(self.sides.items(), self.sizes, strict=True):
            prefix = f"{name}." if name else ""
            own = self._index(name)
            flat = own.T if f"{prefix}weight" in network.flipped else own
            index[network.slices[f"{prefix}weight"]] = start + flat.ravel()
            if side == "out" and f"{prefix}bias" in network.slices:
                index[network.slices[f"{prefix}bias"]] = start + np.arange(size)
            start += size
        self._of_theta = torch.as_tensor(index)
        self._own: dict[str, np.ndarray] = {name: self._index(name) for name in self.sides}

    def _index(self, name: str) -> np.ndarray:
        """Group of each weight of a layer, in the shape that the module has."""
        layer, side = self.network.layers[name], self.sides[name]
        shape = layer.weight_shape
        if side == "out":
            unit = np.arange(shape[0])[:, None] * np.ones(shape[1], dtype=int)
        else:
            # with groups of channels, those of a group see their own inputs only
            first = np.arange(shape[0]) // (shape[0] // layer.n_blocks) * shape[1]
            unit = first[:, None] + np.arange(shape[1])
        unit = unit.reshape(*unit.shape, *(1,) * (len(shape) - 2))
        return np.broadcast_to(unit, shape)

    def spread(self, name: str, values: Tensor) -> Tensor:
        """Values (n_groups,) or (1,) of a layer so that they broadcast with its weight."""
        layer = self.network.layers[name]
        if len(values) == 1:
            return values
        if layer.n_blocks > 1:
            return values[torch.as_tensor(self._own[name].copy(), device=values.device)]
        trailing = (1,) * (len(layer.weight_shape) - 2)
        return (
            values.view(1, -1, *trailing)
            if self.sides[name] == "in"
            else values.view(-1, 1, *trailing)
        )

    def factors(self, z: Tensor, n_params: int, other: float = 1.0) -> Tensor:
        """Factors of theta (n, n_params) for those of groups (n, n_groups); ``other`` elsewhere."""
        z = torch.cat([z, z.new_full((len(z), 1), other)], 1)
        out = z.index_select(1, self._of_theta.to(z.device))
        rest = out.new_full((len(z), n_params - out.shape[1]), other)
        return torch.cat([out, rest], 1)


def is_chain(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether layers are a module's only ones, and the units of each the inputs of the next.

    What is between two of them must act on each unit by itself, see `skbayes.layers.unit_steps`.
    False also where `torch.fx` cannot follow the module.

    Parameters
    ----------
    module : nn.Module
        The module.
    names : sequence of str
        Names of the layers, in the order of their calls.
    """
    if isinstance(module, LAYERS):
        return list(names) == [""]
    try:
        links = layer_links(module)
    except ValueError:
        return False
    return links == list(zip(names, [*names[1:], None], strict=True))
