"""The posterior as a container: shapes, names, samples, thinning, modules, pickles."""

import pickle
import sys

import numpy as np
import pytest
import torch
from problems import make_log_posterior

import skbayes
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


STATS = ("log_prob", "acceptance", "energy", "energy_error", "n_leapfrog", "tree_depth")


@pytest.fixture(scope="module")
def long(target):
    """Posterior (3, 50) with all statistics."""
    draws = target.sample_prior(Streams(0, 150)).numpy().reshape(3, 50, -1)
    rng = np.random.default_rng(0)
    stats = {name: rng.random((3, 50)) for name in STATS}
    stats["diverging"] = np.zeros((3, 50), dtype=bool)
    adapted = {"step_size": np.array([0.1, 0.2, 0.3]), "inverse_mass": np.ones(draws.shape[2])}
    return Posterior(draws, target.layout, stats=stats, adapted=adapted)


def test_to_arviz(long):
    pytest.importorskip("arviz_base")
    data = long.to_arviz()
    assert set(data.children) == {"posterior", "sample_stats"}
    assert data.attrs["inference_library"] == data["posterior"].attrs["inference_library"]
    assert data.attrs["inference_library_version"] == skbayes.__version__
    named = long.unflatten()
    assert {name: values.dims for name, values in data["posterior"].data_vars.items()} == {
        "layers.0.weight": ("chain", "draw", "layers.0.in", "layers.0.out"),
        "layers.0.bias": ("chain", "draw", "layers.0.out"),
        "layers.1.weight": ("chain", "draw", "layers.1.in", "layers.1.out"),
        "layers.1.bias": ("chain", "draw", "layers.1.out"),
        "noise_std": ("chain", "draw", "output"),
        "prior_scale": ("chain", "draw", "prior_group"),
    }
    for name, values in named.items():
        np.testing.assert_array_equal(data["posterior"][name], values)
    stats = data["sample_stats"]
    assert set(stats.data_vars) == {
        *("lp", "acceptance_rate", "energy", "energy_error", "n_steps", "tree_depth"),
        *("diverging", "step_size"),
    }
    np.testing.assert_array_equal(stats["lp"], long.stats["log_prob"])
    np.testing.assert_array_equal(stats["n_steps"], long.stats["n_leapfrog"])
    np.testing.assert_array_equal(stats["step_size"][:, 7], [0.1, 0.2, 0.3])


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_arviz_works_on_it(long):
    arviz_stats = pytest.importorskip("arviz_stats")
    pytest.importorskip("arviz_base")
    log_likelihood = -0.5 * (1 + 0.1 * np.random.default_rng(0).normal(size=(3, 50, 20)) ** 2)
    data = long.to_arviz(log_likelihood)
    loo = arviz_stats.loo(data)
    # draws that hardly differ: leaving out a row changes nothing
    assert loo.elpd == pytest.approx(log_likelihood.mean((0, 1)).sum(), abs=0.1)
    assert arviz_stats.summary(data, var_names=["noise_std"]).shape[0] == 2
    r_hat, ess = arviz_stats.rhat(data)["noise_std"], arviz_stats.ess(data)["noise_std"]
    assert (abs(r_hat - 1) < 0.1).all() and (ess > 50).all()
    with pytest.raises(ValueError, match=r"log_likelihood has the shape \(150, 20\)"):
        long.to_arviz(log_likelihood.reshape(150, 20))


def test_members_are_draws_of_one_chain(target):
    pytest.importorskip("arviz_base")
    draws = target.sample_prior(Streams(0, 12)).numpy()[:, None]
    members = Posterior(draws, target.layout, independent=True)
    data = members.to_arviz(np.zeros((12, 1, 4)))
    assert set(data.children) == {"posterior", "log_likelihood"}
    assert data["posterior"].sizes["chain"] == 1 and data["posterior"].sizes["draw"] == 12
    np.testing.assert_array_equal(
        data["posterior"]["layers.0.bias"][0], members.unflatten()["layers.0.bias"][:, 0]
    )


def test_without_arviz(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r'pip install "skbayes\[arviz\]"'):
        posterior.to_arviz()
