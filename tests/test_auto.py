"""What ``method="auto"`` stands for."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import MAP, MCLMC, Anchored, Ensemble, likelihood_power
from skbayes.inference.auto import SHORT_CHAINS, choose


def keeping(chosen, max_epochs):
    """A stand-in for `choose` that keeps what it chooses, and runs something short."""
    return lambda target: chosen.append(choose(target)) or MAP(max_epochs=max_epochs)


@pytest.mark.parametrize(
    ("shape", "labels", "kind", "more"),
    [
        ((60, 3), False, MCLMC, {}),
        ((60, 3), False, MCLMC, {"hidden_layer_sizes": ()}),
        ((60, 3), False, MCLMC, {"hidden_layer_sizes": (257,)}),
        ((60, 3), False, MCLMC, {"hidden_layer_sizes": (256,), "noise": "learned"}),
        ((60, 3), False, Anchored, {"hidden_layer_sizes": (257,), "noise": "learned"}),
        ((60, 3), False, Ensemble, {"prior": "laplace"}),
        ((60, 3), False, Anchored, {"prior": "laplace", "noise": "learned"}),
        ((20, 500), False, MCLMC, {}),
        ((20, 4000), False, Ensemble, {}),  # more than 200,000 weights
        ((60, 3), False, MCLMC, {"prior": "laplace", "hidden_layer_sizes": ()}),
        ((60, 3), True, Anchored, {}),
        ((20, 30), True, Ensemble, {}),
        ((60, 12), True, Ensemble, {}),
        ((60, 12), True, Anchored, {"hidden_layer_sizes": ()}),
        ((12, 12), True, Ensemble, {"hidden_layer_sizes": ()}),
    ],
)
def test_what_auto_stands_for(shape, labels, kind, more, monkeypatch):
    """By the kind of y, the rows, and the network."""
    chosen = []
    monkeypatch.setattr("skbayes.inference.auto.choose", keeping(chosen, 2))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape), rng.normal(size=shape[0])
    estimator = BayesianMLPClassifier if labels else BayesianMLPRegressor
    estimator(random_state=0, **more).fit(X, y > 0 if labels else y)
    assert type(chosen[0]) is kind


@pytest.mark.parametrize(
    ("kind", "more"),
    [(MCLMC, {}), (MCLMC, {"noise": "learned"}), (MCLMC, {"hidden_layer_sizes": ()})],
)
def test_several_outputs(kind, more, monkeypatch):
    chosen = []
    monkeypatch.setattr("skbayes.inference.auto.choose", keeping(chosen, 2))
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        BayesianMLPRegressor(**more).fit(rng.normal(size=(60, 3)), rng.normal(size=(60, 2)))
    assert type(chosen[0]) is kind


def test_the_more_rows_the_fewer_weights(monkeypatch):
    chosen = []
    monkeypatch.setattr("skbayes.inference.auto.choose", keeping(chosen, 1))
    monkeypatch.setattr("skbayes.inference.auto.MOST_ROWS", 40)
    monkeypatch.setattr("skbayes.inference.auto.MANY_PARAMS", 17 + 5)
    rng = np.random.default_rng(0)
    for n in (40, 41, 20):
        BayesianMLPRegressor((4,)).fit(rng.normal(size=(n, 2)), rng.normal(size=n))  # 12 + 10
        BayesianMLPRegressor((5,)).fit(rng.normal(size=(n, 2)), rng.normal(size=n))  # 15 + 12
    kinds = [type(one) for one in chosen]
    assert kinds == [MCLMC, Ensemble, Ensemble, Ensemble, MCLMC, MCLMC]


def test_many_rows(monkeypatch):
    monkeypatch.setattr("skbayes.inference.auto.MOST_ROWS", 50)
    rng = np.random.default_rng(0)
    reg = BayesianMLPRegressor((3,), random_state=0).fit(rng.normal(size=(51, 2)), np.arange(51.0))
    assert reg.posterior_.independent  # an ensemble


@pytest.mark.parametrize(("units", "expected"), [(64, True), (65, False), (128, False)])
def test_wide_networks_keep_their_output_layer_where_rows_are_many(units, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr("skbayes.inference.auto.choose", keeping(chosen, 1))
    monkeypatch.setattr("skbayes.inference.auto.MOST_ROWS", 60)
    rng = np.random.default_rng(0)
    for n, which in ((60, expected), (15, True)):
        BayesianMLPRegressor((units,)).fit(rng.normal(size=(n, 2)), rng.normal(size=n))
        assert isinstance(chosen[-1], MCLMC) and chosen[-1].marginalize == which


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(
    ("n", "steps", "epochs"), [(10_000, None, None), (10_240, None, 1200), (10_240, 50, 20)]
)
def test_more_steps_for_many_rows(n, steps, epochs, labels, monkeypatch):
    """12,000 or 6,000 steps of 1,024 rows, at least 20 epochs; no more where weights are many."""
    chosen = []
    monkeypatch.setattr("skbayes.inference.auto.choose", keeping(chosen, 1))
    if steps is not None:
        monkeypatch.setattr("skbayes.inference.auto.STEPS", steps)
        monkeypatch.setattr("skbayes.inference.auto.STEPS_OF_CLASSES", steps)
    X = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    y = X[:, 0] > 0 if labels else X[:, 0]
    kw = {"hidden_layer_sizes": (257,), "random_state": 0}
    model = BayesianMLPClassifier(**kw) if labels else BayesianMLPRegressor(noise="learned", **kw)
    model.fit(X, y)
    own, usual = {}, {}
    if labels:
        own = {"bootstrap": False, "likelihood_power": "held_out"}
        usual = {"batch_size": 256, **own}
    if labels and epochs == 1200:
        epochs = 600
    members = 8 if labels else 6
    long = Anchored(members, learning_rate=0.03, batch_size=1024, max_epochs=epochs, **own)
    assert repr(chosen[0]) == repr(Anchored(**usual) if epochs is None else long)
    monkeypatch.setattr("skbayes.inference.auto.MANY_PARAMS", 100)
    model.fit(X, y)
    assert repr(chosen[1]) == repr(Anchored(**usual))


def test_a_default_fit_and_what_it_says():
    """Short chains, a warning that names them, and a warm start that goes on with them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 1]
    reg = BayesianMLPRegressor((20,), random_state=0, warm_start=True)
    assert reg.noise == "heteroscedastic"
    # a limit that no run meets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skbayes.diagnostics.R_HAT_LIMIT", 0.5)
        with pytest.warns(
            ConvergenceWarning, match=r"\(method='auto' took MCLMC\(energy_variance="
        ):
            reg.fit(X, y)
        assert reg.posterior_.draws.shape[:2] == (4, SHORT_CHAINS["n_draws"])
        with pytest.warns(ConvergenceWarning):
            assert reg.fit(X, y).posterior_.n_chains == 4
        reg.set_params(method=MCLMC(n_warmup=2, n_draws=6, n_leapfrog=2), warm_start=False)
        with pytest.warns(ConvergenceWarning) as caught:
            reg.fit(X, y)
    assert not any("auto" in str(w.message) for w in caught)


def test_a_warm_start_chooses_anew_as_rows_are_added(monkeypatch):
    """The same method goes on with what it found, a while; another begins anew."""
    begun, trials = [], []
    fit, trial = Anchored._fit, likelihood_power._held_out

    def fit_spy(self, target, theta, streams, part, warm, *args):
        begun.append((target.n, warm, target._power))
        return fit(self, target, theta, streams, part, warm, *args)

    def trial_spy(*args):
        trials.append(args[0].n)
        return trial(*args)

    monkeypatch.setattr(likelihood_power, "POWERS", (4.0,))
    monkeypatch.setattr(Anchored, "_fit", fit_spy)
    monkeypatch.setattr(likelihood_power, "_held_out", trial_spy)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5))
    y = X[:, 0] + X[:, 1] > 0
    clf = BayesianMLPClassifier((5,), random_state=0, warm_start=True).fit(X[:8], y[:8])
    assert clf.posterior_.n_chains == 10 and not begun  # modes, since columns are many
    found = []
    for n, is_warm in ((80, False), (95, True), (120, True)):
        trials.clear()
        clf.fit(X[:n], y[:n])
        found.append(float(clf.posterior_.adapted["likelihood_power"]))
        assert begun[-1] == (n, is_warm, found[-1]) and clf.posterior_.n_chains == 16
        assert bool(trials) == (n != 95), "rows are left out at first, and when many were added"
    assert found == [4.0, 4.0, 4.0]
