"""Activations of the hand-written network: values and derivatives in place.

Each activation is described by the function that is really computed, ``h = function(z)``, and by
the affine map that makes the activation of it, ``a = scale * h + shift``, with ``z`` the
pre-activation times ``input_scale``. The map costs nothing: the network folds it into its small
weight matrices. Only ``tanh`` needs it: ``tanh(x) = 2 sigmoid(2 x) - 1``, and torch's vectorised
``sigmoid`` is several times faster than its ``tanh``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An elementwise function with its derivative, written into given buffers.

    Parameters
    ----------
    name : str
        Name, as users give it.
    forward : callable
        ``forward(z, out)`` writes ``h`` into ``out`` (which may be ``z``).
    backward : callable
        ``backward(grad, saved, out)`` writes ``grad * dh/dz``; ``saved`` is ``h``, or ``z`` where
        ``keeps_input`` is true. ``grad`` may be an expanded view, ``out`` may be ``saved``.
    input_scale, scale, shift : float
        The affine map around ``h``, see the module's text.
    keeps_input : bool
        Whether the derivative is a function of ``z`` (the input) rather than of ``h``.
    """

    name: str
    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor], object]
    input_scale: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    keeps_input: bool = False


def _copy(z: Tensor, out: Tensor) -> None:
    if out is not z:
        out.copy_(z)


def _copy_grad(grad: Tensor, saved: Tensor, out: Tensor) -> None:
    out.copy_(grad)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation("identity", _copy, _copy_grad),
    "relu": Activation(
        "relu",
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda g, h, out: _aten.threshold_backward.grad_input(g, h, 0, grad_input=out),
    ),
    "tanh": Activation(
        "tanh",
        lambda z, out: torch.sigmoid(z, out=out),
        lambda g, h, out: _aten.sigmoid_backward.grad_input(g, h, grad_input=out),
        input_scale=2.0,
        scale=2.0,
        shift=-1.0,
    ),
    "silu": Activation(
        "silu",
        lambda z, out: _aten.silu.out(z, out=out),
        lambda g, z, out: _aten.silu_backward.grad_input(g, z, grad_input=out),
        keeps_input=True,
    ),
    "gelu": Activation(
        "gelu",
        lambda z, out: _aten.gelu.out(z, out=out),
        lambda g, z, out: _aten.gelu_backward.grad_input(g, z, grad_input=out),
        keeps_input=True,
    ),
}
