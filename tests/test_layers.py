"""Variational layers: what they draw has the moments that drawn weights give."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skbayes.inference.ascent import FusedAdam
from skbayes.inference.optimizers import Adam
from skbayes.layers.dropout_families import _MolchanovSum
from skbayes.layers.groups import is_chain
from skbayes.layers.kl import kl_log_uniform_molchanov
from skbayes.layers.variational import (
    LEAST,
    Noise,
    VariationalLayer,
    convert,
    layers_of,
    noisy,
    takes_channels_last,
)

CPU = torch.device("cpu")
PARTS = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear on sequences": (lambda: nn.Linear(4, 3), (5, 2, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (5, 2, 6)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, stride=2, groups=2), (5, 4, 4, 4)),
    "padded by reflection": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        (5, 2, 4, 4),
    ),
    "without bias": (lambda: nn.Linear(4, 3, bias=False), (5, 4)),
}


class Fixed(Noise):
    """Noise that is told its numbers."""

    def __init__(self, value):
        super().__init__(0, CPU)
        self.value = value

    def normal(self, *shape, like):
        return torch.full(shape, self.value, dtype=like.dtype)

    def signs(self, *shape, like):
        return torch.ones(shape, dtype=like.dtype)


def make(name, noise=None, estimator="local"):
    """A layer with its moments set, its part, and rows, in float64."""
    kind, shape = PARTS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = kind().double()
        x = torch.randn(shape, dtype=torch.float64)
        variances = [torch.rand_like(p) for p in part.parameters()]
    layer = VariationalLayer(part, noise or Noise(0, CPU))
    layer.estimator = estimator
    variances += [None] * (2 - len(variances))
    layer.put(part.weight, part.bias, *variances)
    return layer, part, x


def exact_moments(part, variances, x):
    """Mean and variance of outputs if weights are drawn: outputs are linear in the weights."""
    parameters = dict(part.named_parameters())
    mean = part(x)
    var = torch.zeros_like(mean)
    for (name, values), spread in zip(parameters.items(), variances, strict=False):
        for i in range(values.numel()):
            one = {key: torch.zeros_like(p) for key, p in parameters.items()}
            one[name].view(-1)[i] = 1.0
            var += torch.func.functional_call(part, one, (x,)) ** 2 * spread.view(-1)[i]
    return mean, var


@pytest.mark.parametrize("name", PARTS)
def test_local_reparameterisation_has_the_moments_of_drawn_weights(name):
    outputs = {}
    with torch.no_grad():
        for value in (-1.0, 0.0, 1.0):
            layer, part, x = make(name, Fixed(value))
            outputs[value] = layer(x)
        mean, var = exact_moments(part, [layer.weight_var, layer.bias_var], x)
    torch.testing.assert_close(outputs[0.0], mean)
    torch.testing.assert_close((outputs[1.0] - outputs[-1.0]) / 2, (var + LEAST).sqrt())


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_flipout_has_these_moments_too_and_rows_are_uncorrelated(name):
    """Each to 4 standard errors; over rows sums vary less than with one draw of the weights."""
    layer, part, x = make(name, estimator="flipout")
    x = x[:1].expand(4, *x.shape[1:])  # equal rows, whose outputs drawn weights would make equal
    n = 1500
    with torch.no_grad():
        mean, var = exact_moments(part, [layer.weight_var, layer.bias_var], x)
        draws = torch.stack([layer(x) for _ in range(n)]) - mean
        sums = draws.sum(1)
    error = (var / n).sqrt()
    assert (draws.mean(0).abs() < 4.5 * error).all()
    assert ((draws.var(0) / var - 1).abs() < 4.5 * (3.0 / n) ** 0.5).all()
    # one draw for all four rows would give 16 var, independent rows 4 var
    assert (sums.var(0) < 5 * var[0]).all()


def test_factors_of_units():
    layer, part, x = make("conv2d", Fixed(0.0))
    z_in, z_out = torch.rand(5, 4).double(), torch.rand(5, 6).double()
    layer.put(part.weight, part.bias, layer.weight_var, layer.bias_var, z_in, z_out)
    expected = part(x * z_in[:, :, None, None]) * z_out[:, :, None, None]
    torch.testing.assert_close(layer(x), expected)
    layer, part, x = make("linear on sequences", Fixed(0.0))
    layer.put(part.weight, part.bias, None, None, z_in, None)
    torch.testing.assert_close(layer(x), part(x * z_in[:, None]))


@pytest.mark.parametrize("name", ["conv2d", "padded by reflection"])
def test_order_of_memory_changes_nothing(name):
    layer, _, x = make(name, Fixed(0.7))
    expected = layer(x)
    layer.channels_last = True
    out = layer(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.is_contiguous()
    torch.testing.assert_close(out, expected)
    noise = Noise(0, CPU).normal_like(out)  # drawn in that order too
    assert noise.stride() == out.stride()
    assert len(noise.unique()) == noise.numel()


def test_modules_that_look_at_their_memory_are_told():
    class Viewing(nn.Sequential):
        def forward(self, x):
            return super().forward(x).view(len(x), -1)

    x = torch.randn(2, 3, 5, 5)
    convolution = nn.Conv2d(3, 2, 2)
    assert takes_channels_last(nn.Sequential(convolution, nn.Flatten()), x)
    assert not takes_channels_last(Viewing(convolution), x)
    assert not takes_channels_last(nn.Linear(5, 2), x[0, 0])


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_gradients_by_finite_differences(name):
    layer, part, x = make(name, Fixed(0.7))
    leaves = [part.weight.detach(), part.bias.detach(), layer.weight_var, layer.bias_var, x]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]

    def outputs(weight, bias, weight_var, bias_var, x):
        layer.put(weight, bias, weight_var, bias_var)
        return layer(x)

    assert torch.autograd.gradcheck(outputs, leaves)


def test_convolution_against_unfolded_rows():
    layer, part, x = make("padded by reflection", Fixed(1.0))
    rows = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3)  # (n, 18, places)
    weight, var = part.weight.reshape(3, -1), layer.weight_var.reshape(3, -1)
    mean = weight @ rows + part.bias[:, None]
    std = (var @ rows**2 + layer.bias_var[:, None] + LEAST).sqrt()
    torch.testing.assert_close(layer(x), (mean + std).view(5, 3, 4, 4))


def test_noise_is_seeded_and_leaves_torch_alone():
    before = torch.random.get_rng_state()
    zero = torch.zeros(50)
    first, again, other = (noisy(zero, zero + 1, Noise(seed, CPU)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_which_layers_are_converted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.twice, self.unused = (nn.Linear(3, 3) for _ in range(3))
            self.tied, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.tied.weight
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, x):
            x = self.other(self.tied(self.twice(self.twice(self.once(x)))))
            return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]

    net, x = Net(), torch.zeros(2, 3)
    assert layers_of(net, x) == ["once"]
    converted = convert(net, Noise(0, CPU), {"once"})
    assert isinstance(converted.once, VariationalLayer)
    assert isinstance(convert(nn.Linear(2, 1), Noise(0, CPU), {""}), VariationalLayer)


def test_chains():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert is_chain(net, ["0", "3"])
    assert not is_chain(net, ["3", "0"])
    assert not is_chain(net, ["0"])  # the other carries no noise
    assert is_chain(nn.Linear(2, 1), [""])

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            x = self.a(x)
            return self.c(x + self.b(x))

    assert not is_chain(Residual(), ["a", "b", "c"])
    mixed = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    assert not is_chain(mixed, ["0", "2"])


class Backwards(nn.Module):
    """Parts in another order than that of the calls."""

    def __init__(self):
        super().__init__()
        self.out, self.second, self.first = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(torch.relu(self.second(torch.relu(self.first(x)))))


def test_order_of_layers_is_that_of_calls():
    net = Backwards()
    assert layers_of(net, torch.zeros(2, 3)) == ["first", "second", "out"]
    assert is_chain(net, ["first", "second", "out"])
    assert not is_chain(net, ["out", "second", "first"])


def test_fast_sum_of_molchanovs_divergence():
    generator = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 40, dtype=torch.float64, generator=generator)
    log_var = (3 * log_var).requires_grad_()
    mean = mean.requires_grad_()
    parts = [slice(0, 11), slice(15, 40)]
    value = _MolchanovSum.apply(mean, log_var, log_var.detach().exp(), parts)
    found = torch.autograd.grad(value, [mean, log_var])
    plain = kl_log_uniform_molchanov(log_var - (mean**2 + 1e-8).log())
    plain = sum(plain[part].sum() for part in parts)
    torch.testing.assert_close(value, plain, rtol=1e-6, atol=0.0)
    for a, b in zip(found, torch.autograd.grad(plain, [mean, log_var]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_fused_adam_is_adam():
    rng = np.random.default_rng(0)
    one, two = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    plain, fused = Adam(one), FusedAdam([two])
    for _ in range(5):
        grad = torch.as_tensor(rng.normal(size=7))
        plain.step(one, grad, 0.1)
        fused.step([grad.clone()], 0.1)
    torch.testing.assert_close(one, two)
