"""The posterior as a container: shapes, names, samples, thinning, modules, pickles."""

import pickle

import numpy as np
import pytest
import torch
from problems import make_log_posterior

from skbayes.inference import Streams
from skbayes.model import HierarchicalPrior
from skbayes.posterior import Posterior


@pytest.fixture(scope="module")
def target():
    return make_log_posterior("learned", prior=HierarchicalPrior())


@pytest.fixture(scope="module")
def posterior(target):
    draws = target.sample_prior(Streams(0, 12)).numpy().reshape(3, 4, -1)
    return Posterior(draws, target.layout, stats={"log_prob": np.zeros((3, 4))})


def test_shape(posterior, target):
    assert (posterior.n_chains, posterior.n_draws, posterior.n_params) == (3, 4, target.n_params)
    assert repr(posterior) == f"Posterior(n_chains=3, n_draws=4, n_params={target.n_params})"
    np.testing.assert_array_equal(posterior.flat[5], posterior.draws[1, 1])
    np.testing.assert_array_equal(posterior.last_state, posterior.draws[:, -1])
    assert not np.shares_memory(posterior.last_state, posterior.draws)


def test_unflatten(posterior, target):
    named = posterior.unflatten()
    assert {name: values.shape[2:] for name, values in named.items()} == {
        "layers.0.weight": (3, 4),
        "layers.0.bias": (4,),
        "layers.1.weight": (4, 2),
        "layers.1.bias": (2,),
        "noise_std": (2,),
        "prior_scale": (2,),
    }
    assert all(values.shape[:2] == (3, 4) for values in named.values())
    one = posterior.unflatten(posterior.draws[1, 2])
    for name, values in named.items():
        np.testing.assert_allclose(one[name], values[1, 2], rtol=1e-12)
    assert (named["noise_std"] > 0).all() and (named["prior_scale"] > 0).all()


def test_sample(posterior):
    rows = {tuple(theta) for theta in posterior.flat}
    drawn = posterior.sample(12, np.random.default_rng(0))
    assert {tuple(theta) for theta in drawn} == rows
    drawn = posterior.sample(300, np.random.default_rng(0))
    assert drawn.shape == (300, posterior.n_params)
    assert {tuple(theta) for theta in drawn} == rows
    assert len(posterior.sample(0, np.random.default_rng(0))) == 0


def test_thinned(posterior):
    assert posterior.thinned(None) is posterior.thinned(12) or np.array_equal(
        posterior.thinned(12), posterior.flat
    )
    np.testing.assert_array_equal(posterior.thinned(100), posterior.flat)
    for n in range(1, 12):
        part = posterior.thinned(n)
        assert part.shape == (n, posterior.n_params)
        assert len(np.unique(part, axis=0)) == n


def test_modules_are_the_networks(posterior, target):
    inputs = target.inputs
    X = inputs._rows[:, :-1] / inputs.scale
    net, _, hyper = target.layout.split(torch.as_tensor(posterior.flat))
    outputs = target.network.forward(target.prior.weights(net, hyper), inputs)
    modules = posterior.to_modules()
    assert len(modules) == 12 and len(posterior.to_modules(5)) == 5
    for module, expected in zip(modules, outputs, strict=True):
        np.testing.assert_allclose(module(X).detach().T, expected, rtol=1e-9, atol=1e-11)


def test_functions_come_in_blocks_of_draws(posterior):
    def forward(theta, X):
        return theta.sum(1)[:, None, None] * X

    X = np.arange(3.0)
    parts = list(posterior.functions(forward, X, block=5))
    assert [len(theta) for theta, _ in parts] == [5, 5, 2]
    found = np.concatenate([outputs for _, outputs in parts])
    np.testing.assert_allclose(found, forward(posterior.flat, X))
    assert sum(len(theta) for theta, _ in posterior.functions(forward, X, n_draws=7)) == 7


def test_pickle(posterior):
    again = pickle.loads(pickle.dumps(posterior))
    np.testing.assert_array_equal(again.draws, posterior.draws)
    for name, values in posterior.unflatten().items():
        np.testing.assert_array_equal(again.unflatten()[name], values)
