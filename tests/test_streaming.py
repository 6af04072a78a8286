"""Rows that come in chunks."""

import numpy as np
import pytest
import scipy.sparse as sp
from gaussian_target import linear_model
from sklearn.base import clone

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor, streaming
from skbayes.inference import HMC, MAP, METHODS, PSGLD, SGHMC, SGLD, SGNHT
from skbayes.streaming import Reservoir

STREAMING = [name for name, cls in METHODS.items() if cls.can_stream and not cls.filters]
SHORT = {"n_chains": 2, "n_warmup": 2, "n_draws": 6, "n_steps": 3, "batch_size": 10}
SHORT["init"] = MAP(max_epochs=20)

pytestmark = pytest.mark.usefixtures("quiet")


def test_which_methods_stream():
    assert STREAMING == ["sgld", "psgld", "sglmc", "sghmc", "sgnht"]
    assert [name for name, cls in METHODS.items() if cls.filters] == ["ensemble_filter"]
    for method in ("auto", "hmc", HMC()):
        assert not hasattr(BayesianMLPRegressor(method=method), "partial_fit")
    with pytest.raises(AttributeError) as error:
        BayesianMLPRegressor(method="hmc").partial_fit  # noqa: B018
    assert "methods that stream are 'ensemble_filter', 'sgld'" in str(error.value.__cause__)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SGLD(decay=0), PSGLD(decay=0), SGHMC(), SGNHT()])
def test_the_posterior_follows_that_of_all_rows(method):
    model = linear_model(n=1000, d=2, noise=0.7)
    y = model.y[:, 0]
    method.set_params(n_chains=20, n_warmup=5, n_draws=30, batch_size=50, n_steps=200)
    reg = BayesianMLPRegressor(
        (),
        noise=0.7,
        standardize=False,
        prior="normal",
        method=method.set_params(init=MAP()),
        dtype="float64",
        random_state=0,
    )
    spreads = []
    for rows in np.split(np.arange(1000), [50, 100, 200, 500]):
        reg.partial_fit(model.X[rows], y[rows])
        spreads.append(reg.posterior_.flat.std(0))
    deviation = np.sqrt(np.diag(model.cov))
    # the steps are less than a chain needs to forget: it comes from a wider posterior, whose 90 %
    # intervals cover
    assert (np.abs(reg.posterior_.flat.mean(0) - model.mean) < 1.64 * spreads[-1]).all()
    assert (spreads[-1] > 0.8 * deviation).all()
    assert (spreads[-1] < 0.7 * spreads[0]).all()


def test_the_reservoir_is_a_uniform_sample(monkeypatch):
    monkeypatch.setattr(streaming, "MOST_KEPT", 50)
    counts = np.zeros(200)
    for seed in range(200):
        kept = Reservoir(np.zeros((0, 1)), np.zeros(0), np.empty(0), 0, seed)
        for rows in np.split(np.arange(200.0), [30, 60, 150]):
            kept = kept.add(rows[:, None], rows)
        assert len(kept.y) == 50 and kept.n_seen == 200
        np.testing.assert_array_equal(kept.X[:, 0], kept.y)
        counts[kept.y.astype(int)] += 1
    # binomial counts of mean 50 and deviation 6.1
    assert np.abs(counts - 50).max() < 4.5 * 6.2
    for part in np.split(counts, [30, 60, 150]):
        assert abs(part.mean() - 50) < 4 * 6.2 / np.sqrt(len(part))


@pytest.mark.parametrize("name", STREAMING)
def test_every_streaming_method_goes_on(name, curve):
    X, y = curve
    reg = BayesianMLPRegressor((4,), method=METHODS[name](**SHORT), random_state=0)
    reg.partial_fit(X[:30], y[:30])
    first = reg.posterior_.draws
    scale = reg._scaler.mean.copy()
    reg.partial_fit(X[30:], y[30:])
    assert reg.posterior_.draws.shape == first.shape
    np.testing.assert_array_equal(reg.posterior_.draws[:, :3], first[:, 3:])  # three steps more
    np.testing.assert_array_equal(reg._scaler.mean, scale)
    assert np.isfinite(reg.predict(X)).all()
    again = clone(reg).partial_fit(X[:30], y[:30]).partial_fit(X[30:], y[30:])
    np.testing.assert_array_equal(again.posterior_.draws, reg.posterior_.draws)


def test_classes_are_known_from_the_first_call(blobs):
    X, y = blobs
    clf = BayesianMLPClassifier((4,), method=SGHMC(**SHORT), random_state=0)
    some = y < 2
    clf.partial_fit(X[some], y[some], classes=[0, 1, 2]).partial_fit(X, y)
    assert clf.predict_proba(X).shape == (60, 3)
    with pytest.raises(ValueError, match=r"did not know: \[2\]"):
        clone(clf).partial_fit(X[some], y[some]).partial_fit(X, y)
    with pytest.raises(ValueError, match="balanced"):
        clone(clf).set_params(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="regressor"):
        BayesianMLPRegressor(method="sgld").partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="features"):
        clf.partial_fit(X[:, :2], y)


def test_what_cannot_be_gone_on_with(curve):
    X, y = curve
    reg = BayesianMLPRegressor((4,), method=SGLD(**SHORT), random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="fitted by fit"):
        reg.partial_fit(X, y)
    reg = clone(reg).partial_fit(X, y)
    with pytest.raises(ValueError, match="2 chains, but method now asks for 3"):
        reg.set_params(method__n_chains=3).partial_fit(X, y)


def test_an_error_leaves_the_estimator_as_it_was(curve, monkeypatch):
    X, y = curve
    reg = BayesianMLPRegressor((4,), method=SGLD(**SHORT), random_state=0).partial_fit(X, y)
    before, expected = dict(vars(reg)), reg.predict(X)
    with pytest.raises(ValueError, match=r"y has the shape \(\d+, 2\)"):
        reg.partial_fit(X, np.column_stack([y, y]))
    with monkeypatch.context() as patch:
        patch.setattr(BayesianMLPRegressor, "_store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reg.partial_fit(X, y)
    assert vars(reg) == before
    np.testing.assert_array_equal(reg.predict(X), expected)


def test_sparse_rows(binary):
    X, y = binary
    clf = BayesianMLPClassifier((4,), method=SGHMC(**SHORT), random_state=0)
    clf.partial_fit(sp.csr_matrix(X[:30]), y[:30]).partial_fit(sp.csr_matrix(X[30:]), y[30:])
    assert clf.predict_proba(sp.csr_matrix(X)).shape == (60, 2)


@pytest.mark.usefixtures("quiet")
def test_a_later_call_takes_a_pass_over_its_rows(curve):
    X, y = curve
    method = SGLD(
        n_chains=1, n_warmup=1, n_draws=10, n_steps=3, batch_size=2, decay=0, init=MAP("adam")
    )
    reg = BayesianMLPRegressor((3,), method=method, random_state=0).partial_fit(X, y)

    def taken():
        return int(reg.posterior_.state["groups"][0]["kernel"]["t"])

    before = taken()
    reg.partial_fit(X[:38], y[:38])
    assert taken() - before >= 19


def test_velocities_fall_with_the_step_size():
    kernel = {"rate": np.ones((1, 1), np.float32), "velocity": np.ones((1, 2), np.float32)}
    new = streaming._with_rates({"kernel": kernel}, 0.25, 4.0)["kernel"]
    assert new["rate"] == 0.25 and new["velocity"].tolist() == [[0.5, 0.5]]


@pytest.mark.usefixtures("quiet")
def test_nothing_to_go_on_from(curve):
    method = SGLD(n_chains=1, n_warmup=1, n_draws=3, n_steps=3, init=MAP("adam", max_epochs=2))
    reg = BayesianMLPRegressor((3,), method=method, random_state=0).partial_fit(*curve)
    reg.posterior_.state = None  # as after Ctrl-C in the search for starting points
    with pytest.raises(ValueError, match="interrupted before its chains began"):
        reg.partial_fit(*curve)
