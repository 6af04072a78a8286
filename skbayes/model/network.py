"""The multilayer perceptron: many weight vectors at once, forward and backward by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from skbayes.model.activations import ACTIVATIONS
from skbayes.model.inputs import Inputs

# Elements of one layer's activations that are worked on at once: on a CPU such a block (and its
# derivative, written in place) stays in the second-level cache, on a GPU it fills the device.
BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True)
class Layer:
    """Where a layer's parameters lie in theta: weight (fan_in, fan_out), then bias (fan_out,)."""

    name: str
    weight: slice
    bias: slice
    fan_in: int
    fan_out: int

    @property
    def joint(self) -> slice:
        """Weight and bias together, (fan_in + 1, fan_out)."""
        return slice(self.weight.start, self.bias.stop)


class MLPNetwork:
    """Multilayer perceptron on flat parameters, batched over chains.

    The parameters are laid out as scikit-learn's ``coefs_`` and ``intercepts_`` are: weight
    (fan_in, fan_out), then bias (fan_out,), layer by layer. So weight and bias are one matrix with
    the bias as its last row. Activations are kept feature-major, (n_chains, units, n): then every
    product of both passes runs at the speed of a matrix product, also where a layer has a single
    output. There is no autograd graph. For each number of chains and rows, buffers and views are
    made once and both passes become lists of calls with their arguments bound, because at small
    sizes Python would otherwise cost as much as the arithmetic.

    Parameters
    ----------
    n_inputs : int
        Number of input features.
    hidden_layer_sizes : tuple of int
        Units per hidden layer; ``()`` is a linear model.
    n_outputs : int
        Number of outputs.
    activation : str
        One of ``identity relu tanh silu gelu``.
    """

    def __init__(
        self, n_inputs: int, hidden_layer_sizes: tuple[int, ...], n_outputs: int, activation: str
    ) -> None:
        self.n_inputs = n_inputs
        self.hidden_layer_sizes = tuple(hidden_layer_sizes)
        self.n_outputs = n_outputs
        self.activation = activation
        sizes = (n_inputs, *self.hidden_layer_sizes, n_outputs)
        self.layers: list[Layer] = []
        start = 0
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            middle = start + fan_in * fan_out
            stop = middle + fan_out
            self.layers.append(
                Layer(f"layers.{i}", slice(start, middle), slice(middle, stop), fan_in, fan_out)
            )
            start = stop
        self.n_params = start
        self._plans: dict[tuple, _Plan] = {}

    n_buffers = 0
    """Numbers besides the weights that a draw carries, see `ModuleNetwork`."""

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_plans": {}}

    @property
    def is_linear(self) -> bool:
        """Whether the outputs are linear in theta."""
        return len(self.layers) == 1

    def units(self, layer: Layer) -> np.ndarray:
        """Which of its input units each of a layer's weights belongs to, (n_weights,)."""
        return np.repeat(np.arange(layer.fan_in), layer.fan_out)

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters, in the order of theta."""
        out: list[tuple[str, tuple[int, ...]]] = []
        for layer in self.layers:
            out.append((f"{layer.name}.weight", (layer.fan_in, layer.fan_out)))
            out.append((f"{layer.name}.bias", (layer.fan_out,)))
        return out

    @property
    def input_scale(self) -> float:
        """Factor that `Inputs` must carry for this network."""
        return ACTIVATIONS[self.activation].input_scale if len(self.layers) > 1 else 1.0

    def initial(self, streams, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Glorot-normal starting weights and zero biases, one vector per chain.

        Glorot and Bengio (2010), equation 12.
        """
        theta = streams.normal(self.n_params, dtype=dtype, device=device)
        for layer in self.layers:
            theta[:, layer.weight] *= (2.0 / (layer.fan_in + layer.fan_out)) ** 0.5
            theta[:, layer.bias] = 0.0
        return theta

    def to_module(self, weights: np.ndarray) -> torch.nn.Sequential:
        """Return a plain ``torch.nn.Sequential`` with the given weights, (n_params,)."""
        kinds = {
            "identity": torch.nn.Identity,
            "relu": torch.nn.ReLU,
            "tanh": torch.nn.Tanh,
            "silu": torch.nn.SiLU,
            "gelu": torch.nn.GELU,
        }
        flat = torch.as_tensor(np.array(weights))
        parts: list[torch.nn.Module] = []
        for i, layer in enumerate(self.layers):
            # skip_init: the global random state of torch is left alone
            linear = torch.nn.utils.skip_init(
                torch.nn.Linear, layer.fan_in, layer.fan_out, dtype=flat.dtype
            )
            with torch.no_grad():
                linear.weight.copy_(flat[layer.weight].view(layer.fan_in, layer.fan_out).T)
                linear.bias.copy_(flat[layer.bias])
            parts.append(linear)
            if i < len(self.layers) - 1:
                parts.append(kinds[self.activation]())
        return torch.nn.Sequential(*parts)

    def load_into(self, module: torch.nn.Module, weights: Tensor) -> None:
        """Copy weights (n_params,) into a module that `to_module` made."""
        module.load_state_dict(self.to_module(weights.numpy()).state_dict())

    # ------------------------------------------------------------------ passes

    def forward(self, theta: Tensor, inputs: Inputs) -> Tensor:
        """Return the outputs (n_chains, n_outputs, n) of every chain's network on every row."""
        out = theta.new_empty((theta.shape[0], self.n_outputs, inputs.n))
        plan = self._plan(theta, inputs)
        plan.theta.copy_(theta)
        _run(plan.fold)
        for block, rows, _ in plan.steps:
            inputs.times(block.joint, block.chains, rows, block.product)
            _run(block.forward)
            part = out if plan.whole else out[block.chains, :, rows]
            part.copy_(block.outputs)
        return out

    def vjp(
        self, theta: Tensor, inputs: Inputs, cotangent: Callable[[Tensor, slice, slice], Tensor]
    ) -> Tensor:
        """Gradient (n_chains, n_params) of a scalar function of each chain's outputs.

        Parameters
        ----------
        theta : Tensor of shape (n_chains, n_params)
            Weights.
        inputs : Inputs
            Rows.
        cotangent : callable
            ``cotangent(outputs, chains, rows)`` receives the outputs (chains, n_outputs, rows) of
            one block and returns the derivative of the function with respect to them, same shape.
            It may write into ``outputs``.

        Returns
        -------
        Tensor
            A buffer that the next call with as many chains writes over.
        """
        plan = self._plan(theta, inputs)
        plan.theta.copy_(theta)
        _run(plan.fold)
        _run(plan.fold_backward)
        for block, rows, beta in plan.steps:
            chains, outputs = block.chains, block.outputs
            inputs.times(block.joint, chains, rows, block.product)
            _run(block.forward)
            delta = cotangent(outputs, chains, rows)
            if delta is not outputs:
                outputs.copy_(delta)
            _run(block.backward[beta])
            inputs.add_outer(block.lowest, block.lowest_t, chains, rows, block.sums, beta)
        _run(plan.collect)
        return plan.grad

    def blocks_have_all_rows(self, theta: Tensor, inputs: Inputs) -> bool:
        """Whether ``cotangent`` of `vjp` sees all rows of some chains, rather than a part."""
        return all(
            rows.stop - rows.start == inputs.n for _, rows, _ in self._plan(theta, inputs).steps
        )

    def _plan(self, theta: Tensor, inputs: Inputs) -> _Plan:
        key = (theta.shape[0], inputs.n, inputs.kind, theta.dtype, theta.device)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) > 8:  # minibatches of many sizes must not pile up
                self._plans.clear()
            plan = self._plans[key] = _Plan(self, theta, inputs)
        return plan


def _run(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        call()


class _Plan:
    """Buffers and bound calls for one number of chains and rows.

    The backward pass leaves factors out of its large arrays: below a layer with a single output
    the derivative is an outer product, w times delta, and w enters only when the sums over rows
    are done. ``lacking[i]`` is the factor (chains, 1, fan_out) that the sums of layer i lack.

    Attributes
    ----------
    theta, grad : Tensor of shape (n_chains, n_params)
        The weights that the calls read and the gradient that they write.
    fold, fold_backward, collect : list of callable
        All work of the weights' own size: before both passes, before the backward pass, after it.
    steps : list of tuple
        Block, slice of rows, and 1 where a gradient is added to that of earlier rows, else 0.
    whole : bool
        Whether a single step does everything.
    """

    def __init__(self, network: MLPNetwork, like: Tensor, inputs: Inputs) -> None:
        act = ACTIVATIONS[network.activation]
        self.act, self.layers = act, network.layers
        n_chains, n = like.shape[0], inputs.n
        self.theta = like.new_empty((n_chains, network.n_params))
        self.grad = like.new_empty((n_chains, network.n_params))
        self.weights = [self._joint(self.theta, layer) for layer in self.layers]
        # Sums over rows, with the biases as last rows; above the first layer transposed.
        self.sums = [torch.empty_like(joint) for joint in self.weights[:1]]
        self.sums += [like.new_empty(joint.mT.shape) for joint in self.weights[1:]]
        self.fold: list[Callable[[], object]] = []
        self.fold_backward: list[Callable[[], object]] = []
        self.collect: list[Callable[[], object]] = []
        self.folded = self._fold_forward()
        self.down, lacking = self._fold_down()
        self._collect(lacking, network.input_scale)

        width = max(layer.fan_out for layer in self.layers)
        limit = BLOCK_ELEMENTS.get(like.device.type, BLOCK_ELEMENTS["cuda"])
        n_rows = n
        if inputs.can_slice_rows:
            n_blocks = max(1, round(width * n / limit + 0.3))
            n_rows = n if n_blocks == 1 else inputs.padded(-(-n // n_blocks))
        per_block = max(1, limit // max(1, width * n_rows))
        memory = _Memory(self.layers, act.keeps_input, like)
        one_shape = n % n_rows == 0 and n_chains % min(per_block, n_chains) == 0
        self.steps: list[tuple[_Block, slice, int]] = []
        for start in range(0, n_chains, per_block):
            chains = slice(start, min(start + per_block, n_chains))
            blocks: dict[int, _Block] = {}  # by number of rows: the last slice may be shorter
            for a in range(0, n, n_rows):
                rows = slice(a, min(a + n_rows, n))
                size = rows.stop - a
                if size not in blocks:
                    shape = size, inputs.padded(size)
                    blocks[size] = _Block(self, chains, *shape, memory, one_shape)
                self.steps.append((blocks[size], rows, int(a > 0)))
        self.whole = len(self.steps) == 1

    @staticmethod
    def _joint(flat: Tensor, layer: Layer) -> Tensor:
        """Return weight and bias of a layer as one matrix, (chains, fan_in + 1, fan_out)."""
        return flat[:, layer.joint].view(-1, layer.fan_in + 1, layer.fan_out)

    def _fold_forward(self) -> list[Tensor]:
        """Layers as the forward pass wants them: those that lead to an activation scaled."""
        out = list(self.weights)
        if self.act.input_scale != 1.0:  # the first layer's factor is in the inputs
            for i in range(1, len(out) - 1):
                out[i] = torch.empty_like(self.weights[i])
                scale = self.act.input_scale
                self.fold.append(partial(torch.mul, self.weights[i], scale, out=out[i]))
        return out

    def _fold_down(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """Matrices that take derivatives down, above the first layer, and what the sums lack."""
        down: list[Tensor] = []
        lacking: list[Tensor | None] = [None]
        for i in range(len(self.layers) - 1, 0, -1):
            weight, factor = self.weights[i][:, :-1], lacking[0]
            full = weight  # (chains, fan_in, fan_out)
            if factor is not None:
                full = torch.empty_like(weight)
                self.fold_backward.append(partial(torch.mul, weight, factor, out=full))
            down.insert(0, full)
            # below a single output the derivative is an outer product, whose factor comes last
            lacking.insert(0, full.mT if self.layers[i].fan_out == 1 else None)
        return down, lacking

    def _collect(self, lacking: list[Tensor | None], input_scale: float) -> None:
        """Bind the calls that turn the sums over rows into the gradient."""
        calls, unscale = self.collect, 1.0 / input_scale
        into = self._joint(self.grad, self.layers[0])
        if lacking[0] is None:
            calls.append(partial(torch.mul, self.sums[0], unscale, out=into))
        else:  # a product of three in one call
            three = into.new_zeros(()), self.sums[0], lacking[0]
            calls.append(partial(torch.addcmul, *three, value=unscale, out=into))
        for layer, sums, factor in zip(self.layers[1:], self.sums[1:], lacking[1:], strict=True):
            into = self._joint(self.grad, layer)
            if factor is None:
                calls.append(partial(into.copy_, sums.mT))
            else:
                calls.append(partial(torch.mul, sums.mT, factor, out=into))


class _Memory:
    """Activations of one block, shared by all blocks so that they stay in the cache."""

    def __init__(self, layers: list[Layer], keeps_input: bool, like: Tensor) -> None:
        self.layers, self.keeps_input, self.like = layers, keeps_input, like
        self._flat: dict[str, Tensor] = {}

    def activations(self, n_chains: int, n: int, padded: int) -> tuple[list[Tensor], ...]:
        """Pre-activations, activations and derivatives (chains, units, n) of every layer.

        The first two have ``padded`` rows in every layer but the last. Activations have one unit
        more, which is always one, so that a product with them includes the bias.
        """
        pre, post, below = [], [], []
        for i, layer in enumerate(self.layers[:-1]):
            h = self._take(f"post{i}", (n_chains, layer.fan_out + 1, padded))
            h[:, -1] = 1.0
            z = h[:, :-1]
            if self.keeps_input:
                z = self._take(f"pre{i}", (n_chains, layer.fan_out, padded))
            pre.append(z)
            post.append(h)
            below.append(self._take(f"below{i % 2}", (n_chains, layer.fan_out, n)))
        pre.append(self._take("outputs", (n_chains, self.layers[-1].fan_out, n)))
        return pre, post, below

    def _take(self, name: str, shape: tuple[int, int, int]) -> Tensor:
        size = shape[0] * shape[1] * shape[2]
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = self.like.new_empty(size)
        return flat[:size].view(shape)


class _Block:
    """A slice of the chains on a number of rows: views of the plan's tensors, and bound calls.

    Attributes
    ----------
    joint : Tensor of shape (chains, units, n_inputs + 1)
        The first layer.
    product : Tensor of shape (chains, units, padded n)
        Where its product with the inputs goes.
    lowest, lowest_t : Tensor of shape (chains, units, n) and (chains, n, units)
        The same without the padding: in the end, the derivative by that product.
    outputs : Tensor of shape (chains, n_outputs, n)
        Where the outputs are after `forward`, and must be replaced by their derivatives.
    sums : Tensor of shape (chains, n_inputs + 1, units)
        The first layer's sum over rows.
    forward : list of callable
        From ``product`` to ``outputs``.
    backward : pair of list of callable
        Back again; the second adds to the sums over rows.
    """

    def __init__(
        self, plan: _Plan, chains: slice, n: int, padded: int, memory: _Memory, one_shape: bool
    ) -> None:
        act, layers = plan.act, plan.layers
        self.chains = chains
        self.joint = plan.weights[0][chains].mT
        self.sums = plan.sums[0][chains]
        pre, post, below = memory.activations(chains.stop - chains.start, n, padded)
        used = [z[:, :, :n] for z in pre]
        self.product, self.lowest, self.outputs = pre[0], used[0], pre[-1]
        self.lowest_t = self.lowest.mT
        self.forward: list[Callable[[], object]] = []
        self.backward: tuple[list[Callable[[], object]], ...] = ([], [])
        for i, joint in enumerate(plan.folded[1:], start=1):
            h = post[i - 1]
            if not one_shape:  # blocks of other shapes write over the ones
                self.forward.append(partial(h[:, -1].fill_, 1.0))
            self.forward.append(partial(act.forward, pre[i - 1], h[:, :-1]))
            h = h if i < len(layers) - 1 else h[:, :, :n]
            self.forward.append(_product(joint[chains].mT, h, pre[i]))
        for beta, calls in enumerate(self.backward):
            for i in range(len(layers) - 1, 0, -1):
                z, delta = used[i - 1], used[i]
                h = post[i - 1][:, :, :n]
                calls.append(_product(delta, h.mT, plan.sums[i][chains], beta))
                by_post = delta
                if layers[i].fan_out > 1:
                    by_post = below[i - 1]
                    calls.append(_product(plan.down[i - 1][chains], delta, by_post))
                calls.append(partial(act.backward, by_post.expand(z.shape), z, z))


def _product(left: Tensor, right: Tensor, out: Tensor, beta: int = 0) -> Callable[[], object]:
    """Bind ``out = beta * out + left @ right``."""
    if beta == 0:  # `baddbmm` takes several microseconds longer
        return partial(torch.bmm, left, right, out=out)
    return partial(torch.baddbmm, out, left, right, out=out)
