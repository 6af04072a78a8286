"""A posterior over the decoder's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from skbayes.density.networks import Dense
from skbayes.layers.kl import kl_normal
from skbayes.layers.variational import Noise, VariationalLayer

START = 0.05
"""Standard deviation of the weights at the start, times the square root of the inputs."""


class NormalDense(Dense):
    r"""An affine map whose weights and biases are independent normals.

    .. math:: q(w) = \prod_i N(w_i; m_i, s_i^2), \qquad p(w) = \prod_i N(w_i; 0, 1)

    In training outputs are drawn in place of weights (`VariationalLayer`, "local"), for each row
    and point anew. In evaluation the weights are a draw, the same for all rows, or their means.

    Parameters
    ----------
    dense : Dense
        Its weights are the means' start.
    noise : Noise
        Random numbers of training.
    """

    def __init__(self, dense: Dense, noise: Noise) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = dense.weight, dense.bias
        n_out, n_in = dense.weight.shape
        start = 2.0 * math.log(START / math.sqrt(max(n_in, 1)))
        self.weight_log_var = nn.Parameter(torch.full_like(self.weight, start))
        self.bias_log_var = nn.Parameter(torch.full_like(self.bias, start))
        self.local = VariationalLayer(skip_init(nn.Linear, n_in, n_out), noise)
        self.drawn: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        if self.drawn is not None:
            return nn.functional.linear(x, *self.drawn)
        if not self.training:
            return super().forward(x)
        variances = torch.exp(self.weight_log_var), torch.exp(self.bias_log_var)
        self.local.put(self.weight, self.bias, *variances)
        return self.local(x)

    def draw(self, generator: torch.Generator) -> None:
        """Set the weights to a draw."""
        parts = (self.weight, self.weight_log_var), (self.bias, self.bias_log_var)
        weight, bias = (
            mean + torch.exp(0.5 * log_var) * _normal(mean, generator) for mean, log_var in parts
        )
        self.drawn = weight, bias

    def kl(self) -> Tensor:
        """Divergence of the weights from their prior, in nats."""
        weight = kl_normal(self.weight, torch.exp(self.weight_log_var))
        return weight.sum() + kl_normal(self.bias, torch.exp(self.bias_log_var)).sum()


class DecoderWeights:
    """The normal layers of a decoder, which take the place of its own.

    Parameters
    ----------
    decoder : Module
        Changed in place.
    n_draws : int
        Draws of the weights that answers are averaged over; always the same ones.
    seed : int
        Of the random numbers of training.
    """

    def __init__(self, decoder: nn.Module, n_draws: int, seed: int) -> None:
        self.n_draws = n_draws
        noise = _NoiseAnywhere(seed)
        self.layers: list[NormalDense] = []
        for name, part in list(decoder.named_modules()):
            if type(part) is Dense:
                path, _, last = name.rpartition(".")
                layer = NormalDense(part, noise)
                setattr(decoder.get_submodule(path), last, layer)
                self.layers.append(layer)

    def draws(self) -> Iterator[int]:
        """Set the weights to one draw after another, then free them."""
        generator = torch.Generator().manual_seed(0)
        try:
            for number in range(self.n_draws):
                for layer in self.layers:
                    layer.draw(generator)
                yield number
        finally:
            for layer in self.layers:
                layer.drawn = None

    def kl(self) -> Tensor:
        """Divergence of all weights from their prior, in nats."""
        return torch.stack([layer.kl() for layer in self.layers]).sum()


class _NoiseAnywhere(Noise):
    """Random numbers on the device where they are first asked for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.on: torch.device | None = None

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        if self.on != like.device:
            super().__init__(self.seed, like.device)
            self.on = like.device
        return super().normal(*shape, like=like)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers that are the same on all devices and in all precisions."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
