"""Convolutional encoder and decoder for images and spectrograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from skbayes.density.networks import Dense


class ConvEncoder(nn.Module):
    """Convolutions of stride two, then an affine map.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width).
    channels : sequence of int
        Of the layers, each of which halves height and width.
    n_out : int
        Outputs.
    generator : torch.Generator
        For the starting weights.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        n_out: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape[0], *channels]
        self.layers = nn.ModuleList(
            _start(skip_init(nn.Conv2d, a, b, 4, stride=2, padding=1), a * 16, generator)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.last = Dense(_inner(shape, channels), n_out, generator, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, channels * height * width) to (n, n_out)."""
        h = x.reshape(-1, *self.shape)
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        return self.last(h.flatten(1))


class ConvDecoder(nn.Module):
    """An affine map, then transposed convolutions of stride two.

    Outputs come in maps of the size of the image: first the means, then, where the noise is decoded
    too, the log variances. Parameters are those of `ConvEncoder`, with ``n_in`` inputs.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        n_in: int,
        n_out: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.small = (channels[-1], shape[1] >> len(channels), shape[2] >> len(channels))
        self.first = Dense(n_in, _inner(shape, channels), generator, math.sqrt(2.0))
        n_maps = n_out // (shape[1] * shape[2])
        widths = [*channels[::-1], n_maps]
        self.layers = nn.ModuleList(
            _start(skip_init(nn.ConvTranspose2d, a, b, 4, stride=2, padding=1), a * 4, generator)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        with torch.no_grad():  # the noise is one and the mean zero at the start, nearly
            self.layers[-1].weight.mul_(0.3)  # type: ignore[operator, union-attr]

    def forward(self, z: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        h = nn.functional.silu(self.first(z)).reshape(-1, *self.small)
        for layer in self.layers[:-1]:
            h = nn.functional.silu(layer(h))
        return self.layers[-1](h).reshape(*z.shape[:-1], -1)


def _inner(shape: tuple[int, int, int], channels: Sequence[int]) -> int:
    """Entries of the smallest maps."""
    return channels[-1] * (shape[1] >> len(channels)) * (shape[2] >> len(channels))


def _start(layer: nn.Module, fan_in: int, generator: torch.Generator) -> nn.Module:
    """Starting weights by the number of inputs (He et al. 2015)."""
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name == "bias":
                p.zero_()
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * math.sqrt(2.0 / fan_in))
    return layer
