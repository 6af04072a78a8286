"""What happens to a unit between two layers: steps that act on each unit or channel by itself.

A unit can be removed from a network only if nothing between its layer and the next mixes it with
others. These functions say of a node of a traced network whether it is such a step, what it makes
of a constant, and how it looks with fewer units.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

POINTWISE_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
POOL_MODULES = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
)
NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d)
POINTWISE_FUNCTIONS = (
    F.celu,
    F.elu,
    F.gelu,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.logsigmoid,
    F.mish,
    F.relu,
    F.selu,
    F.sigmoid,
    F.silu,
    F.softplus,
    F.softsign,
    F.tanh,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
)
POOL_FUNCTIONS = (
    F.max_pool1d,
    F.max_pool2d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    torch.max_pool1d,
    torch.max_pool2d,
)
POINTWISE_METHODS = ("relu", "sigmoid", "tanh")
MODULE_OF = {
    torch.relu: nn.ReLU,
    F.relu: nn.ReLU,
    "relu": nn.ReLU,
    torch.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    F.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
}
"""The module that does what a function does when it is called without more arguments."""


def kind_of(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """Tell what a node does to units: "pointwise", "pool", "norm", "flatten", or None: mixes them.

    Dropout counts as pointwise: the network is in evaluation mode.
    """
    if any(isinstance(other, fx.Node) for other in _more_arguments(node)):
        return "flatten" if _is_view_as_rows(node) else None
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, POINTWISE_MODULES + DROPOUT_MODULES):
            return "pointwise"
        if isinstance(module, POOL_MODULES):
            return "pool"
        if isinstance(module, NORM_MODULES):
            return "norm" if module.track_running_stats else None
        if isinstance(module, nn.Flatten):
            return "flatten" if (module.start_dim, module.end_dim) == (1, -1) else None
    if node.op == "call_function":
        if node.target in POINTWISE_FUNCTIONS:
            return "pointwise"
        if node.target in POOL_FUNCTIONS:
            return "pool"
        if node.target is F.dropout and node.kwargs.get("training") is False:
            return "pointwise"
    if node.op == "call_method" and node.target in POINTWISE_METHODS:
        return "pointwise"
    if node.op in ("call_function", "call_method") and node.target in (torch.flatten, "flatten"):
        start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
        end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
        return "flatten" if (start, end) == (1, -1) else None
    return "flatten" if _is_view_as_rows(node) else None


def value_of_constant(node: fx.Node, modules: dict[str, nn.Module], value: Tensor) -> Tensor:
    """What a step makes of units that are the same everywhere, (n_units,); NaN if not constant.

    Padding with zeros makes an average differ at the border; a maximum ignores its padding.
    """
    kind = kind_of(node, modules)
    if kind == "pool":
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.AvgPool1d | nn.AvgPool2d) and _any_padding(module.padding):
            return torch.where(value == 0.0, value, torch.nan)
        if isinstance(module, nn.AvgPool2d) and module.divisor_override is not None:
            return torch.where(value == 0.0, value, torch.nan)  # it is no average
        return value
    if kind == "flatten":
        return value
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, DROPOUT_MODULES):
            return value
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mean, variance = (b.double() for b in _statistics(module))
            value = (value - mean) / torch.sqrt(variance + module.eps)
            if module.affine:
                value = value * module.weight.double() + module.bias.double()
            return value
        return module(value.clone())
    if node.op == "call_method":
        return getattr(value.clone(), str(node.target))(*node.args[1:], **node.kwargs)
    target: Any = node.target
    return target(value.clone(), *node.args[1:], **node.kwargs)


def with_units(module: nn.Module, kept: Tensor) -> nn.Module:
    """A batch normalisation of the units that are kept, in evaluation mode."""
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    n = int(kept.sum())
    mean, variance = _statistics(module)
    small = type(module)(n, module.eps, module.momentum, module.affine).to(mean.device, mean.dtype)
    small.running_mean, small.running_var = mean[kept].clone(), variance[kept].clone()
    small.num_batches_tracked = module.num_batches_tracked
    if module.affine:
        small.weight = nn.Parameter(module.weight.detach()[kept].clone())
        small.bias = nn.Parameter(module.bias.detach()[kept].clone())
    return small.eval()


def pads_with_zeros(layer: nn.Module) -> bool:
    """Whether a layer sees zeros beyond the border, where a constant unit is not constant."""
    if isinstance(layer, nn.Linear):
        return False
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return bool(layer.padding_mode == "zeros" and _any_padding(layer.padding))


def _any_padding(padding) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple) else bool(padding)


def _statistics(module: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    assert module.running_mean is not None and module.running_var is not None
    return module.running_mean, module.running_var


def _more_arguments(node: fx.Node) -> list:
    """Arguments besides the tensor that the node acts on."""
    return [*node.args[1:], *node.kwargs.values()]


def _is_view_as_rows(node: fx.Node) -> bool:
    """Whether the node is ``x.view(x.size(0), -1)`` or ``x.view(-1, n)``: a flatten of each row."""
    if node.op != "call_method" or node.target not in ("view", "reshape") or len(node.args) != 3:
        return False
    _, rows, columns = node.args
    of_rows = isinstance(rows, fx.Node) and _source(rows) is node.args[0]
    return isinstance(columns, int) and (of_rows or bool(rows == -1))


def _source(size: fx.Node) -> fx.Node:
    """The node whose number of rows this is: of ``x.size(0)`` or ``x.shape[0]``."""
    source = size.all_input_nodes[0]
    is_shape = source.target is getattr and source.args[1:] == ("shape",)
    return source.all_input_nodes[0] if is_shape else source
