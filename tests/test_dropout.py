"""Monte Carlo dropout against enumeration, closed forms and quadrature."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussian_target import CPU, linear_model
from scipy import integrate, special, stats

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import Dropout, Streams
from skbayes.inference.dropout import _Bound
from skbayes.inference.masks import Masks, to_eta, to_rate
from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior
from skbayes.model.module_network import ModuleNetwork
from skbayes.model.module_source import ModuleSource
from skbayes.model.priors import HierarchicalPrior, LaplacePrior

SCALE, NOISE = 1.3, 0.4


def network_model(n=24, d=1, hidden=(2,), noise=NOISE, seed=0, dtype=torch.float64):
    """A small network on noisy values of a sine, with row weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = np.sin(2.0 * X[:, 0]) + NOISE * rng.normal(size=n)
    noise = noise if isinstance(noise, str) else np.array([noise])
    network = MLPNetwork(d, hidden, 1, "relu")
    kw = {"dtype": dtype, "device": CPU}
    return LogPosterior(
        network,
        Normal(1, noise, np.ones(1)),
        NormalPrior(SCALE).build(network),
        Inputs(X, scale=network.input_scale, **kw),
        torch.as_tensor(y[None, None], **kw),
        torch.as_tensor(rng.integers(1, 3, size=(1, n)), **kw),
    )


def forward(model, theta, inputs_by, hidden_by):
    """A network whose units are multiplied by factors, written out; any number of units."""
    h = theta.shape[-1] // 3
    w0, b0, w1, b1 = theta[:h], theta[h : 2 * h], theta[2 * h : 3 * h], theta[3 * h]
    X = model.inputs._rows[:, :1] / model.inputs.scale
    unit = torch.relu((X * inputs_by) @ w0[None] + b0)
    return (unit * hidden_by) @ w1 + b1


def log_likelihood(model, outputs):
    rows = -0.5 * ((model.y[0, 0] - outputs) / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi))
    return (rows * model.weight[0]).sum()


def all_binary_noise(n_units, p):
    """Uniform numbers for every pattern of dropped units, and the patterns' probabilities."""
    patterns = np.array(list(itertools.product([0, 1], repeat=n_units)))  # 1 is dropped
    noise = np.where(patterns, 1.0 - 0.5 * p, 0.5 * (1.0 - p))
    return torch.as_tensor(noise), (p**patterns * (1 - p) ** (1 - patterns)).prod(1), patterns


# ------------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_moments_of_the_factors(kind):
    model = network_model(d=3, hidden=(4, 5))
    masks = Masks(model, kind, with_inputs=True)
    assert masks.sizes.tolist() == [3, 4, 5] and masks.n_units == 12
    rate, n = np.array([[0.02, 0.2, 0.5], [0.3, 0.0, 0.1]]), 40_000
    eta = torch.as_tensor(to_eta(rate))
    np.testing.assert_allclose(to_rate(eta), rate, atol=1e-15)
    units = masks.units(masks.noise(Streams(1, 2), n, torch.float64, CPU), eta).numpy()
    p = np.repeat(rate, masks.sizes, axis=1)
    variance = p / (1 - p)
    assert np.all(np.abs(units.mean(1) - 1) <= 4.5 * np.sqrt(variance / n) + 1e-8)
    fourth = ((units - 1) ** 4).mean(1)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / n)
    assert np.all(np.abs(units.var(1) - variance) <= 4.5 * error + 20 * variance / n + 1e-8)
    if kind == "binary":
        for c, u in itertools.product(range(2), range(12)):
            values = [0.0, 1 / (1 - p[c, u])] if p[c, u] else [1.0]
            np.testing.assert_allclose(np.unique(units[c, :, u]), values)
    assert np.abs(np.corrcoef(units[0].T) - np.eye(12)).max() < 5 / np.sqrt(n)


def test_relaxed_factors_are_near_the_binary_ones():
    masks = Masks(network_model(hidden=(3,)), "binary", False)
    eta = torch.as_tensor(to_eta([[0.3]]))
    noise = masks.noise(Streams(1, 1), 5000, torch.float64, CPU)
    hard, soft = masks.units(noise, eta), masks.units(noise, eta, relaxed=True)
    assert float((hard - soft).abs().max()) <= 0.5 / 0.7 + 1e-12  # the same side of one half
    assert float((hard - soft).abs().mean()) < 0.05


def test_a_factor_on_a_row_is_a_factor_on_a_unit():
    """The weights of a draw give what the network gives whose units are multiplied."""
    model = network_model(hidden=(4,))
    masks = Masks(model, "gaussian", with_inputs=True)
    theta = model.initial(Streams(1, 1))
    units = masks.units(masks.noise(Streams(2, 1), 3, torch.float64, CPU), torch.zeros(1, 2))
    for u in units[0]:
        expected = forward(model, theta[0], u[0], u[1:])
        found = model.network.forward((theta * masks.spread(u)), model.inputs)[0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_noise_and_biases_carry_no_factor():
    model = network_model(noise="learned", hidden=(4,))
    masks = Masks(model, "binary", with_inputs=False)
    factors = masks.spread(torch.full((1, 1, 4), 7.0))[0, 0].numpy()
    expected = np.ones(model.n_params)
    expected[model.network.layers[1].weight] = 7.0
    np.testing.assert_array_equal(factors, expected)


# ------------------------------------------------------------------------- bound


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_bound_against_all_masks(p):
    """Value and gradient are those of the expectation over all 8 masks, prior included."""
    model = network_model()
    masks = Masks(model, "binary", with_inputs=True)
    noise, probability, patterns = all_binary_noise(3, p)
    eta = torch.as_tensor(to_eta([[p, p]]))
    theta = model.initial(Streams(3, 1)) + 0.1

    leaf = theta[0].clone().requires_grad_()
    exact = torch.zeros(())
    for chance, pattern in zip(probability, patterns, strict=True):
        m = torch.as_tensor(1 - pattern) / (1 - p)
        exact = exact + chance * log_likelihood(model, forward(model, leaf, m[0], m[1:]))
    decay = torch.full_like(leaf, 1 / (1 - p))  # of weights that leave dropped units
    decay[2:4] = decay[6] = 1.0
    exact = exact - 0.5 * (decay * leaf**2).sum() / SCALE**2
    exact = exact - 7 * np.log(SCALE * np.sqrt(2 * np.pi))
    exact.backward()

    bound, n = _Bound(model, masks), model.n
    value, grad = 0.0, 0.0
    with torch.no_grad():
        for chance, u in zip(probability, noise, strict=True):
            index = np.arange(n)[None]
            one = bound(index, theta, eta, u.view(1, 1, 3), False)
            value, grad = value + chance * one[0], grad + chance * one[1]
            assert one[2] is None
        np.testing.assert_allclose(float(value), exact.item(), rtol=1e-10)
        np.testing.assert_allclose(grad[0], leaf.grad, rtol=1e-9, atol=1e-9)
        # random masks on parts of a minibatch: the same on average
        streams, n_steps = Streams(5, 1), 1500
        found = np.empty((n_steps, 8))
        for step in range(n_steps):
            index = streams.permutation(n)[:, :8].reshape(4, 2)
            one = bound(index, theta, eta, masks.noise(streams, 4, torch.float64, CPU), False)
            found[step] = np.append(one[1][0], one[0])
    centre = np.append(leaf.grad, exact.item())
    error = found.std(0) / np.sqrt(n_steps)
    assert np.all(np.abs(found.mean(0) - centre) < 4.5 * error)


def test_bound_of_gaussian_factors():
    """The prior is that of theta itself; the factors enter the likelihood only."""
    model = network_model()
    masks = Masks(model, "gaussian", with_inputs=False)
    theta, eta = model.initial(Streams(3, 1)) + 0.1, torch.as_tensor(to_eta([[0.3]]))
    noise = masks.noise(Streams(1, 1), 3, torch.float64, CPU)
    leaf = theta[0].clone().requires_grad_()
    exact = -0.5 * (leaf**2).sum() / SCALE**2 - 7 * np.log(SCALE * np.sqrt(2 * np.pi))
    for z in noise[0]:
        outputs = forward(model, leaf, 1.0, 1 + z * (3 / 7) ** 0.5)
        exact = exact + log_likelihood(model, outputs) / 3
    exact.backward()
    index = np.tile(np.arange(model.n), (3, 1))
    value, grad, _ = _Bound(model, masks)(index, theta, eta, noise, False)
    np.testing.assert_allclose(float(value), exact.item(), rtol=1e-10)
    np.testing.assert_allclose(grad[0], leaf.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [NOISE, "learned"])
@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_derivative_by_the_rates(kind, noise):
    model = network_model(hidden=(4, 3), noise=noise)
    masks = Masks(model, kind, with_inputs=True)
    bound, theta = _Bound(model, masks), model.initial(Streams(3, 2))
    eta = torch.as_tensor(to_eta([[0.1, 0.3, 0.5], [0.4, 0.05, 0.2]]))
    raw = masks.noise(Streams(1, 2), 5, torch.float64, CPU)
    index = np.tile(np.arange(model.n), (10, 1))
    grad = bound(index, theta, eta, raw, True)[2]
    step = 1e-5
    for j in range(3):
        move = torch.zeros(1, 3, dtype=torch.float64)
        move[0, j] = step
        up, down = (bound(index, theta, eta + s * move, raw, True)[0] for s in (1, -1))
        np.testing.assert_allclose(grad[:, j], (up - down) / (2 * step), rtol=1e-5, atol=1e-5)


def test_entropy_and_divergence():
    """The rates' own terms against their definitions, by quadrature and by a series."""
    model, p = network_model(hidden=(5,)), np.array([0.01, 0.2, 0.5])
    eta = torch.as_tensor(to_eta(p))[:, None]
    value = Masks(model, "binary", False).bonus_and_grad(eta)[0]
    np.testing.assert_allclose(value, 5 * stats.bernoulli(p).entropy(), rtol=1e-10)

    value = -Masks(model, "gaussian", False).bonus_and_grad(eta)[0].numpy() / 5
    by_integral, alpha = [], p / (1 - p)
    for a in alpha:
        density = stats.norm(1.0, np.sqrt(a)).pdf
        parts = [(-40, -1e-9), (1e-9, 0.5), (0.5, 2), (2, 40)]
        log_abs = sum(
            integrate.quad(lambda m, f=density: f(m) * np.log(abs(m)), *span, limit=400)[0]
            for span in parts
        )
        by_integral.append(log_abs - stats.norm(1.0, np.sqrt(a)).entropy())
    np.testing.assert_allclose(np.diff(value), np.diff(by_integral), atol=1e-6)
    j = np.arange(400)
    series = stats.poisson.pmf(j, 0.5 / alpha[:, None]) @ special.digamma(0.5 + j)
    np.testing.assert_allclose(value, 0.5 * (series - special.digamma(0.5)), rtol=1e-7)
    low = Masks(model, "gaussian", False).bonus_and_grad(torch.tensor([[-14.0]]))  # tiny alpha
    np.testing.assert_allclose(low[1], 2.5, rtol=1e-4)  # half a nat per unit and e-fold


# ------------------------------------------------------------------- whole method


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_inputs_of_a_linear_model(kind):
    """Dropping inputs is a ridge with the diagonal of X'X p / (1 - p) (Wager et al., 2013)."""
    p, sigma = 0.3, 0.5
    model = linear_model(n=40, noise=sigma, weighted=True)
    method = Dropout(
        kind=kind, input_rate=p, n_members=8, n_draws=4, max_epochs=1500, learning_rate=0.03
    )
    posterior = method.run(model.log_posterior, None, Streams(1, 8))
    A = np.column_stack([model.X, np.ones(40)])
    gram = A.T * model.weight @ A / sigma**2
    decay = 1 / (1 - p) if kind == "binary" else 1.0
    ridge = np.append(np.diag(gram)[:3] * p / (1 - p) + decay, 1.0)
    target = A.T * model.weight @ model.y[:, 0] / sigma**2
    exact = np.linalg.solve(gram + np.diag(ridge), target)
    found = posterior.last_state
    error = found.std(0, ddof=1) / np.sqrt(8)
    assert error.max() < 0.02
    np.testing.assert_allclose(found.mean(0), exact, atol=0.02)
    # far from what it is without dropout, which would be told apart
    assert np.abs(exact - model.mean).max() > 0.1
    np.testing.assert_allclose(posterior.adapted["rate"], p)


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_draws_are_around_the_means(kind):
    model = network_model(hidden=(6,), noise="learned")
    method = Dropout(0.2, kind, n_draws=4000, n_members=2, max_epochs=30)
    posterior = method.run(model, None, Streams(1, 2))
    assert posterior.draws.shape == (2, 4000, model.n_params) and posterior.independent
    theta, layer = posterior.last_state, model.network.layers[1]
    spread = np.zeros_like(theta)
    spread[:, layer.weight] = np.abs(theta[:, layer.weight]) * 0.5  # sqrt(0.2 / 0.8)
    z = (posterior.draws.mean(1) - theta) / np.where(spread > 0, spread, 1.0)
    assert np.all(np.abs(z) < 4.5 / np.sqrt(4000))
    np.testing.assert_allclose(posterior.draws.std(1), spread, rtol=0.1, atol=1e-12)
    assert posterior.adapted["rate"].shape == (2, 1)


def test_nothing_dropped():
    """A rate of zero trains the networks alone; a linear model says that it has no units."""
    model = network_model(hidden=(3,))
    posterior = Dropout(0.0, n_draws=3, max_epochs=20).run(model, None, Streams(1, 1))
    assert np.ptp(posterior.draws, axis=1).max() == 0 and not posterior.messages
    posterior = Dropout(max_epochs=20).run(linear_model().log_posterior, None, Streams(1, 1))
    assert posterior.n_draws == 1 and "input_rate" in posterior.messages[0]


def test_search_finds_the_better_rate():
    """Little dropout where there is a signal, much where there is noise only."""
    signal = network_model(n=200, hidden=(30,))
    grid = (0.02, 0.8)
    method = Dropout(grid, n_draws=5, max_epochs=300)
    posterior = method.run(signal, None, Streams(1, 1))
    assert float(posterior.adapted["rate"][0, 0]) == pytest.approx(0.02)
    score = posterior.adapted["searched_score"]
    assert score[0] > score[1] + 0.1
    # near the density of the noise itself, which is known to a tenth or so by 120 rows
    assert abs(-0.5 * np.log(2 * np.pi * np.e * NOISE**2) - score[0]) < 0.25
    np.testing.assert_array_equal(posterior.adapted["searched_rate"], grid)

    noise = network_model(n=60, d=10, hidden=(30,))
    rng = np.random.default_rng(0)
    noise.y = torch.as_tensor(0.5 * rng.normal(size=noise.y.shape))
    posterior = method.run(noise, None, Streams(1, 1))
    assert float(posterior.adapted["rate"][0, 0]) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_learned_rate_falls_with_the_number_of_rows(kind):
    found = []
    for n in (15, 1500):
        method = Dropout("learned", kind, n_draws=2, max_epochs=300 if n < 256 else 60)
        rate = method.run(network_model(n=n, hidden=(20,)), None, Streams(1, 1)).adapted["rate"]
        assert np.all((rate >= 0.001 * (1 - 1e-9)) & (rate <= 0.5 * (1 + 1e-9)))
        found.append(float(rate[0, 0]))
    assert found[0] > 2 * found[1]


def test_rates_of_the_inputs():
    model = network_model(d=3, hidden=(4,))
    for rate, input_rate, expected in ((0.2, 0.1, [0.1, 0.2]), (0.2, "same", [0.2, 0.2])):
        method = Dropout(rate, input_rate=input_rate, max_epochs=3)
        found = method.run(model, None, Streams(1, 1)).adapted["rate"]
        np.testing.assert_allclose(found, [expected])
    learn = {"rate": "learned", "max_epochs": 60, "learning_rate": 0.1}
    fixed = Dropout(input_rate=0.25, **learn).run(model, None, Streams(1, 1))
    assert fixed.adapted["rate"][0, 0] == pytest.approx(0.25)
    assert abs(fixed.adapted["rate"][0, 1] - 0.1) > 0.01
    both = Dropout(input_rate="same", **learn).run(model, None, Streams(1, 1))
    assert len(set(both.adapted["rate"][0].round(6))) == 2
    assert np.all(np.abs(both.adapted["rate"] - 0.1) > 0.01)


@pytest.mark.parametrize("rate", [0.1, (0.1, 0.4), "learned"])
def test_interrupted(rate):
    def stop(done, total, text):
        if done == 3:
            raise KeyboardInterrupt

    model = network_model(hidden=(4,), noise="learned")
    posterior = Dropout(rate, n_draws=7, n_members=2, max_epochs=50).run(
        model, None, Streams(1, 2), stop
    )
    assert posterior.interrupted and "interrupted" in posterior.messages[0]
    assert posterior.draws.shape == (2, 7, model.n_params) and posterior.loss_curve.shape == (2, 3)
    assert np.isfinite(posterior.draws).all() and posterior.adapted["rate"].shape == (2, 1)


def test_single_precision_is_near_double():
    """The same masks and minibatches, for as long as rounding does not part the two."""
    draws = []
    for dtype in (torch.float32, torch.float64):
        model = network_model(hidden=(4,), dtype=dtype)
        theta = model.initial(Streams(9, 1, (1,))).to(dtype)
        theta = torch.linspace(-1, 1, model.n_params)[None].to(dtype)
        draws.append(Dropout(0.3, n_draws=5, max_epochs=5).run(model, theta, Streams(1, 1)).draws)
    assert draws[0].dtype == np.float32
    np.testing.assert_allclose(draws[0], draws[1], atol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
@pytest.mark.parametrize(
    "prior, rate", [(LaplacePrior(), "learned"), (HierarchicalPrior(), (0.05, 0.2))]
)
def test_targets_priors_and_sparse_rows(kind, prior, rate):
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * (rng.random((60, 3)) < 0.5)
    Y = np.column_stack([X @ [1, 2, 0] + 0.1 * rng.normal(size=60), X[:, 2] ** 2])
    method = Dropout(rate, kind, input_rate="same", n_draws=10, max_epochs=15)
    settings = {"method": method, "prior": prior, "random_state": 0}
    reg = BayesianMLPRegressor((5,), noise="heteroscedastic", **settings).fit(X, Y)
    mean, std = reg.predict(X, return_std=True)
    assert mean.shape == std.shape == (60, 2)
    assert np.isfinite(reg.log_predictive_density(X, Y)).all()
    assert np.all(reg.predict_uncertainty(X).epistemic > 0)
    clf = BayesianMLPClassifier((5,), **settings).fit(sparse.csr_matrix(X), Y > 0.5)
    assert np.isfinite(clf.predict_proba(sparse.csr_matrix(X))).all()


def test_predictions_of_a_known_function():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(300, 1))
    y = 100 + 10 * np.sin(2 * X[:, 0]) + rng.normal(size=300)
    reg = BayesianMLPRegressor(
        (30,), method=Dropout(0.02, max_epochs=800), noise="learned", random_state=0
    ).fit(X, y)
    grid = np.linspace(-1.8, 1.8, 50)[:, None]
    error = reg.predict(grid) - 100 - 10 * np.sin(2 * grid[:, 0])
    assert np.sqrt(np.mean(error**2)) < 2.0  # y has a deviation of seven


@pytest.mark.parametrize(
    "name, value",
    [
        ("rate", 1.0),
        ("rate", -0.1),
        ("rate", "seek"),
        ("rate", ()),
        ("rate", (0.1, 1.0)),
        ("rate", True),
        ("kind", "bernoulli"),
        ("input_rate", 1.5),
        ("input_rate", "learned"),
        ("n_draws", 0),
        ("n_members", 1.5),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("max_epochs", -1),
        ("validation_fraction", 0.0),
    ],
)
def test_wrong_parameters(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        Dropout(**{name: value}).check()


def test_what_cannot_be_done():
    with pytest.raises(ValueError, match="two rows"):
        Dropout("search").run(network_model(n=1), None, Streams(1, 1))


def test_channels_of_a_convolution_are_dropped_whole():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 2), torch.nn.Conv2d(3, 4, 2), torch.nn.Flatten(),
        torch.nn.Linear(16, 2),
    )  # fmt: skip
    rows = np.zeros((2, 1, 4, 4))
    network = ModuleNetwork(ModuleSource(module, {}, rows.shape[1:]), rows, 2)
    target = SimpleNamespace(network=network, n_params=network.n_params, device="cpu")
    masks = Masks(target, "binary", False)
    assert masks.sizes.tolist() == [3, 16]
    units = torch.arange(1.0, 20.0)
    factors = masks.spread(units).numpy()
    shapes = dict(network.parameters())
    starts = np.cumsum([0, *(int(np.prod(s)) for s in shapes.values())])
    parts = {
        n: factors[a:b].reshape(shapes[n])
        for n, a, b in zip(shapes, starts[:-1], starts[1:], strict=True)
    }
    assert (parts["0.weight"] == 1).all() and (parts["1.bias"] == 1).all()
    assert (parts["1.weight"] == np.array([1, 2, 3])[:, None, None]).all()
    assert (parts["3.weight"] == np.arange(4, 20)[:, None]).all()  # (fan_in, fan_out) in theta
