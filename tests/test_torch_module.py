"""The estimators that take any torch module."""

import copy
import pickle
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from modules import Conv, Small, Tied
from settings import METHOD_SETTINGS
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from torch import nn

from skbayes import BayesianMLPRegressor, BayesianModuleClassifier, BayesianModuleRegressor
from skbayes.inference import HMC, MAP, Ensemble
from skbayes.model import NormalPrior

# runs as short as these must not converge, and the checks refit hundreds of times
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK_MAP = MAP(max_epochs=30)
ESTIMATORS = (BayesianModuleClassifier, BayesianModuleRegressor)
WEIGHT_CHECK = "check_sample_weight_equivalence_on_dense_data"


@pytest.fixture(scope="module")
def images():
    """X (80, 1, 6, 6) and three classes."""
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [30, 30, 20])
    X = rng.normal(size=(80, 1, 6, 6))
    X[y == "b", 0, 2] += 2.0
    X[y == "c", 0, :, 2] += 2.0
    return X, y


# --------------------------------------------------------- scikit-learn's checks


@parametrize_with_checks(
    [cls(Small, method=MAP(max_epochs=10), random_state=0) for cls in ESTIMATORS],
    expected_failed_checks=lambda estimator: {
        WEIGHT_CHECK: "rounding decides where so short a climb ends; see the next test"
    },
)
def test_all_checks(estimator, check):
    check(estimator)


def weight_checks():
    common = {
        "method": MAP(solver="lbfgs", tol=1e-12),
        "prior": NormalPrior(1.0, fan_in=True),
        "dtype": "float64",
        "random_state": 0,
        "standardize": True,
    }
    models = [
        BayesianModuleClassifier(Small, **common),
        BayesianModuleRegressor(Small, noise=0.5, **common),
    ]
    for model in models:
        for estimator, check in estimator_checks_generator(model):
            if check.func.__name__ == WEIGHT_CHECK:
                yield pytest.param(estimator, check, id=type(model).__name__)


@pytest.mark.parametrize(("estimator", "check"), list(weight_checks()))
def test_weights_equal_repeated_rows(estimator, check):
    check(estimator)


# --------------------------------------------------------------- every method


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_every_method_runs_on_a_convolution(name, images):
    X, y = images
    model = BayesianModuleClassifier(Conv, method=METHOD_SETTINGS[name], random_state=0)
    if name == "ep":
        with pytest.raises(ValueError, match="multilayer perceptron"):
            model.fit(X, y)
        return
    fit = model.fit(X, y)
    proba = fit.predict_proba(X)
    assert proba.shape == (80, 3) and np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(1), 1.0)
    np.testing.assert_allclose(fit.predict_proba(X[:7]), proba[:7], rtol=1e-9)
    loaded = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(loaded.predict_proba(X), proba)


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_every_method_runs_on_a_regression(name, curve):
    X, y = curve
    noise = "heteroscedastic" if name == "map" else "learned"
    model = BayesianModuleRegressor(
        Small, method=METHOD_SETTINGS[name], noise=noise, standardize=True, random_state=0
    )
    if name == "ep":
        with pytest.raises(ValueError, match="multilayer perceptron"):
            model.fit(X, y)
        return
    model.fit(X, y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (60,) and (std > 0).all()
    assert model.sample_y(X[:4], 3, random_state=0).shape == (4, 3)


def test_the_same_mode_as_the_perceptron(curve):
    """One mode: a linear model, with its learned noise."""
    X, y = curve
    common = {
        "method": MAP(solver="lbfgs", tol=1e-10), "noise": "learned", "standardize": True,
        "dtype": "float64", "random_state": 0,
    }  # fmt: skip
    plain = BayesianMLPRegressor((), **common).fit(X, y)
    module = BayesianModuleRegressor(nn.Linear, module__in_features=2, module__out_features=1,
                                     **common).fit(X, y)  # fmt: skip
    found, expected = (m.predict(X, return_std=True) for m in (module, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(module.noise_std_, plain.noise_std_, rtol=1e-5)


def test_digits_are_learned():
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 1, 8, 8)[:, :, 1:7, 1:7] / 16
    model = BayesianModuleClassifier(
        Conv, module__width=8, method=Ensemble(n_members=3, max_epochs=25), random_state=0
    ).fit(X[:900], y[:900])
    assert model.score(X[900:], y[900:]) > 0.8


# ------------------------------------------------------------------ parameters


def test_module_parameters_are_parameters():
    model = BayesianModuleClassifier(Conv, module__width=4, method=QUICK_MAP)
    assert model.get_params()["module__width"] == 4
    assert model.set_params(module__norm="batch", method__max_epochs=3) is model
    assert clone(model).get_params()["module__norm"] == "batch"
    assert clone(model).method.max_epochs == 3
    assert "module__width=4" in repr(model) and "module__norm='batch'" in repr(model)
    assert model._repr_html_()
    other = BayesianModuleClassifier(Conv)
    assert "module__width" not in other.get_params()  # nothing is shared
    copied = copy.copy(model).set_params(module__width=9)
    assert (model.get_params()["module__width"], copied.module) == (4, Conv)


def test_search_over_module_parameters(images):
    X, y = images
    pipe = make_pipeline(
        FunctionTransformer(lambda X: X - 1.0),
        BayesianModuleClassifier(Conv, method=QUICK_MAP, random_state=0),
    )
    grid = {
        "bayesianmoduleclassifier__module__width": [1, 3],
        "bayesianmoduleclassifier__method__max_epochs": [5, 20],
    }
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    best = search.best_params_["bayesianmoduleclassifier__module__width"]
    final = search.best_estimator_[-1]
    assert final.get_params()["module__width"] == best
    assert final.posterior_.unflatten()["first.weight"].shape[2] == best
    widths = {}
    for width in (1, 3):
        fitted = clone(pipe).set_params(bayesianmoduleclassifier__module__width=width).fit(X, y)
        widths[width] = fitted[-1].posterior_.n_params
    assert widths[1] < widths[3]


def test_pipeline_with_a_scaler(curve):
    X, y = curve
    pipe = make_pipeline(
        StandardScaler(), BayesianModuleRegressor(Small, method=QUICK_MAP, random_state=0)
    )
    assert cross_val_predict(pipe, X, y, cv=3).shape == (60,)


def test_an_instance_stays_as_it_is(images):
    X, y = images
    module = Conv(norm="batch", dropout=0.3)
    before = copy.deepcopy(module.state_dict())
    model = BayesianModuleClassifier(module, method=QUICK_MAP, random_state=0).fit(X, y)
    assert model.module is module and module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert clone(model).module is not module
    wider = clone(model).set_params(module__width=5).fit(X, y)  # stands for its class then
    assert wider.posterior_.unflatten()["first.weight"].shape == (1, 1, 5, 1, 3, 3)


def test_two_columns_are_one_logit(binary):
    X, y = binary
    common = {"method": MAP(solver="lbfgs", tol=1e-9), "dtype": "float64", "random_state": 0}
    two = BayesianModuleClassifier(nn.Linear(3, 2), prior=NormalPrior(1.0), **common).fit(X, y)
    # w1 - w0 of N(0, 1) each is N(0, 2)
    one = BayesianModuleClassifier(nn.Linear(3, 1), prior=NormalPrior(np.sqrt(2.0)), **common).fit(
        X, y
    )
    np.testing.assert_allclose(two.predict_proba(X), one.predict_proba(X), atol=1e-5)
    assert two.predict_log_proba(X).shape == (60, 2)


def test_multilabel(binary):
    X, y = binary
    labels = np.column_stack([y, 1 - y, X[:, 1] > 0]).astype(int)
    model = BayesianModuleClassifier(Small, method=QUICK_MAP, random_state=0).fit(X, labels)
    assert model.predict_proba(X).shape == (60, 3) and model.score(X, labels) > 0.5


@pytest.mark.parametrize("fitted", [False, True])
def test_prior_draws(images, fitted):
    X, y = images
    model = BayesianModuleClassifier(Conv(norm="group"), method=QUICK_MAP, random_state=0)
    if fitted:
        model.fit(X, y)
    draws = model.sample_prior(X, 5, random_state=0)
    assert draws.shape == (5, 80, 3)
    np.testing.assert_allclose(draws.sum(2), 1.0)
    np.testing.assert_array_equal(draws, model.sample_prior(X, 5, random_state=0))


# --------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("method", [
    Ensemble(n_members=2, max_epochs=4, batch_size=20),
    HMC(n_chains=2, n_warmup=4, n_draws=5, max_leapfrog=3, init=MAP(max_epochs=3)),
])  # fmt: skip
def test_statistics_travel_with_each_draw(method, images):
    X, y = images
    model = BayesianModuleClassifier(
        Conv, module__norm="batch", method=method, random_state=0, dtype="float64"
    ).fit(X, y)
    posterior, network = model.posterior_, model._layout.network
    n_buffers = 2 * (2 + 8)
    assert network.n_buffers == n_buffers
    assert posterior.draws.shape[2] == posterior.last_state.shape[1] + n_buffers
    named = posterior.unflatten()
    assert named["norm.running_var"].shape == (2, posterior.n_draws, 2)
    assert (named["norm.running_var"] > 0).all()
    # on the training rows they are the statistics of these rows
    modules = posterior.to_modules()
    first = named["first.weight"].reshape(-1, 2, 1, 3, 3)
    bias = named["first.bias"].reshape(-1, 2)
    for d, module in enumerate(modules):
        z = torch.conv2d(torch.as_tensor(X), *(torch.as_tensor(a[d]) for a in (first, bias)))
        np.testing.assert_allclose(module.norm.running_mean, z.mean((0, 2, 3)), rtol=1e-8)
        logits = module(torch.as_tensor(X)).detach().numpy()
        one = model._forward(posterior.flat[d : d + 1], X)[0].T
        np.testing.assert_allclose(one, logits, rtol=1e-8, atol=1e-9)
    # predictions of a row do not depend on the others
    proba = model.predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X[5:6]), proba[5:6], rtol=1e-9)
    assert model.sample_posterior(1, random_state=0).shape == (1, posterior.n_params)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(X), proba)
    model.set_params(warm_start=True).fit(X, y)  # goes on from the weights alone
    assert model.posterior_.draws.shape[2] == posterior.draws.shape[2]


# ---------------------------------------------------------------- what else


def test_saved_models(images, tmp_path):
    X, y = images
    for module in (Conv, Conv(norm="batch")):
        model = BayesianModuleClassifier(module, method=QUICK_MAP, random_state=0).fit(X, y)
        proba = model.predict_proba(X)
        joblib.dump(model, tmp_path / "model.joblib")
        loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
        np.testing.assert_array_equal(loaded.predict_proba(X), proba)
        for value in vars(model).values():
            assert not isinstance(value, torch.Tensor)


@pytest.mark.slow
def test_groups_of_chains_in_processes(images):
    X, y = images
    method = HMC(n_chains=5, n_warmup=3, n_draws=3, max_leapfrog=2, init="prior")
    model = BayesianModuleClassifier(Conv, method=method, random_state=0)
    draws = [clone(model).set_params(n_jobs=n).fit(X, y).posterior_.draws for n in (1, 2)]
    np.testing.assert_array_equal(*draws)


def test_checkpoints_tell_instances_apart(images, tmp_path):
    X, y = images
    method = HMC(n_chains=1, n_warmup=2, n_draws=2, max_leapfrog=2, init="prior")
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = Conv()
        model = BayesianModuleClassifier(module, method=method, random_state=0)
        model.fit(X, y, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_global_random_state_is_left_alone(images):
    X, y = images
    state = torch.get_rng_state()
    BayesianModuleClassifier(Conv, method=QUICK_MAP, random_state=0).fit(X, y).predict(X)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parts_follow_the_seed(curve):
    X, y = curve
    fits = [
        BayesianModuleRegressor(Tied, module__n_inputs=2, module__n_outputs=1, method=QUICK_MAP,
                                random_state=seed).fit(X, y).posterior_.to_modules()[0]
        for seed in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(fits[0].shift, fits[1].shift) and not torch.equal(
        fits[0].shift, fits[2].shift
    )


class Softmax(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 3), nn.Softmax(1))


BAD = {
    "a string": ({"module": "Conv"}, "module='Conv' is not allowed"),
    "no module": ({"module": dict}, "is not allowed"),
    "no prefix": ({"modul__width": 3}, "has no|have the prefix|not a parameter"),
    "unknown": ({"module__depth": 3}, "module__depth is not a parameter of Small; allowed are "
                                      "module__n_inputs"),
    "softmax": ({"module": Softmax}, "return logits"),
    "outputs": ({"module__n_outputs": 4}, "expected 3, found 4"),
    "inputs": ({"module__n_inputs": 7}, "cannot be applied"),
    "callbacks": ({"callbacks": 3}, "callbacks=3 is not allowed"),
    "standardize": ({"standardize": 1}, "standardize=1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_parameters(name):
    params, message = BAD[name]
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = BayesianModuleClassifier(**{"module": Small, "method": QUICK_MAP, **params})
    with pytest.raises(ValueError, match=message):
        model.fit(X, np.arange(30) % 3)


def test_wrong_rows(images):
    X, y = images
    model = BayesianModuleClassifier(Conv, method=QUICK_MAP, random_state=0).fit(X, y)
    for wrong in (X[:, :, :5], X.reshape(80, -1), X[:, 0]):
        with pytest.raises(ValueError, match="shape|features"):
            model.predict(wrong)
    with pytest.raises(TypeError, match="[Ss]parse"):
        BayesianModuleClassifier(Small).fit(sp.csr_matrix(X.reshape(80, -1)), y)
    bad = X.copy()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(bad, y)


def test_standardize_images(images):
    X, y = images
    model = BayesianModuleClassifier(Conv, method=QUICK_MAP, standardize=True, random_state=0)
    scaled = clone(model).fit(1e4 * X + 3e5, y).predict_proba(1e4 * X + 3e5)
    np.testing.assert_allclose(scaled, model.fit(X, y).predict_proba(X), atol=1e-2)


def test_no_warning_of_its_own(images):
    X, y = images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", ConvergenceWarning)
        BayesianModuleClassifier(Conv, method=QUICK_MAP, random_state=0).fit(X, y).predict(X)
