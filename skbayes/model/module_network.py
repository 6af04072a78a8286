"""Any torch module behind the interface of the multilayer perceptron: many weights at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from skbayes.model.batch_norm import Moments, Seen
from skbayes.model.module_layers import group, input_units, trainable, transposed
from skbayes.model.module_source import ModuleSource
from skbayes.model.module_trial import check_logits, try_out
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
    once, the weights of linear layers as (fan_in, fan_out) as `MLPNetwork` has them; parameters
    with ``requires_grad=False`` and buffers stay as they are. All chains go
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
    transposed : set of str
        Names of the weights that theta holds the other way round than the module.
    """

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
        self._parameters = trainable(module)
        self.transposed = transposed(module, self._parameters)
        self.layers = group(module, self._parameters)
        self._units = input_units(module, self._parameters)
        self.n_params = sum(int(np.prod(shape)) for _, shape in self._parameters)
        names = {name for name, _ in self._parameters}
        self._fixed = {
            name: tensor.detach().numpy().copy()
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            if name not in names
        }
        self._set_norms(module)
        flat = self._flat(module).double()
        self._try_out(flat, example[:N_PROBE], n_outputs, pair, refuse)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_ready": {}}

    # -------------------------------------------------------------- parameters

    def units(self, layer: Layer) -> np.ndarray:
        """Which of its input units, or channels, each of a layer's weights belongs to.

        (n_weights,); empty where a layer has no inputs to be dropped, as normalisation and
        embeddings.
        """
        return self._units.get(layer.name, np.empty(0, dtype=np.int64))

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters, in the order of theta."""
        return [
            (name, shape[::-1] if name in self.transposed else shape)
            for name, shape in self._parameters
        ]

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
            rows.append(self._flat(module))
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

    def new_module(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """Return the module for rows in training, on whose weights nothing depends."""
        return self._hydrate(dtype, device, False)

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
            with torch.enable_grad():
                # a sum, not `grad_outputs`, for which torch imports a second's worth of modules
                inner = (outputs * delta.mT).sum()
            parts = torch.autograd.grad(
                inner, list(leaves.values()), materialize_grads=True, allow_unused=True
            )
            grad[chains] += torch.cat(
                [self._as_theta(name, part) for name, part in zip(leaves, parts, strict=True)], 1
            )
        return grad

    def features(self, theta: Tensor, inputs: TensorInputs) -> Tensor:
        """What the last layer receives, (n_chains, fan_in, n).

        Raises
        ------
        ValueError
            Unless the module ends in a `torch.nn.Linear` with a bias that is its last part.
        """
        module = self._module(theta, False)
        last = dict(module.named_modules())[self.layers[-1].name.rpartition(".")[0]]
        if self.n_buffers:
            raise _unknown_last(module, "has batch normalisation that its weights change")
        if self._pair:
            raise _unknown_last(module, "has two columns for two classes; return one")
        if type(last) is not nn.Linear or last.bias is None:
            raise _unknown_last(module)
        seen: list[tuple[Tensor, Tensor]] = []
        hook = last.register_forward_hook(lambda _part, args, out: seen.append((args[0], out)))
        out = theta.new_empty((theta.shape[0], last.in_features, inputs.n))
        chains = [slice(c, c + 1) for c in range(theta.shape[0])]
        try:
            for chain in chains:
                for _, rows in self._blocks(theta[chain], inputs, whole=False):
                    seen.clear()
                    named = self._named(theta[chain])
                    with torch.no_grad():
                        values = self._call(module, named, inputs, chain, rows, loop=True)[0]
                    if len(seen) != 1 or not torch.equal(seen[0][1].reshape(values.shape), values):
                        raise _unknown_last(module)
                    out[chain, :, rows] = seen[0][0].T
        finally:
            hook.remove()
        return out

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
        sizes = [2 * channels for _, channels in self._norms]
        ends = np.cumsum(sizes)
        starts = {name: end - k for (name, _), end, k in zip(self._norms, ends, sizes, strict=True)}
        module = self._module(theta, True)
        parts = dict(module.named_modules())
        size = self._rows_per_block(theta)
        for c in range(len(net)):
            chain = slice(c, c + 1)
            for name, channels in self._norms:
                first = starts[name]
                moments = Moments(channels, theta.device)
                hook = parts[name].register_forward_pre_hook(moments)
                try:
                    for a in range(0, inputs.n, size):
                        rows = slice(a, min(a + size, inputs.n))
                        named = self._named(torch.cat([net[chain], out[chain]], 1))
                        try:
                            with torch.no_grad():
                                self._call(module, named, inputs, chain, rows, loop=True)
                        except Seen:
                            pass
                finally:
                    hook.remove()
                mean, variance = moments.result()
                out[c, first : first + channels] = mean.to(out.dtype)
                out[c, first + channels : first + 2 * channels] = variance.to(out.dtype)
        return out

    # ----------------------------------------------------------------- helpers

    def _flat(self, module: nn.Module) -> Tensor:
        """The parameters of a module as theta has them, (n_params,)."""
        named = dict(module.named_parameters())
        return torch.cat([self._as_theta(n, named[n].detach())[0] for n, _ in self._parameters])

    def _as_theta(self, name: str, values: Tensor) -> Tensor:
        """A parameter of the module ([chains,] *shape) as theta has it, (1 or chains, size)."""
        shape = dict(self._parameters)[name]
        values = values.reshape(-1, *shape)
        return (values.mT if name in self.transposed else values).flatten(1)

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        """Parameters, and statistics where theta holds them, each (chains, *shape)."""
        entries = self.parameters()
        if theta.shape[1] > self.n_params:
            entries = entries + self.buffers()
        out, start = {}, 0
        for name, shape in entries:
            stop = start + int(np.prod(shape))
            values = theta[:, start:stop].view(-1, *shape)
            out[name] = values.mT if name in self.transposed else values
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
                return self.columns(functional_call(module, part, (x,)))

            return vmap(one, in_dims=(0, 0 if inputs.per_chain else None))(named, X)
        out = []
        for c in range(n_chains):
            part = {name: values[c] for name, values in named.items()}
            x = X[c] if inputs.per_chain else X
            out.append(self.columns(functional_call(module, part, (x,))))
        return torch.stack(out)

    def columns(self, values: Tensor) -> Tensor:
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

    def _set_norms(self, module: nn.Module, ran: list[str] | None = None) -> None:
        """Find batch normalisation whose statistics are estimated: names and channels.

        Those that ``ran``, in that order.
        """
        sizes = {
            name: part.num_features
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
        }
        self._norms = list(sizes.items())
        if ran is not None:
            self._norms = [(name, sizes[name]) for name in dict.fromkeys(ran)]
        self.n_buffers = 2 * sum(size for _, size in self._norms)

    # --------------------------------------------------------------- trying out

    def _try_out(self, flat: Tensor, example: np.ndarray, n_outputs, pair: bool, refuse) -> None:
        """Run the module on a few rows, and set what follows from that."""
        inputs = TensorInputs(example, dtype=torch.float64, device=torch.device("cpu"))
        rows = slice(0, inputs.n)
        X = inputs.block(slice(0, 1), rows)
        module = self._module(flat[None], False)
        weights = {name: value[0] for name, value in self._named(flat[None]).items()}
        names = [name for name, _ in self._norms]
        trial = try_out(module, weights, X, names, alone=not names)
        self._per_row = trial.per_row
        self._set_norms(self.source.build(0), trial.order)
        found = trial.outputs.shape[1]
        self._pair = pair and found == 2
        if n_outputs is not None and found != n_outputs and not self._pair:
            also = " (or 2)" if pair else ""
            raise ValueError(
                f"module {type(module).__name__} has the wrong number of outputs: expected "
                f"{n_outputs}{also}, found {found}."
            )
        self.n_outputs = 1 if self._pair else found
        if refuse == "probabilities":
            check_logits(module, weights, X, trial.outputs)
        self._vmaps = self._try_vmap(flat, inputs)
        self.is_linear = self._try_linear(flat, inputs)

    def _try_vmap(self, flat: Tensor, inputs: TensorInputs) -> bool:
        """Whether the module and its derivative work under vmap, and agree with a loop."""
        theta, chains, rows = torch.stack([flat, 0.9 * flat]), slice(0, 2), slice(0, inputs.n)
        module = self._module(theta, False)
        results: list[list[Tensor]] = []
        for loop in (True, False):
            try:
                with torch.enable_grad(), warnings.catch_warnings():
                    # what torch warns of is an operation without a batching rule: a loop is faster
                    warnings.filterwarnings("error", "There is a performance drop")
                    leaves = {k: v.clone().requires_grad_() for k, v in self._named(theta).items()}
                    out = self._call(module, leaves, inputs, chains, rows, loop=loop)
                    parts = torch.autograd.grad(
                        out.sum(), list(leaves.values()), materialize_grads=True, allow_unused=True
                    )
            except Exception:
                if loop:
                    raise
                return False  # such as a branch that depends on values: a loop can do it
            results.append([out.detach(), *parts])
        pairs = zip(*results, strict=True)
        return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in pairs)

    def _try_linear(self, flat: Tensor, inputs: TensorInputs) -> bool:
        """Whether f(a) + f(b) = f(a + b) + f(0) for two random vectors."""
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, self.n_params, dtype=torch.float64, generator=generator)
        theta = torch.stack([a, b, a + b, torch.zeros_like(a)])
        module = self._module(theta, False)
        chains, rows = slice(0, 4), slice(0, inputs.n)
        with torch.no_grad():
            f = self._call(module, self._named(theta), inputs, chains, rows, loop=True)
        gap = (f[0] + f[1] - f[2] - f[3]).abs().max()
        return bool(torch.isfinite(f).all()) and bool(gap <= 1e-9 * f.abs().max())


def _unknown_last(
    module: nn.Module, why: str = "does not end in a torch.nn.Linear with a bias, as its last part"
) -> ValueError:
    return ValueError(f"The last layer of {type(module).__name__} is not known: it {why}.")
