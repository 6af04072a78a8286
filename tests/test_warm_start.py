"""Warm starts of chains: a second fit is a longer first one."""

import pickle

import numpy as np
import pytest
from chain_runs import CHAINS, START, Killed, same, short_run
from sklearn.base import clone

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC, MAP, checkpoint
from skbayes.inference.chains import run_chains
from skbayes.model.priors import NormalPrior

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def model():
    return short_run()


@pytest.mark.parametrize("name", CHAINS)
def test_warm_start_is_a_longer_run(name, curve):
    model = BayesianMLPRegressor((3,), method=clone(CHAINS[name]), random_state=0)
    longer = clone(model).set_params(method__n_draws=20).fit(*curve).posterior_
    model.set_params(warm_start=True)
    first = model.fit(*curve).posterior_
    model = pickle.loads(pickle.dumps(model))
    second = model.fit(*curve).posterior_
    assert second.draws.shape == first.draws.shape  # only the new ones
    np.testing.assert_array_equal(np.concatenate([first.draws, second.draws], 1), longer.draws)
    for key, values in longer.stats.items():
        both = np.concatenate([first.stats[key], second.stats[key]], 1)
        np.testing.assert_array_equal(both, values)
    again = [(g["iteration"], g["generators"]) for g in second.state["groups"]]
    assert again == [(g["iteration"], g["generators"]) for g in longer.state["groups"]]


def test_warm_start_keeps_the_seed(curve):
    model = BayesianMLPRegressor((3,), method=clone(CHAINS["mclmc"]), warm_start=True)
    seed = model.fit(*curve).posterior_.state["seed"]
    assert model.fit(*curve).posterior_.state["seed"] == seed


def test_warm_start_with_a_checkpoint(model, curve, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    model.set_params(warm_start=True).fit(*curve)
    begun = pickle.dumps(model)
    whole = model.fit(*curve).posterior_
    model = pickle.loads(begun)

    def dying(self):
        if self._saved == 44 + 9:
            raise Killed
        return True

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint.GroupStore, "due", dying)
        model.fit(*curve, checkpoint=tmp_path)
    same(pickle.loads(begun).fit(*curve, checkpoint=tmp_path).posterior_, whole)


def warmups(monkeypatch):
    """Iterations before the first draw of the runs to come."""
    out = []

    def spy(kernel, layout, streams, **kwargs):
        out.append(kwargs["n_warmup"] - kwargs["first"])
        return run_chains(kernel, layout, streams, **kwargs)

    monkeypatch.setattr("skbayes.inference.kernel.run_chains", spy)
    return out


def test_when_there_is_a_new_warm_up(model, curve, monkeypatch):
    X, y = curve
    seen = warmups(monkeypatch)
    model.set_params(warm_start=True).fit(X, y).fit(X, y)
    assert seen == [24, 0]
    model.fit(X, y + X[:, 0])  # another posterior
    model.set_params(method=HMC(2, n_warmup=7, n_draws=5, init=START)).fit(X, y)
    model.set_params(dtype="float64").fit(X, y)
    assert seen == [24, 0, 24, 7, 7]


def test_warm_start_on_other_rows(model, curve, monkeypatch):
    X, y = curve
    seen = warmups(monkeypatch)
    model.set_params(warm_start=True).fit(X[:50], y[:50])
    last, scale = model.posterior_.last_state, model._scaler.mean.copy()
    model.fit(X, y)
    assert seen == [24, 24]
    np.testing.assert_array_equal(model._scaler.mean, scale)  # weights keep their meaning
    cold = clone(model).fit(X, y)
    assert not np.array_equal(model.posterior_.draws, cold.posterior_.draws)
    assert last.shape == model.posterior_.last_state.shape
    with pytest.raises(ValueError, match="features"):
        model.fit(X[:, :1], y)


@pytest.mark.parametrize("done", [3, 20, 33])
def test_warm_start_after_an_interruption(model, curve, monkeypatch, done):
    def interrupt(bar, at, total, text):
        if at == done and total == 44:
            raise KeyboardInterrupt

    model.set_params(warm_start=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skbayes.progress.ProgressBar.__call__", interrupt)
        model.fit(*curve)
    seen = warmups(monkeypatch)
    model.fit(*curve)
    assert seen == ([0] if done > 24 else [24])
    assert model.posterior_.draws.shape == (2, 10, model.posterior_.n_params)
    assert np.isfinite(model.posterior_.draws).all()


def test_the_state_is_numpy_and_plain_python(model, curve):
    def check(value):
        if isinstance(value, dict):
            for entry in value.values():
                check(entry)
        elif isinstance(value, list | tuple):
            for entry in value:
                check(entry)
        else:
            assert isinstance(value, np.ndarray | int | str), type(value)

    check(model.fit(*curve).posterior_.state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior", NormalPrior(0.1)),
        ("prior", "laplace"),
        ("noise", 5.0),
        ("noise", "heteroscedastic"),
        ("activation", "relu"),
        ("hidden_layer_sizes", (7,)),
        ("standardize", "X"),
    ],
)
def test_another_model_is_refused(curve, name, value):
    X, y = curve
    model = BayesianMLPRegressor(
        (4,), noise="learned", method=MAP(max_epochs=5), warm_start=True, random_state=0
    )
    before = model.fit(X, y).posterior_.draws
    with pytest.raises(ValueError, match=f"^{name}=.*had {name}="):
        model.set_params(**{name: value}).fit(X, y)
    assert model.posterior_.draws is before
    model.set_params(warm_start=False).fit(X, y)


def test_the_same_model_in_other_words_goes_on(curve):
    model = BayesianMLPRegressor(
        (4,), prior=NormalPrior(2.0), noise=0.3, method=MAP(max_epochs=5), warm_start=True
    )
    model.fit(*curve)
    model.set_params(hidden_layer_sizes=[4], prior=NormalPrior(2.0), noise=np.float64(0.3))
    model.fit(*curve)
