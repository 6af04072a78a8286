"""The multilayer perceptron: many weight vectors at once, forward and backward by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    output. There is no autograd graph; buffers and views are made once and used again.

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

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_plans": {}}

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

        Glorot and Bengio (2010), with He's gain where the activation halves the variance.
        """
        theta = streams.normal(self.n_params, dtype=dtype, device=device)
        for layer in self.layers:
            gain = 2.0 if self.activation in ("relu", "silu", "gelu") else 1.0
            theta[:, layer.weight] *= (2.0 * gain / (layer.fan_in + layer.fan_out)) ** 0.5
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

    # ------------------------------------------------------------------ passes

    def forward(self, theta: Tensor, inputs: Inputs) -> Tensor:
        """Outputs (n_chains, n_outputs, n) of every chain's network on every row."""
        out = theta.new_empty((theta.shape[0], self.n_outputs, inputs.n))
        plan = self._plan(theta, inputs)
        plan.load(theta, backward=False)
        for block in plan.blocks:
            for rows in plan.row_slices:
                part = out if plan.whole else out[block.chains, :, rows]
                part.copy_(self._forward_block(block, inputs, rows))
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
        plan.load(theta, backward=True)
        for block in plan.blocks:
            for i, rows in enumerate(plan.row_slices):
                outputs = self._forward_block(block, inputs, rows)
                delta = cotangent(outputs, block.chains, rows)
                self._backward_block(block, inputs, rows, delta, first=i == 0)
        plan.collect()
        return plan.grad

    def _plan(self, theta: Tensor, inputs: Inputs) -> _Plan:
        key = (theta.shape[0], inputs.n, inputs.can_slice_rows, theta.dtype, theta.device)
        if key not in self._plans:
            if len(self._plans) > 8:  # minibatches of many sizes must not pile up
                self._plans.clear()
            self._plans[key] = _Plan(self, theta, inputs.n, inputs.can_slice_rows)
        return self._plans[key]

    def _forward_block(self, block: _Block, inputs: Inputs, rows: slice) -> Tensor:
        """Outputs (chains, n_outputs, rows); fills the plan's activations."""
        act = ACTIVATIONS[self.activation]
        pre, post, _, _ = block.activations(rows.stop - rows.start)
        inputs.times(block.joint, block.chains, rows, pre[0])
        for i, (weight, bias) in enumerate(block.prepared, start=1):
            act.forward(pre[i - 1], post[i - 1])
            torch.baddbmm(bias, weight, post[i - 1], out=pre[i])
        return pre[-1]

    def _backward_block(
        self, block: _Block, inputs: Inputs, rows: slice, delta: Tensor, first: bool
    ) -> None:
        """Add a block's gradient to the block's sums; ``delta`` is that by the outputs."""
        act = ACTIVATIONS[self.activation]
        pre, _, transposed, below = block.activations(rows.stop - rows.start)
        beta = 0 if first else 1
        for i in range(len(self.layers) - 1, 0, -1):
            weight, bias = block.sums[i]
            torch.baddbmm(weight, delta, transposed[i - 1], beta=beta, out=weight)
            torch.baddbmm(bias, delta, block.ones(delta), beta=beta, out=bias)
            z = pre[i - 1]
            if self.layers[i].fan_out == 1:
                # an outer product, whose factor `_Plan.collect` multiplies in
                act.backward(delta.expand(z.shape), z, z)
            else:
                torch.bmm(block.down[i], delta, out=below[i - 1])
                act.backward(below[i - 1], z, z)
            delta = z
        inputs.add_outer(delta, block.chains, rows, block.sums[0][0], beta)


class _Plan:
    """Buffers and views for one number of chains and rows.

    The backward pass leaves factors out of its large arrays: below a layer with a single output
    the derivative is an outer product, w times delta, and w enters only when the sums over rows
    are done. ``lacking[i]`` is the factor (chains, 1, fan_out) that the sums of layer i lack.
    """

    def __init__(self, network: MLPNetwork, like: Tensor, n: int, can_slice_rows: bool) -> None:
        act = ACTIVATIONS[network.activation]
        self.act, self.layers = act, network.layers
        n_chains = like.shape[0]
        self.theta = like.new_empty((n_chains, network.n_params))
        self.grad = like.new_empty((n_chains, network.n_params))
        weights, biases = zip(*(self._views(self.theta, la) for la in self.layers), strict=True)
        self.weights, self.biases = weights, biases
        last = len(self.layers) - 1
        # Layers above the first, with the activations' affine maps folded in: [(weight, bias)].
        self.inner = [act.input_scale if i < last else 1.0 for i in range(last + 1)]
        self.folded = act.scale != 1.0 or act.shift != 0.0 or act.input_scale != 1.0
        self.prepared: list[tuple[Tensor, Tensor]] = []
        for w, b in zip(weights[1:], biases[1:], strict=True):
            self.prepared.append(
                (torch.empty_like(w), torch.empty_like(b)) if self.folded else (w, b)
            )
        # Sums over rows: the first layer's (chains, fan_in + 1, fan_out), else transposed, with
        # the bias apart.
        first = self.layers[0]
        joint = like.new_empty((n_chains, first.fan_in + 1, first.fan_out))
        self.sums: list[tuple[Tensor, Tensor]] = [(joint, joint)]
        for layer in self.layers[1:]:
            weight = like.new_empty((n_chains, layer.fan_out, layer.fan_in))
            self.sums.append((weight, like.new_empty((n_chains, layer.fan_out, 1))))
        self.sums_transposed = [(weight.mT, bias.mT) for weight, bias in self.sums]
        self.grads = [self._views(self.grad, layer) for layer in self.layers]
        self.grad_joint = self.grad[:, first.joint].view(joint.shape)
        self.down: list[Tensor | None] = [None] * (last + 1)
        self.lacking: list[Tensor | None] = [None] * (last + 1)
        for i in range(last, 0, -1):
            slope = act.scale * (act.input_scale if i > 1 else 1.0)
            if slope == 1.0 and self.lacking[i] is None:
                full = weights[i]
            elif self.folded and slope == act.scale * self.inner[i] and self.lacking[i] is None:
                full = self.prepared[i - 1][0]
            else:
                full = torch.empty_like(weights[i])  # (chains, fan_in, fan_out)
            self.down[i] = full
            if self.layers[i].fan_out == 1:
                self.lacking[i - 1] = full.mT
        self.shifts = [like.new_full((n_chains, 1, la.fan_in), act.shift) for la in self.layers[1:]]

        width = max(layer.fan_out for layer in self.layers)
        limit = BLOCK_ELEMENTS.get(like.device.type, BLOCK_ELEMENTS["cuda"])
        n_rows = n
        if can_slice_rows:
            n_blocks = max(1, round(width * n / limit + 0.3))
            n_rows = -(-n // n_blocks)
        self.row_slices = [slice(a, min(a + n_rows, n)) for a in range(0, n, n_rows)]
        per_block = max(1, limit // max(1, width * n_rows))
        starts = range(0, n_chains, per_block)
        memory = _Memory(self.layers, act.keeps_input, like)
        self.blocks = [_Block(self, slice(a, min(a + per_block, n_chains)), memory) for a in starts]
        self.whole = len(self.blocks) == 1 and len(self.row_slices) == 1

    @staticmethod
    def _views(flat: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        weight = flat[:, layer.weight].view(-1, layer.fan_in, layer.fan_out)
        return weight, flat[:, None, layer.bias]

    def load(self, theta: Tensor, backward: bool) -> None:
        """Take new weights in and do all that is of the weights' size alone."""
        self.theta.copy_(theta)
        act = self.act
        if self.folded:
            for i, (into_weight, into_bias) in enumerate(self.prepared, start=1):
                w, inner = self.weights[i], self.inner[i]
                torch.mul(w, act.scale * inner, out=into_weight)
                torch.baddbmm(self.biases[i], self.shifts[i - 1], w, out=into_bias)
                if inner != 1.0:
                    into_bias *= inner
        if not backward:
            return
        for i in range(len(self.layers) - 1, 0, -1):
            # to the first layer only up to its scaled pre-activation: the inputs carry the rest
            slope = act.scale * (act.input_scale if i > 1 else 1.0)
            down, lacking = self.down[i], self.lacking[i]
            if down is self.weights[i] or (self.folded and down is self.prepared[i - 1][0]):
                continue
            torch.mul(self.weights[i], slope, out=down)
            if lacking is not None:
                down *= lacking

    def collect(self) -> None:
        """Turn the sums over rows into the gradient; all this is of the size of the weights."""
        act = self.act
        for i in range(len(self.layers) - 1, 0, -1):
            weight, bias = self.sums_transposed[i]
            lacking = self.lacking[i]
            if lacking is not None:
                weight, bias = weight * lacking, bias * lacking
            into_weight, into_bias = self.grads[i]
            into_bias.copy_(bias)
            if act.shift != 0.0:
                torch.add(act.shift * bias, weight, alpha=act.scale, out=into_weight)
            else:
                into_weight.copy_(weight)
        if self.lacking[0] is not None:
            torch.mul(self.sums[0][0], self.lacking[0], out=self.grad_joint)
        else:
            self.grad_joint.copy_(self.sums[0][0])


class _Memory:
    """Activations of one block, shared by all blocks so that they stay in the cache."""

    def __init__(self, layers: list[Layer], keeps_input: bool, like: Tensor) -> None:
        self.layers, self.keeps_input, self.like = layers, keeps_input, like
        self._flat: dict[str, Tensor] = {}
        self._activations: dict[tuple[int, int], tuple] = {}
        self._ones: dict[tuple[int, int], Tensor] = {}

    def activations(self, n_chains: int, n: int) -> tuple[list[Tensor], ...]:
        """Pre-activations, activations, the same transposed, and derivatives, for every layer.

        Each is (chains, units, n), the third (chains, n, units).
        """
        key = (n_chains, n)
        if key not in self._activations:
            sizes = [(n_chains, layer.fan_out, n) for layer in self.layers]
            pre = [self._take(f"pre{i}", size) for i, size in enumerate(sizes)]
            post = pre
            if self.keeps_input:
                post = [self._take(f"post{i}", size) for i, size in enumerate(sizes)]
            below = [self._take(f"below{i % 2}", size) for i, size in enumerate(sizes)]
            self._activations[key] = (pre, post, [h.mT for h in post], below)
        return self._activations[key]

    def ones(self, n_chains: int, n: int) -> Tensor:
        """Ones (chains, n, 1): a sum over rows as a matrix product."""
        key = (n_chains, n)
        if key not in self._ones:
            self._ones[key] = self.like.new_ones(1, n, 1).expand(n_chains, -1, -1)
        return self._ones[key]

    def _take(self, name: str, shape: tuple[int, int, int]) -> Tensor:
        size = shape[0] * shape[1] * shape[2]
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = self.like.new_empty(size)
        return flat[:size].view(shape)


class _Block:
    """A slice of the chains: views of the plan's tensors."""

    def __init__(self, plan: _Plan, chains: slice, memory: _Memory) -> None:
        self.chains = chains
        self.n_chains = chains.stop - chains.start
        self._memory = memory
        first = plan.layers[0]
        shape = (-1, first.fan_in + 1, first.fan_out)
        self.joint = plan.theta[chains, first.joint].view(shape).mT  # (chains, units, inputs + 1)
        self.prepared = [(w[chains].mT, b[chains].mT) for w, b in plan.prepared]
        self.down = [None if d is None else d[chains] for d in plan.down]
        self.sums = [(weight[chains], bias[chains]) for weight, bias in plan.sums]

    def activations(self, n: int) -> tuple[list[Tensor], ...]:
        return self._memory.activations(self.n_chains, n)

    def ones(self, delta: Tensor) -> Tensor:
        return self._memory.ones(self.n_chains, delta.shape[2])
