"""Small log posteriors with all their parts, in float64."""

import numpy as np
import scipy.sparse as sp
import torch

from skbayes.model import (
    Bernoulli,
    Categorical,
    Inputs,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
)

F64 = {"dtype": torch.float64, "device": torch.device("cpu")}
KINDS = ("bernoulli", "labels", "categorical", "fixed", "learned", "heteroscedastic")
SCALE = np.array([1.0, 2.5])  # of the two regression targets, as the network sees them


def make_likelihood(kind):
    """A likelihood and the number of outputs that its network has."""
    if kind == "bernoulli":
        return Bernoulli(), 1
    if kind == "labels":
        return Bernoulli(), 2
    if kind == "categorical":
        return Categorical(), 3
    noise = np.array([0.7, 1.3]) if kind == "fixed" else kind
    likelihood = Normal(2, noise, SCALE)
    return likelihood, likelihood.n_network_outputs


def make_targets(kind, n, rng):
    """Targets (n_targets, n) in the form that the likelihood wants."""
    if kind in ("bernoulli", "labels"):
        return rng.integers(2, size=(1 if kind == "bernoulli" else 2, n)).astype(float)
    if kind == "categorical":
        return np.eye(3)[rng.integers(3, size=n)].T.copy()
    return rng.normal(size=(2, n)) * SCALE[:, None]


def make_log_posterior(
    kind, n=17, hidden=(4,), prior=None, weight=None, sparse=False, seed=0, X=None, y=None
):
    """A log posterior on random data, or on the given X (n, 3) and y (n_targets, n)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) if X is None else X
    y = make_targets(kind, n, rng) if y is None else y
    likelihood, n_outputs = make_likelihood(kind)
    network = MLPNetwork(3, hidden, n_outputs, "tanh")
    bound = (prior or NormalPrior()).build(network)
    inputs = Inputs(sp.csr_matrix(X) if sparse else X, scale=network.input_scale, **F64)
    targets = torch.as_tensor(y[None].copy(), **F64)
    weight = None if weight is None else torch.as_tensor(np.asarray(weight, float)[None], **F64)
    return LogPosterior(network, likelihood, bound, inputs, targets, weight)


def random_theta(log_posterior, n_chains=3, seed=1):
    rng = np.random.default_rng(seed)
    return torch.as_tensor(0.7 * rng.normal(size=(n_chains, log_posterior.n_params)))


def finite_differences(function, theta, step=1e-5):
    """Central differences (n_chains, n_params) of a function of theta with values (n_chains,)."""
    columns = []
    for i in range(theta.shape[1]):
        shift = torch.zeros_like(theta)
        shift[:, i] = step
        columns.append((function(theta + shift) - function(theta - shift)) / (2 * step))
    return torch.stack(columns, 1)
