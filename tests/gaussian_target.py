"""Targets whose posterior is known exactly, and the checks of draws against it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from arviz_stats.base import array_stats
from scipy import stats

from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior
from skbayes.model.covariance import FullCovariance

CPU = torch.device("cpu")


class GaussianTarget:
    """N(mean, cov) behind the interface of `LogPosterior`.

    ``mean`` is (d,) and ``cov`` (d, d), or one of each per chain, (n_chains, d) and
    (n_chains, d, d). The density stands for ``n`` rows; a minibatch of them has the same density,
    so that methods with and without minibatches share the target.
    """

    likelihood = prior = None
    device = CPU
    # log-concave, as a linear model is, and without units that could be dropped
    network = SimpleNamespace(
        layers=["one"], is_linear=True, units=lambda layer: np.empty(0, dtype=int)
    )

    factor = 1.0

    def __init__(self, mean, cov, dtype=torch.float64, n=100):
        self.dtype, self.n, self.total_weight = dtype, n, float(n)
        self.mean = np.asarray(mean, dtype=np.float64)
        self.cov = np.asarray(cov, dtype=np.float64)
        self.n_params = self.mean.shape[-1]
        self._mean = torch.as_tensor(np.atleast_2d(self.mean), dtype=dtype)
        precision = np.linalg.inv(self.cov).reshape(-1, self.n_params, self.n_params)
        self._precision = torch.as_tensor(precision, dtype=dtype)
        self.layout = SimpleNamespace(
            n_buffers=0,
            n_params=self.n_params,
            network=None,
            constrain=lambda theta: {"theta": theta},
        )

    def __call__(self, theta):
        return self.value_and_grad(theta)[0]

    def grad(self, theta):
        return self.value_and_grad(theta)[1]

    def value_and_grad(self, theta):
        centred = theta - self._mean
        grad = -(self._precision @ centred[:, :, None])[:, :, 0]
        return 0.5 * (centred.double() * grad.double()).sum(1), grad

    log_likelihood = __call__

    def pointwise(self, theta):
        """The density spread evenly over its rows."""
        return (self(theta) / self.n)[:, None].expand(-1, self.n)

    def log_prior_and_grad(self, theta):
        """All of the density counts as likelihood."""
        return torch.zeros(len(theta), dtype=torch.float64), torch.zeros_like(theta)

    def rows(self, index):
        return self

    minibatch = rows

    def with_power(self, power):
        assert power == 1
        return self

    def perturbed(self, streams, noise_std=None, bootstrap=True):
        """Every chain's own draw as its mode: what perturbed data and anchors amount to."""
        out = copy.copy(self)
        out._mean = self._mean + self._spread(streams)
        return out

    def initial(self, streams):
        return streams.normal(self.n_params, dtype=self.dtype)

    def sample_prior(self, streams):
        """Starting points somewhat wider than the target."""
        return self._mean + 2.0 * self._spread(streams)

    def gauss_newton(self, theta, hessian, last_layer=False):
        """The precision, as the curvature of a likelihood whose prior is flat."""
        d = self.n_params
        return SimpleNamespace(
            n_params=d,
            moving=slice(0, d),
            covariance=lambda prior: FullCovariance.of(
                self._precision[0].double() + torch.diag(prior), [(0, d, 1)]
            ),
        )

    def sample(self, streams):
        """Exact draws, one per chain."""
        return self._mean + self._spread(streams)

    def _spread(self, streams):
        root = torch.as_tensor(np.linalg.cholesky(self.cov), dtype=self.dtype)
        return (root @ streams.normal(self.n_params, 1, dtype=self.dtype))[:, :, 0]


class Mixture(GaussianTarget):
    """Two unit normals ``apart`` deviations from each other; the right one weighs ``weight``."""

    def __init__(self, apart, weight=0.7, d=3):
        super().__init__(np.zeros(d), np.eye(d))
        self.half, self.weight = 0.5 * apart, weight

    def value_and_grad(self, theta):
        x = theta[:, 0].double()
        odds = np.log(self.weight / (1 - self.weight)) + 2.0 * self.half * x
        right = torch.sigmoid(odds)
        value = -0.5 * (theta.double() ** 2).sum(1) - self.half * x
        value = value + torch.nn.functional.softplus(odds)
        grad = -theta.clone()
        grad[:, 0] += (self.half * (2.0 * right - 1.0)).to(theta.dtype)
        return value, grad

    def __call__(self, theta):
        return self.value_and_grad(theta)[0]


def correlated(d, seed=0, condition=10.0, **kwargs):
    """A Gaussian target whose axes are rotated and of unequal length."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    cov = axes * np.geomspace(1.0 / condition, 1.0, d) @ axes.T
    return GaussianTarget(rng.normal(size=d), cov, **kwargs)


@dataclass
class LinearModel:
    """A linear network with its data and, noise being fixed, its exact posterior."""

    log_posterior: LogPosterior
    X: np.ndarray
    y: np.ndarray  # (n, n_outputs)
    weight: np.ndarray  # (n,)
    prior_scale: np.ndarray  # (d + 1, n_outputs), the bias last
    mean: np.ndarray | None = None  # (n_params,)
    cov: np.ndarray | None = None

    def given_noise(self, noise):
        """Mean (k, d + 1) and covariances (k, d + 1, d + 1) of every output's weights."""
        A = np.column_stack([self.X, np.ones(len(self.X))])
        means, covs = [], []
        for k, sigma in enumerate(noise):
            scaled = A.T * self.weight / sigma**2
            cov = np.linalg.inv(scaled @ A + np.diag(self.prior_scale[:, k] ** -2.0))
            means.append(cov @ scaled @ self.y[:, k])
            covs.append(cov)
        return np.array(means), np.array(covs)

    def log_marginal(self, sigma, k=0):
        """Log density of output k given its noise (m,), weights integrated, no row weights."""
        A = np.column_stack([self.X, np.ones(len(self.X))])
        values, vectors = np.linalg.eigh(A * self.prior_scale[:, k] ** 2 @ A.T)
        variance = values + sigma[:, None] ** 2  # along the eigenvectors, (m, n)
        return stats.norm(0.0, np.sqrt(variance)).logpdf(self.y[:, k] @ vectors).sum(1)


def linear_model(
    n=30, d=3, n_outputs=1, noise=0.5, prior=None, weighted=False, seed=0, dtype=torch.float64
):
    """Draw data for a network without hidden layers; ``noise`` is a number or "learned"."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5)  # correlated columns
    true = rng.normal(size=(d + 1, n_outputs))
    sigmas = np.array([0.5, 0.8, 1.1])[:n_outputs] if noise == "learned" else noise
    sigmas = np.broadcast_to(sigmas, (n_outputs,)).astype(float)
    y = X @ true[:-1] + true[-1] + sigmas * rng.normal(size=(n, n_outputs))
    weight = rng.integers(0, 4, size=n) + 0.5 * rng.integers(0, 2, n) if weighted else np.ones(n)

    network = MLPNetwork(d, (), n_outputs, "tanh")
    bound = (prior or NormalPrior()).build(network)
    kw = {"dtype": dtype, "device": CPU}
    log_posterior = LogPosterior(
        network,
        Normal(n_outputs, "learned" if noise == "learned" else sigmas, np.ones(n_outputs)),
        bound,
        Inputs(X, scale=network.input_scale, **kw),
        torch.as_tensor(y.T[None].copy(), **kw),
        torch.as_tensor(weight[None], **kw) if weighted else None,
    )
    # the scales are restated here by hand, so that the priors' own are tested too
    scale = np.full((d + 1, n_outputs), 1.0 if prior is None else prior.scale)
    if prior is not None and prior.fan_in:
        scale[:-1] /= np.sqrt(d)
    model = LinearModel(log_posterior, X, y, weight, scale)
    if noise != "learned":
        means, covs = model.given_noise(sigmas)
        # theta holds weight (d, n_outputs), then bias: input-major, outputs side by side
        model.mean = means.T.ravel()
        cov = np.zeros((d + 1, n_outputs, d + 1, n_outputs))
        for k in range(n_outputs):
            cov[:, k, :, k] = covs[k]
        model.cov = cov.reshape(len(model.mean), -1)
    return model


def mcse_of_mean(x):
    """Standard error of the mean of each column of draws (n_chains, n_draws, k).

    A single draw per chain is an independent one.
    """
    if x.shape[1] == 1:
        ess = len(x)
    else:
        ess = array_stats.ess(x, chain_axis=0, draw_axis=1, method="mean")
    return x.std((0, 1), ddof=1) / np.sqrt(ess)


def check_moments(draws, mean, cov, limit=4.0, precision=0.03):
    """Compare draws (n_chains, n_draws, d) with the exact moments.

    Means, squares and the squared Mahalanobis distance (which sees all the covariances) must lie
    within ``limit`` of their own standard errors; the effective sample size of a square is
    measured apart, since trajectories that overshoot make that of the mean larger. The run must
    be long enough for the standard error of each mean to be at most ``precision`` deviations.
    """
    deviation = np.sqrt(np.diag(cov))
    centred = np.asarray(draws, dtype=np.float64) - mean
    white = np.linalg.solve(np.linalg.cholesky(cov), centred[..., None])[..., 0]
    distance = (white**2).sum(-1, keepdims=True)
    error = mcse_of_mean(centred)
    assert np.all(error <= precision * deviation), (error / deviation).max()
    for name, values, expected in (
        ("mean", centred, 0.0),
        ("square", centred**2, deviation**2),
        ("whitened mean", white, 0.0),
        ("distance", distance, float(len(mean))),
    ):
        z = (values.mean((0, 1)) - expected) / mcse_of_mean(values)
        assert np.all(np.abs(z) < limit), f"{name}: z = {np.round(z, 1)}"
