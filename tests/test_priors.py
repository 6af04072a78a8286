"""Priors against scipy's densities, their derivatives, and the moments of their draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import F64, finite_differences
from scipy import stats

from skbayes.inference import Streams
from skbayes.model import (
    FlatPrior,
    HierarchicalPrior,
    HorseshoePrior,
    LaplacePrior,
    LearnedMixturePrior,
    LogUniformPrior,
    MLPNetwork,
    NormalPrior,
    ScaleMixturePrior,
    SpikeAndSlabPrior,
    StudentTPrior,
)
from skbayes.model.priors import PRIORS

NETWORK = MLPNetwork(3, (4, 2), 1, "tanh")
MAKERS = {
    "normal": lambda **kw: NormalPrior(scale=0.7, **kw),
    "laplace": lambda **kw: LaplacePrior(scale=0.7, **kw),
    "student_t": lambda **kw: StudentTPrior(scale=0.7, df=5.0, **kw),
    "hierarchical": lambda **kw: HierarchicalPrior(scale=0.7, spread=0.6, **kw),
    "scale_mixture": lambda **kw: ScaleMixturePrior(scale=0.7, narrow=0.1, weight=0.3, **kw),
    "spike_and_slab": lambda **kw: SpikeAndSlabPrior(scale=0.7, narrow=0.1, weight=0.3, **kw),
    "learned_mixture": lambda **kw: LearnedMixturePrior(scale=0.7, n_components=3, **kw),
    "horseshoe": lambda **kw: HorseshoePrior(scale=0.7, **kw),
    "horseshoe, units": lambda **kw: HorseshoePrior(scale=0.7, per="unit", **kw),
    "horseshoe, centred": lambda **kw: HorseshoePrior(scale=0.7, centred=True, **kw),
    "log_uniform": lambda fan_in=False: LogUniformPrior(floor=0.1),
    "flat": lambda fan_in=False: FlatPrior(),
}
PROPER = [name for name in MAKERS if name not in ("log_uniform", "flat")]


def mixture(loc, scale):
    """0.3 N(0, scale^2) + 0.7 N(0, (scale / 10)^2), by scipy."""
    wide, narrow = stats.norm(loc, scale), stats.norm(loc, np.multiply(0.1, scale))
    return SimpleNamespace(
        logpdf=lambda w: np.logaddexp(np.log(0.3) + wide.logpdf(w), np.log(0.7) + narrow.logpdf(w)),
        cdf=lambda w: 0.3 * wide.cdf(w) + 0.7 * narrow.cdf(w),
    )


DENSITIES = {
    "normal": stats.norm,
    "laplace": stats.laplace,
    "student_t": lambda loc, scale: stats.t(5.0, loc, scale),
    "scale_mixture": mixture,
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
    assert {name.partition(",")[0] for name in MAKERS} == set(PRIORS)


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
        np.testing.assert_allclose(by_hyper, 0 if hyper.grad is None else hyper.grad, rtol=1e-12)
    weights = torch.as_tensor(np.random.default_rng(2).normal(size=net.shape))
    again = bound.weights(bound.from_weights(weights), torch.zeros_like(hyper))
    np.testing.assert_allclose(again.detach(), weights, rtol=1e-12)


VARIANCE = {"normal": 1.0, "laplace": 2.0, "student_t": 5.0 / 3.0, "scale_mixture": 0.307}
FOURTH = {"normal": 3.0, "laplace": 24.0, "student_t": 3.0 * 25.0 / (3.0 * 1.0)}
FOURTH["scale_mixture"] = 3.0 * (0.3 + 0.7e-4)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("name", [*DENSITIES, "hierarchical"])
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


# ------------------------------------------------- densities and draws, hyper-parameters included

ONE = MLPNetwork(1, (), 1, "tanh")  # a weight and a bias


def hyper_log_density(name, hyper):
    """Log density of the hyper-parameters of `ONE`, restated by scipy."""
    if "horseshoe" in name:
        a, b = np.split(hyper, 2, -1)
        return (stats.loggamma(0.5).logpdf(a) + stats.loggamma(0.5).logpdf(-b)).sum(-1)
    centre = stats.norm.ppf(0.3) - 1.0 if name == "spike_and_slab" else 0.0
    return stats.norm(centre, 1.0).logpdf(hyper).sum(-1)


@pytest.mark.parametrize("name", PROPER)
def test_the_density_integrates_to_one(name):
    """Over weight and bias by the trapezium rule; what is left is that of the hyper-parameters."""
    bound = MAKERS[name](fan_in=False).build(ONE)
    hyper = np.random.default_rng(0).normal(size=bound.n_hyper) * 0.5
    u = np.linspace(-9.0, 9.0, 500)
    w = np.sinh(u) * 0.05  # fine around zero, and up to 200
    first, second = np.meshgrid(w, w, indexing="ij")
    net = torch.as_tensor(np.stack([first.ravel(), second.ravel()], 1))
    at = torch.as_tensor(hyper).expand(len(net), -1).clone()
    density = np.exp(bound.log_prob_and_grad(net, at)[0].numpy().reshape(first.shape))
    slope = np.cosh(u) * 0.05
    total = np.trapezoid(np.trapezoid(density * slope, u) * slope, u)
    np.testing.assert_allclose(np.log(total), hyper_log_density(name, hyper), atol=3e-4)


@pytest.mark.parametrize("name", ["learned_mixture", "spike_and_slab", "horseshoe"])
def test_draws_have_the_density(name):
    bound, scales = bind(name, "fan_in")
    n = 400
    net, hyper = (part.numpy() for part in bound.sample(Streams(3, n), **F64))
    assert net.shape == (n, NETWORK.n_params) and hyper.shape == (n, bound.n_hyper)
    if name == "horseshoe":
        scale = np.concatenate(list(bound.constrain(hyper).values()), 1)
        assert stats.kstest(scale.ravel(), stats.halfcauchy.cdf).pvalue > 1e-3
        assert (
            stats.kstest(hyper[:, : bound.n_scales].ravel(), stats.loggamma(0.5).cdf).pvalue > 1e-3
        )
    else:
        centre = stats.norm.ppf(0.3) - 1.0 if name == "spike_and_slab" else 0.0
        assert stats.kstest(hyper.ravel(), stats.norm(centre, 1).cdf).pvalue > 1e-3
    if name == "learned_mixture":
        part = bound.constrain(hyper)
        layer = np.repeat([0, 1, 2], [16, 10, 3])
        mean, width, weight = (part[f"prior_{k}"][:, layer] for k in ("mean", "width", "weight"))
        net = stats.norm.ppf(
            (weight * stats.norm(mean, width).cdf((net / scales)[:, :, None])).sum(2)
        )
    assert stats.kstest(net.ravel(), stats.norm.cdf).pvalue > 1e-3


def test_horseshoe_of_units():
    """Weights that one unit sends out share their scale; biases have the layer's only."""
    bound, scales = bind("horseshoe, units", "fan_in")
    assert bound.n_scales == 3 + 3 + 4 + 2
    hyper = torch.as_tensor(np.random.default_rng(0).normal(size=(1, bound.n_hyper)))
    scale = {name: values[0] for name, values in bound.constrain(hyper.numpy()).items()}
    tau, local = scale["prior_scale"], scale["prior_local_scale"]
    expected = np.concatenate(
        [tau[0] * np.repeat(local[:3], 4), tau[0] * np.ones(4), tau[1] * np.repeat(local[3:7], 2)]
        + [tau[1] * np.ones(2), tau[2] * local[7:], tau[2] * np.ones(1)]
    )
    found = bound.weights(torch.ones(1, NETWORK.n_params, dtype=torch.float64), hyper)[0]
    np.testing.assert_allclose(found, scales * expected)


def test_spike_and_slab_at_low_temperature_is_a_scale_mixture():
    prior = SpikeAndSlabPrior(scale=0.7, narrow=0.1, weight=0.3, temperature=1e-9, fan_in=False)
    bound = prior.build(NETWORK)
    net, hyper = bound.sample(Streams(3, 300), **F64)
    weights = bound.weights(net, hyper)
    assert stats.kstest(weights.numpy().ravel(), mixture(0, 0.7).cdf).pvalue > 1e-3
    # straight-through: the same weights, at any temperature
    hard = prior.set_params(temperature=0.5).build(NETWORK).straight_through()
    np.testing.assert_allclose(hard.weights(net, hyper), weights, rtol=1e-12)
    assert set(np.unique(hard.constrain(hyper.numpy())["prior_inclusion"])) == {0.0, 1.0}
    net.requires_grad_(), hyper.requires_grad_()
    hard.weights(net, hyper).sum().backward()
    by_net, by_hyper = hard.pullback(net, hyper, torch.ones_like(net))
    np.testing.assert_allclose(net.grad, by_net.detach())
    np.testing.assert_allclose(hyper.grad, by_hyper.detach())


# ------------------------------------------------------------------ divergences

CLOSED = [name for name in MAKERS if name not in ("student_t", "scale_mixture", "learned_mixture")]


@pytest.mark.parametrize("name", MAKERS)
def test_divergence_by_monte_carlo(name):
    """Both parts together, as log q - log p at draws from q; up to a constant if improper."""
    bound = MAKERS[name](fan_in=False).build(NETWORK)
    if name == "log_uniform":
        bound.floor = 1e-4
    net, hyper = points(bound, 2, seed=4)
    var, hyper_var = torch.full_like(net, 0.3), torch.full_like(hyper, 0.2)
    if name not in CLOSED:
        assert bound.kl(net, var, hyper) is None
        np.testing.assert_allclose(bound.hyper_kl(hyper, hyper_var), 0.5 * (
            hyper**2 + 0.2 - 1 - np.log(0.2)).sum(1))  # fmt: skip
        return
    rng = np.random.default_rng(0)
    found, drawn, error = [], [], []
    for c in range(2):
        z, h = rng.normal(size=(4000, net.shape[1])), rng.normal(size=(4000, bound.n_hyper))
        w = net[c] + 0.3**0.5 * torch.as_tensor(z)
        at = hyper[c] + 0.2**0.5 * torch.as_tensor(h)
        log_q = stats.norm(0, 0.3**0.5).logpdf(0.3**0.5 * z).sum(1)
        log_q += stats.norm(0, 0.2**0.5).logpdf(0.2**0.5 * h).sum(1)
        values = log_q - bound.log_prob_and_grad(w, at)[0].numpy()
        drawn.append(values.mean())
        error.append(values.std() / np.sqrt(4000))
        one = slice(c, c + 1)
        kl = bound.kl(net[one].expand(4000, -1), var[one].expand(4000, -1), at).mean()
        found.append(float(kl + bound.hyper_kl(hyper[one], hyper_var[one])))
    if name == "log_uniform":
        found, drawn = np.diff(found), np.diff(drawn)
    elif name != "flat":
        assert np.all(np.array(found) > 0)
    np.testing.assert_array_less(np.abs(np.subtract(found, drawn)), 4 * np.max(error) + 1e-9)


@pytest.mark.parametrize("name", CLOSED)
def test_gradient_of_the_divergence(name):
    bound, _ = bind(name, "fan_in")
    net, hyper = (part.requires_grad_() for part in points(bound, 1))
    var = torch.full_like(net, 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda *at: bound.kl(*at), (net, var, hyper))
    zero = torch.zeros_like(net, requires_grad=True)
    bound.kl(zero, var, hyper).sum().backward()
    assert zero.grad is None or bool(torch.isfinite(zero.grad).all())
    if bound.n_hyper:
        spread = torch.full_like(hyper, 0.2).requires_grad_()
        assert torch.autograd.gradcheck(lambda *at: bound.hyper_kl(*at), (hyper, spread))


# -------------------------------------------------------------------------- use


@pytest.mark.parametrize("name", ["log_uniform", "flat"])
def test_nothing_is_drawn_from_an_improper_prior(name):
    bound, _ = bind(name, "none")
    assert bound.improper
    with pytest.raises(ValueError, match="improper"):
        bound.sample(Streams(0, 2), **F64)


@pytest.mark.parametrize(
    "prior",
    [
        ScaleMixturePrior(weight=1.0),
        ScaleMixturePrior(narrow=0.0),
        ScaleMixturePrior(narrow=2.0),
        SpikeAndSlabPrior(weight="half"),
        SpikeAndSlabPrior(temperature=-1.0),
        LearnedMixturePrior(n_components=0),
        LearnedMixturePrior(n_components=2.5),
        HorseshoePrior(per="layer"),
        HorseshoePrior(centred="yes"),
        LogUniformPrior(floor=0),
    ],
    ids=repr,
)
def test_bad_parameters(prior):
    with pytest.raises(ValueError, match=f"{type(prior).__name__}: .* is not allowed"):
        prior.build(NETWORK)
