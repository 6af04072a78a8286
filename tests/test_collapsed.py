"""The posterior without its output layer: value, gradient, what is drawn afterwards, and chains."""

from functools import cache

import numpy as np
import pytest
import torch
from gaussian_target import check_moments
from problems import finite_differences
from scipy import stats

import skbayes.model.network
from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MCLMC, NUTS, Streams
from skbayes.model import (
    HierarchicalPrior,
    Inputs,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
)
from skbayes.model.collapsed import CollapsedLogPosterior

F64 = torch.float64


def whole_posterior(
    hidden=(4,), activation="tanh", n_outputs=1, noise=0.4, weighted=False, n=40, dtype=F64, x=None
):
    """A network's posterior on noise, which the output layer can be taken out of."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)) if x is None else x
    kw = {"dtype": dtype, "device": torch.device("cpu")}
    if not isinstance(noise, str):
        noise = noise * np.arange(1, n_outputs + 1)
    likelihood = Normal(n_outputs, noise, np.full(n_outputs, 1.3))
    network = MLPNetwork(x.shape[1], hidden, likelihood.n_network_outputs, activation)
    return LogPosterior(
        network,
        likelihood,
        NormalPrior(1.2, fan_in=True).build(network),
        Inputs(x, scale=network.input_scale, **kw),
        torch.as_tensor(rng.normal(size=(1, n_outputs, len(x))), **kw),
        torch.as_tensor(rng.exponential(size=(1, len(x))), **kw) if weighted else None,
    )


def draws_of_prior(target, n_chains, seed=0):
    return target.sample_prior(Streams(seed, n_chains))


EVERY_MODEL = [
    pytest.mark.parametrize("hidden", [(4,), (3, 4)]),
    pytest.mark.parametrize(
        ("n_outputs", "noise"),
        [(1, 0.4), (2, 0.4), (1, "learned"), (2, "learned"), (1, "heteroscedastic")],
    ),
    pytest.mark.parametrize("weighted", [False, True]),
]


def every_model(test):
    for mark in EVERY_MODEL:
        test = mark(test)
    return test


@every_model
@pytest.mark.parametrize("block", [1 << 20, 200, 40])
def test_value_is_the_integral(hidden, n_outputs, noise, weighted, block, monkeypatch):
    # log p(rest) = log p(rest, b) - log p(b | rest, y) at any b, by a Gaussian's Taylor series
    monkeypatch.setitem(skbayes.model.network.BLOCK_ELEMENTS, "cpu", block)
    whole = whole_posterior(hidden, "tanh", n_outputs, noise, weighted)
    target = CollapsedLogPosterior(whole)
    theta = draws_of_prior(whole, 3)
    value = target(target.reduce(theta))
    layer = whole.network.layers[-1]
    drawn = np.arange(layer.joint.start, layer.joint.stop).reshape(-1, layer.fan_out)
    drawn = drawn[:, :n_outputs].ravel()  # what is left is of a heteroscedastic noise
    np.testing.assert_array_equal(target.reduce(theta), np.delete(theta, drawn, 1))
    for chain in range(3):
        one = theta[chain : chain + 1]
        at = one.repeat(len(drawn), 1)
        at[:, drawn] += torch.eye(len(drawn), dtype=F64)
        grad = whole.grad(one).clone()[0, drawn]
        # the joint density is quadratic in b, so that a difference of gradients is its Hessian
        precision = -torch.cat([whole.grad(row[None]).clone()[:, drawn] - grad for row in at])
        gain = 0.5 * grad @ torch.linalg.solve(precision, grad)
        volume = 0.5 * len(drawn) * np.log(2 * np.pi) - 0.5 * torch.logdet(precision)
        np.testing.assert_allclose(value[chain], whole(one)[0] + gain + volume, rtol=1e-9)


@every_model
@pytest.mark.parametrize(("activation", "block"), [("tanh", 1 << 20), ("silu", 200), ("tanh", 40)])
def test_gradient(hidden, activation, n_outputs, noise, weighted, block, monkeypatch):
    monkeypatch.setitem(skbayes.model.network.BLOCK_ELEMENTS, "cpu", block)
    whole = whole_posterior(hidden, activation, n_outputs, noise, weighted)
    target = CollapsedLogPosterior(whole)
    theta = target.reduce(draws_of_prior(whole, 3))
    value, grad = target.value_and_grad(theta)
    np.testing.assert_allclose(target(theta), value, rtol=1e-12)
    np.testing.assert_allclose(target.grad(theta), grad, rtol=1e-12)
    numeric = finite_differences(target, theta)
    np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-6 * float(grad.abs().max()))


@pytest.mark.parametrize("noise", [0.4, "learned"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_output_layer_is_drawn_from_its_posterior(noise, weighted):
    whole = whole_posterior((4,), "tanh", 2, noise, weighted)
    target = CollapsedLogPosterior(whole)
    rest = target.reduce(draws_of_prior(whole, 1))
    n = 4000
    many = rest.repeat(n, 1)
    theta, log_prob = target.complete(many, target(many), Streams(3, n))
    np.testing.assert_allclose(log_prob, whole(theta), rtol=1e-12)
    np.testing.assert_array_equal(target.reduce(theta), many)
    # by the textbook, on the hidden layer's values
    values = whole.layout.constrain(theta[:1].numpy())
    x = whole.inputs._rows.numpy()[:, :-1] / whole.network.input_scale
    phi = np.tanh(x @ values["layers.0.weight"][0] + values["layers.0.bias"][0])
    phi = np.c_[phi, np.ones(len(x))]
    w = np.ones(len(x)) if whole.weight is None else whole.weight[0].numpy()
    sigma = values["noise_std"][0] if noise == "learned" else np.array([0.4, 0.8])
    prior = np.diag(1.0 / np.array([0.6, 0.6, 0.6, 0.6, 1.2]) ** 2)  # 1.2 / sqrt(4), and the bias
    drawn = theta[:, whole.network.layers[-1].joint].reshape(n, 5, 2).numpy()
    for k in range(2):
        precision = (phi * w[:, None]).T @ phi / sigma[k] ** 2 + prior
        cov = np.linalg.inv(precision)
        mean = cov @ (phi.T @ (w * whole.y[0, k].numpy())) / sigma[k] ** 2
        check_moments(drawn[None, :, :, k], mean, cov)


def test_float32_changes_the_energy_little():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3))
    exact, rough = (
        CollapsedLogPosterior(whole_posterior((50,), noise=0.3, dtype=dtype, x=x))
        for dtype in (F64, torch.float32)
    )
    theta = exact.reduce(draws_of_prior(exact.whole, 2)).float()
    # steps of a trajectory; an offset that they share does not matter
    away = torch.randn((8, *theta.shape), generator=torch.Generator().manual_seed(0))
    points = [theta + 0.01 * step * away[step] for step in range(8)]
    error = torch.stack([rough(p) - exact(p.double()) for p in points])
    assert error.std(0).max() < 0.005


def test_small_noise_in_float32():
    # A's least eigenvalues, those of the prior, are about one, and its largest ten million
    x = np.linspace(-2, 2, 300)[:, None]  # so that the units are nearly collinear
    exact, rough = (
        whole_posterior((50,), noise=0.01, dtype=dtype, x=x) for dtype in (F64, torch.float32)
    )
    theta = draws_of_prior(exact, 2)
    f = exact.network.forward(theta, exact.inputs)[:1]
    exact.y = f + 0.01 * torch.randn(f.shape, generator=torch.Generator().manual_seed(0))
    rough.y = exact.y.float()
    exact, rough = CollapsedLogPosterior(exact), CollapsedLogPosterior(rough)
    points = [exact.reduce(theta[:1]).float() * (1 + 1e-4 * step) for step in range(8)]
    error = torch.stack([rough(p) - exact(p.double()) for p in points])
    assert error.std() < 0.005


def small_table(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(30, 1))
    return x, np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=30)


N_CHAINS = 64
"""Many chains and few draws: a batch of chains costs little more than one of them."""
SETTINGS = {"trajectory_length": 4.0, "max_leapfrog": 60}


def functions(method, noise):
    """Draws of the function at nine points, (n_chains, n_draws, 9)."""
    x, y = small_table()
    target = whole_posterior((3,), noise=noise, x=x)
    target.y = torch.as_tensor(y)[None, None]
    new = Inputs(
        np.linspace(-2.5, 2.5, 9)[:, None],
        scale=target.network.input_scale,
        dtype=F64,
        device=torch.device("cpu"),
    )
    draws = torch.as_tensor(method.run(target, None, Streams(1, N_CHAINS)).draws)
    weights = draws.flatten(0, 1)[:, : target.network.n_params]
    return target.network.forward(weights, new)[:, 0].reshape(N_CHAINS, -1, 9).numpy()


@cache
def functions_of_the_whole(noise):
    """Those of HMC on all parameters."""
    return functions(HMC(N_CHAINS, 120, 40, marginalize=False, **SETTINGS), noise)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2, "heteroscedastic"])
@pytest.mark.parametrize(
    "method",
    [
        HMC(N_CHAINS, 120, 40, marginalize=True, **SETTINGS),
        MCLMC(N_CHAINS, 120, 40, n_leapfrog=40, energy_variance=3e-4, marginalize=True),
    ],
    ids=lambda method: type(method).__name__,
)
def test_same_posterior_with_and_without(method, noise):
    found, expected = functions(method, noise), functions_of_the_whole(noise)
    centre = expected.mean((0, 1))
    for power in (1, 2):  # means, and spreads about the same centre
        of_chains = [((f - centre) ** power).mean(1) for f in (found, expected)]
        p = stats.ttest_ind(*of_chains, equal_var=False).pvalue  # chains are independent
        assert p.min() > 1e-4  # of 9 points


def test_where_it_is_possible_and_where_not():
    x, y = small_table()
    settings = {"n_chains": 2, "n_warmup": 5, "n_draws": 5, "max_leapfrog": 3, "init": "prior"}

    def fitted(model, **more):
        model = model.set_params(method=HMC(**settings, **more), random_state=0)
        with pytest.warns(UserWarning):
            return model.fit(x, y)

    reg = BayesianMLPRegressor((5,), noise="learned")
    fitted(reg)
    assert reg.posterior_.draws.shape == (2, 5, 17)  # 10 + 6, and the noise
    assert reg.posterior_.adapted["inverse_mass"].shape == (11,)
    fitted(reg, marginalize=False)
    assert reg.posterior_.adapted["inverse_mass"].shape == (17,)
    wide = fitted(BayesianMLPRegressor((129,), noise="heteroscedastic"))
    assert wide.posterior_.adapted["inverse_mass"].shape == (518,)  # nothing left out
    y = (y > 0).astype(int)
    fitted(BayesianMLPClassifier((5,)))
    impossible = [
        (BayesianMLPClassifier((5,)), "noise is not normal"),
        (BayesianMLPRegressor((5,), prior=HierarchicalPrior()), "not a NormalPrior"),
        (BayesianMLPRegressor(()), "no hidden layer"),
    ]
    for model, reason in impossible:
        model.set_params(method=HMC(**settings, marginalize=True))
        with pytest.raises(ValueError, match=f"marginalize=True is not allowed here.*{reason}"):
            model.fit(x, y)
    with pytest.raises(ValueError, match="marginalize='yes' is not allowed"):
        HMC(marginalize="yes").check()


def test_log_prob_is_that_of_the_draws():
    target = whole_posterior((5,))
    method = NUTS(2, 20, 10, max_tree_depth=3, init="prior")
    posterior = method.run(target, None, Streams(0, 2))
    shown = posterior.stats["log_prob"]
    assert shown.shape == (2, 10)
    exact = target(torch.as_tensor(posterior.draws).flatten(0, 1)).reshape(2, 10)
    np.testing.assert_allclose(shown, exact, rtol=1e-10)
