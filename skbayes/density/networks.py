"""Encoder and decoder: multilayer perceptrons beside linear paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "elu": nn.functional.elu,
}


class Dense(nn.Module):
    """An affine map whose start depends on a generator, never on torch's global state.

    Parameters
    ----------
    n_in, n_out : int
        Widths.
    generator : torch.Generator
        For the starting weights.
    gain : float
        Standard deviation of the weights times the square root of ``n_in``.
    """

    def __init__(
        self, n_in: int, n_out: int, generator: torch.Generator, gain: float = 1.0
    ) -> None:
        super().__init__()
        scale = gain / math.sqrt(max(n_in, 1))
        self.weight = nn.Parameter(scale * torch.randn(n_out, n_in, generator=generator))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return nn.functional.linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """Layers with an activation between them; the last starts small.

    Parameters
    ----------
    sizes : sequence of int
        Widths, input and output included.
    activation : str
        Name of the activation.
    generator : torch.Generator
        For the starting weights.
    last_gain : float
        Of the last layer: near zero, so that a linear path beside it starts alone.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str,
        generator: torch.Generator,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        last = len(sizes) - 2
        gains = [last_gain if i == last else math.sqrt(2.0) for i in range(last + 1)]
        self.layers = nn.ModuleList(
            Dense(a, b, generator, gain)
            for a, b, gain in zip(sizes[:-1], sizes[1:], gains, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Path(nn.Module):
    """A deep path, a linear path, or the sum of both.

    Parameters
    ----------
    n_in, n_out : int
        Widths.
    hidden : sequence of int
        Widths of the hidden layers; empty for the linear path alone.
    activation : str
        Name of the activation.
    linear : bool
        Whether there is a linear path beside the deep one.
    generator : torch.Generator
        For the starting weights.
    deep : Module, optional
        In place of the multilayer perceptron.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int],
        activation: str,
        linear: bool,
        generator: torch.Generator,
        deep: nn.Module | None = None,
    ) -> None:
        super().__init__()
        is_linear = not hidden and deep is None
        self.linear = Dense(n_in, n_out, generator, 0.5) if linear or is_linear else None
        if deep is None and hidden:
            gain = 0.02 if linear else 0.5
            deep = MLP([n_in, *hidden, n_out], activation, generator, gain)
        self.deep: Any = deep

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        if self.deep is None:
            return self.linear(x)  # type: ignore[misc]
        return self.deep(x) if self.linear is None else self.linear(x) + self.deep(x)


def flatten(module: nn.Module) -> tuple[Tensor, Tensor]:
    """One vector that all weights are views of, and one for their gradients."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    grad = torch.zeros_like(flat)
    at = 0
    for p in parameters:
        p.data = flat[at : at + p.numel()].view_as(p)
        p.grad = grad[at : at + p.numel()].view_as(p)
        at += p.numel()
    return flat, grad
