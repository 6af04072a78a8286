"""HMC and anchored members against the exact posterior of linear models."""

import numpy as np
import pytest
import torch
from gaussian_target import check_moments, linear_model, mcse_of_mean
from scipy import stats

from skbayes.inference import HMC, Anchored, Streams, anchored
from skbayes.inference.noise import folds, log_prob_by_held_out, log_prob_by_prior_functions
from skbayes.inference.optimizers import lbfgs
from skbayes.model import NormalPrior

MODELS = {
    "plain": {},
    "weights, two outputs": {"n_outputs": 2, "weighted": True, "noise": (0.5, 1.0)},
    "wide prior": {"prior": NormalPrior(scale=3.0), "n": 8},
    "fan-in prior": {"prior": NormalPrior(scale=0.5, fan_in=True), "n": 8},
}
SEEDS = (1, 2, 3)


def make(name, **kwargs):
    return linear_model(**{**MODELS[name], **kwargs})


@pytest.mark.parametrize("name", MODELS)
def test_log_posterior_is_the_exact_density_up_to_a_constant(name):
    model = make(name)
    theta = np.random.default_rng(0).normal(size=(20, len(model.mean)))
    exact = stats.multivariate_normal(model.mean, model.cov).logpdf(theta)
    found = model.log_posterior(torch.as_tensor(theta)).numpy()
    np.testing.assert_allclose(found - found[0], exact - exact[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MODELS)
def test_hmc(name, seed):
    model = make(name)
    method = HMC(n_chains=32, n_warmup=100, n_draws=75, init="prior")
    posterior = method.run(model.log_posterior, None, Streams(seed, 32))
    check_moments(posterior.draws, model.mean, model.cov)


def test_hmc_in_float32():
    model = make("plain", dtype=torch.float32)
    posterior = HMC(n_chains=32, n_warmup=100, n_draws=75).run(
        model.log_posterior, None, Streams(1, 32)
    )
    assert posterior.draws.dtype == np.float32
    check_moments(posterior.draws, model.mean, model.cov)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MODELS)
def test_anchored(name, seed):
    model = make(name)
    n_members = 1250
    posterior = Anchored(n_members=n_members, solver="lbfgs").run(
        model.log_posterior, None, Streams(seed, n_members)
    )
    assert posterior.draws.shape == (n_members, 1, len(model.mean))
    check_moments(posterior.draws, model.mean, model.cov)


def test_anchored_by_adam():
    """The optimiser on minibatches ends near the same members; its noise is a small bias."""
    model = make("plain")
    n_members = 200
    settings = {"learning_rate": 0.03, "batch_size": 10, "max_epochs": 1000}
    method = Anchored(n_members=n_members, solver="adam", **settings)
    adam = method.run(model.log_posterior, None, Streams(1, n_members)).last_state
    exact = Anchored(n_members=n_members, solver="lbfgs")
    exact = exact.run(model.log_posterior, None, Streams(1, n_members)).last_state
    deviation = np.sqrt(np.diag(model.cov))
    assert np.all(np.sqrt(((adam - exact) ** 2).mean(0)) < 0.1 * deviation)


class LearnedNoise:
    """Exact moments of a linear model with learned noise, by quadrature over its parameter."""

    def __init__(self, model, k=0):
        likelihood = model.log_posterior.likelihood
        raw = np.linspace(-8.0, 8.0, 1601)
        # the definition of the noise, restated: 0.003 + softplus(r + r0), softplus(r0) = 0.3
        sigma = 0.003 + np.logaddexp(0.0, raw + np.log(np.expm1(0.3)))
        np.testing.assert_allclose(
            likelihood.constrain(np.repeat(raw[:, None], likelihood.n_outputs, 1))["noise_std"][
                :, k
            ],
            sigma,
        )
        log_mass = stats.norm(0.0, 1.5).logpdf(raw)
        log_mass += model.log_marginal(sigma, k)
        mass = np.exp(log_mass - log_mass.max())
        self.mass = mass / mass.sum()
        self.log_sigma = np.log(sigma)
        keep = self.mass > 1e-12
        self.mass, self.log_sigma = self.mass[keep], self.log_sigma[keep]
        n_outputs = model.y.shape[1]
        given = [model.given_noise([s] * n_outputs) for s in sigma[keep]]
        means, covs = (np.array([g[i][k] for g in given]) for i in (0, 1))
        centre = self.mass @ self.log_sigma
        self.noise_deviation = np.sqrt(self.mass @ (self.log_sigma - centre) ** 2)
        self.weight_mean = self.mass @ means
        centred = means - self.weight_mean
        self.weight_cov = np.tensordot(self.mass, covs, 1) + centred.T * self.mass @ centred

    def check(self, model, draws, k=0):
        """Draws (n_chains, n_draws, n_params) of the model, for output k."""
        weights = draws[..., : model.log_posterior.network.n_params]
        weights = weights.reshape(*draws.shape[:2], -1, model.y.shape[1])[..., k]
        check_moments(weights, self.weight_mean, self.weight_cov)
        log_noise = np.log(model.log_posterior.layout.constrain(draws)["noise_std"][..., [k]])
        mean = self.mass @ self.log_sigma
        square = self.mass @ (self.log_sigma - mean) ** 2
        for values, expected in ((log_noise, mean), ((log_noise - mean) ** 2, square)):
            z = (values.mean() - expected) / mcse_of_mean(values)[0]
            assert abs(z) < 4, f"z = {z:.1f}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_hmc_with_learned_noise(seed):
    model = linear_model(n=20, noise="learned")
    method = HMC(n_chains=48, n_warmup=120, n_draws=85)
    posterior = method.run(model.log_posterior, None, Streams(seed, 48))
    LearnedNoise(model).check(model, posterior.draws)


@pytest.mark.parametrize("n, n_outputs", [(8, 1), (40, 2)])
def test_noise_given_prior_functions_is_exact(n, n_outputs):
    """On a linear model the prior's functions are a normal process, up to their 2,000 draws.

    These make an error of 3 % in the variances of the process, which moves the noise by a few
    hundredths of its deviation where rows are few.
    """
    model = linear_model(n=n, n_outputs=n_outputs, noise="learned")
    log_prob = log_prob_by_prior_functions(model.log_posterior, Streams(1, 2))
    sigma = model.log_posterior.likelihood.noise_grid(torch.device("cpu"))[2]
    for k in range(n_outputs):
        exact = LearnedNoise(model, k)
        mass, log_sigma = torch.softmax(log_prob[k], 0).numpy(), np.log(sigma[k].numpy())
        mean, deviation = exact.mass @ exact.log_sigma, exact.noise_deviation
        assert abs(mass @ log_sigma - mean) < 0.04 * deviation
        found = np.sqrt(mass @ (log_sigma - mass @ log_sigma) ** 2)
        assert abs(found / deviation - 1) < 0.02


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_anchored_with_noise_given_prior_functions(n_outputs, seed, monkeypatch):
    """Without the held-out rows, which few members cannot use, all members are exact draws."""
    monkeypatch.setattr(anchored, "N_FOLDS", 10**6)
    model = linear_model(n=40, n_outputs=n_outputs, noise="learned")
    n_members = 1500
    posterior = Anchored(n_members=n_members, solver="lbfgs").run(
        model.log_posterior, None, Streams(seed, n_members)
    )
    for k in range(n_outputs):
        LearnedNoise(model, k).check(model, posterior.draws, k)


def test_noise_given_held_out_rows_is_centred():
    """Over data sets its logarithm is right on average, the weights' own error being taken off."""
    found, n_sets, n_members = [], 40, 100
    for seed in range(n_sets):
        target = linear_model(n=40, noise="learned", seed=seed).log_posterior
        streams = Streams(seed, n_members)
        held = folds(target.n, n_members, streams)
        perturbed = target.perturbed(streams, torch.full((n_members, 1), 0.5)).without(held)
        theta = lbfgs(perturbed, target.initial(streams), max_iter=100)[0]
        log_prob = log_prob_by_held_out(target, theta, held)[0]
        sigma = target.likelihood.noise_grid(torch.device("cpu"))[2][0]
        found.append(float(torch.softmax(log_prob, 0) @ sigma.log()))
    error = np.std(found) / np.sqrt(n_sets)
    assert 0.01 < error < 0.03  # 40 rows give 11 % or a little more, 40 sets a sixth of it
    # a posterior mean of a logarithm may itself lie some hundredths off
    assert abs(np.mean(found) - np.log(0.5)) < 4 * error


@pytest.mark.parametrize("seed", SEEDS)
def test_anchored_with_learned_noise(seed):
    """The noise is pooled from the exact density and from that of the errors on held-out rows.

    The errors are taken as independent, which costs precision, and tell of the noise by other
    residuals than all of the data do: the centre may move by a fraction of its deviation, while
    the width stays near. The weights, exact draws given the noise, hardly feel it.
    """
    model = linear_model(n=40, noise="learned", seed=seed)
    exact, n_members = LearnedNoise(model), 1000
    posterior = Anchored(n_members=n_members, solver="lbfgs").run(
        model.log_posterior, None, Streams(seed, n_members)
    )
    log_noise = np.log(posterior.unflatten()["noise_std"].ravel())
    mean, deviation = exact.mass @ exact.log_sigma, exact.noise_deviation
    assert abs(log_noise.mean() - mean) < 0.5 * deviation
    of_width = 4 * np.sqrt(0.5 / n_members)  # relative error of a deviation, 4 standard errors
    assert 0.95 - of_width < log_noise.std() / deviation < 1.15 + of_width
    weights, spread = posterior.flat[:, :4], np.sqrt(np.diag(exact.weight_cov))
    z = (weights.mean(0) - exact.weight_mean) / spread
    assert np.all(np.abs(z) < 4 / np.sqrt(n_members) + 0.05)
    assert np.all(np.abs(weights.std(0) / spread - 1) < of_width + 0.07)
