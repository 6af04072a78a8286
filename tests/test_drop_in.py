"""The estimators inside what scikit-learn builds from estimators, and through files."""

import os
import pickle
import subprocess
import sys
import warnings
from functools import cache

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from settings import METHOD_SETTINGS
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP, Anchored
from skbayes.model import NormalPrior

pytestmark = pytest.mark.usefixtures("quiet")
FAST = MAP(max_epochs=30)


def classifier(**kwargs):
    kwargs = {"method": Anchored(n_members=3, max_epochs=30), "random_state": 0, **kwargs}
    return BayesianMLPClassifier((4,), **kwargs)


def regressor(**kwargs):
    kwargs = {"method": Anchored(n_members=3, max_epochs=30), "random_state": 0, **kwargs}
    return BayesianMLPRegressor((4,), **kwargs)


# ------------------------------------------------------------------------ meta-estimators


def test_pipeline(blobs):
    X, y = blobs
    pipe = make_pipeline(StandardScaler(), classifier()).fit(X, y)
    assert pipe.predict_proba(X).shape == (60, 3)
    assert pipe.score(X, y) > 0.7
    pipe = make_pipeline(StandardScaler(), regressor()).fit(X, X[:, 0])
    mean, std = pipe.predict(X, return_std=True)
    assert mean.shape == std.shape == (60,)


def test_text_pipeline():
    texts = ["good film", "bad film", "good book", "bad book"] * 5
    y = ["pos", "neg"] * 10
    pipe = make_pipeline(TfidfVectorizer(), classifier()).fit(texts, y)
    assert list(pipe.predict(["good", "bad"])) == ["pos", "neg"]


def test_grid_search_over_sizes_and_methods(binary):
    X, y = binary
    grid = {"hidden_layer_sizes": [(), (2,)], "method": ["map", FAST]}
    search = GridSearchCV(classifier(), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.7
    assert len(search.cv_results_["params"]) == 4
    assert search.predict_proba(X).shape == (60, 2)


def test_grid_search_over_the_parameters_of_method_and_prior(curve):
    X, y = curve
    hmc = HMC(n_chains=2, n_warmup=10, n_draws=10, max_leapfrog=4, init="prior")
    model = regressor(method=hmc, prior=NormalPrior())
    grid = {"method__n_draws": [5, 7], "prior__scale": [0.5, 1.0]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    best = search.best_estimator_
    assert best.posterior_.n_draws == search.best_params_["method__n_draws"]
    assert best.prior.scale == search.best_params_["prior__scale"]
    assert hmc.n_draws == 10  # the caller's object stays as it was


def test_grid_search_sees_uncertainty_scores(curve):
    X, y = curve

    def log_density(model, X, y):
        return model.log_predictive_density(X, y).mean()

    scores = cross_val_score(regressor(), X, y, cv=2, scoring=log_density, error_score="raise")
    assert np.isfinite(scores).all()


def test_cross_val_predict(blobs):
    X, y = blobs
    proba = cross_val_predict(classifier(), X, y, cv=3, method="predict_proba")
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert (proba.argmax(1) == y).mean() > 0.6


@pytest.mark.parametrize("make", [CalibratedClassifierCV, None])
def test_calibration_and_voting(blobs, make):
    X, y = blobs
    if make is None:
        parts = [("bayes", classifier()), ("logistic", LogisticRegression())]
        model = VotingClassifier(parts, voting="soft")
    else:
        model = make(classifier(), cv=2)
    proba = model.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert model.score(X, y) > 0.7


@pytest.mark.parametrize("cls", [BayesianMLPClassifier, BayesianMLPRegressor])
def test_clone_and_repr(cls):
    model = cls((3,), method=HMC(n_draws=7), prior=NormalPrior(scale=0.5), random_state=3)
    copy = clone(model)
    assert copy is not model and copy.method is not model.method
    assert repr(copy) == repr(model)
    assert copy.get_params()["method__n_draws"] == 7
    assert copy.get_params()["prior__scale"] == 0.5
    assert "HMC(n_draws=7)" in repr(model)


@pytest.mark.parametrize(
    ("params", "object_to_pass"),
    [
        ({"method__n_draws": 5}, r"method='hmc' is a string.*HMC\(n_draws=\.\.\.\)"),
        ({"method": "map", "method__n_restarts": 5}, r"method='map'.*MAP\(n_restarts"),
        ({"method": "auto", "method__n_members": 5}, r"method='auto'.*Anchored\(n_members"),
        ({"method": "auto", "method__n_draws": 5}, r"method='auto'.*MCLMC\(n_draws"),
        ({"prior__scale": 2.0}, r"prior=None is None.*NormalPrior\(scale"),
        ({"prior": "laplace", "prior__scale": 2.0}, r"prior='laplace' is.*LaplacePrior\(scale"),
        ({"method": "nonsense", "method__x": 2.0}, r"method='nonsense' is a string"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
@pytest.mark.parametrize("cls", [BayesianMLPClassifier, BayesianMLPRegressor])
def test_parameters_of_a_string(cls, params, object_to_pass):
    with pytest.raises(ValueError, match=object_to_pass):
        cls(method="hmc").set_params(**params)


def test_parameters_of_an_object_given_in_the_same_call():
    model = classifier(method="hmc").set_params(method=HMC(), method__n_draws=5)
    assert model.method.n_draws == 5
    assert model.set_params(activation="relu", method__n_draws=6).method.n_draws == 6


def test_parameters_of_a_string_in_a_search(binary):
    search = GridSearchCV(classifier(method="hmc"), {"method__n_draws": [5]}, cv=2)
    with pytest.raises(ValueError, match="method='hmc' is a string"):
        search.fit(*binary)


# ------------------------------------------------------------------------ targets and inputs


def test_string_labels(blobs):
    X, y = blobs
    names = np.array(["red", "green", "blue"])
    model = classifier(method=FAST).fit(X, names[y])
    assert list(model.classes_) == ["blue", "green", "red"]
    numbers = classifier(method=FAST).fit(X, np.searchsorted(model.classes_, names[y]))
    assert (model.predict(X) == model.classes_[numbers.predict(X)]).all()


def test_labels_that_are_not_zero_and_one(binary):
    X, y = binary
    model = classifier(method=FAST).fit(X, np.where(y, 5, -3))
    assert set(model.predict(X)) == {-3, 5}
    np.testing.assert_array_equal(model.predict(X) == 5, model.predict_proba(X)[:, 1] > 0.5)


def test_multilabel(blobs):
    X, y = blobs
    Y = np.column_stack([y == 0, y > 0, X[:, 3] > 0]).astype(int)
    model = classifier(method=FAST).fit(X, Y)
    proba = model.predict_proba(X)
    assert proba.shape == (60, 3)
    assert not np.allclose(proba.sum(1), 1.0)
    np.testing.assert_array_equal(model.predict(X), proba > 0.5)
    assert (model.predict(X) == Y).mean() > 0.8


def test_several_outputs(curve):
    X, y = curve
    Y = np.column_stack([y, -100.0 * y])
    model = regressor(noise="learned").fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (60, 2)
    assert model.noise_std_.shape == (2,)
    assert model.score(X, Y) > 0.5
    assert std[:, 1].mean() > 20 * std[:, 0].mean()


def test_pandas(curve):
    pd = pytest.importorskip("pandas")
    X, y = curve
    frame = pd.DataFrame(X, columns=["width", "height"])
    model = regressor(method=FAST).fit(frame, pd.Series(y), pd.Series(np.ones(60)))
    assert list(model.feature_names_in_) == ["width", "height"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of these may lose the names on the way
        model.predict_quantiles(frame, [0.5])
        model.log_predictive_density(frame, y)
        model.sample_y(frame)
        model.sample_prior(frame)
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_allclose(model.predict(X), model.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["height", "width"]])


@pytest.mark.parametrize("standardize", [True, False])
def test_sparse_equals_dense(binary, standardize):
    X, y = binary
    X = X * (np.random.default_rng(0).random(X.shape) < 0.5)
    kwargs = {"method": MAP(), "dtype": "float64"}
    # sparse columns are divided by their largest value and not centred
    X = X / np.abs(X).max(0)
    dense = classifier(**kwargs, standardize=False).fit(X, y)
    factor = [2.0, 0.5, 3.0] if standardize else 1.0
    sparse = classifier(**kwargs, standardize=standardize).fit(sp.csr_array(X * factor), y)
    expected = dense.predict_proba(X)
    np.testing.assert_allclose(dense.predict_proba(sp.csr_matrix(X)), expected, rtol=1e-7)
    np.testing.assert_allclose(sparse.predict_proba(sp.csr_array(X * factor)), expected, atol=1e-3)


# ------------------------------------------------------------------------ files


@cache
def fit_both(name):
    """A classifier and a regressor of one method; the tests only read them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kwargs = {"method": METHOD_SETTINGS[name], "random_state": 0}
        normal = name in ("laplace", "ep")  # which need a normal prior
        prior = None if normal else "hierarchical"
        clf = BayesianMLPClassifier((3,), prior=prior, **kwargs).fit(ROWS, ROWS[:, 0] > 0)
        return clf, BayesianMLPRegressor((3,), noise="learned", **kwargs).fit(ROWS, ROWS[:, 0])


ROWS = np.random.default_rng(0).normal(size=(30, 3))


@pytest.fixture(scope="module", params=METHOD_SETTINGS)
def fitted(request):
    return fit_both(request.param)


ANSWERS = """
def answers(clf, reg, X):
    mean, std = reg.predict(X, return_std=True)
    interval, noise = reg.predict_interval(X), reg.posterior_.unflatten()["noise_std"].ravel()
    return [clf.predict_proba(X), clf.predict_log_proba(X), mean, std, interval, noise]
"""


@pytest.mark.slow  # a new process imports everything anew
def test_pickle_in_a_new_process(tmp_path):
    """Nothing of the process that fitted may be needed; all methods share one process."""
    models = {name: fit_both(name) for name in METHOD_SETTINGS}
    (tmp_path / "models.pkl").write_bytes(pickle.dumps((ROWS, models)))
    code = ANSWERS + (
        "import pickle, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "X, models = pickle.load(open(sys.argv[1] + '/models.pkl', 'rb'))\n"
        "out = {name: answers(*pair, X) for name, pair in models.items()}\n"
        "pickle.dump(out, open(sys.argv[1] + '/out.pkl', 'wb'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found = pickle.loads((tmp_path / "out.pkl").read_bytes())
    scope = {}
    exec(ANSWERS, scope)
    for name, pair in models.items():
        for there, here in zip(found[name], scope["answers"](*pair, ROWS), strict=True):
            np.testing.assert_array_equal(there, here, err_msg=name)


def test_joblib_with_memory_mapping(fitted, tmp_path):
    clf, reg = fitted
    joblib.dump((clf, reg), tmp_path / "models.joblib")
    clf2, reg2 = joblib.load(tmp_path / "models.joblib", mmap_mode="r")
    assert not clf2.posterior_.draws.flags.writeable
    np.testing.assert_array_equal(clf2.predict_proba(ROWS), clf.predict_proba(ROWS))
    np.testing.assert_array_equal(reg2.sample_y(ROWS, 3, 0), reg.sample_y(ROWS, 3, 0))
    np.testing.assert_array_equal(reg2.sample_prior(ROWS, 3, 0), reg.sample_prior(ROWS, 3, 0))
    assert reg2.posterior_.unflatten().keys() == reg.posterior_.unflatten().keys()
    assert len(clf2.posterior_.to_modules()) == len(clf.posterior_.flat)


def test_skops(fitted, tmp_path):
    io = pytest.importorskip("skops.io")
    clf, reg = fitted
    for model in (clf, reg):
        io.dump(model, tmp_path / "model.skops")
        unknown = io.get_untrusted_types(file=tmp_path / "model.skops")
        # whoever loads must be asked about this package's own classes, and about nothing else
        assert all(name.startswith("skbayes.") for name in unknown), unknown
        loaded = io.load(tmp_path / "model.skops", trusted=unknown)
        np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
