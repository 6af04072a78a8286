"""Expectation propagation against exact posteriors, quadrature and draws of the weights."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from gaussian_target import CPU, linear_model
from scipy import special, stats
from test_conjugate import LearnedNoise

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import EP, Streams, ep
from skbayes.model import (
    Bernoulli,
    Categorical,
    Inputs,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
    factors,
)
from skbayes.model.activations import ACTIVATIONS
from skbayes.model.factors import block_factor
from skbayes.model.moments import activation_moments, output_moments

FUNCTIONS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * stats.norm.cdf(x),
}


def tensor(x):
    return torch.as_tensor(np.asarray(x, dtype=np.float64))


def run(target, seed=1, theta0=None, on_step=None, **kwargs):
    method = EP(**{"n_draws": 5, **kwargs})
    method.check()
    with torch.no_grad():
        return method.run(target, theta0, Streams(seed, method.chain_count()), on_step)


def moments(posterior):
    return posterior.adapted["mean"][0], posterior.adapted["variance"][0]


# -------------------------------------------------------------------- forward


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_of_an_activation(name):
    """Two rows of correlation 0.7, and the second again: by a grid over the plane."""
    mean, std = np.array([0.4, -1.1]), np.array([0.8, 1.5])
    cov = np.outer(std, std) * np.array([[1.0, 0.7], [0.7, 1.0]])
    x = np.linspace(-7, 7, 1401)
    weight = stats.norm.pdf(x)
    a = FUNCTIONS[name](mean[0] + std[0] * x)
    first = weight @ a / weight.sum()
    joint = stats.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]]).pdf(
        np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    )
    b = FUNCTIONS[name](mean[1] + std[1] * x)
    second = weight @ b / weight.sum()
    cross = (a - first) @ joint @ (b - second) / joint.sum()
    which = [0, 1, 1]
    found_mean, found = activation_moments(name, tensor(mean[which]), tensor(cov)[which][:, which])
    np.testing.assert_allclose(found_mean.numpy(), [first, second, second], atol=2e-5)
    variances = [weight @ (a - first) ** 2, weight @ (b - second) ** 2] / weight.sum()
    np.testing.assert_allclose(np.diag(found.numpy()), variances[which], atol=5e-5)
    assert abs(float(found[0, 1]) - cross) < 2e-3 * np.sqrt(variances.prod())
    assert abs(float(found[1, 2]) - variances[1]) < 5e-5  # equal rows stay equal
    assert np.linalg.eigvalsh(found.numpy()).min() > -1e-10


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_moments_of_outputs(activation):
    """With one hidden layer they are exact: the mean of draws is within its errors."""
    rng = np.random.default_rng(0)
    network = MLPNetwork(2, (3,), 2, activation)
    mean, spread = rng.normal(size=network.n_params), rng.uniform(0.1, 1.5, network.n_params)
    X = rng.normal(size=(4, 2))
    inputs = Inputs(X, dtype=torch.float64, device=CPU, scale=network.input_scale)
    draws = mean + spread * rng.normal(size=(200_000, network.n_params))
    z = np.concatenate(
        [network.forward(tensor(part), inputs).numpy() for part in np.array_split(draws, 20)]
    )
    rows = tensor(np.column_stack([X, np.ones(4)]))[None]
    found, cov = output_moments(network, tensor(mean)[None], tensor(spread**2)[None], rows)
    error = z.std(0) / np.sqrt(len(z))
    assert np.all(np.abs(z.mean(0) - found[0].numpy()) < 4.5 * error)
    centred = z - z.mean(0)
    products = np.einsum("ska,skb->skab", centred, centred)
    error = products.std(0) / np.sqrt(len(z))
    # beyond the errors, what the short series for pairs of rows leaves out
    room = 4.5 * error + 2e-3 * z.var(0).max()
    assert np.all(np.abs(products.mean(0) - cov[0].numpy()) < room)


# ---------------------------------------------------------------- likelihoods


def by_grid(log_density, mean, variance):
    """Log normaliser, means and variances of density times normals, over a grid."""
    n = {1: 2001, 2: 1501, 3: 81}[len(mean)]
    axes = [m + np.sqrt(v) * np.linspace(-7, 7, n) for m, v in zip(mean, variance, strict=True)]
    z = np.stack(np.meshgrid(*axes, indexing="ij"))
    prior = sum(
        stats.norm(m, np.sqrt(v)).logpdf(z[i])
        for i, (m, v) in enumerate(zip(mean, variance, strict=True))
    )
    p = np.exp(log_density(z) + prior)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    total = p.sum()
    first = np.array([(p * zi).sum() / total for zi in z])
    second = np.array([(p * (zi - f) ** 2).sum() / total for zi, f in zip(z, first, strict=True)])
    return np.log(total * cell), first, second


def heteroscedastic_log_density(z, y=0.7):
    sigma = 0.003 + np.logaddexp(0.0, 0.5 * z[1] + np.log(np.expm1(0.3)))
    return stats.norm(z[0], sigma).logpdf(y)


ONE_ROW = {
    "bernoulli": (Bernoulli(), [1.0], lambda z: np.log(special.expit(z[0]))),
    "categorical": (Categorical(), [0.0, 1.0, 0.0], lambda z: z[1] - special.logsumexp(z, 0)),
    "heteroscedastic": (
        Normal(1, "heteroscedastic", np.ones(1)),
        [0.7],
        heteroscedastic_log_density,
    ),
    "normal": (
        Normal(1, np.array([0.4]), np.ones(1)),
        [0.7],
        lambda z: stats.norm(z[0], 0.4).logpdf(0.7),
    ),
}
SIZE = {"bernoulli": 1, "categorical": 3, "heteroscedastic": 2, "normal": 1}


@pytest.mark.parametrize("weight", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row(name, weight):
    """Normaliser and moments of one row times normals, all by integrals over a grid."""
    likelihood, y, log_density = ONE_ROW[name]
    k = SIZE[name]
    mean, variance = np.array([0.3, -0.6, 0.8])[:k], np.array([1.2, 2.0, 0.5])[:k]
    exact = by_grid(lambda z: weight * log_density(z), mean, variance)
    none = torch.zeros((1, 0), dtype=torch.float64)
    found = block_factor(
        likelihood,
        tensor(mean)[None, :, None],
        tensor(variance)[None, :, None, None],
        tensor(y)[None, :, None],
        tensor([[[weight]]]),
        none,
        none,
    )
    np.testing.assert_allclose(found.log_z.numpy(), exact[0], atol=2e-4)
    # the derivatives are the moments: m' = m + v g, v' = v + v^2 (2 h) with h by the covariance
    by_mean, by_cov = found.by_mean[0, :, 0].numpy(), found.by_cov[0, :, 0, 0].numpy()
    np.testing.assert_allclose(mean + variance * by_mean, exact[1], atol=5e-4)
    after = variance + variance**2 * (2 * by_cov - by_mean**2)
    # a row never widens what is known, see `EP`
    np.testing.assert_allclose(after, np.minimum(exact[2], variance), atol=2e-3)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "learned", "normal"])
def test_derivatives_of_a_block(name, monkeypatch):
    monkeypatch.setattr(factors, "MAX_SWEEPS", 200)
    monkeypatch.setattr(factors, "SWEEP_TOL", 1e-12)
    rng = np.random.default_rng(3)
    n, k = 4, 3 if name == "categorical" else 1
    root = rng.normal(size=(1, k, n, n))
    cov = tensor(root @ root.swapaxes(-1, -2) + 0.1 * np.eye(n))
    mean, weight = tensor(rng.normal(size=(1, k, n))), tensor(rng.uniform(0.5, 2, (1, 1, n)))
    if name == "learned":
        likelihood, y = Normal(1, "learned", np.ones(1)), rng.normal(size=(1, 1, n))
    else:
        likelihood = ONE_ROW[name][0]
        y = (
            np.eye(3)[rng.integers(3, size=n)].T[None]
            if k == 3
            else rng.integers(2, size=(1, 1, n))
        )
    size = likelihood.n_params
    params = tensor(np.zeros((1, size))), tensor(np.full((1, size), 2.25))

    def log_z(mean, cov):
        return float(block_factor(likelihood, mean, cov, tensor(y), weight, *params).log_z)

    found = block_factor(likelihood, mean, cov, tensor(y), weight, *params)
    step, eps = tensor(rng.normal(size=mean.shape)), 1e-4
    numeric = (log_z(mean + eps * step, cov) - log_z(mean - eps * step, cov)) / (2 * eps)
    assert abs(numeric - float((found.by_mean * step).sum())) < 1e-4
    turn = tensor(rng.normal(size=cov.shape))
    turn = turn + turn.mT
    numeric = (log_z(mean, cov + eps * turn) - log_z(mean, cov - eps * turn)) / (2 * eps)
    assert abs(numeric - float((found.by_cov * turn).sum())) < 1e-3


# -------------------------------------------------------------- linear models


def orthogonal_model(n=48):
    """Centred columns, orthogonal to each other: the exact posterior is factorised."""
    model = linear_model(n=n, d=3)
    X = model.X - model.X.mean(0)
    X = np.linalg.qr(X)[0] * [3.0, 5.0, 7.0]
    target = model.log_posterior
    inputs = Inputs(X, dtype=torch.float64, device=CPU)
    model.X = X
    model.log_posterior = LogPosterior(
        target.network, target.likelihood, target.prior, inputs, target.y
    )
    means, covs = model.given_noise([0.5])
    model.mean, model.cov = means[0], covs[0]
    return model


def log_evidence(model):
    return sum(
        float(model.log_marginal(np.array([sigma]), k)[0])
        for k, sigma in enumerate(model.log_posterior.likelihood.noise)
    )


@pytest.mark.parametrize("mode", ["ep", "adf"])
def test_exact_on_an_orthogonal_design(mode):
    model = orthogonal_model()
    np.testing.assert_allclose(model.cov, np.diag(np.diag(model.cov)), atol=1e-12)
    posterior = run(model.log_posterior, mode=mode, n_draws=4000)
    mean, variance = moments(posterior)
    np.testing.assert_allclose(mean, model.mean, atol=1e-10)
    np.testing.assert_allclose(variance, np.diag(model.cov), rtol=1e-9)
    draws = posterior.draws[0]
    z = (draws - model.mean) / np.sqrt(np.diag(model.cov))
    assert np.all(np.abs(z.mean(0)) < 4 / np.sqrt(4000))
    assert np.all(np.abs((z.T @ z) / 4000 - np.eye(4)) < 4 * np.sqrt(2 / 4000))
    if mode == "ep":
        assert posterior.messages == []
        found = posterior.adapted["log_evidence"]
        np.testing.assert_allclose(found, log_evidence(model), rtol=1e-9)


@pytest.mark.parametrize("kwargs", [{}, {"n_outputs": 2, "noise": (0.5, 1.0), "weighted": True}])
def test_marginals_are_exact_in_one_block(kwargs):
    """Of correlated columns too; only the correlations are lost."""
    model = linear_model(**kwargs)
    mean, variance = moments(run(model.log_posterior))
    np.testing.assert_allclose(mean, model.mean, atol=1e-9)
    np.testing.assert_allclose(variance, np.diag(model.cov), rtol=1e-8)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_means_are_exact_in_several_blocks(batch_size):
    model = linear_model(n=40)
    posterior = run(model.log_posterior, batch_size=batch_size, tol=1e-6, max_epochs=200)
    assert posterior.messages == []
    mean, variance = moments(posterior)
    deviation = np.sqrt(np.diag(model.cov))
    assert np.all(np.abs(mean - model.mean) < 1e-4 * deviation)
    assert np.all(variance < np.diag(model.cov))  # what correlations would add is lost


def test_learned_noise_is_exact_in_one_block():
    model = linear_model(n=20, noise="learned")
    exact = LearnedNoise(model)
    posterior = run(model.log_posterior, n_draws=4000)
    mean, variance = moments(posterior)
    np.testing.assert_allclose(mean[:4], exact.weight_mean, atol=2e-3)
    np.testing.assert_allclose(variance[:4], np.diag(exact.weight_cov), rtol=5e-3)
    log_noise = np.log(posterior.unflatten()["noise_std"].ravel())
    centre = exact.mass @ exact.log_sigma  # q is normal in the raw noise, not in its logarithm
    assert abs(log_noise.mean() - centre) < 0.1 * exact.noise_deviation
    assert abs(log_noise.std() / exact.noise_deviation - 1) < 0.1


def one_weight(n=30, weight=None, seed=0):
    """One weight, the bias being held at zero; precision and pull that the data exert on it."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 1))
    y = 0.8 * X[:, 0] + 0.5 * rng.normal(size=n)
    network = MLPNetwork(1, (), 1, "tanh")
    prior = NormalPrior().build(network)
    prior.scales = np.array([1.0, 1e-7])
    target = LogPosterior(
        network,
        Normal(1, np.array([0.5]), np.ones(1)),
        prior,
        Inputs(X, dtype=torch.float64, device=CPU),
        tensor(y)[None, None],
        None if weight is None else tensor(weight)[None],
    )
    w = np.ones(n) if weight is None else weight
    of_data, pull = w @ X[:, 0] ** 2 / 0.25, w @ (X[:, 0] * y) / 0.25
    return target, of_data, pull


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", ["ep", "adf"])
def test_sequential_updates_of_one_weight_are_exact(mode, weighted):
    weight = np.random.default_rng(1).choice([0.0, 0.5, 3.0], 30) if weighted else None
    target, of_data, pull = one_weight(weight=weight)
    for batch_size in (1, 7):
        mean, variance = moments(run(target, mode=mode, batch_size=batch_size))
        np.testing.assert_allclose(variance[0], 1 / (1 + of_data), rtol=1e-6)
        np.testing.assert_allclose(mean[0], pull / (1 + of_data), rtol=1e-6)


def test_every_pass_of_filtering_counts_the_data_again():
    target, of_data, pull = one_weight()
    mean, variance = moments(run(target, mode="adf", batch_size=1, max_epochs=3))
    np.testing.assert_allclose(variance[0], 1 / (1 + 3 * of_data), rtol=1e-6)
    np.testing.assert_allclose(mean[0], 3 * pull / (1 + 3 * of_data), rtol=1e-6)


def test_stochastic_ep_of_one_weight():
    """The shared site tends to the mean of the blocks' sites."""
    target, of_data, pull = one_weight(n=64)
    posterior = run(target, mode="sep", batch_size=2, max_epochs=40, damping=0.3, tol=0.0)
    mean, variance = moments(posterior)
    assert abs(variance[0] * (1 + of_data) - 1) < 0.1
    assert abs(mean[0] - pull / (1 + of_data)) < 0.2 * np.sqrt(variance[0])
    assert "log_evidence" not in posterior.adapted


def test_filtering_depends_on_the_order_and_ep_does_not():
    target = linear_model(n=30).log_posterior
    turned = target.rows(np.arange(30)[::-1].copy())
    settings = {"batch_size": 1, "shuffle": False}
    first, second = (moments(run(t, mode="adf", **settings))[0] for t in (target, turned))
    deviation = np.sqrt(moments(run(target))[1])
    assert np.abs((first - second) / deviation).max() > 0.1
    settings.update(tol=1e-7, max_epochs=300)
    first, second = (moments(run(t, **settings))[0] for t in (target, turned))
    assert np.abs((first - second) / deviation).max() < 1e-4
    # at random the seed is the order
    one, other = (moments(run(target, seed, mode="adf", batch_size=1))[0] for seed in (1, 2))
    assert not np.allclose(one, other)


# -------------------------------------------------------------- classification


def logistic_target(n=25, weight=None):
    """Labels of one feature; weight and bias."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(n, 1))
    y = (rng.random(n) < special.expit(1.5 * X[:, 0] + 0.5)).astype(float)
    network = MLPNetwork(1, (), 1, "tanh")
    target = LogPosterior(
        network,
        Bernoulli(),
        NormalPrior(2.0).build(network),
        Inputs(X, dtype=torch.float64, device=CPU),
        tensor(y)[None, None],
        None if weight is None else tensor(weight)[None],
    )
    return target


def exact_moments(target, span=9.0):
    """Log evidence, means and variances of two weights over a grid."""
    w = np.linspace(-span, span, 301)
    theta = np.stack(np.meshgrid(w, w, indexing="ij"), -1).reshape(-1, 2)
    log_p = target(tensor(theta)).numpy()
    p = np.exp(log_p - log_p.max())
    mean = p @ theta / p.sum()
    evidence = np.log(p.sum() * (w[1] - w[0]) ** 2) + log_p.max()
    return evidence, mean, p @ (theta - mean) ** 2 / p.sum()


@pytest.mark.parametrize("batch_size, bound", [(1, 0.15), (25, 0.05)])
def test_logistic_regression_against_quadrature(batch_size, bound):
    target = logistic_target()
    evidence, mean, variance = exact_moments(target)
    posterior = run(target, batch_size=batch_size, tol=1e-5, max_epochs=300, damping=0.7)
    found, spread = moments(posterior)
    assert np.all(np.abs(found - mean) < bound * np.sqrt(variance))
    assert np.all(np.abs(spread / variance - 1) < 2 * bound)
    assert abs(posterior.adapted["log_evidence"][0] - evidence) < bound


def test_a_row_of_weight_two_is_two_rows():
    weight = np.random.default_rng(0).integers(0, 3, size=25).astype(float)
    target = logistic_target(weight=weight)
    rows = np.repeat(np.arange(25), weight.astype(int))
    repeated = logistic_target().rows(rows)
    settings = {"tol": 1e-6, "max_epochs": 200, "damping": 0.9}
    first, second = (moments(run(t, **settings)) for t in (target, repeated))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-3)


def test_rows_of_no_weight_leave_the_prior():
    """The random start of the means is no part of the answer."""
    rng = np.random.default_rng(0)
    network = MLPNetwork(2, (4,), 1, "relu")
    target = LogPosterior(
        network,
        Normal(1, np.array([0.5]), np.ones(1)),
        NormalPrior(1.5).build(network),
        Inputs(rng.normal(size=(20, 2)), dtype=torch.float64, device=CPU),
        tensor(rng.normal(size=(1, 1, 20))),
        tensor(np.full((1, 20), 1e-12)),
    )
    for mode, epochs in (("adf", 1), ("ep", 30), ("sep", 60)):
        settings = {"batch_size": 10, "max_epochs": epochs, "tol": 0.0}
        mean, variance = moments(run(target, mode=mode, **settings))
        np.testing.assert_allclose(mean, 0.0, atol=1e-6)
        np.testing.assert_allclose(variance, 2.25, rtol=1e-6)


# -------------------------------------------------------------------- networks


def test_a_network_with_one_unit_against_quadrature():
    """Weight of the input and of the output free, both biases held at zero: a plane."""
    rng = np.random.default_rng(5)
    X = rng.uniform(0.5, 2.0, size=(20, 1))
    y = np.tanh(1.2 * X[:, 0]) * 1.5 + 0.2 * rng.normal(size=20)
    network = MLPNetwork(1, (1,), 1, "tanh")
    prior = NormalPrior().build(network)
    prior.scales = np.array([1.0, 1e-5, 1.0, 1e-5])
    target = LogPosterior(
        network,
        Normal(1, np.array([0.5]), np.ones(1)),
        prior,
        Inputs(X, dtype=torch.float64, device=CPU, scale=network.input_scale),
        tensor(y)[None, None],
    )
    # one row: log Z of the prior moved to where signs are decided, the output taken as normal
    m, v = np.array([1.0, 0.0, 1.2, 0.0]), np.array([0.04, 1e-12, 0.04, 1e-12])
    rows = tensor([[[X[0, 0], 1.0]]])
    z, cov = output_moments(network, tensor(m)[None], tensor(v)[None], rows)

    a, b = np.meshgrid(np.linspace(-0.4, 2.4, 401), np.linspace(-0.2, 2.6, 401))
    density = stats.norm(1.0, 0.2).pdf(a) * stats.norm(1.2, 0.2).pdf(b)
    density *= stats.norm(b * np.tanh(a * X[0, 0]), 0.5).pdf(y[0])
    exact = density.sum() * 0.007**2
    found = stats.norm(float(z), np.sqrt(float(cov) + 0.25)).logpdf(y[0])
    assert abs(found - np.log(exact)) < 2e-3
    # all rows: the mode with positive weights
    w = np.linspace(0.0, 5.0, 201)
    theta = np.zeros((201 * 201, 4))
    theta[:, [0, 2]] = np.stack(np.meshgrid(w, w, indexing="ij"), -1).reshape(-1, 2)
    log_p = target(tensor(theta)).numpy()
    p = np.exp(log_p - log_p.max())
    mean = p @ theta / p.sum()
    deviation = np.sqrt(p @ (theta - mean) ** 2 / p.sum())
    start = tensor([[1.0, 0.0, 1.0, 0.0]])
    posterior = run(target, theta0=start, batch_size=4, max_epochs=100, tol=1e-3)
    assert posterior.messages == []
    found, variance = moments(posterior)
    free = [0, 2]
    assert np.all(np.abs(found - mean)[free] < 0.6 * deviation[free])
    ratio = np.sqrt(variance)[free] / deviation[free]
    assert np.all((ratio > 0.4) & (ratio < 1.1))  # the ridge between the two weights is lost


@pytest.mark.parametrize("noise", ["learned", "heteroscedastic"])
def test_regression_by_a_network(noise, curve, quiet):
    X, y = curve
    method = EP(max_epochs=15, batch_size=4, n_members=2)
    reg = BayesianMLPRegressor((10,), method=method, noise=noise, random_state=0).fit(X, y)
    residual = y - reg.predict(X)
    assert residual.std() < 0.8  # noise 0.5, y's own deviation is above 2
    covered = reg.predict_interval(X, coverage=0.9)
    inside = ((covered[:, 0] < y) & (y < covered[:, 1])).mean()
    assert inside > 0.8
    assert reg.loss_curve_[-1] < reg.loss_curve_[0]
    assert reg.posterior_.adapted["mean"].shape[0] == 2
    far = reg.predict_uncertainty(4 * X).epistemic.mean()
    assert far > reg.predict_uncertainty(X).epistemic.mean()


def test_classification_by_a_network(blobs, binary, quiet):
    for X, y in (blobs, binary):
        clf = BayesianMLPClassifier(
            (8,), method=EP(max_epochs=8, batch_size=4), random_state=0
        ).fit(X, y)
        prior = np.bincount(y) / len(y)
        loss = -np.log(clf.predict_proba(X)[np.arange(len(y)), y]).mean()
        assert loss < 0.75 * stats.entropy(prior)


def test_sparse_rows_are_as_good_as_dense_ones(binary, quiet):
    X, y = binary
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    kw = {"method": EP(max_epochs=2), "standardize": False, "dtype": "float64", "random_state": 0}
    dense = BayesianMLPClassifier((4,), **kw).fit(X, y).predict_proba(X)
    sparse = BayesianMLPClassifier((4,), **kw).fit(sp.csr_matrix(X), y).predict_proba(X)
    np.testing.assert_allclose(dense, sparse, atol=1e-10)


# --------------------------------------------------------- messages and errors


def test_interruption_keeps_what_there_is():
    target = linear_model(n=40).log_posterior

    def stop(done, total, text):
        assert total == 400
        if done == 25:
            raise KeyboardInterrupt

    posterior = run(target, batch_size=10, max_epochs=100, tol=0.0, on_step=stop)
    assert posterior.interrupted and "interrupted in epoch 7" in posterior.messages[0]
    assert np.isfinite(posterior.draws).all()
    exact = moments(run(target))[0]
    assert np.allclose(moments(posterior)[0], exact, atol=0.05)


def test_no_convergence_is_told():
    model = linear_model(n=40)
    posterior = run(model.log_posterior, batch_size=4, max_epochs=2, tol=1e-6)
    assert "has not converged" in posterior.messages[0] and "max_epochs" in posterior.messages[0]
    assert run(model.log_posterior, mode="adf", batch_size=4).messages == []


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"mode": "vb"}, "mode='vb'"),
        ({"damping": 0.0}, "damping=0.0"),
        ({"mode": "adf", "damping": 0.5}, "damping=0.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"n_members": 0}, "n_members=0"),
        ({"shuffle": "yes"}, "shuffle='yes'"),
        ({"tol": -1.0}, "tol=-1.0"),
    ],
)
def test_wrong_parameters(kwargs, words):
    with pytest.raises(ValueError, match=words):
        EP(**kwargs).check()


def test_what_it_does_not_do(curve, monkeypatch):
    X, y = curve
    with pytest.raises(ValueError, match="NormalPrior, but is LaplacePrior"):
        BayesianMLPRegressor((5,), method="ep", prior="laplace").fit(X, y)
    monkeypatch.setattr(ep, "SITE_BYTES", 1000)
    with pytest.raises(ValueError, match="set mode='sep'"):
        BayesianMLPRegressor((5,), method="ep").fit(X, y)
