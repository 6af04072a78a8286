"""The Laplace approximation: exact where it must be, and against what is computed otherwise."""

import pickle

import numpy as np
import pytest
import torch
from gaussian_target import CPU, LinearModel, check_moments, linear_model
from problems import make_log_posterior
from scipy import sparse, stats
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor, BayesianModuleRegressor
from skbayes.inference import MAP, ConstantSGD, Laplace, Streams
from skbayes.inference.evidence import around
from skbayes.inference.head import Head
from skbayes.inference.laplace import _newton
from skbayes.inference.laplace_posterior import normal_points
from skbayes.model import (
    Bernoulli,
    Categorical,
    Inputs,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
)
from skbayes.model.covariance import BLOCK, block_rows
from skbayes.model.tangent import ModuleTangent, tangent

FIXED = {"tune_prior": None, "n_draws": 50}


def run(log_posterior, theta0=None, seed=1, **kwargs):
    method = Laplace(**{**FIXED, **kwargs})
    method.check()
    return method.run(log_posterior, theta0, Streams(seed, 1))


def exact_evidence(model: LinearModel) -> float:
    """Log density of all targets, the weights integrated out; a row of weight w counts w times."""
    A = np.column_stack([model.X, np.ones(len(model.X))])
    noise = np.broadcast_to(model.log_posterior.likelihood.noise, model.y.shape[1])
    total = 0.0
    for k, sigma in enumerate(noise):
        # rows of weight w: one row of noise sigma / sqrt(w), and what w - 1 more of them add
        used = model.weight > 0
        w, rows, y = model.weight[used], A[used], model.y[used, k]
        cov = rows * model.prior_scale[:, k] ** 2 @ rows.T + np.diag(sigma**2 / w)
        total += stats.multivariate_normal(np.zeros(len(y)), cov).logpdf(y)
        total += -0.5 * ((w - 1) * np.log(2 * np.pi * sigma**2) + np.log(w)).sum()
    return total


# --------------------------------------------------------------- linear regression


@pytest.mark.parametrize("hessian", ["full", "kron"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_outputs": 2, "weighted": True, "noise": (0.5, 1.0)},
        {"prior": NormalPrior(scale=3.0), "n": 8},
        {"prior": NormalPrior(scale=0.5, fan_in=True), "n": 8},
    ],
    ids=["plain", "weights", "wide", "fan-in"],
)
def test_linear_regression_is_exact(settings, hessian):
    """Mean, covariance and evidence, also by Kronecker factors, which lose nothing here."""
    model = linear_model(**settings)
    posterior = run(model.log_posterior, hessian=hessian, n_draws=3)
    deviation = np.sqrt(np.diag(model.cov))
    assert np.all(np.abs(posterior.mode - model.mean) < 1e-6 * deviation)
    d = len(model.mean)
    found = posterior.covariance.times(torch.eye(d, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, model.cov, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(posterior.covariance.variances, np.diag(model.cov), rtol=1e-9)
    assert abs(posterior.log_evidence - exact_evidence(model)) < 1e-8


@pytest.mark.parametrize("hessian", ["full", "kron", "diag"])
def test_draws_have_the_covariance(hessian):
    model = linear_model(n_outputs=2, noise=(0.5, 1.0))
    posterior = run(model.log_posterior, hessian=hessian, n_draws=20_000)
    d = len(model.mean)
    cov = posterior.covariance.times(torch.eye(d, dtype=torch.float64)).numpy()
    check_moments(posterior.draws, posterior.mode, cov)
    assert abs(posterior.covariance.log_det + np.linalg.slogdet(cov)[1]) < 1e-8


# ------------------------------------------------------------------------ networks


def network_posterior(kind, sizes=(5, 4), n=12, weighted=True, d=3, dtype=torch.float64):
    """A small network with each of the likelihoods, and a weight vector."""
    rng = np.random.default_rng(3)
    likelihood, k = {
        "one output": (Normal(1, np.array([0.5]), np.ones(1)), 1),
        "two outputs": (Normal(2, np.array([0.5, 2.0]), np.ones(2)), 2),
        "learned": (Normal(2, "learned", np.array([1.0, 3.0])), 2),
        "heteroscedastic": (Normal(1, "heteroscedastic", np.ones(1)), 2),
        "binary": (Bernoulli(), 1),
        "labels": (Bernoulli(), 3),
        "classes": (Categorical(), 3),
    }[kind]
    network = MLPNetwork(d, sizes, k, "tanh")
    y = rng.normal(size=(1 if kind == "heteroscedastic" else k, n))
    if kind in ("binary", "labels"):
        y = (y > 0).astype(float)
    if kind == "classes":
        y = np.eye(3)[rng.integers(3, size=n)].T
    kw = {"dtype": dtype, "device": CPU}
    weight = rng.integers(0, 3, n) + 0.5
    log_posterior = LogPosterior(
        network,
        likelihood,
        NormalPrior(0.8, fan_in=True).build(network),
        Inputs(rng.normal(size=(n, d)), scale=network.input_scale, **kw),
        torch.as_tensor(y[None], **kw),
        torch.as_tensor(weight[None], **kw) if weighted else None,
    )
    return log_posterior, torch.as_tensor(rng.normal(size=(1, log_posterior.n_params)), **kw)


KINDS = ("one output", "two outputs", "learned", "heteroscedastic", "binary", "labels", "classes")


def brute_force(log_posterior, theta):
    """Jacobians (n, k, p) and information (n, k, k) by autograd alone, in plain torch."""
    network, likelihood = log_posterior.network, log_posterior.likelihood
    net, params, _ = log_posterior.layout.split(theta[0])
    X = log_posterior.inputs.dense(torch.float64)[:, :-1]

    def outputs(w):
        h = X
        for i, layer in enumerate(network.layers):
            h = h @ w[layer.weight].view(layer.fan_in, layer.fan_out) + w[layer.bias]
            h = torch.tanh(h) if i < len(network.layers) - 1 else h
        return h

    jacobian = torch.func.jacrev(outputs)(net)
    f = outputs(net)
    k = f.shape[1]
    if isinstance(likelihood, Bernoulli):
        information = torch.diag_embed(f.sigmoid() * (1 - f.sigmoid()))
    elif isinstance(likelihood, Categorical):
        p = f.softmax(1)
        information = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    elif likelihood.heteroscedastic:
        # the expected squared score, by quadrature over targets
        z, w = np.polynomial.hermite_e.hermegauss(20)
        information = torch.zeros(len(f), k, k, dtype=torch.float64)
        for zi, wi in zip(z, w / w.sum(), strict=True):
            sigma = likelihood.noise_std(f[:, 1:].T[None], 1)
            y = (f[:, :1].T[None] + sigma * zi).detach()
            score = torch.func.grad(
                lambda g, y=y: likelihood.pointwise(g.T[None], params[None], y).sum()
            )(f)
            information += wi * score[:, :, None] * score[:, None]
    else:
        sigma = likelihood.mean_and_std(f.T[None], params[None])[1][0].T
        information = torch.diag_embed(sigma**-2)
    return jacobian, information


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last_layer", [False, True])
def test_curvature_and_functions_against_autograd(kind, last_layer):
    """Matrix, factors, diagonal, and the covariance of functions, all to rounding."""
    log_posterior, theta = network_posterior(kind)
    jacobian, information = brute_force(log_posterior, theta)
    network = log_posterior.network
    moving = network.layers[-1].joint if last_layer else slice(0, network.n_params)
    J, w = jacobian[:, :, moving], log_posterior.weight[0]
    H = torch.einsum("n,ncp,nck,nkq->pq", w, J, information, J)
    prior = torch.linspace(1.0, 2.0, len(H), dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 1e-10}

    full = log_posterior.gauss_newton(theta[0], "full", last_layer)
    torch.testing.assert_close(full.matrix, H, **close)
    diag = log_posterior.gauss_newton(theta[0], "diag", last_layer)
    torch.testing.assert_close(diag.diagonal, H.diagonal(), **close)

    kron = log_posterior.gauss_newton(theta[0], "kron", last_layer)
    shared = torch.cat(
        [prior[s.start : s.start + 1].expand(s.stop - s.start) for s in kron.spans()]
    )
    expected = torch.diag(shared)
    for i, span in enumerate(kron.spans()):
        expected[span, span] += torch.kron(kron.left[i], kron.right[i])
    # a layer's two factors from its own part of the Jacobian
    layer = kron.layers[-1]
    features = J[:, 0, kron.spans()[-1]].reshape(len(J), layer.fan_in + 1, layer.fan_out)[:, :, 0]
    torch.testing.assert_close(kron.left[-1], (features.T * w) @ features / w.sum(), **close)
    torch.testing.assert_close(kron.right[-1], (w[:, None, None] * information).sum(0), **close)

    weights = log_posterior.layout.split(theta[0])[0]
    local = tangent(network, weights, log_posterior.inputs, last_layer)
    for curvature, own, precision in (
        (full, prior, H + torch.diag(prior)),
        (diag, prior, torch.diag(H.diagonal() + prior)),
        (kron, shared, expected),
    ):
        covariance = curvature.covariance(own)
        S = torch.linalg.inv(precision)
        found = covariance.of_functions(local).permute(2, 0, 1)
        torch.testing.assert_close(found, torch.einsum("ncp,pq,nkq->nck", J, S, J), **close)
        np.testing.assert_allclose(covariance.variances, S.diagonal(), rtol=1e-9)
        assert abs(covariance.log_det - float(torch.logdet(precision))) < 1e-8
        torch.testing.assert_close(covariance.times(torch.eye(len(S), dtype=S.dtype)), S, **close)


@pytest.mark.parametrize("sizes", [(), (1,), (6,), (4, 1, 3)])
@pytest.mark.parametrize("kind", ["one output", "two outputs"])
def test_all_shapes_of_networks(kind, sizes):
    log_posterior, theta = network_posterior(kind, sizes)
    J, information = brute_force(log_posterior, theta)
    H = torch.einsum("n,ncp,nck,nkq->pq", log_posterior.weight[0], J, information, J)
    full = log_posterior.gauss_newton(theta[0], "full")
    torch.testing.assert_close(full.matrix, H, rtol=1e-9, atol=1e-10)
    local = tangent(log_posterior.network, theta[0], log_posterior.inputs)
    found = full.covariance(torch.ones(len(H), dtype=H.dtype)).of_functions(local)
    S = torch.linalg.inv(H + torch.eye(len(H), dtype=H.dtype))
    expected = torch.einsum("ncp,pq,nkq->ckn", J, S, J)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "silu", "gelu"])
def test_tangent_against_the_network_that_any_module_has(activation):
    """By hand, and by one chain for each row through ``vjp``."""
    rng = np.random.default_rng(0)
    network = MLPNetwork(3, (5, 4), 2, activation)
    inputs = Inputs(
        rng.normal(size=(9, 3)), dtype=torch.float64, device=CPU, scale=network.input_scale
    )
    weights = torch.as_tensor(rng.normal(size=network.n_params))
    by_hand, by_rows = (
        tangent(network, weights, inputs),
        ModuleTangent(network, weights, inputs, False),
    )
    root = torch.as_tensor(rng.normal(size=(3, 2, 9)))
    steps = torch.as_tensor(rng.normal(size=(4, network.n_params)))
    variances = torch.as_tensor(rng.random(network.n_params))
    for found, expected in (
        (by_hand.outputs, by_rows.outputs),
        (by_hand.jacobian(), by_rows.jacobian()),
        (by_hand.jacobian(root), by_rows.jacobian(root)),
        (by_hand.squares(root), by_rows.squares(root)),
        (by_hand.jvp(steps), by_rows.jvp(steps)),
        (by_hand.diagonal_gram(variances), by_rows.diagonal_gram(variances)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_blocks_of_rows_and_sparse_rows_change_nothing(monkeypatch):
    from skbayes.model import covariance

    log_posterior, theta = network_posterior("classes", n=50)
    X = log_posterior.inputs.dense(torch.float64)[:, :-1].numpy()
    whole = {h: log_posterior.gauss_newton(theta[0], h) for h in ("full", "kron", "diag")}
    monkeypatch.setattr(covariance, "BLOCK", 1)  # 16 rows at a time
    scale = log_posterior.network.input_scale
    for rows in (X, sparse.csr_matrix(X)):
        log_posterior.inputs = Inputs(rows, dtype=torch.float64, device=CPU, scale=scale)
        for name, expected in whole.items():
            found = log_posterior.gauss_newton(theta[0], name)
            for a, b in zip(_tensors(found), _tensors(expected), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def _tensors(curvature):
    values = [v for v in vars(curvature).values() if isinstance(v, torch.Tensor | list)]
    return [t for v in values for t in (v if isinstance(v, list) else [v]) if torch.is_tensor(t)]


# ---------------------------------------------------------------------- estimators


def test_evidence_is_in_the_units_of_y():
    """Standardising, which changes the units, does not change it; the bias is as wide as needed."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    y = np.column_stack([X @ [1.0, 2.0], X @ [0.3, -1.0]]) + 0.1 * rng.normal(size=(40, 2))
    y *= [100.0, 0.01]
    y -= y.mean(0)
    weight = rng.integers(1, 4, 40)
    y -= np.average(y, axis=0, weights=weight)
    kw = {"noise": 20.0, "method": Laplace(**FIXED), "dtype": "float64", "random_state": 0}
    reg = BayesianMLPRegressor((), prior=NormalPrior(1.0), standardize="y", **kw)
    reg.fit(X, y[:, 0], sample_weight=weight)
    scale = np.sqrt(np.average(y[:, 0] ** 2, weights=weight))
    plain = BayesianMLPRegressor((), prior=NormalPrior(scale), standardize=False, **kw)
    plain.fit(X, y[:, 0], sample_weight=weight)
    assert abs(reg.log_evidence_ - plain.log_evidence_) < 1e-6
    # and with two outputs it is the sum of theirs
    both = clone(reg).set_params(noise="learned").fit(X, y, sample_weight=weight)
    parts = [
        clone(reg).set_params(noise="learned").fit(X, y[:, k], sample_weight=weight).log_evidence_
        for k in range(2)
    ]
    assert abs(both.log_evidence_ - sum(parts)) < 0.05
    assert not hasattr(clone(reg).set_params(method=MAP()).fit(X, y), "log_evidence_")
    # a refit by a method that has none forgets it
    assert not hasattr(both.set_params(method=MAP()).fit(X, y), "log_evidence_")


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_learned_noise_against_quadrature(n_outputs):
    """Noise and evidence of a linear model, whose exact integrals over the noise are known."""
    model = linear_model(n=40, noise="learned", n_outputs=n_outputs)
    posterior = run(model.log_posterior, n_draws=4000, max_rounds=50, tol=1e-6)
    raw = np.linspace(-6.0, 6.0, 1201)
    sigma = 0.003 + np.logaddexp(0.0, raw + np.log(np.expm1(0.3)))
    log_evidence = 0.0
    found = posterior.unflatten()["noise_std"][0]
    for k in range(n_outputs):
        logs = stats.norm(0.0, 1.5).logpdf(raw) + model.log_marginal(sigma, k)
        mass = np.exp(logs - logs.max())
        log_evidence += np.log(mass.sum() * (raw[1] - raw[0])) + logs.max()
        mass /= mass.sum()
        mean = mass @ np.log(sigma)
        deviation = np.sqrt(mass @ (np.log(sigma) - mean) ** 2)
        assert abs(np.log(found[:, k]).mean() - mean) < 0.3 * deviation
        assert abs(np.log(found[:, k]).std() / deviation - 1) < 0.1
    assert abs(posterior.log_evidence - log_evidence) < 0.05 * n_outputs


@pytest.mark.parametrize("tune_prior", ["global", "layer"])
def test_tuned_prior_has_the_largest_evidence(tune_prior):
    """For a linear model, where the evidence is exact, no other scale has more."""
    model = linear_model(n=30, d=8, noise=0.5, prior=NormalPrior(0.3))
    posterior = run(model.log_posterior, tune_prior=tune_prior, max_rounds=100, tol=1e-7)
    scale = posterior.adapted["prior_scale"]
    assert np.allclose(scale, scale[0])

    def evidence(s):
        model.prior_scale = np.full((9, 1), s)
        return exact_evidence(model)

    assert abs(posterior.log_evidence - evidence(scale[0])) < 1e-6
    assert evidence(scale[0]) > evidence(1.03 * scale[0])
    assert evidence(scale[0]) > evidence(scale[0] / 1.03)
    assert posterior.layout.prior.scales is scale


@pytest.mark.parametrize("hessian", ["full", "kron", "diag"])
def test_probabilities_against_quadrature(hessian):
    """The average of the sigmoid over the normal of each row's logit."""
    X, y = make_moons(60, noise=0.3, random_state=0)
    clf = BayesianMLPClassifier(
        (), method=Laplace(hessian=hessian, n_draws=200, tune_prior=None), random_state=0
    ).fit(X, y)
    inside = clf._scaler.transform(X)
    mean, cov = clf.posterior_.function_moments(inside)
    z, w = np.polynomial.hermite_e.hermegauss(60)
    expected = expit(mean + np.sqrt(cov[:, :, 0]) * z) @ (w / w.sum())
    np.testing.assert_allclose(clf.predict_proba(X)[:, 1], expected, atol=2e-3)
    # functions of the draws agree within their own error
    drawn = np.exp(clf.predict_draws(X))[:, :, 1]
    assert np.all(np.abs(drawn.mean(0) - expected) < 4.5 * drawn.std(0) / np.sqrt(200) + 1e-6)


@pytest.mark.parametrize("settings", [{}, {"subset": "last_layer"}, {"hessian": "kron"}])
def test_draws_of_functions_have_the_moments(settings):
    """Linear functions of the draws, and the normal of each row that predictions take."""
    X, y = make_moons(50, noise=0.3, random_state=0)
    y = np.column_stack([y + X[:, 0], X[:, 1] ** 2])
    reg = BayesianMLPRegressor(
        (6,), noise=0.3, method=Laplace(n_draws=2000, tune_prior=None, **settings), random_state=0
    ).fit(X, y)
    scale, centre = reg._y_scaler.scale, reg._y_scaler.mean
    mean, cov = reg.posterior_.function_moments(reg._scaler.transform(X))
    variance = np.diagonal(cov, axis1=1, axis2=2) * scale**2
    mean = mean * scale + centre
    drawn = reg.predict_draws(X)[0]
    error = np.sqrt(variance / 2000)
    assert np.all(np.abs(drawn.mean(0) - mean) < 4.5 * error)
    assert np.all(np.abs(drawn.var(0) / variance - 1) < 4.5 * np.sqrt(2 / 2000))
    found, std = reg.predict(X, return_std=True)
    np.testing.assert_allclose(found, mean, atol=1e-8)
    np.testing.assert_allclose(std**2, variance + 0.3**2, rtol=1e-8)


def test_sampling_evaluates_the_network_itself():
    X, y = make_moons(50, noise=0.3, random_state=0)
    method = Laplace(predictive="sampling", n_draws=5, tune_prior=None)
    clf = BayesianMLPClassifier((4,), method=method, random_state=0).fit(X, y)
    module = clf.posterior_.to_modules()[2].double()
    logit = module(torch.as_tensor(clf._scaler.transform(X)))[:, 0].detach().numpy()
    np.testing.assert_allclose(clf.predict_draws(X)[2, :, 1], -np.log1p(np.exp(-logit)), atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("m", [1, 2, 7, 200])
def test_points_of_a_normal(m, k):
    points = normal_points(m, k)
    assert points.shape == (m, k) and np.isfinite(points).all()
    np.testing.assert_allclose(points.mean(0), 0.0, atol=1e-12)
    if m > 2 * k:
        np.testing.assert_allclose(points.T @ points / m, np.eye(k), atol=1e-10)


def test_posterior_can_be_pickled_and_gone_on_from():
    X, y = make_moons(50, noise=0.3, random_state=0)
    clf = BayesianMLPClassifier((4,), method=Laplace(max_rounds=3, tol=5.0), random_state=0)
    clf.set_params(warm_start=True).fit(X, y)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), rtol=1e-12)
    tuned = clf.posterior_.adapted["prior_scale"]
    clf.set_params(method__tune_prior=None).fit(X, y)
    np.testing.assert_array_equal(clf.posterior_.adapted["prior_scale"], tuned)


def test_interrupt_keeps_the_best_point(monkeypatch):
    from skbayes.inference import laplace

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(laplace, "tuned_prior", stop)
    log_posterior, _ = network_posterior("binary")
    posterior = run(log_posterior, tune_prior="layer", init=MAP(max_epochs=50))
    assert posterior.interrupted and "interrupted" in posterior.messages[-1]
    assert np.isfinite(posterior.draws).all()


def test_too_few_rounds_are_told():
    log_posterior, _ = network_posterior("binary", n=40)
    posterior = run(log_posterior, tune_prior="layer", max_rounds=1, tol=1e-9)
    assert any("raise max_rounds" in message for message in posterior.messages)


@pytest.mark.parametrize(
    "name, value",
    [
        ("hessian", "lowrank"),
        ("subset", "first"),
        ("predictive", "probit"),
        ("tune_prior", True),
        ("max_rounds", 0),
        ("tol", 0.0),
        ("n_draws", 0),
        ("init", "map"),
    ],
)
def test_parameters_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        Laplace(**{name: value}).check()


def test_tuning_of_the_last_layer_begins_once():
    """Evidence given the layers below does not tell layers that fit from those that overfit."""
    starts = []

    class Start(MAP):
        def run(self, log_posterior, *args, **kw):
            starts.append(log_posterior.prior.scales.copy())
            return super().run(log_posterior, *args, **kw)

    whole, _ = network_posterior("binary")
    for subset, n in (("all", 2), ("last_layer", 1)):
        run(whole, subset=subset, tune_prior="layer", init=Start(max_epochs=20))
        assert len(starts) == n
        np.testing.assert_array_equal(starts[0], whole.prior.scales)
        starts.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_head_is_the_whole_network_with_the_rest_held(kind):
    whole, theta = network_posterior(kind)
    whole = whole.with_power(1.5)
    head = Head(whole, theta)
    moving = whole.network.layers[-1].joint
    other = theta.clone()
    other[:, moving] *= 0.7
    other[:, whole.layout.n_network :] += 0.3
    moved = Head(whole, other).theta
    values = [whole(t) - head.log_posterior(h) for t, h in ((theta, head.theta), (other, moved))]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-9)
    held = head.held(whole.prior) * whole.total_weight
    assert abs(float(values[0]) - held) < 1e-9
    grad = whole.grad(theta)
    expected = torch.cat([grad[:, moving], grad[:, whole.layout.n_network :]], 1)
    torch.testing.assert_close(head.log_posterior.grad(head.theta), expected, rtol=1e-9, atol=1e-9)
    found = around(head.log_posterior, head.theta, head.prior(whole.prior), "full")
    matrix = whole.gauss_newton(theta[0], "full", last_layer=True).matrix
    torch.testing.assert_close(found.curvature.matrix, matrix, rtol=1e-9, atol=1e-9)
    back = head.whole(found)
    torch.testing.assert_close(back.theta, theta, rtol=0, atol=0)
    np.testing.assert_allclose(back.target.prior.scales, whole.prior.scales)


def test_newton_in_the_last_layer_ends_at_the_mode():
    """From afar it gets there; and there it takes one pass, even where passes round."""
    whole, theta = network_posterior("binary")
    head = Head(whole, theta)
    log_posterior, prior = head.log_posterior, head.prior(whole.prior)
    found = around(log_posterior, head.theta, prior, "full")
    for _ in range(5):  # each with the covariance at its start
        climbed = _newton(found, found.target, found.theta)
        found = around(log_posterior, climbed.theta, prior, "full")
    moving = found.curvature.moving
    grad = found.target.value_and_grad(found.theta)[1][:, moving]
    assert float(grad @ found.covariance.times(grad.double()).T) < 1e-5
    near = _Counter(found.target, 1e-4)
    assert _newton(found, near, found.theta).losses.size == 0
    assert near.passes == 1


class _Counter:
    """A log posterior that counts its passes and has noise, as rounding makes it."""

    def __init__(self, target, noise):
        self.target, self.noise, self.passes = target, noise, 0
        self.total_weight = target.total_weight

    def value_and_grad(self, theta):
        self.passes += 1
        value, grad = self.target.value_and_grad(theta)
        return value + self.noise * self.passes, grad


def test_other_priors_and_networks_are_refused():
    X, y = make_moons(50, noise=0.3, random_state=0)
    with pytest.raises(ValueError, match="NormalPrior"):
        BayesianMLPClassifier((4,), method="laplace", prior="student_t").fit(X, y)
    log_posterior, theta = network_posterior("binary")
    log_posterior.network = _Wrapped(log_posterior.network)
    with pytest.raises(ValueError, match="kron"):
        run(log_posterior, theta, hessian="kron")
    found = run(log_posterior, theta, hessian="full")
    plain = run(network_posterior("binary")[0], theta, hessian="full")
    assert abs(found.log_evidence - plain.log_evidence) < 1e-8
    with pytest.raises(ValueError, match="features"):
        run(log_posterior, theta, subset="last_layer")


class _Wrapped:
    """A network of another class, of which only the passes and the layers are known."""

    def __init__(self, network):
        for name in (
            "forward",
            "vjp",
            "layers",
            "n_params",
            "n_outputs",
            "n_buffers",
            "is_linear",
            "parameters",
        ):
            setattr(self, name, getattr(network, name))


@pytest.mark.usefixtures("quiet")
def test_modules_moments_blocks_and_batch_normalisation():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)).astype(np.float32)
    y = X[:, 0] + 0.1 * rng.normal(size=40)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    method = Laplace(tune_prior=None, n_draws=2000, init=MAP("adam", max_epochs=20))
    reg = BayesianModuleRegressor(net, method=method, noise=0.1, random_state=0).fit(X, y)
    mean, cov = reg.posterior_.function_moments(X)
    assert mean.shape == (40, 1) and cov.shape == (40, 1, 1)
    functions = reg._forward(reg.posterior_.flat, X)[:, 0]
    np.testing.assert_allclose(functions.std(0), np.sqrt(cov[:, 0, 0]), rtol=0.1)
    # the Jacobian of a module is made, so that all of its parameters count
    network = reg._layout.network
    for full in (True, False):
        rows = block_rows(network, full)
        assert rows * network.n_params * network.n_outputs <= BLOCK
    normed = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), net[2])
    for refusing in (method, ConstantSGD(init=MAP("adam", max_epochs=2))):
        with pytest.raises(ValueError, match="batch normalisation"):
            BayesianModuleRegressor(normed, method=refusing, random_state=0).fit(X, y)


def test_a_single_mode_with_noise_of_its_own_is_warned_of(curve):
    reg = BayesianMLPRegressor((3,), method=Laplace(n_draws=5, tune_prior=None), random_state=0)
    with pytest.warns(ConvergenceWarning, match="set noise='learned'"):
        reg.fit(*curve)


@pytest.mark.parametrize("power", [0.25, 4.0])
def test_tuned_noise_counts_rows_as_often_as_their_power(power):
    kw = {"kind": "learned", "n": 40}
    powered = make_log_posterior(**kw).with_power(power)
    weighted = make_log_posterior(**kw, weight=np.full(40, power))
    settings = {"tune_prior": None, "max_rounds": 30, "tol": 1e-9, "init": MAP(max_epochs=300)}
    noise = [run(target, **settings).mode[-1] for target in (powered, weighted)]
    assert abs(noise[0] - noise[1]) < 1e-3
