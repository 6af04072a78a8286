"""Layers whose weights are normal, and the estimators of what they give."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ESTIMATORS = ("local", "weight", "flipout", "mean")
"""See `VariationalLayer`."""

LEAST = 1e-8
"""Added to variances under a root, whose slope is infinite at zero."""

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Noise:
    """Where the random numbers of variational layers come from.

    Parameters
    ----------
    seed : int
        Seed.
    device : torch.device
        Where the numbers are needed.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def normal_like(self, like: Tensor) -> Tensor:
        """Standard normal numbers, in the shape and order of memory of another tensor."""
        strides = torch.empty_like(like).stride()  # dense, in any order of axes
        # drawn as one row: drawing along strides takes ten times as long
        return self.normal(like.numel(), like=like).as_strided(like.shape, strides)

    def signs(self, *shape: int, like: Tensor) -> Tensor:
        """Plus or minus one with equal chance."""
        out = torch.empty(shape, dtype=like.dtype, device=like.device)
        return out.bernoulli_(0.5, generator=self.generator).mul_(2.0).sub_(1.0)

    def draw(self, mean: Tensor, var: Tensor) -> Tensor:
        """One draw from N(mean, var), differentiable in both."""
        return noisy(mean, var, self)


class VariationalLayer(nn.Module):
    r"""A linear or convolution layer with independent normal weights.

    Weights and biases have means m and variances v, which are set from outside before every pass
    (`put`): they are no parameters of the layer. With x the inputs, times what noise there is on
    the input units, and op the product or convolution,

    - *local* draws the outputs instead of the weights: the local reparameterisation trick of
      Kingma, Salimans and Welling (2015, section 2.3),

      .. math:: \text{op}(x, m) + m_b + \sqrt{\text{op}(x^2, v) + v_b}\; \epsilon .

      Each output has exactly the mean and variance that drawn weights would give it, and rows are
      independent, so that the gradient of a minibatch varies less. The outputs of a convolution
      share weights, but are drawn as if they did not (as in Molchanov, Ashukha and Vetrov, 2017).
    - *flipout*, Wen et al. (2018, section 3.1), draws the weights once and gives every row other
      signs of their deviations,

      .. math:: \text{op}(x, m) + m_b + s \circ \text{op}(r \circ x, \sqrt{v} \epsilon)
                + \sqrt{v_b}\, \epsilon_b ,

      with r a sign for every row and input unit (channel), s for every row and output unit.
    - *mean* takes the means. With a draw of the weights in their place, the same for all rows, it
      is what "weight" does.

    Parameters
    ----------
    part : nn.Linear, nn.Conv1d or nn.Conv2d
        The layer in whose place this one stands.
    noise : Noise
        Random numbers.

    Attributes
    ----------
    estimator : str
        "local", "flipout" or "mean".
    n_in, n_out, n_weights : int
        Units or channels on either side, and weights.
    weight_shape : tuple of int
        As the part has it.
    n_blocks : int
        Groups of channels that see only each other.
    channels_last : bool
        Whether images are worked on in this order of memory, see `takes_channels_last`.
    """

    weight: Tensor | None
    bias: Tensor | None
    weight_var: Tensor | None
    bias_var: Tensor | None
    z_in: Tensor | None
    z_out: Tensor | None

    def __init__(self, part: nn.Module, noise: Noise) -> None:
        super().__init__()
        self.noise = noise
        self.estimator = "local"
        self.is_linear = isinstance(part, nn.Linear)
        self.weight_shape = tuple(part.weight.shape)  # type: ignore[union-attr, arg-type]
        self.n_weights = math.prod(self.weight_shape)
        self.n_blocks = 1 if self.is_linear else int(part.groups)  # type: ignore[arg-type]
        self.n_in, self.n_out = self.weight_shape[1] * self.n_blocks, self.weight_shape[0]
        self.channels_last = False
        # the part itself makes convolutions, whose padding has many kinds; hidden from `parameters`
        self._part = (part,)
        self.put(None, None)

    def put(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        weight_var: Tensor | None = None,
        bias_var: Tensor | None = None,
        z_in: Tensor | None = None,
        z_out: Tensor | None = None,
    ) -> None:
        """Set means and variances; where these are None, weights are what they are.

        ``z_in`` (n, inputs) and ``z_out`` (n, outputs) are factors of the input and output units or
        channels of every row.
        """
        # not by setattr, which looks for parameters and takes several microseconds each
        self.__dict__.update(
            weight=weight,
            bias=bias,
            weight_var=weight_var,
            bias_var=bias_var,
            z_in=z_in,
            z_out=z_out,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for rows x, as the part that this stands for has them."""
        if self.z_in is not None:
            x = x * self._spread(self.z_in, x)
        out = self._op(x, self.weight, self.bias)
        if self.weight_var is not None and self.estimator == "local":
            out = noisy(out, self._op(x * x, self.weight_var, self.bias_var), self.noise)
        elif self.weight_var is not None and self.estimator == "flipout":
            out = out + self._flipped(x, out)
        return out if self.z_out is None else out * self._spread(self.z_out, out)

    def _flipped(self, x: Tensor, out: Tensor) -> Tensor:
        """What flipout adds to the outputs of the means."""
        assert self.weight_var is not None
        zero = torch.zeros_like(self.weight_var)
        shift = self._op(
            x * self._spread(self.noise.signs(len(x), self._n_units(x), like=x), x),
            noisy(zero, self.weight_var, self.noise),
            None,
        )
        shift = shift * self._spread(self.noise.signs(len(x), self._n_units(out), like=x), out)
        if self.bias_var is not None:
            n_units = len(self.bias_var)
            of_bias = self.bias_var.expand(len(x), n_units)
            shift = shift + self._spread(noisy(torch.zeros_like(of_bias), of_bias, self.noise), out)
        return shift

    def _n_units(self, x: Tensor) -> int:
        """Units or channels of inputs or outputs; linear layers have them in the last axis."""
        return x.shape[-1 if self.is_linear else 1]

    def _spread(self, z: Tensor, x: Tensor) -> Tensor:
        """Factors (n, units) in the shape of x, which has further axes."""
        axes = (1,) * (x.dim() - 2)
        shape = (len(z), *axes, z.shape[1]) if self.is_linear else (len(z), z.shape[1], *axes)
        return z.view(shape)

    def _op(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.is_linear:
            return F.linear(x, weight, bias)  # type: ignore[arg-type]
        if self.channels_last:
            x = x.to(memory_format=torch.channels_last)
        return self._part[0]._conv_forward(x, weight, bias)  # type: ignore[operator]


def convert(module: nn.Module, noise: Noise, names: set[str]) -> nn.Module:
    """Put variational layers in the place of linear and convolution layers.

    Parameters
    ----------
    module : nn.Module
        Changed in place, unless it is such a layer itself.
    noise : Noise
        Random numbers of all layers.
    names : set of str
        Names of the layers, see `layers_of`.

    Returns
    -------
    nn.Module
        The module, or what stands in its place.
    """
    if "" in names:
        return VariationalLayer(module, noise)
    for name in names:
        path, _, last = name.rpartition(".")
        setattr(
            module.get_submodule(path), last, VariationalLayer(module.get_submodule(name), noise)
        )
    return module


def layers_of(module: nn.Module, x: Tensor) -> list[str]:
    """Names of the layers that `convert` can replace, in the order of their calls.

    Those that are called exactly once in a pass and share their weights with no other part. Of a
    layer that is called several times (a recurrence) the outputs must belong to the same weights.

    Parameters
    ----------
    module : nn.Module
        The module.
    x : Tensor of shape (n, ...)
        Some rows.
    """
    owners: dict[int, int] = {}
    for part in module.modules():
        for values in part._parameters.values():
            if values is not None:
                owners[id(values)] = owners.get(id(values), 0) + 1
    calls: dict[str, int] = {}
    hooks = []
    for name, part in module.named_modules():
        shared = any(
            owners[id(values)] > 1 for values in part._parameters.values() if values is not None
        )
        # derived classes may use their weights in other ways
        if type(part) in KINDS and not shared:

            def count(*_, name=name):
                calls[name] = calls.get(name, 0) + 1

            hooks.append(part.register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, number in calls.items() if number == 1]


def takes_channels_last(module: nn.Module, x: Tensor) -> bool:
    """Whether a module takes images whose channels are the last axis in memory.

    Convolutions hand this order on; on a CPU their gradients and poolings are faster in it. A
    module that looks at its memory (`Tensor.view`) may fail.

    Parameters
    ----------
    module : nn.Module
        The module.
    x : Tensor of shape (n, ...)
        Some rows.
    """
    if x.dim() != 4:
        return False
    try:
        with torch.no_grad():
            module(x.to(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def noisy(mean: Tensor, var: Tensor, noise: Noise) -> Tensor:
    """``mean + sqrt(var + LEAST) * epsilon`` with new noise, differentiable in both."""
    return _Noisy.apply(mean, var, noise)


class _Noisy(torch.autograd.Function):
    """In fewer passes over memory than autograd would take."""

    @staticmethod
    def forward(ctx, mean, var, noise):
        epsilon = noise.normal_like(mean)
        root = torch.add(var, LEAST).sqrt_()
        out = torch.addcmul(mean, root, epsilon)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(epsilon.div_(root).mul_(0.5))
        return out

    @staticmethod
    def backward(ctx, grad):
        by_var = grad * ctx.saved_tensors[0] if ctx.needs_input_grad[1] else None
        return grad, by_var, None
