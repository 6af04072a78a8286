"""The Laplace approximation: exact where it must be, and against what is computed otherwise."""

import pickle

import numpy as np
import pytest
import torch
from gaussian_target import CPU, LinearModel, check_moments, linear_model
from scipy import sparse, stats
from scipy.special import expit
from sklearn.datasets import make_moons

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import MAP, Laplace, Streams
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
