"""A physically smaller network with the predictions of a pruned one."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import skip_init  # leaves the global random state of torch alone

from skbayes.layers import unit_steps

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def compact(module: nn.Module, whole_units: bool = False) -> nn.Module:
    r"""A smaller network with the same predictions as a network many of whose weights are zero.

    What goes:

    - **input features** (or channels) whose weights are all zero: a `Select` before the first
      layer takes the others;
    - **units and channels whose outgoing weights are all zero**;
    - **units and channels whose incoming weights are all zero**. Such a unit is a constant,
      c = activation(bias), and the layer after it has it in its biases,
      :math:`b_i \leftarrow b_i + w_{ij} c_j`; in a convolution, with w summed over its kernel. A
      convolution that pads with zeros sees c inside and 0 beyond the border, so no bias can stand
      for it: there the unit stays, unless c is 0. The same holds of an average over padded places.
    - **positions of a flattened channel** whose weights in the linear layer are all zero, by a
      `Select`; the channel goes with its last position.

    Whole units go only where everything between two layers acts on each unit by itself:
    activations, dropout, batch normalisation, pooling, flattening. Elsewhere (layer normalisation,
    a residual sum, grouped convolutions) the units stay, and only dead inputs of a layer are left
    out. One unit of a layer always stays.

    Parameters
    ----------
    module : torch.nn.Module
        Can be traced by `torch.fx`: its forward does not branch on values. ``x.view(-1, n)`` is
        taken to flatten each row. It is not changed.
    whole_units : bool, default=False
        Whether only whole units and channels go, so that there is no `Select`: all features stay,
        and all positions of a channel that stays. Such a network can be pruned again.

    Returns
    -------
    torch.nn.Sequential or torch.fx.GraphModule
        In evaluation mode; a `torch.nn.Sequential` where the network is a chain of modules.

    Raises
    ------
    ValueError
        If the module cannot be traced.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> with torch.no_grad():
    ...     net[0].weight[1:] = 0.0  # units 1 to 3 are constants
    ...     net[0].weight[:, 2] = 0.0  # feature 2 is not used
    >>> compact(net)
    Sequential(
      (0_inputs): Select(2 of 3, dim=-1)
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=1, bias=True)
    )
    """
    traced = _trace(module)
    modules = dict(traced.named_modules())
    with torch.no_grad():
        layers = _layers(traced.graph, modules)
        for layer in layers:
            _fold_constants(layer, modules)
        for layer in reversed(layers):
            _drop_inputs(layer, whole_units)
        for layer in layers:
            _rebuild(layer, traced, modules)
    traced.graph.eliminate_dead_code()  # what asked for sizes
    traced.recompile()
    traced.delete_all_unused_submodules()
    chain = _sequential(traced)
    return traced.eval() if chain is None else chain


def layer_links(module: nn.Module) -> list[tuple[str, str | None]]:
    """Name each linear and convolution layer, in the order of calls, and the one it leads to.

    None where units of a layer cannot be removed: they go to several places, are mixed with each
    other on the way, or are the outputs. Layers that are called twice are listed twice.

    Raises
    ------
    ValueError
        If the module cannot be traced.
    """
    traced = _trace(module)
    modules = dict(traced.named_modules())
    links = {
        layer.node: None if layer.below is None else str(layer.below.node.target)
        for layer in _layers(traced.graph, modules)
    }
    return [
        (str(node.target), links.get(node))
        for node in traced.graph.nodes
        if node.op == "call_module" and isinstance(modules[str(node.target)], LAYERS)
    ]


def _trace(module: nn.Module) -> fx.GraphModule:
    """A copy of a module with its graph, in evaluation mode."""
    module = copy.deepcopy(module).eval()
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be traced by torch.fx ({error}), so there is no "
            "smaller network of it; its forward must not branch on values."
        ) from error


class Select(nn.Module):
    """Take some of the entries along a dimension.

    Parameters
    ----------
    index : Tensor of shape (n,)
        Which ones.
    n_in : int
        Of how many.
    dim : int
        Along which dimension.
    """

    index: Tensor

    def __init__(self, index: Tensor, n_in: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.n_in, self.dim = n_in, dim

    def forward(self, x: Tensor) -> Tensor:
        """Take the entries of x (n, ...)."""
        return torch.index_select(x, self.dim, self.index)

    def extra_repr(self) -> str:
        """How many of how many."""
        return f"{len(self.index)} of {self.n_in}, dim={self.dim}"


class _Tracer(fx.Tracer):
    """Keeps a `Select` of an earlier time in one piece."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Select) or super().is_leaf_module(m, module_qualified_name)


@dataclass
class _Layer:
    """A layer of the graph with what of it stays."""

    node: fx.Node
    module: nn.Linear | nn.Conv1d | nn.Conv2d
    weight: Tensor  # (n_out, n_in, kernel positions), float64
    bias: Tensor  # (n_out,), float64
    inputs: Tensor  # (n_in,) bool: kept
    outputs: Tensor  # (n_out,) bool: kept
    steps: list[fx.Node] = field(default_factory=list)  # to the layer below, if units can go
    below: _Layer | None = None
    above: _Layer | None = None

    @property
    def block(self) -> int:
        """Inputs of the layer below for each output of this one."""
        assert self.below is not None
        return len(self.below.inputs) // len(self.outputs)


def _layers(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[_Layer]:
    """Linear and convolution layers in the order of the graph, linked where units can go."""
    found: dict[fx.Node, _Layer] = {}
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or calls.count(str(node.target)) > 1:
            continue
        module = modules[str(node.target)]
        if type(module) not in LAYERS or getattr(module, "groups", 1) != 1:
            continue  # a derived class may use its weight in another way
        assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        weight = module.weight.detach().to(torch.float64, copy=True)
        weight = weight.reshape(*weight.shape[:2], -1)
        bias = weight.new_zeros(len(weight))
        if module.bias is not None:
            bias += module.bias.detach()
        inputs = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        outputs = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        found[node] = _Layer(node, module, weight, bias, inputs, outputs)
    for layer in found.values():
        steps: list[fx.Node] = []
        node = layer.node
        while len(users := [u for u in node.users if not _is_size(u)]) == 1:
            node = users[0]
            if node in found:
                if _fits(layer, steps, found[node], modules):
                    layer.steps, layer.below = steps, found[node]
                    found[node].above = layer
                break
            if unit_steps.kind_of(node, modules) is None:
                break
            steps.append(node)
    return list(found.values())


def _is_size(node: fx.Node) -> bool:
    """Whether the node asks for the number of rows only, which stays."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    is_shape = node.op == "call_function" and node.target is getattr
    if is_shape and node.args[1:] == ("shape",):
        return all(
            u.op == "call_function" and u.target is operator.getitem and u.args[1] == 0
            for u in node.users
        )
    return False


def _fits(
    layer: _Layer, steps: list[fx.Node], below: _Layer, modules: dict[str, nn.Module]
) -> bool:
    """Whether the layer's outputs, one by one or block by block, are the inputs of the other."""
    kinds = [unit_steps.kind_of(step, modules) for step in steps]
    from_linear = isinstance(layer.module, nn.Linear)
    to_linear = isinstance(below.module, nn.Linear)
    n_out, n_in = len(layer.outputs), len(below.inputs)
    flattened = "flatten" in kinds
    if from_linear != to_linear and (from_linear or not flattened):
        return False
    if not to_linear and flattened or from_linear and "pool" in kinds:
        return False
    if n_in % n_out or (n_in != n_out and (from_linear or not flattened)):
        return False
    channels = n_out
    for step, kind in zip(steps, kinds, strict=True):
        if kind == "flatten":
            channels = n_in
        elif kind == "pool" and channels != n_out:
            return False  # a pool over flattened positions mixes them
        elif kind == "norm" and modules[str(step.target)].num_features != channels:
            return False
    return True


def _fold_constants(layer: _Layer, modules: dict[str, nn.Module]) -> None:
    """Give units without incoming weights to the biases of the layer below, and drop them."""
    below = layer.below
    if below is None:
        return
    weight = layer.weight * layer.inputs[:, None]
    constant = ~(weight != 0.0).flatten(1).any(1)
    if not constant.any():
        return
    value, block = layer.bias.clone(), layer.block
    for step in layer.steps:
        if unit_steps.kind_of(step, modules) == "flatten":
            value, block = value.repeat_interleave(block), 1
        value = unit_steps.value_of_constant(step, modules, value)
    value = value.repeat_interleave(block)  # (inputs of the layer below,)
    drop = constant.repeat_interleave(layer.block) & torch.isfinite(value)
    if unit_steps.pads_with_zeros(below.module):
        drop &= value == 0.0
    drop = drop.view(-1, layer.block).all(1)  # (units,)
    into = drop.repeat_interleave(layer.block)
    below.bias += below.weight.sum(2)[:, into] @ value[into]
    below.weight[:, into] = 0.0
    below.inputs &= ~into
    layer.outputs &= ~drop


def _drop_inputs(layer: _Layer, whole_units: bool) -> None:
    """Drop inputs without outgoing weights, and with them the units that they come from."""
    if whole_units and layer.above is None:
        return
    weight = layer.weight * layer.outputs[:, None, None]
    layer.inputs &= (weight != 0.0).any(2).any(0)
    if not layer.inputs.any():
        layer.inputs[0] = True
    if layer.above is not None:
        block = layer.above.block
        layer.above.outputs = layer.inputs.view(-1, block).any(1)
        if whole_units:
            layer.inputs = layer.above.outputs.repeat_interleave(block)


def _rebuild(layer: _Layer, traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    """Put the smaller layer, what is smaller between it and the next, and a selection in place."""
    old, name = layer.module, str(layer.node.target)
    dtype, device = old.weight.dtype, old.weight.device
    weight = layer.weight[layer.outputs][:, layer.inputs].to(dtype)
    bias = layer.bias[layer.outputs].to(dtype)
    has_bias = old.bias is not None or bool((bias != 0.0).any())
    n_out, n_in = weight.shape[:2]
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = skip_init(nn.Linear, n_in, n_out, has_bias, device=device, dtype=dtype)
    else:
        new = skip_init(
            type(old),
            n_in,
            n_out,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=has_bias,
            padding_mode=old.padding_mode,
            device=device,
            dtype=dtype,
        )
    new.weight = nn.Parameter(weight.reshape(n_out, n_in, *old.weight.shape[2:]))
    if has_bias:
        new.bias = nn.Parameter(bias)
    _set(traced, name, new.eval())
    if layer.above is None:
        arrive = torch.ones_like(layer.inputs)
    else:
        arrive = layer.above.outputs.repeat_interleave(layer.above.block)
    index = torch.nonzero(layer.inputs[arrive]).squeeze(1)
    if len(index) < int(arrive.sum()):
        select = Select(index, int(arrive.sum()), -1 if isinstance(old, nn.Linear) else 1)
        before = layer.node.args[0]
        assert isinstance(before, fx.Node)
        first = modules.get(str(before.target)) if before.op == "call_module" else None
        if isinstance(first, Select) and first.dim == select.dim:  # of an earlier time
            select = Select(first.index[index], first.n_in, select.dim)
            before = before.args[0]
        selection = name.replace(".", "_") + "_inputs"
        traced.add_module(selection, select)
        with traced.graph.inserting_before(layer.node):
            node = traced.graph.call_module(selection, (before,))
        layer.node.args = (node,)
    kept = layer.outputs
    for step in layer.steps:
        kind = unit_steps.kind_of(step, modules)
        if kind == "flatten":
            kept = kept.repeat_interleave(layer.block)
            if step.op == "call_method":  # the number of columns may be written there
                step.target, step.args, step.kwargs = "flatten", (step.args[0], 1), {}
        elif kind == "norm":
            _set(traced, str(step.target), unit_steps.with_units(modules[str(step.target)], kept))


def _set(module: nn.Module, name: str, new: nn.Module) -> None:
    """Replace a module by its dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def _sequential(traced: fx.GraphModule) -> nn.Sequential | None:
    """The graph as a `torch.nn.Sequential` without dropout, or None if it is not such a chain."""
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    before = None
    for node in traced.graph.nodes:
        if node.op == "placeholder" and before is None:
            before = node
            continue
        if node.op == "output":
            return nn.Sequential(steps).eval() if node.args == (before,) else None
        if before is None or len(before.users) != 1 or node.args[:1] != (before,):
            return None
        step = _as_module(node, traced)
        if step is None:
            return None
        if not isinstance(step, (*unit_steps.DROPOUT_MODULES, nn.Identity)):
            steps[node.name if node.op != "call_module" else _plain(node.target)] = step
        before = node
    return None


def _as_module(node: fx.Node, module: nn.Module) -> nn.Module | None:
    """The step of a chain as a module, or None."""
    alone = len(node.args) == 1 and not node.kwargs
    if node.op == "call_module":
        return module.get_submodule(str(node.target)) if alone else None
    if unit_steps.kind_of(node, {}) == "flatten":
        return nn.Flatten()
    made = unit_steps.MODULE_OF.get(node.target)  # type: ignore[call-overload]
    return made() if made is not None and alone else None


def _plain(target) -> str:
    return str(target).replace(".", "_")
