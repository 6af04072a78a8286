"""Anchored ensembles beyond the linear model, see test_conjugate.py for their exactness there."""

import numpy as np
import pytest
import torch
from gaussian_target import CPU, linear_model

from skbayes.inference import Anchored, Streams
from skbayes.inference.optimizers import lbfgs
from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior


def network_model(noise=0.3, n=40, weight=None, classify=False, dtype=torch.float64):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=n)
    likelihood = Normal(1, noise if isinstance(noise, str) else np.array([noise]), np.ones(1))
    if classify:
        y, likelihood = (y > 0).astype(float), Bernoulli()
    network = MLPNetwork(2, (6,), 2 if noise == "heteroscedastic" else 1, "tanh")
    kw = {"dtype": dtype, "device": CPU}
    inputs = Inputs(X, scale=network.input_scale, **kw)
    weight = None if weight is None else torch.as_tensor(weight[None], **kw)
    y = torch.as_tensor(y[None, None], **kw)
    return LogPosterior(network, likelihood, NormalPrior().build(network), inputs, y, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_members_are_modes_of_their_own_targets(dtype):
    """A member climbs the density of its own data around its own anchor, nearly to the top."""
    target = network_model(dtype=dtype)
    perturbed = target.perturbed(Streams(3, 6))
    assert perturbed.y.shape == (6, 1, 40) and perturbed._anchor.shape == (6, target.n_params)

    class Fixed:
        """The log posterior, whose perturbed copy is the one above."""

        def __getattr__(self, name):
            return getattr(target, name)

        def __call__(self, theta):
            return target(theta)

        def perturbed(self, streams, noise_std=None, bootstrap=True):
            return perturbed

    theta0 = target.initial(Streams(4, 6))
    method = Anchored(n_members=6, max_epochs=800)
    posterior = method.run(Fixed(), theta0, Streams(5, 6))
    theta = torch.as_tensor(posterior.last_state)
    value, grad = perturbed.value_and_grad(theta)
    assert bool((value > perturbed(theta0)).all())
    # Curved valleys are followed until a step promises little: what a much longer climb still
    # finds is a small share, and less than what separates a mode from typical draws.
    further = perturbed(lbfgs(perturbed, theta.clone(), max_iter=500, tol=1e-9)[0])
    rest = further - value
    assert float((rest / (further - perturbed(theta0))).max()) < 0.05
    assert float(rest.max()) < 0.5 * target.n_params, rest
    np.testing.assert_allclose(posterior.stats["log_prob"][:, 0], target(theta), rtol=1e-6)


def test_perturbed_data_have_the_noise_of_the_rows():
    weight = np.tile([0.0, 0.5, 1.0, 4.0], 10)
    target = network_model(weight=weight)
    n_members = 4000
    noise = (target.perturbed(Streams(1, n_members)).y - target.y)[:, 0].numpy()
    deviation = np.where(weight > 0, 0.3 / np.sqrt(np.maximum(weight, 0.1)), 0.0)
    tolerance = 4.5 * np.sqrt(0.5 / n_members)  # of a standard deviation, relative
    np.testing.assert_allclose(noise.std(0), deviation, rtol=tolerance)
    assert np.all(np.abs(noise.mean(0)) <= 4.5 * deviation / np.sqrt(n_members))


def test_labels_get_exponential_weights():
    weight = np.tile([0.0, 0.5, 1.0, 4.0], 10)
    n_members = 4000
    for given in (None, weight):
        perturbed = network_model(classify=True, weight=given).perturbed(Streams(1, n_members))
        expected = np.ones(40) if given is None else given
        found = perturbed.weight.numpy()
        assert np.all(np.abs(found.mean(0) - expected) <= 4.5 * np.sqrt(expected / n_members))
        # a gamma's fourth central moment is 3 w^2 + 6 w
        error = np.sqrt((2 * expected**2 + 6 * expected) / n_members)
        assert np.all(np.abs(found.var(0) - expected) <= 4.5 * error)


def test_integer_weights_are_repeated_rows():
    """The mean of the members is that of the model whose rows are written out."""
    rng = np.random.default_rng(0)
    weighted = linear_model(n=20, d=2, weighted=True)
    times = rng.integers(0, 4, size=20)
    lp = weighted.log_posterior
    lp.weight, lp._weight_sum, lp._constants = torch.as_tensor(times[None] * 1.0), None, None
    members = Anchored(n_members=1000, solver="lbfgs").run(lp, None, Streams(1, 1000)).flat
    weighted.weight = times
    repeated = linear_model(n=20, d=2)
    repeated.X, repeated.y = np.repeat(weighted.X, times, 0), np.repeat(weighted.y, times, 0)
    repeated.weight = np.ones(len(repeated.X))
    mean, cov = (part[0] for part in repeated.given_noise([0.5]))
    deviation = np.sqrt(np.diag(cov))
    assert np.all(np.abs(members.mean(0) - mean) < 4 * deviation / np.sqrt(1000))
    np.testing.assert_allclose(members.std(0), deviation, rtol=4 * np.sqrt(0.5 / 1000))


def test_rows_without_weights_of_their_own():
    """With bootstrap=False members differ by their draws from the prior alone."""
    target = network_model(classify=True)
    with_weights, without = (target.perturbed(Streams(1, 3), None, b) for b in (True, False))
    assert without.weight is None and with_weights.weight is not None
    assert torch.equal(without.anchor, with_weights.anchor)
    posterior = Anchored(3, max_epochs=300, bootstrap=False).run(target, None, Streams(1, 3))
    assert posterior.independent and np.ptp(posterior.flat, 0).max() > 0.1
    with pytest.raises(ValueError, match=r"bootstrap=2 is not allowed"):
        Anchored(bootstrap=2).check()


@pytest.mark.parametrize("noise", [0.3, "learned", "heteroscedastic"])
@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
def test_few_members(noise, n_members):
    target = network_model(noise)
    method = Anchored(n_members=n_members, max_epochs=300)
    posterior = method.run(target, None, Streams(1, n_members))
    assert posterior.draws.shape == (n_members, 1, target.n_params)
    assert np.isfinite(posterior.draws).all() and np.isfinite(posterior.stats["log_prob"]).all()
    assert posterior.independent
    if n_members > 1:
        assert np.linalg.norm(posterior.flat[0] - posterior.flat[1]) > 0.1


@pytest.mark.parametrize("classify", [False, True])
def test_a_member_does_not_depend_on_how_many_there_are(classify):
    """Where the noise is fixed; a learned one may be estimated from all members together."""
    target = network_model(classify=classify)
    together = Anchored(n_members=4, max_epochs=30).run(target, None, Streams(1, 4))
    alone = Anchored(n_members=1, max_epochs=30).run(target, None, Streams(1, 1, first=2))
    np.testing.assert_allclose(alone.flat[0], together.flat[2], rtol=1e-5, atol=1e-6)


def test_learned_noise_of_a_network_is_near_the_truth():
    """The data have noise 0.3; with 200 rows its posterior is about 5 % wide."""
    target = network_model("learned", n=200)
    posterior = Anchored(n_members=16).run(target, None, Streams(1, 16))
    noise = posterior.unflatten()["noise_std"]
    assert 0.24 < noise.mean() < 0.38 and noise.std() < 0.06


def test_too_few_iterations_are_reported():
    posterior = Anchored(n_members=3, solver="lbfgs", max_epochs=2).run(
        network_model(), None, Streams(1, 3)
    )
    assert "max_epochs" in posterior.messages[0]
