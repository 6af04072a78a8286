"""The log posterior as a whole: its parts, its gradient, weights, minibatches, its integral."""

import pickle

import numpy as np
import pytest
import torch
from problems import F64, KINDS, SCALE, finite_differences, make_log_posterior, random_theta
from scipy import integrate, stats

from skbayes.inference import Streams
from skbayes.model import (
    HierarchicalPrior,
    HorseshoePrior,
    Inputs,
    LaplacePrior,
    LearnedMixturePrior,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
    StudentTPrior,
)

PRIORS = {
    "normal": NormalPrior(scale=0.8),
    "normal, fan-in": NormalPrior(scale=0.8, fan_in=True),
    "laplace": LaplacePrior(),
    "student_t": StudentTPrior(),
    "hierarchical": HierarchicalPrior(),
    "learned_mixture": LearnedMixturePrior(),
    "horseshoe": HorseshoePrior(),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@EVERY_KIND
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("sparse", [False, True])
def test_gradient(kind, prior, sparse):
    weight = np.random.default_rng(5).integers(0, 3, 17)
    target = make_log_posterior(kind, prior=PRIORS[prior], weight=weight, sparse=sparse)
    theta = random_theta(target)
    value, grad = target.value_and_grad(theta)
    value, grad = value.clone(), grad.clone()
    np.testing.assert_allclose(value, target(theta), rtol=1e-12)
    np.testing.assert_allclose(target.grad(theta), grad, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad, finite_differences(target, theta), rtol=1e-5, atol=1e-6)


@EVERY_KIND
def test_value_is_likelihood_plus_prior(kind):
    target = make_log_posterior(kind, prior=PRIORS["hierarchical"])
    theta = random_theta(target)
    net, params, hyper = target.layout.split(theta)
    outputs = target.network.forward(target.prior.weights(net, hyper), target.inputs)
    likelihood = target.likelihood.pointwise(outputs, params, target.y).sum(1)
    prior = target.prior.log_prob_and_grad(net, hyper)[0]
    prior = prior + target.likelihood.log_prior_and_grad(params)[0]
    np.testing.assert_allclose(target.log_likelihood(theta), likelihood, rtol=1e-12)
    np.testing.assert_allclose(target(theta), likelihood + prior, rtol=1e-12)


@EVERY_KIND
@pytest.mark.parametrize("prior", ["normal", "hierarchical"])
def test_integer_weights_are_repeated_rows(kind, prior):
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, 17)
    weighted = make_log_posterior(kind, prior=PRIORS[prior], weight=weight)
    rows = np.repeat(np.arange(17), weight)
    plain = make_log_posterior(kind, prior=PRIORS[prior])
    X = np.asarray(plain.inputs._rows[:, :-1]) / plain.inputs.scale
    repeated = make_log_posterior(
        kind, prior=PRIORS[prior], X=X[rows], y=plain.y[0].numpy()[:, rows], n=len(rows)
    )
    theta = random_theta(weighted)
    value, grad = (part.clone() for part in weighted.value_and_grad(theta))
    expected, expected_grad = repeated.value_and_grad(theta)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-10, atol=1e-12)


@EVERY_KIND
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("per_chain", [False, True])
def test_minibatches_average_to_the_full_gradient(kind, weighted, sparse, per_chain):
    """Over a partition into equal batches the mean is exact, prior and factor included."""
    n, size, n_chains = 18, 6, 3
    weight = np.random.default_rng(5).integers(0, 3, n) if weighted else None
    target = make_log_posterior(kind, n=n, weight=weight, sparse=sparse)
    theta = random_theta(target, n_chains)
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(n) for _ in range(n_chains if per_chain else 1)])
    if not per_chain:
        order = order[0]
    value, grad = (part.clone() for part in target.value_and_grad(theta))
    parts = []
    for start in range(0, n, size):
        batch = target.minibatch(order[..., start : start + size])
        assert batch.n == n
        parts.append([part.clone() for part in batch.value_and_grad(theta)])
        np.testing.assert_allclose(batch(theta), parts[-1][0], rtol=1e-12)
        np.testing.assert_allclose(batch.grad(theta), parts[-1][1], rtol=1e-10, atol=1e-12)
    values, grads = zip(*parts, strict=True)
    np.testing.assert_allclose(torch.stack(values).mean(0), value, rtol=1e-12)
    np.testing.assert_allclose(torch.stack(grads).mean(0), grad, rtol=1e-9, atol=1e-11)


def test_a_minibatch_is_not_already_the_full_sum():
    target = make_log_posterior("fixed")
    theta = random_theta(target)
    batch = target.minibatch(np.arange(5))
    rows = target.rows(np.arange(5))
    assert not np.allclose(batch(theta), target(theta))
    np.testing.assert_allclose(
        batch.log_likelihood(theta), 17 / 5 * rows.log_likelihood(theta), rtol=1e-12
    )


@EVERY_KIND
@pytest.mark.parametrize("prior", ["normal", "hierarchical"])
def test_gradient_of_perturbed_copies(kind, prior):
    weight = np.random.default_rng(5).integers(0, 3, 17)
    target = make_log_posterior(kind, prior=PRIORS[prior], weight=weight)
    streams = Streams(0, 3)
    noise = torch.full((3, 2), 0.4, **F64) if kind == "learned" else None
    copy = target.perturbed(streams, noise)
    theta = random_theta(target)
    grad = copy.grad(theta).clone()
    expected = finite_differences(copy, theta)
    if kind == "learned":  # held fixed
        own = slice(target.layout.n_network, target.layout.n_network + 2)
        assert (grad[:, own] == 0).all()
        expected[:, own] = 0.0
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(copy.value_and_grad(theta)[0], copy(theta), rtol=1e-12)


# ------------------------------------------------------------------------ integrals


def one_weight(prior, noise):
    """A linear network of one weight on three rows, and its data."""
    X, y = np.array([[0.5], [-1.0], [2.0]]), np.array([1.0, -0.6, 2.5])
    network = MLPNetwork(1, (), 1, "tanh")
    likelihood = Normal(1, noise, np.array([SCALE[1]]))
    target = LogPosterior(
        network, likelihood, prior.build(network), Inputs(X, **F64), torch.as_tensor(y)[None, None]
    )
    return target, X[:, 0], y


def integrate_over(target, fixed, free):
    """Integral of exp(log posterior) over theta[free], the others fixed."""
    at = [i for i in range(target.n_params) if i != free]

    def density(value):
        theta = torch.zeros(1, target.n_params, **F64)
        theta[0, at], theta[0, free] = torch.tensor(fixed, **F64), value
        return float(target(theta).exp())

    return integrate.quad(density, -12, 12, epsabs=0, epsrel=1e-10, limit=400)[0]


def test_integral_over_learned_noise():
    """Over the noise itself, by the density that its prior has in the units of sigma."""
    target, x, y = one_weight(NormalPrior(scale=0.8), "learned")
    w, b = 0.9, 0.3
    scale, shift = SCALE[1], np.log(np.expm1(0.3))

    def integrand(sigma):
        raw = np.log(np.expm1(sigma / scale - 0.003)) - shift
        jacobian = scale / (1.0 + np.exp(-(raw + shift)))  # d sigma / d raw
        likelihood = stats.norm(w * x + b, sigma).pdf(y).prod()
        return likelihood * stats.norm(0, 1.5).pdf(raw) / jacobian

    expected, _ = integrate.quad(integrand, 0.003 * scale, 40, epsabs=0, epsrel=1e-8, limit=500)
    expected *= stats.norm(0, 0.8).pdf([w, b]).prod()
    np.testing.assert_allclose(integrate_over(target, [w, b], 2), expected, rtol=1e-6)


def test_integral_over_hierarchical_scale():
    """Over tau, by the log-normal density; theta holds z = w / tau, so that dz stays as it is."""
    target, x, y = one_weight(HierarchicalPrior(scale=1.3, spread=0.7, fan_in=False), np.ones(1))
    z, c = 0.9, 0.3

    def integrand(tau):
        mean = 1.3 * tau * (z * x + c)
        return stats.norm(mean, 1.0).pdf(y).prod() * stats.lognorm(0.7).pdf(tau)

    expected, _ = integrate.quad(integrand, 0, 200, epsabs=0, epsrel=1e-8, limit=500)
    expected *= stats.norm(0, 1).pdf([z, c]).prod()
    np.testing.assert_allclose(integrate_over(target, [z, c], 2), expected, rtol=1e-6)


def test_integral_over_a_weight():
    target, x, y = one_weight(LaplacePrior(scale=0.8), np.array([0.9]))

    def integrand(w):
        return stats.norm(w * x + 0.3, 0.9).pdf(y).prod() * stats.laplace(0, 0.8).pdf(w)

    expected = integrate.quad(integrand, -12, 12, points=[0.0], limit=400)[0]
    expected *= stats.laplace(0, 0.8).pdf(0.3)
    np.testing.assert_allclose(integrate_over(target, [0.3], 0), expected, rtol=1e-6)


# ------------------------------------------------------------------------ layout


@EVERY_KIND
def test_layout_names_every_parameter(kind):
    target = make_log_posterior(kind, prior=PRIORS["hierarchical"])
    theta = target.sample_prior(Streams(0, 5))
    assert theta.shape == (5, target.n_params) == target.initial(Streams(0, 5)).shape
    named = target.layout.constrain(theta.numpy().reshape(5, 1, -1))
    n_named = sum(np.prod(values.shape[2:]) for values in named.values())
    assert n_named == target.n_params
    assert named["prior_scale"].shape == (5, 1, 2)
    assert named["layers.0.weight"].shape == (5, 1, 3, 4)
    assert ("noise_std" in named) == (kind == "learned")
    net, _, hyper = target.layout.split(theta)
    w = target.prior.weights(net, hyper)[:, :12].reshape(5, 1, 3, 4)
    np.testing.assert_allclose(named["layers.0.weight"], w)


def test_pickled_layout_constrains_alike():
    target = make_log_posterior("learned", prior=PRIORS["hierarchical"])
    theta = random_theta(target)
    target.value_and_grad(theta)  # fills the buffers, which must not travel
    data = pickle.dumps(target.layout)
    assert len(data) < 20_000
    for name, values in pickle.loads(data).constrain(theta.numpy()).items():
        np.testing.assert_array_equal(values, target.layout.constrain(theta.numpy())[name])
