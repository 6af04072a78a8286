"""The estimators as a whole: weights, units, scaling, seeds, going on, and being interrupted."""

import random
import warnings

import numpy as np
import pytest
import torch
from gaussian_target import mcse_of_mean
from settings import METHOD_SETTINGS
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP, Anchored, Ensemble
from skbayes.inference.hmc import _HMCKernel
from skbayes.model import NormalPrior

FULL = {"method": MAP(solver="lbfgs"), "dtype": "float64", "random_state": 0}
HMC_SHORT = HMC(n_chains=2, n_warmup=10, n_draws=12, max_leapfrog=4, init=MAP(max_epochs=10))
BOTH = pytest.mark.parametrize("cls", [BayesianMLPClassifier, BayesianMLPRegressor])
quiet = pytest.mark.usefixtures("quiet")


def data(cls, n=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    if cls is BayesianMLPClassifier:
        return X, (X[:, 0] + rng.normal(size=n) > 0).astype(int)
    return X, 3.0 + 2.0 * X[:, 0] + rng.normal(size=n)


# ------------------------------------------------------------------------ weights of rows

WEIGHTED = {
    "binary": (BayesianMLPClassifier, {}, lambda X: (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)),
    "classes": (BayesianMLPClassifier, {}, lambda X: np.digitize(X[:, 0], [-0.5, 0.5])),
    "labels": (BayesianMLPClassifier, {}, lambda X: (X > 0.2).astype(int)),
    "learned": (BayesianMLPRegressor, {"noise": "learned"}, lambda X: X[:, 0] ** 2),
    "fixed": (BayesianMLPRegressor, {"noise": 0.5}, lambda X: X[:, 0] ** 2),
    "several": (BayesianMLPRegressor, {"noise": "learned"}, lambda X: X**2),
    "heteroscedastic": (BayesianMLPRegressor, {"noise": "heteroscedastic"}, lambda X: X[:, 0] ** 2),
}


@quiet
@pytest.mark.parametrize("prior", [None, "hierarchical"])
@pytest.mark.parametrize("kind", WEIGHTED)
def test_integer_weights_are_repeated_rows(kind, prior):
    """A few full-batch steps, so that both ways cannot part by rounding."""
    cls, params, target = WEIGHTED[kind]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(25, 2))
    y, weight = target(X), rng.integers(0, 4, 25)
    # Adam does not see the scale of the loss, so that the number of rows does not matter
    method = MAP(solver="adam", batch_size=1000, max_epochs=60)
    model = cls((3,), **{**FULL, "method": method}, prior=prior, **params)
    weighted = model.fit(X, y, weight).predict_uncertainty(X)
    rows = np.repeat(np.arange(25), weight)
    repeated = model.fit(X[rows], y[rows]).predict_uncertainty(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-4, atol=1e-7)


@quiet
@BOTH
def test_weights_of_one_are_none(cls):
    """A few steps: sums over rows differ in their last digit, and L-BFGS enlarges that."""
    X, y = data(cls)
    method = MAP(solver="adam", batch_size=1000, max_epochs=60)
    model = cls((3,), **{**FULL, "method": method})
    plain = model.fit(X, y).predict_uncertainty(X)
    np.testing.assert_allclose(model.fit(X, y, np.ones(20)).predict_uncertainty(X), plain)


def test_class_weight_is_a_weight_of_rows():
    X, y = data(BayesianMLPClassifier)
    weight = np.where(y, 3.0, 0.5)
    model = BayesianMLPClassifier((), **FULL)
    expected = model.fit(X, y, weight).predict_proba(X)
    model.set_params(class_weight={0: 0.5, 1: 3.0})
    np.testing.assert_allclose(model.fit(X, y).predict_proba(X), expected, rtol=1e-6)
    half = model.fit(X, y, np.full(20, 2.0)).predict_proba(X)
    model.set_params(class_weight=None)
    np.testing.assert_allclose(half, model.fit(X, y, 2 * weight).predict_proba(X), rtol=1e-6)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("method", [HMC(n_warmup=150, n_draws=400), Anchored(n_members=400)])
@BOTH
def test_sample_weights_give_the_posterior_of_repeated_rows(cls, method):
    """Not number by number, since rounding or perturbations differ: within 4 standard errors."""
    X, y = data(cls, n=14)
    weight = np.random.default_rng(1).integers(0, 4, 14)
    rows = np.repeat(np.arange(14), weight)
    fixed = {"noise": 1.0} if cls is BayesianMLPRegressor else {}
    model = cls((), method=method, random_state=0, **fixed)
    results = []
    for seed, args in ((0, (X, y, weight)), (1, (X[rows], y[rows]))):
        model.set_params(random_state=seed).fit(*args)
        draws = model.predict_draws(X)
        draws = draws[0] if isinstance(draws, tuple) else draws[:, :, 1]
        posterior = model.posterior_
        shape = (4, -1) if posterior.independent else (posterior.n_chains, posterior.n_draws)
        draws = draws.reshape(*shape, len(X)).astype(float)
        square = (draws - draws.mean((0, 1))) ** 2
        results.append([(v.mean((0, 1)), mcse_of_mean(v)) for v in (draws, square)])
    for (a, a_error), (b, b_error) in zip(*results, strict=True):
        assert np.all(np.abs(a - b) < 4 * np.hypot(a_error, b_error))
    # the comparison must have something to see: without the weights it fails
    plain = model.fit(X, y).predict_draws(X)
    plain = plain[0] if isinstance(plain, tuple) else plain[:, :, 1]
    (b, b_error), _ = results[1]
    assert np.any(np.abs(plain.mean(0) - b) > 8 * b_error)


# ------------------------------------------------------------------------ units


@quiet
@pytest.mark.parametrize("noise", ["learned", "heteroscedastic", 0.5])
def test_units_of_y(curve, noise):
    X, y = curve
    model = BayesianMLPRegressor((3,), noise=noise, **FULL)
    model.set_params(method=MAP(solver="lbfgs", max_epochs=30))
    model.fit(X, y)
    mean, std = model.predict(X, return_std=True)
    density = model.log_predictive_density(X, y)
    interval = model.predict_interval(X)
    drawn = model.sample_y(X, 3, random_state=0)
    if noise == 0.5:
        assert model.noise_std_ == pytest.approx(0.5)
        model.set_params(noise=500.0)
    scaled = model.fit(X, 1000 * y + 77)
    far_mean, far_std = scaled.predict(X, return_std=True)
    np.testing.assert_allclose(far_mean, 1000 * mean + 77, rtol=1e-6)
    np.testing.assert_allclose(far_std, 1000 * std, rtol=1e-6)
    found = scaled.log_predictive_density(X, 1000 * y + 77)
    np.testing.assert_allclose(found, density - np.log(1000), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaled.predict_interval(X), 1000 * interval + 77, rtol=1e-6)
    np.testing.assert_allclose(scaled.sample_y(X, 3, 0), 1000 * drawn + 77, rtol=1e-5)


@quiet
@pytest.mark.parametrize("standardize", [True, False, "X", "y"])
def test_standardize(curve, standardize):
    """Data that were standardised by hand, where ``standardize`` does not do it."""
    X, y = curve
    model = BayesianMLPRegressor((3,), standardize=True, prior=NormalPrior(), **FULL)
    model.set_params(method=MAP(solver="lbfgs", max_epochs=30))
    mean, std = model.fit(X, y).predict(X, return_std=True)
    Z = X if standardize in (True, "X") else (X - X.mean(0)) / X.std(0)
    t = y if standardize in (True, "y") else (y - y.mean()) / y.std()
    model.set_params(standardize=standardize).fit(Z, t)
    found, found_std = model.predict(Z, return_std=True)
    if t is not y:
        found, found_std = found * y.std() + y.mean(), found_std * y.std()
    np.testing.assert_allclose(found, mean, rtol=1e-6)
    np.testing.assert_allclose(found_std, std, rtol=1e-6)


def test_standardize_of_classifiers(binary):
    X, y = binary
    model = BayesianMLPClassifier((), **FULL).fit(X, y)
    expected = model.predict_proba(X)
    Z = (X - X.mean(0)) / X.std(0)
    for standardize, rows in (("X", X), (False, Z)):
        model.set_params(standardize=standardize).fit(rows, y)
        np.testing.assert_allclose(model.predict_proba(rows), expected, rtol=1e-5)


def test_learned_noise_is_near_the_truth():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    y = 50.0 * X[:, 0] + 20.0 * rng.normal(size=400)
    for standardize in (True, False):
        model = BayesianMLPRegressor(
            (), standardize=standardize, noise="learned", prior=NormalPrior(100.0), **FULL
        )
        assert model.fit(X, y).noise_std_ == pytest.approx(20.0, rel=0.1)


# ------------------------------------------------------------------------ every method


def global_states():
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[1].tolist(), state[2], torch.get_rng_state().tolist()


@quiet
@pytest.mark.parametrize("name", METHOD_SETTINGS)
@BOTH
def test_only_the_seed_decides(cls, name):
    """Same seed, same draws; the global states are left as they are."""
    X, y = data(cls)
    model = cls((3,), method=METHOD_SETTINGS[name], random_state=3)
    states = global_states()
    first = model.fit(X, y).posterior_.draws
    model.predict(X)
    model.predict_uncertainty(X)
    model.sample_y(X, random_state=0)
    model.sample_prior(X, random_state=0)
    model.posterior_.to_modules()
    assert global_states() == states
    np.testing.assert_array_equal(model.fit(X, y).posterior_.draws, first)
    assert not np.array_equal(model.set_params(random_state=4).fit(X, y).posterior_.draws, first)


@quiet
@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_warm_start_goes_on(name):
    X, y = data(BayesianMLPRegressor)
    model = BayesianMLPRegressor((3,), method=METHOD_SETTINGS[name], random_state=0)
    model.set_params(warm_start=True).fit(X, y)
    before = model.posterior_
    scale = model._scaler.scale.copy()
    model.fit(2 * X, y)  # the scaling of the first fit stays, and so do the weights' meanings
    np.testing.assert_array_equal(model._scaler.scale, scale)
    assert model.posterior_.draws.shape == before.draws.shape
    with pytest.raises(ValueError, match="X has 1 features"):
        model.fit(X[:, :1], y)
    model.set_params(warm_start=False).fit(2 * X, y)
    np.testing.assert_allclose(model._scaler.scale, 2 * scale)


def test_warm_start_starts_where_the_last_fit_stopped(binary):
    X, y = binary
    model = BayesianMLPClassifier((3,), **FULL, warm_start=True).fit(X, y)
    mode = model.posterior_.draws
    assert model.fit(X, y).n_iter_ < 30
    np.testing.assert_allclose(model.posterior_.draws, mode, atol=1e-2)
    with pytest.raises(ValueError, match="classes that the first fit did not know"):
        model.fit(X, y + 5)


def test_warm_start_with_another_number_of_chains(binary, quiet):
    model = BayesianMLPClassifier((), method=HMC_SHORT, warm_start=True).fit(*binary)
    model.set_params(method=HMC(n_chains=3))
    with pytest.raises(ValueError, match="warm_start=True goes on from 2 chains.*asks for 3"):
        model.fit(*binary)


@quiet
@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_fitted_attributes(name):
    X, y = data(BayesianMLPRegressor)
    model = BayesianMLPRegressor((3,), noise="learned", random_state=0)
    model.set_params(method=METHOD_SETTINGS[name]).fit(X, y)
    assert isinstance(model.n_iter_, int) and model.n_iter_ >= 1
    assert model.n_features_in_ == 2 and model.noise_std_ > 0
    if hasattr(model, "loss_curve_"):
        assert np.isfinite(model.loss_curve_).all() and len(model.loss_curve_) <= model.n_iter_
    assert model.posterior_.independent == (not model.diagnostics_)


def test_iris_by_the_default():
    X, y = load_iris(return_X_y=True)
    model = BayesianMLPClassifier((5,), random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.92


# ------------------------------------------------------------------------ interruption


@pytest.mark.parametrize("kept", [0, 5])
@BOTH
def test_interrupted_chains_keep_their_draws(cls, kept, monkeypatch):
    X, y = data(cls)
    step, calls = _HMCKernel.step, []

    def interrupted(self, streams, iteration):
        if iteration == 10 + kept - (kept == 0):  # 10 of warm-up
            raise KeyboardInterrupt
        calls.append(iteration)
        return step(self, streams, iteration)

    model = cls((3,), method=HMC_SHORT, random_state=0)
    with warnings.catch_warnings():  # chains this short may disagree
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = model.fit(X, y).posterior_.draws
    monkeypatch.setattr(_HMCKernel, "step", interrupted)
    with pytest.warns(ConvergenceWarning, match=f"interrupted: {kept} of 12 draws per chain"):
        model.fit(X, y)
    assert model.posterior_.n_draws == max(kept, 1)
    if kept:
        np.testing.assert_array_equal(model.posterior_.draws, whole[:, :kept])
        assert all(v.shape == (2, kept) for v in model.posterior_.stats.values())
    assert np.isfinite(model.predict(X)).all()


def test_interrupted_by_the_callback(binary, monkeypatch):
    """Ctrl-C may come while progress is shown, after a draw has been kept."""
    from skbayes.progress import ProgressBar

    def show(self, done, total, text):
        if text.startswith("draw") and done == 10 + 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "__call__", show)
    model = BayesianMLPClassifier((3,), method=HMC_SHORT, random_state=0)
    with pytest.warns(ConvergenceWarning, match="interrupted: 3 of 12 draws"):
        model.fit(*binary)
    assert model.predict_proba(binary[0]).shape == (60, 2)


def test_progress_bar(binary, capsys, quiet):
    model = BayesianMLPClassifier((), method=HMC_SHORT, random_state=0).fit(*binary)
    assert capsys.readouterr() == ("", "")
    model.set_params(verbose=1).fit(*binary)
    out, err = capsys.readouterr()
    assert out == "" and "BayesianMLPClassifier [####################] 22/22" in err


@pytest.mark.parametrize(
    "method",
    [
        HMC(n_chains=2, n_warmup=5, n_draws=5),
        Anchored(n_members=8, max_epochs=30),
        MAP(max_epochs=30),
        Ensemble(n_members=2),
    ],
)
def test_interrupted_optimisation_ends_the_run(monkeypatch, method):
    """Ctrl-C in the first phase of a method keeps what was reached, and no other phase begins."""
    calls = []

    def interrupt(bar, done, total, text):
        calls.append(text)
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("skbayes.progress.ProgressBar.__call__", interrupt)
    X = np.random.default_rng(0).normal(size=(40, 3))
    model = BayesianMLPRegressor((5,), method=method, random_state=0)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model.fit(X, X[:, 0])
    assert len(calls) == 3
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("estimator", [BayesianMLPClassifier, BayesianMLPRegressor])
def test_default_network_is_wider_for_many_rows(estimator, monkeypatch):
    """And stays as it is where a fit goes on with more of them."""
    monkeypatch.setattr("skbayes.mlp.MANY_ROWS", 20)
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = (X[:, 0] > 0).astype(float)
    model = estimator(method=MAP(max_epochs=2), warm_start=True, random_state=0)

    def units(model):
        return model.posterior_.unflatten()["layers.0.bias"].shape[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert units(model.fit(X[:20], y[:20])) == 50
        assert units(model.fit(X, y)) == 50
        assert units(clone(model).fit(X, y)) == 100
        assert units(clone(model).set_params(hidden_layer_sizes=(7,)).fit(X, y)) == 7
    with pytest.raises(ValueError, match=r"hidden_layer_sizes='wide' is not allowed.* or 'auto'"):
        clone(model).set_params(hidden_layer_sizes="wide").fit(X, y)


@pytest.mark.parametrize("standardize", [True, "y", "X", False])
def test_a_y_far_from_its_prior_is_told_of(curve, standardize):
    X, y = curve
    reg = BayesianMLPRegressor((4,), method=MAP(max_epochs=5), standardize=standardize)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reg.fit(X, 1000.0 + y)
        reg.fit(X, y / y.std())
    said = [w for w in seen if "y has a mean of 1" in str(w.message)]
    assert len(said) == (standardize in ("X", False))
    assert all(w.filename == __file__ for w in said)


def test_few_draws_tell_nothing_and_say_so(curve):
    reg = BayesianMLPRegressor((4,), method=HMC(n_warmup=5, n_draws=3), random_state=0)
    with pytest.warns(ConvergenceWarning, match="n_draws=3 are too few"):
        reg.fit(*curve)
    assert reg.diagnostics_ == {}
