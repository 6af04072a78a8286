"""Activations of the hand-written network: values and derivatives in place.

``forward`` gets the pre-activation x times ``input_scale``. The factor costs nothing: the inputs
and the small weight matrices carry it. Only ``tanh`` has one: ``tanh(x) = 1 - 2 / (1 + 2 ** z)``
with ``z = 2 x / log(2)``, because torch's vectorised ``exp2`` is several times faster than its
``tanh``, and faster than its ``exp`` and ``sigmoid``.
"""

from __future__ import annotations

import math
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
        ``forward(z, out)`` writes the activation ``h`` of ``x = z / input_scale`` into ``out``
        (which may be ``z``).
    backward : callable
        ``backward(grad, saved, out)`` writes ``grad * dh/dx``; ``saved`` is ``h``, or ``z`` where
        ``keeps_input`` is true. ``grad`` may be an expanded view, ``out`` may be ``saved``.
    input_scale : float
        Factor on the pre-activation, see the module's text.
    keeps_input : bool
        Whether the derivative is a function of ``z`` (the input) rather than of ``h``.
    """

    name: str
    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor], object]
    input_scale: float = 1.0
    keeps_input: bool = False


def _copy(z: Tensor, out: Tensor) -> None:
    if out is not z:
        out.copy_(z)


_one = torch.ones(())  # on the CPU, with no axes: it goes with tensors of any type and device


def _tanh(z: Tensor, out: Tensor) -> None:
    torch.exp2(z, out=out)
    out.add_(1.0).reciprocal_()
    torch.add(_one, out, alpha=-2.0, out=out)


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
        _tanh,
        lambda g, h, out: _aten.tanh_backward.grad_input(g, h, grad_input=out),
        input_scale=2.0 / math.log(2.0),
    ),
    "silu": Activation(
        "silu",
        lambda z, out: _aten.silu.out(z, out=out),
        lambda g, z, out: _aten.silu_backward.grad_input(g, z, grad_input=out),
        keeps_input=True,
    ),
    "gelu": Activation(
        "gelu",
        # not with out=, which torch 2.13 fills wrongly in float32 if it is not contiguous
        lambda z, out: out.copy_(_aten.gelu(z)),
        lambda g, z, out: _aten.gelu_backward.grad_input(g, z, grad_input=out),
        keeps_input=True,
    ),
}
