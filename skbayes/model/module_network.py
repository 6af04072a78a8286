"""Any torch module behind the interface of the multilayer perceptron: many weights at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from skbayes.model.module_source import ModuleSource, seeded
from skbayes.model.network import Layer
from skbayes.model.tensor_inputs import TensorInputs

# Elements of all parts' outputs in one block: on a CPU larger ones leave the cache.
BLOCK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 28}

# Elements per chain up to which a CPU is faster with all chains in one call than with a loop.
VMAP_ELEMENTS = 1 << 19

N_PROBE = 8  # rows on which a module is tried out


class ModuleNetwork:
    r"""A torch module on flat parameters, batched over chains.

    theta holds the trainable parameters in the order of ``module.named_parameters()``, tied ones
    once; parameters with ``requires_grad=False`` and buffers stay as they are. All chains go
    through one `torch.func.vmap` of the module, or, on a CPU where the chains are large or single,
    through a loop, which is faster there (grouped convolutions are slow).

    The module is in eval mode, so that a pass is a function of theta alone: dropout layers do
    nothing. *Batch normalisation* that is in training mode in the module as given (as it is unless
    somebody calls its ``eval``) normalises by the statistics of the rows it sees: of all training
    rows in a full-batch method, of the minibatch in others. `statistics` gives those of all rows
    for given weights; appended to the weights, they are used instead, so that a prediction does
    not depend on its neighbours. Batch normalisation in eval mode keeps the statistics it has.

    Parameters
    ----------
    source : ModuleSource
        Makes the module.
    example : ndarray of shape (n, ...)
        A few rows, on which the module is tried out.
    n_outputs : int or None
        Outputs that the module must have; None takes what it has.
    pair : bool
        Whether a module with two outputs may stand for a single logit: their difference.
    refuse : {"probabilities", None}
        Whether outputs that are probabilities already are refused.
    seed : int
        Of what is random in buffers and fixed parameters.

    Attributes
    ----------
    n_params, n_buffers : int
        Trainable parameters, and statistics of batch normalisation that are estimated.
    layers : list of Layer
        Groups of theta for the priors: a weight of two or more dimensions with the vectors that
        follow it in the same part (its bias), or the vectors of a part without such a weight
        (normalisation), whose ``weight`` slice is empty.
    is_linear : bool
        Whether the outputs are linear (affine) in theta.
    """

    weight_dims = ("out", "in")
    input_scale = 1.0

    def __init__(
        self,
        source: ModuleSource,
        example: np.ndarray,
        n_outputs: int | None,
        *,
        pair: bool = False,
        refuse: str | None = None,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.n_inputs = int(np.prod(source.row_shape))
        self._ready: dict[tuple, nn.Module] = {}
        module = source.build(seed)
        self._names: list[str] = []  # of the trainable parameters
        self._shapes: list[tuple[int, ...]] = []
        self._set_layers(module)
        self._fixed = {
            name: tensor.detach().numpy().copy()
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            if name not in self._names
        }
        # (name of the part, channels) of batch normalisation whose statistics are estimated
        self._norms = [
            (name, part.num_features)
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
        ]
        self.n_buffers = 2 * sum(size for _, size in self._norms)
        self._pair = False
        self._per_row, self._vmaps = 1, False
        self._try_out(module, example[:N_PROBE], n_outputs, pair, refuse)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_ready": {}}

    # -------------------------------------------------------------- parameters

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters, in the order of theta."""
        return list(zip(self._names, self._shapes, strict=True))

    def buffers(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the estimated statistics, in the order of `statistics`."""
        out: list[tuple[str, tuple[int, ...]]] = []
        for name, size in self._norms:
            prefix = f"{name}." if name else ""
            out += [(f"{prefix}running_mean", (size,)), (f"{prefix}running_var", (size,))]
        return out

    def initial(self, streams, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Starting weights, one vector per chain.

        A class is called anew for every chain. Of an instance the first chain takes the weights
        as they are; the others call ``reset_parameters`` of every part that has it (parts without
        it keep theirs).
        """
        rows = []
        for c, generator in enumerate(streams.generators):
            seed = int(generator.integers(2**62))
            module = self.source.build(seed)
            if not self.source.is_class and streams.first + c > 0:
                self.source.reinitialise(module, seed)
            named = dict(module.named_parameters())
            rows.append(torch.cat([named[name].detach().reshape(-1) for name in self._names]))
        return torch.stack(rows).to(dtype=dtype, device=device)

    def to_module(self, weights: np.ndarray) -> nn.Module:
        """Return the module with the given weights, (n_params,) or (n_params + n_buffers,)."""
        flat = torch.as_tensor(np.array(weights))
        module = self._hydrate(flat.dtype, flat.device, flat.numel() > self.n_params)
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, values in self._named(flat[None]).items():
                named[name].copy_(values[0])
        return module

    def load_into(self, module: nn.Module, weights: Tensor) -> None:
        """Copy weights (n_params,) into a module of the same source."""
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, values in self._named(weights[None, : self.n_params]).items():
                named[name].copy_(values[0])

    # ------------------------------------------------------------------ passes

    def forward(self, theta: Tensor, inputs: TensorInputs) -> Tensor:
        """Return the outputs (n_chains, n_outputs, n) of every chain's module on every row.

        ``theta`` is (n_chains, n_params), or has the statistics of batch normalisation appended.
        """
        out = theta.new_empty((theta.shape[0], self.n_outputs, inputs.n))
        given = theta.shape[1] > self.n_params
        if self.n_buffers and not given and inputs.n > self._rows_per_block(theta):
            # what all rows at once would give, in bounded memory
            theta = torch.cat([theta, self.statistics(theta, inputs)], 1)
            given = True
        module = self._module(theta, given)
        with torch.no_grad():
            for chains, rows in self._blocks(
                theta, inputs, whole=bool(self.n_buffers) and not given
            ):
                values = self._call(module, self._named(theta[chains]), inputs, chains, rows)
                out[chains, :, rows] = values.mT
        return out

    def vjp(
        self,
        theta: Tensor,
        inputs: TensorInputs,
        cotangent: Callable[[Tensor, slice, slice], Tensor],
    ) -> Tensor:
        """Gradient (n_chains, n_params) of a scalar function of each chain's outputs.

        See `MLPNetwork.vjp`; with batch normalisation ``cotangent`` sees all rows at once.
        """
        grad = torch.zeros_like(theta)
        module = self._module(theta, False)
        for chains, rows in self._blocks(theta, inputs, whole=bool(self.n_buffers)):
            with torch.enable_grad():
                leaves = {
                    name: part.detach().requires_grad_()
                    for name, part in self._named(theta[chains]).items()
                }
                outputs = self._call(module, leaves, inputs, chains, rows)
            delta = cotangent(outputs.detach().mT.clone(), chains, rows)
            parts = torch.autograd.grad(
                outputs, list(leaves.values()), delta.mT, materialize_grads=True, allow_unused=True
            )
            grad[chains] += torch.cat([part.flatten(1) for part in parts], 1)
        return grad

    def blocks_have_all_rows(self, theta: Tensor, inputs: TensorInputs) -> bool:
        """Whether ``cotangent`` of `vjp` sees all rows of some chains, rather than a part."""
        return bool(self.n_buffers) or inputs.n <= self._rows_per_block(theta)

    def statistics(self, theta: Tensor, inputs: TensorInputs) -> Tensor:
        """Means and variances that batch normalisation needs, (n_chains, n_buffers).

        Those of all rows, layer after layer in blocks of rows: each layer's are exact given the
        layers before it. Variances are divided by n, as in a pass over all rows at once.
        """
        net = theta[:, : self.n_params]
        out = torch.zeros((len(net), self.n_buffers), dtype=theta.dtype, device=theta.device)
        starts = np.cumsum([0] + [2 * size for _, size in self._norms])
        spans = {name: (s, size) for s, (name, size) in zip(starts, self._norms, strict=False)}
        module = self._module(theta, True)
        parts = dict(module.named_modules())
        size = self._rows_per_block(theta)
        for c in range(len(net)):
            chain = slice(c, c + 1)
            for name in self._order:
                first, channels = spans[name]
                moments = _Moments(channels, theta.device)
                hook = parts[name].register_forward_pre_hook(moments)
                try:
                    for a in range(0, inputs.n, size):
                        rows = slice(a, min(a + size, inputs.n))
                        named = self._named(torch.cat([net[chain], out[chain]], 1))
                        try:
                            with torch.no_grad():
                                self._call(module, named, inputs, chain, rows, loop=True)
                        except _Seen:
                            pass
                finally:
                    hook.remove()
                mean, variance = moments.result()
                out[c, first : first + channels] = mean.to(out.dtype)
                out[c, first + channels : first + 2 * channels] = variance.to(out.dtype)
        return out

    # ----------------------------------------------------------------- helpers

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        """Parameters, and statistics where theta holds them, each (chains, *shape)."""
        entries = self.parameters()
        if theta.shape[1] > self.n_params:
            entries = entries + self.buffers()
        out, start = {}, 0
        for name, shape in entries:
            stop = start + int(np.prod(shape))
            out[name] = theta[:, start:stop].view(-1, *shape)
            start = stop
        return out

    def _call(
        self,
        module: nn.Module,
        named: dict[str, Tensor],
        inputs: TensorInputs,
        chains: slice,
        rows: slice,
        loop: bool = False,
    ) -> Tensor:
        """Outputs (chains, rows, n_outputs) of one block."""
        X = inputs.block(chains, rows)
        n_chains = chains.stop - chains.start
        if n_chains > 1 and not loop:

            def one(part, x):
                return self._columns(functional_call(module, part, (x,)))

            return vmap(one, in_dims=(0, 0 if inputs.per_chain else None))(named, X)
        out = []
        for c in range(n_chains):
            part = {name: values[c] for name, values in named.items()}
            x = X[c] if inputs.per_chain else X
            out.append(self._columns(functional_call(module, part, (x,))))
        return torch.stack(out)

    def _columns(self, values: Tensor) -> Tensor:
        """Outputs as (rows, n_outputs)."""
        if values.dim() == 1:
            values = values[:, None]
        return values[:, 1:] - values[:, :1] if self._pair else values

    def _rows_per_block(self, theta: Tensor) -> int:
        limit = BLOCK_ELEMENTS.get(theta.device.type, BLOCK_ELEMENTS["cuda"])
        return max(1, limit // self._per_row)

    def _blocks(
        self, theta: Tensor, inputs: TensorInputs, whole: bool
    ) -> Iterator[tuple[slice, slice]]:
        """Slices of chains and rows of bounded memory; ``whole`` does not cut the rows."""
        n_chains, n = theta.shape[0], inputs.n
        n_rows = n if whole else min(n, self._rows_per_block(theta))
        n_rows = -(-n // -(-n // n_rows))  # blocks of equal size
        per_chain = self._per_row * n_rows
        loops = not self._vmaps or (theta.device.type == "cpu" and per_chain > VMAP_ELEMENTS)
        limit = BLOCK_ELEMENTS.get(theta.device.type, BLOCK_ELEMENTS["cuda"])
        n_together = 1 if loops else max(1, limit // per_chain)
        for first in range(0, n_chains, n_together):
            chains = slice(first, min(first + n_together, n_chains))
            for a in range(0, n, n_rows):
                yield chains, slice(a, min(a + n_rows, n))

    def _module(self, like: Tensor, given: bool) -> nn.Module:
        """The module in a float type on a device, made once."""
        key = (like.dtype, like.device, given and bool(self.n_buffers))
        if key not in self._ready:
            self._ready[key] = self._hydrate(*key)
        return self._ready[key]

    def _hydrate(self, dtype: torch.dtype, device: torch.device, given: bool) -> nn.Module:
        """Make the module; ``given`` says whether statistics come with the weights."""
        module = self.source.build(0)
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, values in self._fixed.items():
                named[name].copy_(torch.as_tensor(values))
        module.requires_grad_(False).eval()
        parts = dict(module.named_modules())
        for name, size in self._norms:
            norm = parts[name]
            norm.track_running_stats = given
            norm.running_mean = torch.zeros(size) if given else None
            norm.running_var = torch.ones(size) if given else None
            norm.num_batches_tracked = None
        return module.to(dtype=dtype, device=device)

    def _set_layers(self, module: nn.Module) -> None:
        """Cut theta into the groups of the priors."""
        self.layers: list[Layer] = []
        parts = dict(module.named_modules())
        start, owner, open_layer = 0, None, False
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            path = name.rpartition(".")[0]
            shape = tuple(parameter.shape)
            size = int(np.prod(shape))
            stop = start + size
            if len(shape) > 1:
                fan_in = _fan_in(parts[path], shape)
                layer = Layer(name, slice(start, stop), slice(stop, stop), fan_in, size // fan_in)
                self.layers.append(layer)
            elif open_layer and path == owner:
                last = self.layers[-1]
                bias = slice(last.bias.start, stop)
                self.layers[-1] = Layer(last.name, last.weight, bias, last.fan_in, last.fan_out)
            else:
                none = slice(start, start)
                self.layers.append(Layer(name, none, slice(start, stop), 1, size))
            owner, open_layer = path, True
            self._names.append(name)
            self._shapes.append(shape)
            start = stop
        self.n_params = start
        if not start:
            raise ValueError(
                f"module {type(module).__name__} has no parameters to infer (with "
                "requires_grad=True)."
            )

    # --------------------------------------------------------------- trying out

    def _try_out(self, module: nn.Module, example, n_outputs, pair: bool, refuse) -> None:
        """Run the module on a few rows: shapes, memory, order of its parts, vmap."""
        name = type(module).__name__
        cpu = torch.device("cpu")
        inputs = TensorInputs(example, dtype=torch.float64, device=cpu)
        named = dict(module.named_parameters())
        flat = torch.cat([named[key].detach().double().reshape(-1) for key in self._names])
        probe = self._hydrate(torch.float64, cpu, False)
        weights = {key: value[0] for key, value in self._named(flat[None]).items()}
        X = inputs.block(slice(0, 1), slice(0, inputs.n))
        self._order: list[str] = []  # batch normalisation in the order of the pass
        counts: list[int] = []
        hooks = [
            part.register_forward_hook(lambda _m, _i, out: counts.append(_count(out)))
            for part in probe.modules()
            if not list(part.children())
        ]
        parts = dict(probe.named_modules())
        for key, _ in self._norms:
            seen = lambda _m, _i, key=key: self._order.append(key)  # noqa: E731
            hooks.append(parts[key].register_forward_pre_hook(seen))
        try:
            with torch.no_grad():
                outputs = functional_call(probe, weights, (X,))
        except Exception as error:
            raise ValueError(
                f"module {name} cannot be applied to X, of which {len(example)} rows have the "
                f"shape {tuple(example.shape)}, in float64: {error}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(outputs, Tensor) or outputs.dim() not in (1, 2):
            what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"module {name} must return a tensor of shape (n, n_outputs), but returns {what}."
            )
        if len(outputs) != inputs.n:
            raise ValueError(f"module {name} returns {len(outputs)} rows for {inputs.n} rows of X.")
        unused = {key for key, _ in self._norms} - set(self._order)
        self._norms = [(key, size) for key, size in self._norms if key not in unused]
        self.n_buffers = 2 * sum(size for _, size in self._norms)
        self._order = list(dict.fromkeys(self._order))
        self._per_row = max(1, sum(counts) // inputs.n, outputs[:1].numel(), self.n_inputs)
        found = 1 if outputs.dim() == 1 else outputs.shape[1]
        self._pair = pair and found == 2
        if n_outputs is not None and found != n_outputs and not self._pair:
            also = " (or 2)" if pair else ""
            raise ValueError(
                f"module {name} has the wrong number of outputs: expected {n_outputs}{also}, "
                f"found {found}."
            )
        self.n_outputs = 1 if self._pair else found
        self._check_deterministic(probe, weights, X, outputs)
        if refuse == "probabilities":
            _refuse_probabilities(name, lambda s: self._scaled(probe, weights, X, s), outputs)
        self._vmaps = self._try_vmap(flat, inputs)
        self.is_linear = self._try_linear(flat, inputs)

    def _check_deterministic(self, probe, weights, X, outputs) -> None:
        with seeded(1), torch.no_grad():
            again = functional_call(probe, weights, (X,))
        if not torch.equal(outputs, again):
            raise ValueError(
                f"module {type(probe).__name__} gives two answers for the same weights and rows "
                "in eval mode; randomness is only allowed in dropout layers."
            )

    def _scaled(self, probe, weights, X, scale: float) -> Tensor:
        """Outputs with all weights times a number."""
        with torch.no_grad():
            return functional_call(probe, {k: v * scale for k, v in weights.items()}, (X,))

    def _try_vmap(self, flat: Tensor, inputs: TensorInputs) -> bool:
        """Whether the module and its derivative work under vmap, and agree with a loop."""
        theta, chains, rows = torch.stack([flat, 0.9 * flat]), slice(0, 2), slice(0, inputs.n)
        module = self._module(theta, False)
        results: list[Any] = []
        for loop in (True, False):
            try:
                with torch.enable_grad():
                    leaves = {k: v.clone().requires_grad_() for k, v in self._named(theta).items()}
                    out = self._call(module, leaves, inputs, chains, rows, loop=loop)
                    parts = torch.autograd.grad(
                        out.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True
                    )
            except Exception:
                if loop:
                    raise
                return False
            results.append([out.detach(), *parts])
        return all(
            torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(*results, strict=True)
        )

    def _try_linear(self, flat: Tensor, inputs: TensorInputs) -> bool:
        """Whether f(a) + f(b) = f(a + b) + f(0) for two random vectors."""
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, self.n_params, dtype=torch.float64, generator=generator)
        theta = torch.stack([a, b, a + b, torch.zeros_like(a)])
        module = self._module(theta, False)
        rows = slice(0, inputs.n)
        with torch.no_grad():
            f = self._call(module, self._named(theta), inputs, slice(0, 4), rows, loop=True)
        size = f.abs().max()
        return bool(torch.isfinite(size)) and bool(
            (f[0] + f[1] - f[2] - f[3]).abs().max() <= 1e-9 * size
        )


class _Seen(Exception):
    """Ends a pass as soon as the layer of interest has its input."""


class _Moments:
    """Mean and variance per channel of what a layer is given, over blocks of rows."""

    def __init__(self, n_channels: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(n_channels, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.mean)  # sum of squared deviations

    def __call__(self, _module: nn.Module, args: tuple) -> None:
        x = args[0].detach().double().transpose(0, 1).flatten(1)  # (channels, values)
        n, mean = x.shape[1], x.mean(1)
        # Chan, Golub and LeVeque (1983): sums of squares of two sets
        gap = mean - self.mean
        total = self.count + n
        self.square += ((x - mean[:, None]) ** 2).sum(1) + gap**2 * (self.count * n / total)
        self.mean += gap * (n / total)
        self.count = total
        raise _Seen

    def result(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.square / self.count


def _fan_in(part: nn.Module, shape: tuple[int, ...]) -> int:
    """How many values one output of a part sums over, for a weight (fan_out, ...)."""
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        return 1  # a row is looked up
    if isinstance(part, _ConvTransposeNd):
        return max(1, shape[0] // part.groups) * int(np.prod(shape[2:]))
    return max(1, int(np.prod(shape[1:])))


def _count(value) -> int:
    """Numbers in what a part returns."""
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 0


def _refuse_probabilities(name: str, scaled: Callable[[float], Tensor], outputs: Tensor) -> None:
    """Raise where outputs are probabilities, not logits."""
    columns = outputs if outputs.dim() == 2 else outputs[:, None]
    if columns.shape[1] > 1:
        sums = bool((columns >= 0).all()) and bool((columns.sum(1) - 1).abs().max() < 1e-5)
    else:
        sums = False
    if not sums:  # a sigmoid stays between 0 and 1 whatever the weights
        several = [columns, *(scaled(s).reshape(columns.shape) for s in (-1.0, 3.0, -3.0, 10.0))]
        values = torch.stack(several)
        inside = bool(((values >= 0) & (values <= 1)).all())
        moves = bool((values.std(0) > 1e-9).any())
        sums = inside and moves
    if sums:
        raise ValueError(
            f"module {name} returns probabilities (they sum to one, or stay between 0 and 1); "
            "return logits: leave out the softmax or sigmoid at its end."
        )
