"""The parameters of a torch module as parts of theta, in the groups that priors work with."""

from __future__ import annotations

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from skbayes.model.network import Layer


def trainable(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as the module has them, of what is inferred; tied parameters come once.

    Raises
    ------
    ValueError
        If there is none.
    """
    out = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
    if not out:
        raise ValueError(
            f"module {type(module).__name__} has no parameters to infer (with requires_grad=True)."
        )
    return out


def transposed(module: nn.Module, parameters: list[tuple[str, tuple[int, ...]]]) -> set[str]:
    """Names of the weights that theta holds as (fan_in, fan_out): those of `torch.nn.Linear`."""
    parts = dict(module.named_modules())
    return {
        name
        for name, _ in parameters
        if isinstance(parts[name.rpartition(".")[0]], nn.Linear) and name.endswith("weight")
    }


def group(module: nn.Module, parameters: list[tuple[str, tuple[int, ...]]]) -> list[Layer]:
    """Cut theta into layers.

    A weight of two or more dimensions makes a layer with the vectors that follow it in the same
    part, its biases. The vectors of a part that has no such weight (normalisation, scales) are a
    layer whose weight is empty.
    """
    layers: list[Layer] = []
    parts = dict(module.named_modules())
    start, owner = 0, None
    for name, shape in parameters:
        path = name.rpartition(".")[0]
        size = int(np.prod(shape))
        stop = start + size
        if len(shape) > 1:
            fan_in = _fan_in(parts[path], shape)
            span = slice(start, stop)
            layers.append(Layer(name, span, slice(stop, stop), fan_in, size // fan_in))
        elif layers and path == owner:
            last = layers.pop()
            bias = slice(last.bias.start, stop)
            layers.append(Layer(last.name, last.weight, bias, last.fan_in, last.fan_out))
        else:
            layers.append(Layer(name, slice(start, start), slice(start, stop), 1, size))
        owner, start = path, stop
    return layers


def input_units(
    module: nn.Module, parameters: list[tuple[str, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """The input unit, for convolutions the channel, that each weight multiplies, by its name."""
    out: dict[str, np.ndarray] = {}
    parts = dict(module.named_modules())
    for name, shape in parameters:
        part = parts[name.rpartition(".")[0]]
        if len(shape) < 2 or isinstance(part, nn.Embedding | nn.EmbeddingBag):
            continue
        if isinstance(part, nn.Linear):  # theta has (fan_in, fan_out)
            out[name] = np.repeat(np.arange(shape[1]), shape[0])
        elif isinstance(part, _ConvTransposeNd):  # (channels in, channels out / groups, ...)
            out[name] = np.repeat(np.arange(shape[0]), int(np.prod(shape[1:])))
        else:  # (channels out, channels in / groups, ...)
            per_group = shape[0] // getattr(part, "groups", 1)
            first = np.arange(shape[0]) // per_group * shape[1]
            channel = first[:, None] + np.arange(shape[1])
            out[name] = np.repeat(channel.ravel(), int(np.prod(shape[2:])))
    return out


def _fan_in(part: nn.Module, shape: tuple[int, ...]) -> int:
    """How many values one output of a part sums over, for a weight (fan_out, ...)."""
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        return 1  # a row is looked up
    if isinstance(part, _ConvTransposeNd):
        return max(1, shape[0] // part.groups) * int(np.prod(shape[2:]))
    return max(1, int(np.prod(shape[1:])))
