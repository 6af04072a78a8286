"""Calibration of HMC over the prior: ranks of simulated truths, and Geweke's joint test."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_target import CPU

from skbayes.inference import HMC, Streams
from skbayes.inference.hmc import _HMCKernel
from skbayes.model import (
    Bernoulli,
    HierarchicalPrior,
    Inputs,
    LaplacePrior,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
    StudentTPrior,
)

BENCHMARK = Path(__file__).parents[1] / "examples" / "benchmarks" / "sbc.py"


@pytest.fixture(scope="module")
def sbc():
    """The benchmark as a module, so that both rank the same quantities."""
    spec = importlib.util.spec_from_file_location("sbc", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def p_values(sbc, ranks):
    return {
        name: min(sbc.chi_squared_p([r[name] for r in ranks]), sbc.ecdf_p([r[name] for r in ranks]))
        for name in sbc.QUANTITIES
    }


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["hmc", "hmc-whole", "nuts"])
def test_ranks_are_uniform(sbc, sampler):
    """Short form of the benchmark; three quantities, two tests of each, one in a thousand."""
    settings = {"n_warmup": 60, "thin": 2} if sampler == "nuts" else {"n_warmup": 100, "thin": 4}
    ranks = [sbc.replicate(s, sampler=sampler, **settings) for s in range(1000, 1012)]
    p = p_values(sbc, ranks)
    assert min(p.values()) > 1e-3, p


def test_ranks_show_a_sampler_that_ignores_the_data(sbc):
    """Prior draws pass on the noise and on the function, and fail on the log likelihood."""

    def from_prior(target, streams):
        draws = [target.sample_prior(streams).numpy() for _ in range(sbc.KEPT_PER_CHAIN)]
        return np.stack(draws, 1)

    p = p_values(sbc, [sbc.replicate(seed, sampler=from_prior) for seed in range(40)])
    assert p["log_likelihood"] < 1e-4
    assert p["noise"] > 1e-3 and p["function"] > 1e-3


def test_p_values_are_uniform_under_the_null(sbc):
    rng = np.random.default_rng(0)
    sets = rng.integers(sbc.N_RANKS, size=(60, 200))
    for p_value in (sbc.chi_squared_p, lambda r: sbc.ecdf_p(r, n_simulations=400)):
        p = np.array([p_value(ranks) for ranks in sets])
        assert abs(p.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 60)
        assert p_value(rng.binomial(sbc.N_RANKS - 1, 0.5, size=200)) < 3e-3  # the least of 400


# ---------------------------------------------------------------------- Geweke (2004)

N_CHAINS, N_ROUNDS, N_ROWS = 3000, 12, 4
MODELS = {  # prior, noise or None for labels, step size
    "normal": (NormalPrior(), "learned", 0.15),
    "fan-in, float32": (NormalPrior(scale=0.7, fan_in=True), "learned", 0.15),
    "hierarchical": (HierarchicalPrior(spread=0.7), "learned", 0.15),
    "heteroscedastic": (NormalPrior(), "heteroscedastic", 0.1),
    "student-t, labels": (StudentTPrior(scale=0.8), None, 0.4),
    "laplace, labels": (LaplacePrior(scale=0.8), None, 0.4),
}


def build(prior, noise, dtype):
    rng = np.random.default_rng(0)
    likelihood = Bernoulli() if noise is None else Normal(1, noise, np.ones(1))
    n_outputs = 2 if noise == "heteroscedastic" else 1
    network, kw = MLPNetwork(1, (2,), n_outputs, "tanh"), {"dtype": dtype, "device": CPU}
    inputs = Inputs(rng.normal(size=(N_ROWS, 1)), scale=network.input_scale, **kw)
    y = torch.zeros((N_CHAINS, 1, N_ROWS), **kw)
    return LogPosterior(network, likelihood, prior.build(network), inputs, y)


def outputs_and_params(target, theta):
    net, params, hyper = target.layout.split(theta)
    weights = target.prior.weights(net, hyper)
    return weights, target.network.forward(weights, target.inputs), params


def simulate(target, theta, streams):
    """Draw y given theta, for every chain its own."""
    _, outputs, params = outputs_and_params(target, theta)
    if isinstance(target.likelihood, Bernoulli):
        return (streams.uniform(1, N_ROWS) < outputs.double().sigmoid()).to(theta.dtype)
    mean, sigma = target.likelihood.mean_and_std(outputs, params)
    return mean + sigma * streams.normal(1, N_ROWS, dtype=theta.dtype)


def functions(target, theta, y):
    """Bounded functions of theta, of the weights, of the fit and of y, (n_chains, k)."""
    weights, outputs, params = outputs_and_params(target, theta)
    target = copy.copy(target)
    target.y = y
    log_likelihood = target.log_likelihood(theta)[:, None] / N_ROWS
    parts = [theta, weights, outputs[:, :, 0], params, log_likelihood, y[:, 0]]
    x = torch.cat([part.double() for part in parts], 1).numpy()
    return np.concatenate([np.tanh(x), np.tanh(x**2), np.tanh(x[:, :-1] * x[:, 1:])], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_joint_distribution(name):
    """Alternating y given theta and an HMC transition of theta given y leaves the prior as it is.

    Geweke (2004), section 3.2, with many chains that all start at exact draws, so that each stays
    one at every round, however slowly it moves, and chains are independent: standard errors need
    no autocorrelations. Prior, likelihood, gradients and transitions must all agree for that. The
    rounds are compared with fresh draws (the marginal-conditional simulator).
    """
    prior, noise, step_size = MODELS[name]
    dtype = torch.float32 if "float32" in name else torch.float64
    target = build(prior, noise, dtype)
    streams = Streams(11, N_CHAINS)
    theta = start = target.sample_prior(streams)
    method = HMC(n_chains=N_CHAINS, n_warmup=0, step_size=step_size, trajectory_length=1.2)
    accepted = []
    for i in range(N_ROUNDS):
        target = copy.copy(target)  # what the former y left behind is dropped with it
        target.y = simulate(target, theta, streams)
        target._constants = None
        kernel = _HMCKernel(method, target, theta)
        accepted.append(kernel.step(streams, i)["acceptance"].mean())
        theta = kernel.theta
    found = functions(target, theta, simulate(target, theta, streams))
    fresh = target.sample_prior(streams)
    expected = functions(target, fresh, simulate(target, fresh, streams))
    assert 0.25 < np.mean(accepted) < 0.99
    assert float((theta - start).abs().mean()) > 0.3  # the chains have gone somewhere
    variance = found.var(0, ddof=1) + expected.var(0, ddof=1)
    z = (found.mean(0) - expected.mean(0)) / np.sqrt(np.maximum(variance, 1e-12) / N_CHAINS)
    # about a hundred functions: one beyond 4.5 has a chance of less than one in a thousand
    assert np.abs(z).max() < 4.5, np.round(z, 1)
