"""Likelihoods against scipy's densities, constants included, and their derivatives."""

import numpy as np
import pytest
import torch
from problems import F64, KINDS, SCALE, make_likelihood, make_targets
from scipy import integrate, special, stats

from skbayes.inference import Streams
from skbayes.model import Normal

N, CHAINS = 11, 3


def noise_of(raw, scale):
    """The definition of the noise, restated."""
    return scale * (0.003 + np.logaddexp(0.0, raw + np.log(np.expm1(0.3))))


def reference(kind, outputs, params, y):
    """Log density (n_chains, n) of every row by scipy."""
    if kind in ("bernoulli", "labels"):
        return stats.bernoulli(special.expit(outputs)).logpmf(y).sum(1)
    if kind == "categorical":
        out = np.empty((len(outputs), y.shape[1]))
        for c, i in np.ndindex(out.shape):
            out[c, i] = stats.multinomial(1, special.softmax(outputs[c, :, i])).logpmf(y[:, i])
        return out
    if kind == "fixed":
        sigma = np.array([0.7, 1.3])[:, None]
    elif kind == "learned":
        sigma = noise_of(params, SCALE)[:, :, None]
    else:
        sigma = noise_of(0.5 * outputs[:, 2:], SCALE[:, None])
    return stats.norm(outputs[:, :2], sigma).logpdf(y).sum(1)


@pytest.fixture(params=KINDS)
def case(request):
    """Kind, likelihood, outputs, own parameters, targets, weights."""
    rng = np.random.default_rng(0)
    likelihood, n_outputs = make_likelihood(request.param)
    outputs = torch.as_tensor(2.0 * rng.normal(size=(CHAINS, n_outputs, N)))
    params = torch.as_tensor(rng.normal(size=(CHAINS, likelihood.n_params)))
    y = torch.as_tensor(make_targets(request.param, N, rng))[None]
    weight = torch.as_tensor(rng.integers(0, 4, size=(1, N)).astype(float))
    return request.param, likelihood, outputs, params, y, weight


def value(likelihood, outputs, params, y, weight):
    statistic = likelihood.statistic(outputs, y, None if weight is None else weight[:, None])
    total = float(y.shape[2]) if weight is None else weight.sum(1)
    return likelihood.finish(statistic, likelihood.at(params), total)


def test_pointwise_is_scipys_density(case):
    kind, likelihood, outputs, params, y, _ = case
    expected = reference(kind, outputs.numpy(), params.numpy(), y[0].numpy())
    np.testing.assert_allclose(likelihood.pointwise(outputs, params, y), expected, rtol=1e-10)


def test_densities_sum_and_integrate_to_one(case):
    kind, likelihood, outputs, params, y, _ = case
    first, params = outputs[:1, :, :1], params[:1]
    if kind in ("bernoulli", "labels", "categorical"):
        k = y.shape[1]
        every = np.eye(3) if kind == "categorical" else np.array(list(np.ndindex((2,) * k)))
        rows = torch.as_tensor(every, **F64)[:, :, None]
        total = float(sum(likelihood.pointwise(first, params, row[None]).exp() for row in rows))
        assert abs(total - 1.0) < 1e-12
        return
    grid = np.linspace(-60.0, 60.0, 1201)
    both = np.stack(np.meshgrid(grid, grid, indexing="ij")).reshape(1, 2, -1)
    density = likelihood.pointwise(first, params, torch.as_tensor(both)).exp().numpy()
    mass = density.reshape(1201, 1201).sum() * (grid[1] - grid[0]) ** 2
    assert abs(mass - 1.0) < 1e-6


@pytest.mark.parametrize("weighted", [False, True])
def test_value_is_the_weighted_sum(case, weighted):
    _, likelihood, outputs, params, y, weight = case
    weight = weight if weighted else None
    rows = likelihood.pointwise(outputs, params, y)
    expected = (rows if weight is None else rows * weight).sum(1)
    found = value(likelihood, outputs, params, y, weight)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_autograd(case, weighted):
    _, likelihood, outputs, params, y, weight = case
    weight = weight if weighted else None
    free, own = outputs.clone().requires_grad_(), params.clone().requires_grad_()
    rows = likelihood.pointwise(free, own, y)
    (rows if weight is None else rows * weight).sum().backward()
    lifted = None if weight is None else weight[:, None]
    prepared = likelihood.prepare(likelihood.at(params), y, lifted)
    statistic = likelihood.statistic(outputs, y, lifted)
    found = likelihood.gradient(outputs.clone(), *prepared)
    np.testing.assert_allclose(found, free.grad, rtol=1e-10, atol=1e-12)
    if likelihood.n_params:
        total = float(N) if weight is None else weight.sum(1)
        found = likelihood.params_gradient(statistic, likelihood.at(params), total)
        np.testing.assert_allclose(found, own.grad, rtol=1e-10, atol=1e-12)


def test_extreme_logits_stay_finite():
    for kind in ("bernoulli", "categorical"):
        likelihood, n_outputs = make_likelihood(kind)
        outputs = torch.tensor([1e4, -1e4, 0.0], **F64).view(1, -1, 1)[:, :n_outputs]
        outputs = outputs.expand(1, n_outputs, 2)
        y = torch.as_tensor(np.eye(n_outputs, 2) if n_outputs > 1 else [[0.0, 1.0]])[None]
        logs = likelihood.pointwise(outputs, outputs[:, :0, 0], y)[0]
        np.testing.assert_allclose(sorted(logs), [-1e4 if kind == "bernoulli" else -2e4, 0.0])


def test_float32_sums_are_float64():
    likelihood = Normal(1, np.array([0.1]), np.ones(1))
    outputs = torch.randn(1, 1, 10_000, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(1, 1, 10_000)
    found = value(likelihood, outputs, outputs[:, :0, 0], y, None)
    exact = value(likelihood, outputs.double(), outputs[:, :0, 0].double(), y.double(), None)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, exact, rtol=1e-9)


# ------------------------------------------------------------------------ learned noise


def test_noise_prior_is_proper_and_normal():
    likelihood = Normal(1, "learned", np.array([3.0]))

    def density(raw):
        return float(likelihood.log_prior_and_grad(torch.tensor([[raw]], **F64))[0].exp())

    assert abs(integrate.quad(density, -np.inf, np.inf)[0] - 1.0) < 1e-9
    raw = np.linspace(-5, 5, 11)[:, None]
    found, grad = likelihood.log_prior_and_grad(torch.as_tensor(raw))
    np.testing.assert_allclose(found, stats.norm(0, 1.5).logpdf(raw[:, 0]))
    np.testing.assert_allclose(grad, -raw / 1.5**2)
    drawn = likelihood.sample_prior(Streams(0, 4000), **F64).numpy()[:, 0]
    assert stats.kstest(drawn, stats.norm(0, 1.5).cdf).pvalue > 1e-3


def test_noise_prior_in_units_of_the_scale():
    """As the class says: 95 % of the prior lie between 0.021 and 2.0 times the scale."""
    likelihood = Normal(1, "learned", np.array([10.0]))
    ends = stats.norm(0, 1.5).ppf([0.025, 0.975])[:, None]
    noise = likelihood.constrain(ends)["noise_std"][:, 0]
    np.testing.assert_allclose(noise, [0.21, 20.0], rtol=0.03)
