"""Variational inference against exact answers: the linear model, and expectations by draws."""

import copy
import math

import numpy as np
import pytest
import torch
from gaussian_target import linear_model
from problems import make_log_posterior
from scipy import stats

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor, BayesianModuleClassifier
from skbayes.inference import MAP, VI, Streams
from skbayes.inference.ascent import blundell_weight
from skbayes.layers.closed_form import expected_squared_error, output_mean_and_variance
from skbayes.layers.families import MeanField
from skbayes.layers.flat_objective import FlatObjective
from skbayes.layers.gaussian_families import FullRank, LowRank
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.signal_to_noise import signal_to_noise, signal_to_noise_masks
from skbayes.layers.variational import Noise
from skbayes.model import (
    FlatPrior,
    LaplacePrior,
    LearnedMixturePrior,
    MLPNetwork,
    NormalPrior,
    SpikeAndSlabPrior,
)

NOISE = 0.5
CPU = torch.device("cpu")
FAST = {"learning_rate": 0.05, "max_epochs": 500}


@pytest.fixture(scope="module")
def model():
    return linear_model(n=30, noise=NOISE)


@pytest.fixture(scope="module")
def evidence(model):
    """Log density of y with the weights integrated."""
    A = np.column_stack([model.X, np.ones(len(model.X))])
    cov = A * model.prior_scale[:, 0] ** 2 @ A.T + NOISE**2 * np.eye(len(A))
    return stats.multivariate_normal(np.zeros(len(A)), cov).logpdf(model.y[:, 0])


def run(target, seed=1, theta0=None, **kwargs):
    method = VI(**kwargs)
    method.check()
    with torch.no_grad():
        return method.run(target, theta0, Streams(seed, 1))


def covariance(adapted):
    if "cholesky" in adapted:
        return adapted["cholesky"] @ adapted["cholesky"].T
    if "factor" in adapted:
        return np.diag(adapted["scale"] ** 2) + adapted["factor"] @ adapted["factor"].T
    return np.diag(adapted["std"] ** 2)


def divergence(mean, cov, other_mean, other_cov):
    """KL(N(mean, cov) || N(other_mean, other_cov))."""
    precision = np.linalg.inv(other_cov)
    away = mean - other_mean
    logs = np.linalg.slogdet(other_cov)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * (np.trace(precision @ cov) + away @ precision @ away - len(mean) + logs)


RUNS = {
    "local": {},
    "weight": {"estimator": "weight"},
    "flipout": {"estimator": "flipout"},
    "closed form": {"estimator": "closed_form"},
    "score": {"estimator": "score", "n_samples": 32},
    "optimal baseline": {"estimator": "score", "n_samples": 32, "baseline": "optimal"},
    "low rank": {"family": "low_rank", "rank": 2},
    "full rank": {"family": "full_rank"},
    "full rank by score": {"family": "full_rank", "estimator": "score", "n_samples": 32},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_bound_is_the_evidence_minus_the_divergence(name, model, evidence):
    """And so it never exceeds the evidence; q comes near to the best of its family."""
    posterior = run(model.log_posterior, **FAST, **RUNS[name])
    adapted = posterior.adapted
    mean, cov = adapted["mean"], covariance(adapted)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), adapted["std"], rtol=1e-10)
    gap = divergence(mean, cov, model.mean, model.cov)
    # 1,000 draws of a quadratic form; none of its noise is left where q is exact
    error = math.sqrt(0.5 * np.trace(np.linalg.inv(model.cov) @ cov) / 1000) + gap * 0.05
    assert abs(posterior.elbo - (evidence - gap)) < 4 * error
    assert posterior.elbo < evidence + 4 * error
    best = np.diag(1 / np.diag(np.linalg.inv(model.cov)))
    best = 0.0 if "rank" in name else divergence(model.mean, best, model.mean, model.cov)
    assert -1e-9 < gap - best < (1.5 if name == "weight" else 0.2)  # at a rate that does not fall


def test_full_rank_is_exact():
    """Mean, covariance, evidence, with weights of rows and two outputs."""
    model = linear_model(n=40, n_outputs=2, noise=(0.5, 1.0), weighted=True)
    posterior = run(model.log_posterior, family="full_rank", learning_rate=0.05, max_epochs=1000)
    deviation = np.sqrt(np.diag(model.cov))
    np.testing.assert_allclose(posterior.adapted["mean"], model.mean, atol=0.01 * deviation.min())
    scale = np.outer(deviation, deviation)
    np.testing.assert_allclose(covariance(posterior.adapted) / scale, model.cov / scale, atol=0.01)
    # log p(D) = log p(D, theta) - log p(theta | D) at any theta
    log_joint = float(model.log_posterior(torch.as_tensor(model.mean)[None]))
    exact = log_joint - stats.multivariate_normal(model.mean, model.cov).logpdf(model.mean)
    assert abs(posterior.elbo - exact) < 1e-3


def test_mean_field_variances(model):
    """One over the diagonal of the precision, and the exact mean."""
    posterior = run(model.log_posterior, estimator="closed_form", **FAST)
    best = 1 / np.sqrt(np.diag(np.linalg.inv(model.cov)))
    np.testing.assert_allclose(posterior.adapted["std"], best, rtol=1e-3)
    np.testing.assert_allclose(posterior.adapted["mean"], model.mean, atol=1e-3)


# --------------------------------------------------------------------- gradients


def family_of(kind, target, noise):
    start = torch.as_tensor(np.random.default_rng(0).normal(size=target.n_params)) * 0.3
    if kind == "mean_field":
        return MeanField(target, start, 0.4)
    if kind == "low_rank":
        return LowRank(start, 0.4 * torch.ones_like(start), 2, noise)
    family = FullRank(start, 0.4 * torch.ones_like(start))
    with torch.no_grad():
        family.below += 0.3 * noise.normal_like(family.below)
    return family


def exact_bound(model, family):
    """The bound of a normal q, up to a constant: its expectation is that of a quadratic form."""
    precision = torch.as_tensor(np.linalg.inv(model.cov))
    if isinstance(family, FullRank):
        root = family.root()
        cov, half_log_det = root @ root.mT, family.log_diagonal.sum()
    else:
        cov = torch.diag(family.moments()[1])
        if isinstance(family, LowRank):
            cov = torch.diag(torch.exp(2 * family.log_scale)) + family.factor @ family.factor.mT
        half_log_det = 0.5 * torch.linalg.slogdet(cov)[1]
    away = family.mean - torch.as_tensor(model.mean)
    return half_log_det - 0.5 * ((precision * cov).sum() + away @ precision @ away)


SCORES = [{"by_score": True, "baseline": b} for b in (None, "mean", "optimal")]
ESTIMATES = [("mean_field", e) for e in ("local", "weight", "flipout")]
ESTIMATES += [(f, s) for f in ("mean_field", "low_rank", "full_rank") for s in [{}, *SCORES]]


@pytest.mark.parametrize(("kind", "how"), ESTIMATES, ids=str)
def test_gradients_are_without_bias(kind, how, model):
    """Every entry against the exact gradient, 5 standard errors; by minibatches of all rows."""
    target, noise = model.log_posterior, Noise(3, CPU)
    family = family_of(kind, target, noise)
    if isinstance(how, str):
        objective = Objective(target, family, VariationalNetwork.of(target, noise, how))
        n = 600
    else:
        objective, n = FlatObjective(target, family, noise, 8, **how), 300
    exact = torch.autograd.grad(exact_bound(model, family), family.leaves)
    exact = torch.cat([part.reshape(-1) for part in exact]).numpy()
    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        part = target.minibatch(rng.permutation(30)[:15])
        bound = objective(part)
        grads = torch.autograd.grad(bound.log_likelihood - bound.kl, family.leaves)
        found.append(torch.cat([g.reshape(-1) for g in grads]).numpy())
    error = np.std(found, 0, ddof=1) / math.sqrt(n)
    assert np.all(np.abs(np.mean(found, 0) - exact) < 5 * error + 1e-9)


def test_baselines_lower_the_variance():
    target, noise = make_log_posterior("bernoulli", n=40), Noise(3, CPU)
    family = family_of("mean_field", target, noise)
    variance = {}
    for name, how in (("path", {}), *((str(s["baseline"]), s) for s in SCORES)):
        objective = FlatObjective(target, family, noise, 16, **how)
        grads = [
            torch.autograd.grad(objective(target).log_likelihood, family.mean)[0]
            for _ in range(100)
        ]
        variance[name] = float(torch.stack(grads).var(0).sum())
    assert variance["path"] < variance["optimal"] < 1.2 * variance["mean"]
    assert variance["mean"] < 0.2 * variance["None"]


def test_the_gradient_has_no_noise_where_q_is_the_posterior(model):
    family = FullRank(torch.as_tensor(model.mean), torch.ones(4, dtype=torch.float64))
    root = torch.as_tensor(np.linalg.cholesky(model.cov))
    with torch.no_grad():
        family.log_diagonal.copy_(root.diagonal().log())
        family.below.copy_(torch.tril(root, -1) / family._unit)
    bound = FlatObjective(model.log_posterior, family, Noise(0, CPU), 4)(model.log_posterior)
    for grad in torch.autograd.grad(bound.log_likelihood - bound.kl, family.leaves):
        np.testing.assert_allclose(grad, 0.0, atol=1e-9)


# -------------------------------------------------------------- special cases


@pytest.mark.parametrize(
    "prior", [NormalPrior(0.5), LaplacePrior(0.02), FlatPrior()], ids=["L2", "L1", "ML"]
)
def test_a_point_is_the_mode(prior):
    target = linear_model(n=30).log_posterior.with_prior(prior.build(MLPNetwork(3, (), 1, "tanh")))
    found = run(target, family="delta", learning_rate=0.05, max_epochs=800)
    assert found.draws.shape == (1, 1, 4) and found.elbo is None
    if isinstance(prior, FlatPrior):
        model = linear_model(n=30)
        A = np.column_stack([model.X, np.ones(30)])
        expected = np.linalg.lstsq(A, model.y[:, 0], rcond=None)[0]
    else:
        with torch.no_grad():
            expected = MAP(solver="adam", max_epochs=2000).run(target, None, Streams(1, 1)).flat[0]
    np.testing.assert_allclose(found.flat[0], expected, atol=0.01)
    if isinstance(prior, LaplacePrior):
        assert np.abs(found.flat[0]).min() < 0.01  # a weight is out


def test_weight_noise():
    """A flat prior and deviations that stay: the expected error under fixed noise is least."""
    model = linear_model(n=30)
    target = model.log_posterior.with_prior(FlatPrior().build(model.log_posterior.network))
    settings = {"estimator": "closed_form", "learn_scale": False, **FAST}
    found = run(target, init_scale=0.5, **settings)
    np.testing.assert_allclose(found.adapted["std"], [0.5 / 3**0.5] * 3 + [0.5], rtol=1e-6)
    A = np.column_stack([model.X, np.ones(30)])
    expected = np.linalg.lstsq(A, model.y[:, 0], rcond=None)[0]  # noise on weights adds a constant
    np.testing.assert_allclose(found.adapted["mean"], expected, atol=1e-3)
    assert found.elbo is None and found.elbo_parts is None


def test_straight_through():
    target = make_log_posterior("bernoulli", prior=SpikeAndSlabPrior(narrow=0.01, weight=0.3))
    found = run(target, straight_through=True, max_epochs=50, learning_rate=0.1, n_draws=20)
    inclusion = found.unflatten()["prior_inclusion"]
    assert set(np.unique(inclusion)) == {0.0, 1.0} and 0 < inclusion.mean() < 1
    assert not target.prior.is_hard
    relaxed = run(target, max_epochs=50, n_draws=20).unflatten()["prior_inclusion"]
    assert len(np.unique(relaxed)) > 100
    with pytest.raises(ValueError, match="SpikeAndSlabPrior"):
        run(make_log_posterior("bernoulli"), straight_through=True)


def test_tuned_prior(model):
    """The factor is where the bound is largest, given q; the bound rises by it."""
    settings = {"estimator": "closed_form", "learning_rate": 0.05, "max_epochs": 900}
    target = model.log_posterior.with_prior(NormalPrior(20.0).build(model.log_posterior.network))
    plain, tuned = run(target, **settings), run(target, tune_prior="layer", **settings)
    square = tuned.adapted["mean"] ** 2 + tuned.adapted["std"] ** 2
    scale = tuned.adapted["prior_scale"]
    np.testing.assert_allclose(scale, np.sqrt(square.mean()), rtol=0.02)
    np.testing.assert_allclose(tuned.layout.prior.scales, scale)
    np.testing.assert_allclose(target.prior.scales, 20.0)
    assert tuned.elbo > plain.elbo + 2.0
    with pytest.raises(ValueError, match="NormalPrior"):
        run(make_log_posterior("bernoulli", prior=LaplacePrior()), tune_prior="layer")


def test_shares_of_the_divergence():
    for m in (1, 2, 5, 2000):
        shares = [blundell_weight(i, m) for i in range(1, m + 1)]
        np.testing.assert_allclose(sum(shares), 1.0)
        assert m == 1 or abs(shares[0] / shares[1] - 2.0) < 1e-9
    np.testing.assert_allclose(blundell_weight(2, 4), 2.0**2 / (2**4 - 1))


def test_blundell_weights_lead_to_about_the_same(model):
    even, uneven = (
        run(model.log_posterior, batch_size=10, kl_weights=kind, learning_rate=0.03, max_epochs=120)
        for kind in ("uniform", "blundell")
    )
    assert not np.array_equal(even.adapted["mean"], uneven.adapted["mean"])
    np.testing.assert_allclose(uneven.adapted["mean"], model.mean, atol=0.15)


# ---------------------------------------------------------------- closed form


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "gelu", "identity"])
def test_expected_squared_error_by_monte_carlo(activation):
    network, rng = MLPNetwork(3, (6,), 2, activation), np.random.default_rng(0)
    mean = torch.as_tensor(rng.normal(size=network.n_params))
    var = torch.as_tensor(rng.uniform(0.05, 0.6, size=network.n_params))
    x, y = torch.as_tensor(rng.normal(size=(4, 3))), torch.as_tensor(rng.normal(size=(4, 2)))
    exact = expected_squared_error(network, mean, var, x, y).numpy()
    module = network.to_module(mean.numpy())
    shape = [(name, part.shape) for name, part in module.named_parameters()]
    assert shape[0][1] == (6, 3)
    z = torch.as_tensor(rng.normal(size=(20_000, network.n_params)))
    w = mean + var.sqrt() * z
    first, second = network.layers
    h = torch.einsum("ni,sij->snj", x, w[:, first.weight].view(-1, 3, 6)) + w[:, None, first.bias]
    h = getattr(torch.nn.functional, activation)(h) if activation != "identity" else h
    f = (
        torch.einsum("snj,sjk->snk", h, w[:, second.weight].view(-1, 6, 2))
        + w[:, None, second.bias]
    )
    square = ((y - f) ** 2).numpy()
    error = square.std(0) / math.sqrt(len(square))
    assert np.all(np.abs(square.mean(0) - exact) < 4 * error)
    centre, spread = output_mean_and_variance(network, mean, var, x)
    f, centre = f.numpy(), centre.numpy()
    assert np.all(np.abs(f.mean(0) - centre) < 4 * f.std(0) / math.sqrt(20_000))
    np.testing.assert_allclose(f.var(0), spread, rtol=0.08)


def test_expected_squared_error_has_the_right_gradient():
    network, rng = MLPNetwork(2, (3,), 1, "tanh"), np.random.default_rng(0)
    mean = torch.as_tensor(rng.normal(size=network.n_params), dtype=torch.float64).requires_grad_()
    var = torch.full_like(mean, 0.3).requires_grad_()
    x, y = torch.as_tensor(rng.normal(size=(3, 2))), torch.as_tensor(rng.normal(size=(3, 1)))
    assert torch.autograd.gradcheck(
        lambda m, v: expected_squared_error(network, m, v, x, y), (mean, var)
    )


def test_closed_form_says_what_it_needs():
    with pytest.raises(ValueError, match="normal noise"):
        run(make_log_posterior("bernoulli"), estimator="closed_form")
    with pytest.raises(ValueError, match="normal noise"):
        run(make_log_posterior("heteroscedastic"), estimator="closed_form")
    with pytest.raises(ValueError, match="2 hidden layers"):
        run(make_log_posterior("fixed", hidden=(3, 3)), estimator="closed_form")
    target = make_log_posterior("learned", weight=np.arange(17) % 3)
    assert np.isfinite(run(target, estimator="closed_form", max_epochs=20).elbo)


# ------------------------------------------------------------------- estimators


def data(n=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    return X, 30.0 + 10.0 * (X @ [1.0, -0.5, 0.0] + 0.3 * rng.normal(size=n))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_description_length_and_units():
    """The bound of a linear model is its evidence, in the units of y, whether scaled or not."""
    X, y = data()
    method = VI("full_rank", learning_rate=0.05, max_epochs=800)
    found = BayesianMLPRegressor((), noise=3.0, prior=NormalPrior(1.0), method=method)
    found.set_params(random_state=0, dtype="float64").fit(X, y)
    A = np.column_stack([(X - X.mean(0)) / X.std(0), np.ones(len(X))]) * y.std()
    cov = A @ A.T + 9.0 * np.eye(len(X))
    exact = stats.multivariate_normal(np.full(len(X), y.mean()), cov).logpdf(y)
    assert abs(found.elbo_ - exact) < 0.05
    bits = found.description_length_
    np.testing.assert_allclose(bits["total"], -found.elbo_ / np.log(2))
    np.testing.assert_allclose(bits["error"] + bits["complexity"], bits["total"])
    assert bits["complexity"] > 0
    found.set_params(method=VI("delta", max_epochs=5), warm_start=False).fit(X, y)
    assert not hasattr(found, "description_length_") and not hasattr(found, "elbo_")


@pytest.mark.parametrize("family", ["low_rank", "full_rank"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_networks_and_modules(family):
    X, y = data()
    labels = (y > 30).astype(int)
    method = VI(family, learning_rate=0.05, max_epochs=60, n_draws=30, batch_size=20)
    for estimator in (
        BayesianMLPClassifier((5,), method=method, random_state=0, prior=LearnedMixturePrior()),
        BayesianModuleClassifier(Small, method=method, random_state=0),
    ):
        assert estimator.fit(X, labels).score(X, labels) > 0.85
        assert np.isfinite(estimator.elbo_)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 5), torch.nn.Linear(5, 1)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_signal_to_noise():
    X, y = data(200)
    method = VI(learning_rate=0.05, max_epochs=300)
    found = BayesianMLPRegressor((), noise=3.0, method=method, random_state=0)
    found.fit(np.column_stack([X, np.zeros(200)]), y)
    posterior = found.posterior_
    ratio, masks = signal_to_noise(posterior), signal_to_noise_masks(posterior, 3.0)
    assert list(ratio) == ["0.weight", "0.bias"] and list(masks) == ["0.weight"]
    assert ratio["0.weight"].shape == (1, 4)
    expected = np.abs(posterior.adapted["mean"]) / posterior.adapted["std"]
    np.testing.assert_allclose(ratio["0.weight"][0], expected[:4])
    np.testing.assert_allclose(ratio["0.bias"], expected[4:5])
    np.testing.assert_array_equal(masks["0.weight"], [[True, True, False, False]])
    point = copy.copy(posterior)
    point.adapted = {}
    with pytest.raises(ValueError, match="VI"):
        signal_to_noise(point)


@pytest.mark.parametrize(
    "wrong",
    [
        {"family": "full"},
        {"estimator": "mean"},
        {"family": "full_rank", "estimator": "local"},
        {"family": "delta", "estimator": "score"},
        {"n_samples": 4},
        {"estimator": "score", "n_samples": 1},
        {"baseline": "median"},
        {"family": "low_rank", "rank": 0},
        {"family": "low_rank", "learn_scale": False},
        {"tune_prior": "global"},
        {"kl_weights": "even"},
        {"init_scale": 0.0},
    ],
    ids=str,
)
def test_bad_parameters(wrong):
    with pytest.raises(ValueError, match="VI: .* is not allowed"):
        VI(**wrong).check()


def test_full_covariances_have_a_limit():
    with pytest.raises(ValueError, match="4000 at most"):
        run(make_log_posterior("bernoulli", hidden=(900,)), family="full_rank")


def test_interruption_keeps_what_there_is(model):
    def stop(done, total, text):
        if done == 7:
            raise KeyboardInterrupt

    for family in ("mean_field", "full_rank"):
        with torch.no_grad():
            found = VI(family).run(model.log_posterior, None, Streams(0, 1), stop)
        assert found.interrupted and found.loss_curve.shape == (1, 7) and len(found.messages) == 1
