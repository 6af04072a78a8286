"""Priors against scipy's densities, their derivatives, and the moments of their draws."""

import numpy as np
import pytest
import torch
from problems import F64, finite_differences
from scipy import stats

from skbayes.inference import Streams
from skbayes.model import (
    HierarchicalPrior,
    LaplacePrior,
    MLPNetwork,
    NormalPrior,
    StudentTPrior,
)
from skbayes.model.priors import PRIORS

NETWORK = MLPNetwork(3, (4, 2), 1, "tanh")
MAKERS = {
    "normal": lambda **kw: NormalPrior(scale=0.7, **kw),
    "laplace": lambda **kw: LaplacePrior(scale=0.7, **kw),
    "student_t": lambda **kw: StudentTPrior(scale=0.7, df=5.0, **kw),
    "hierarchical": lambda **kw: HierarchicalPrior(scale=0.7, spread=0.6, **kw),
}
DENSITIES = {
    "normal": stats.norm,
    "laplace": stats.laplace,
    "student_t": lambda loc, scale: stats.t(5.0, loc, scale),
}
SCALES = {"none": {}, "fan_in": {"fan_in": True}, "norm": {"fan_in": True}}


def bind(name, kind):
    """A bound prior and its scales by hand; "norm" gives the rows' mean squared norm, 25."""
    fan_in = SCALES[kind] or {"fan_in": False}
    bound = MAKERS[name](**fan_in).build(NETWORK, 25.0 if kind == "norm" else None)
    first = {"none": 1.0, "fan_in": 3.0, "norm": 25.0}[kind]
    fans = [first, 4.0, 2.0] if kind != "none" else [1.0] * 3
    parts = []
    for fan, (fan_in, fan_out) in zip(fans, ((3, 4), (4, 2), (2, 1)), strict=True):
        parts += [np.full(fan_in * fan_out, 0.7 / np.sqrt(fan)), np.full(fan_out, 0.7)]
    return bound, np.concatenate(parts)


def points(bound, n=5, seed=0):
    rng = np.random.default_rng(seed)
    net = torch.as_tensor(rng.normal(size=(n, NETWORK.n_params)))
    return net, torch.as_tensor(rng.normal(size=(n, bound.n_hyper)))


def test_every_prior_is_tested():
    assert set(MAKERS) == set(PRIORS)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("name", DENSITIES)
def test_log_density_is_scipys(name, kind):
    bound, scales = bind(name, kind)
    net, hyper = points(bound)
    expected = DENSITIES[name](0, scales).logpdf(net.numpy()).sum(1)
    found = bound.log_prob_and_grad(net, hyper)[0]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", SCALES)
def test_hierarchical_density_with_its_jacobian(kind):
    """The density of (z, h) is that of (w, tau) times the volume that the map stretches."""
    bound, scales = bind("hierarchical", kind)
    net, hyper = points(bound)
    layer = np.repeat([0, 1, 2], [16, 10, 3])
    tau = np.exp(0.6 * hyper.numpy())
    w = bound.weights(net, hyper).numpy()
    std = scales * tau[:, layer]
    np.testing.assert_allclose(w, net.numpy() * std, rtol=1e-12)
    expected = stats.norm(0, std).logpdf(w).sum(1) + np.log(std).sum(1)  # dw / dz = std
    expected += stats.lognorm(0.6).logpdf(tau).sum(1) + np.log(0.6 * tau).sum(1)  # dtau / dh
    found = bound.log_prob_and_grad(net, hyper)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(bound.constrain(hyper.numpy())["prior_scale"], tau)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("name", MAKERS)
def test_gradients(name, kind, plus):
    bound, _ = bind(name, kind)
    net, hyper = points(bound)
    more = torch.ones_like(net) if plus else None
    _, by_net, by_hyper = bound.log_prob_and_grad(net, hyper, more)
    without = bound.log_prob_and_grad(net, hyper, more, with_value=False)
    expected = finite_differences(lambda t: bound.log_prob_and_grad(t, hyper)[0], net)
    np.testing.assert_allclose(by_net, expected + float(plus), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(without[1], by_net)
    if bound.n_hyper:
        expected = finite_differences(lambda h: bound.log_prob_and_grad(net, h)[0], hyper)
        np.testing.assert_allclose(by_hyper, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(without[2], by_hyper)


@pytest.mark.parametrize("name", MAKERS)
def test_pullback_is_the_transpose_of_the_map_to_weights(name):
    bound, _ = bind(name, "fan_in")
    net, hyper = (part.requires_grad_() for part in points(bound))
    direction = torch.as_tensor(np.random.default_rng(1).normal(size=net.shape))
    (bound.weights(net, hyper) * direction).sum().backward()
    with torch.no_grad():
        by_net, by_hyper = bound.pullback(net, hyper, direction)
    np.testing.assert_allclose(by_net, net.grad, rtol=1e-12)
    if bound.n_hyper:
        np.testing.assert_allclose(by_hyper, hyper.grad, rtol=1e-12)
    weights = torch.as_tensor(np.random.default_rng(2).normal(size=net.shape))
    again = bound.weights(bound.from_weights(weights), torch.zeros_like(hyper))
    np.testing.assert_allclose(again.detach(), weights, rtol=1e-12)


VARIANCE = {"normal": 1.0, "laplace": 2.0, "student_t": 5.0 / 3.0}
FOURTH = {"normal": 3.0, "laplace": 24.0, "student_t": 3.0 * 25.0 / (3.0 * 1.0)}


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("name", MAKERS)
def test_moments_of_draws(name, kind):
    """Means and squares of the weights within 4 standard errors, the parameters taken together."""
    bound, scales = bind(name, kind)
    n = 3000
    net, hyper = bound.sample(Streams(3, n), **F64)
    assert net.shape == (n, NETWORK.n_params) and hyper.shape == (n, bound.n_hyper)
    z = bound.weights(net, hyper).numpy() / scales
    if name == "hierarchical":
        h = hyper.numpy()
        assert np.all(np.abs(h.mean(0)) < 4 / np.sqrt(n))
        assert np.all(np.abs((h**2).mean(0) - 1) < 4 * np.sqrt(2 / n))
        z = net.numpy()
    variance, fourth = VARIANCE.get(name, 1.0), FOURTH.get(name, 3.0)
    size = z.size
    assert abs(z.mean()) < 4 * np.sqrt(variance / size)
    assert abs((z**2).mean() - variance) < 4 * np.sqrt((fourth - variance**2) / size)
    assert np.all(np.abs(z.mean(0)) < 5 * np.sqrt(variance / n))  # 29 parameters at once
    # the whole distribution, not only its moments
    if name in DENSITIES:
        assert stats.kstest(z.ravel(), DENSITIES[name](0, 1).cdf).pvalue > 1e-3


def test_columns_of_zeros_do_not_divide_by_zero():
    bound = NormalPrior(fan_in=True).build(NETWORK, 0.0)
    assert np.isfinite(bound.scales).all()
