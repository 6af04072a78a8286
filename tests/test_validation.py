"""Bad input: a clear error that names the cause, or a right answer, and never NaN."""

import numpy as np
import pytest
import scipy.sparse as sp
from settings import METHOD_SETTINGS
from sklearn.exceptions import NotFittedError

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP, Anchored, Ensemble
from skbayes.model import (
    HierarchicalPrior,
    LaplacePrior,
    NormalPrior,
    StudentTPrior,
)
from skbayes.validation import Standardizer

pytestmark = pytest.mark.usefixtures("quiet")
BOTH = pytest.mark.parametrize("cls", [BayesianMLPClassifier, BayesianMLPRegressor])
FAST = MAP(max_epochs=20)


def make(cls, **kwargs):
    kwargs = {"hidden_layer_sizes": (3,), "method": FAST, "random_state": 0, **kwargs}
    return cls(**kwargs)


# ------------------------------------------------------------------------ parameters


@BOTH
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"method": "nonsense"}, "method='nonsense' is not known.*'map'.*'hmc'"),
        ({"method": HMC}, "method=.*an object, not its class"),
        ({"method": 3}, "method=3 is not allowed"),
        ({"method": None}, "method=None is not allowed"),
        ({"prior": "nonsense"}, "prior='nonsense' is not known.*'laplace'"),
        ({"prior": NormalPrior}, "prior=.*an object, not its class"),
        ({"prior": 1.0}, "prior=1.0 is not allowed"),
        ({"prior": NormalPrior(scale=0)}, "NormalPrior: scale=0 is not allowed"),
        ({"prior": NormalPrior(scale=True)}, "NormalPrior: scale=True is not allowed"),
        ({"prior": NormalPrior(fan_in=2)}, "NormalPrior: fan_in=2 is not allowed"),
        ({"prior": NormalPrior(fan_in="no")}, "NormalPrior: fan_in='no' is not allowed"),
        ({"prior": LaplacePrior(scale=-1.0)}, "LaplacePrior: scale=-1.0 is not allowed"),
        ({"prior": StudentTPrior(df=np.inf)}, "StudentTPrior: df=inf is not allowed"),
        ({"prior": HierarchicalPrior(spread="x")}, "HierarchicalPrior: spread='x' is not"),
        ({"activation": "sigmoid"}, "activation='sigmoid' is not known.*'relu'"),
        ({"activation": None}, "activation=None is not known"),
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes=\(3, 0\) is not allowed"),
        ({"hidden_layer_sizes": (-3,)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (3.0,)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (True,)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": 2.5}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": "many"}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes=None"),
        ({"standardize": "yes"}, "standardize='yes' is not allowed.*True.*False.*'X'"),
        ({"standardize": 1}, "standardize=1 is not allowed"),
        ({"standardize": None}, "standardize=None is not allowed"),
        ({"device": "tpu"}, "device='tpu' is not allowed.*'cpu'"),
        ({"device": None}, "device=None is not allowed"),
        ({"dtype": "float16"}, "dtype='float16' is not allowed.*'float32'"),
        ({"dtype": np.float32}, "dtype=.*is not allowed"),
        ({"random_state": "seed"}, "seed"),
    ],
)
def test_parameters_of_the_estimator(cls, params, words):
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match=words):
        make(cls, **params).fit(X, [0, 1, 0, 1, 1, 0])


def bad_counts():
    counts = {
        MAP: ["n_restarts", "max_epochs", "batch_size"],
        Ensemble: ["n_members", "max_epochs", "n_iter_no_change"],
        Anchored: ["n_members", "max_epochs"],
        HMC: ["n_chains", "n_draws", "thin", "max_leapfrog"],
    }
    for cls, names in counts.items():
        for name in names:
            for value in (0, -1, True, 2.0, "2", np.nan):
                yield cls, name, value
    yield from [(HMC, "n_warmup", -1), (HMC, "n_warmup", True), (HMC, "n_warmup", 1.5)]
    yield from [(HMC, "step_size", value) for value in (0.0, -1.0, np.inf, True, "x")]
    yield from [(HMC, "target_accept", value) for value in (0.0, 1.0, 2, None)]
    yield from [(HMC, "init", value) for value in ("nonsense", Ensemble, 3)]
    yield from [(MAP, "solver", value) for value in ("newton", None, 3)]
    yield from [(MAP, "momentum", -0.1), (MAP, "momentum", None), (MAP, "tol", 0)]
    yield from [(Ensemble, "validation_fraction", 1.0), (Ensemble, "learning_rate", 0)]


@pytest.mark.parametrize(("method", "name", "value"), list(bad_counts()))
def test_parameters_of_methods(method, name, value):
    model = make(BayesianMLPClassifier, method=method(**{name: value}))
    with pytest.raises(ValueError, match=f"{method.__name__}: {name}=.* is not allowed"):
        model.fit([[0.0], [1.0]], [0, 1])


def test_parameters_of_a_method_inside_a_method():
    model = make(BayesianMLPClassifier, method=HMC(init=Ensemble(n_members=0)))
    with pytest.raises(ValueError, match="Ensemble: n_members=0 is not allowed"):
        model.fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    "noise", [0.0, -1.0, np.nan, np.inf, True, None, "loud", [0.1, 0.2], "nan", [], [[0.1]]]
)
def test_noise(noise):
    with pytest.raises(ValueError, match="noise=.* is not allowed; it must be 'learned'"):
        make(BayesianMLPRegressor, noise=noise).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0])


def test_class_weight():
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match="class_weight.*multilabel"):
        labels = np.eye(2, dtype=int)[[0, 0, 1] * 2]
        make(BayesianMLPClassifier, class_weight="balanced").fit(X, labels)
    with pytest.raises(ValueError, match="class_weight"):
        make(BayesianMLPClassifier, class_weight="heavy").fit(X, [0, 1] * 3)


# ------------------------------------------------------------------------ data


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_X(cls, value):
    X = np.arange(12.0).reshape(6, 2)
    model = make(cls).fit(X, [0, 1] * 3)
    X[2, 1] = value
    with pytest.raises(ValueError, match="NaN|infinity"):
        make(cls).fit(X, [0, 1] * 3)
    with pytest.raises(ValueError, match="NaN|infinity"):
        model.predict(X)
    with pytest.raises(ValueError, match="NaN|infinity"):
        make(cls).fit(sp.csr_array(X), [0, 1] * 3)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_y(cls, value):
    with pytest.raises(ValueError, match="y contains (NaN|infinity)"):
        make(cls).fit(np.arange(12.0).reshape(6, 2), [0.0, 1.0, value, 1.0, 0.0, 1.0])


@BOTH
def test_text_X(cls):
    with pytest.raises(ValueError, match="could not convert string to float"):
        make(cls).fit([["a", "b"], ["c", "d"]], [0, 1])


def test_text_y():
    with pytest.raises(ValueError, match="could not convert string to float"):
        make(BayesianMLPRegressor).fit([[0.0], [1.0]], ["low", "high"])


@BOTH
def test_wrong_shapes(cls):
    X = np.arange(12.0).reshape(6, 2)
    model = make(cls).fit(X, [0, 1] * 3)
    for answer in ("predict", "predict_draws", "sample_y", "sample_prior", "predict_uncertainty"):
        with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 2"):
            getattr(model, answer)(np.zeros((4, 3)))
        with pytest.raises(ValueError, match="Expected 2D array"):
            getattr(model, answer)(np.zeros(2))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make(cls).fit(X, [0, 1])
    with pytest.raises(ValueError, match="0 sample"):
        make(cls).fit(np.zeros((0, 2)), [])
    with pytest.raises(ValueError, match="0 feature"):
        make(cls).fit(np.zeros((3, 0)), [0, 1, 0])


@BOTH
def test_log_predictive_density_with_as_many_y_as_rows(cls):
    X = np.arange(12.0).reshape(6, 2)
    model = make(cls).fit(X, [0, 1] * 3)
    for y in ([0, 1], [0], np.zeros((6, 2))):
        with pytest.raises(ValueError, match="y has"):
            model.log_predictive_density(X, y)


@BOTH
def test_sparse_targets(cls):
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match="y is a sparse matrix"):
        make(cls).fit(X, sp.csr_matrix(np.ones((6, 1))))


def test_classifiers_do_not_scale_labels():
    with pytest.raises(ValueError, match="standardize='y' is not allowed"):
        make(BayesianMLPClassifier, standardize="y").fit([[0.0], [1.0]], [0, 1])


def test_numbers_of_draws():
    posterior = make(BayesianMLPRegressor).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0]).posterior_
    for n in (0, -1, 1.5, True, "all"):
        with pytest.raises(ValueError, match="n=.* is not allowed"):
            posterior.to_modules(n)


def test_targets_of_classifiers():
    X = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match="at least 2 classes.*one class"):
        make(BayesianMLPClassifier).fit(X, np.ones(6))
    with pytest.raises(ValueError, match="continuous"):
        make(BayesianMLPClassifier).fit(X, np.linspace(0.1, 0.7, 6))
    with pytest.raises(ValueError, match="several columns"):
        make(BayesianMLPClassifier).fit(X, np.arange(12).reshape(6, 2) % 3)


@BOTH
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.ones(5), "sample_weight has 5 entries, but X has 6 rows"),
        (np.ones((6, 1)), "sample_weight must be 1-dimensional"),
        (-np.ones(6), "sample_weight contains negative weights"),
        (np.zeros(6), "sample_weight is zero for every row"),
        ([1, 1, 1, 1, 1, np.nan], "sample_weight contains NaN"),
        (["a"] * 6, "sample_weight=.* is not allowed; it must be numbers"),
    ],
)
def test_sample_weight(cls, weight, words):
    with pytest.raises(ValueError, match=words):
        make(cls).fit(np.arange(12.0).reshape(6, 2), [0, 1] * 3, weight)


@pytest.mark.parametrize("quantiles", [[0.0], [1.0], [0.5, 1.5], [np.nan], [[0.1]], "half"])
def test_quantiles(quantiles):
    model = make(BayesianMLPRegressor).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0])
    with pytest.raises(ValueError, match="quantiles=.* is not allowed"):
        model.predict_quantiles([[0.0]], quantiles)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90, -0.5, np.nan, "0.9", None, True])
def test_coverage(coverage):
    model = make(BayesianMLPRegressor).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0])
    with pytest.raises(ValueError, match="coverage=.* is not allowed"):
        model.predict_interval([[0.0]], coverage)


@BOTH
@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2", None])
def test_numbers_of_samples(cls, count):
    model = make(cls).fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    for call in (model.sample_y, model.sample_prior):
        with pytest.raises(ValueError, match="n_samples=.* is not allowed"):
            call([[0.0]], count)
    with pytest.raises(ValueError, match="n_samples=.* is not allowed"):
        model.sample_posterior(count)
    if count is not None:
        with pytest.raises(ValueError, match="n_draws=.* is not allowed"):
            model.predict_draws([[0.0]], count)


# ------------------------------------------------------------------------ hard, but right


def answers(model, X):
    """Everything that a model predicts, in one flat array."""
    out = [np.ravel(model.predict_uncertainty(X))]
    if hasattr(model, "predict_proba"):
        out += [model.predict_proba(X), model.predict_log_proba(X), model.predict_draws(X)]
    else:
        out += [*model.predict(X, return_std=True), model.predict_interval(X)]
        out += model.predict_draws(X)
    return np.concatenate([np.ravel(part) for part in out])


HARD = {
    "constant column": lambda X: np.column_stack([X, np.full(len(X), 7.3)]),
    "constant column, huge": lambda X: np.column_stack([X, np.full(len(X), 1e12 / 3)]),
    "constant X": lambda X: np.full_like(X, 0.1),
    "duplicate columns": lambda X: np.column_stack([X, X, X]),
    "scales far apart": lambda X: X * np.array([1e12, 1e-12, 1.0]),
    "offset": lambda X: X + np.array([1e6, -1e6, 0.0]),
    "integers": lambda X: np.round(X * 10).astype(int),
    "float32": lambda X: X.astype(np.float32) + np.float32(1e4),
    "outlier": lambda X: np.vstack([X[:-1], X[-1:] * 1e8]),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("name", METHOD_SETTINGS)
@BOTH
def test_hard_columns(cls, name, kind):
    X = np.random.default_rng(0).normal(size=(24, 3))
    y = (X[:, 0] > 0).astype(int) if cls is BayesianMLPClassifier else X[:, 0]
    X = HARD[kind](X)
    model = make(cls, method=METHOD_SETTINGS[name]).fit(X, y)
    assert np.isfinite(answers(model, X)).all()
    assert np.isfinite(answers(model, 100.0 * X)).all()


@BOTH
def test_scale_and_constant_columns_change_nothing(cls):
    """Standardising takes scales away, and what is constant says nothing."""
    X = np.random.default_rng(0).normal(size=(24, 2))
    y = (X[:, 0] > 0).astype(int) if cls is BayesianMLPClassifier else X[:, 0]
    prior = NormalPrior()  # not scaled by the number of columns
    plain = make(cls, hidden_layer_sizes=(), method=MAP(), prior=prior, dtype="float64").fit(X, y)
    scaled = make(cls, hidden_layer_sizes=(), method=MAP(), prior=prior, dtype="float64")
    Z = np.column_stack([X * np.array([1e12, 1e-12]), np.full(24, 3e5)])
    scaled.fit(Z, y)
    expected = answers(plain, X)
    np.testing.assert_allclose(answers(scaled, Z), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_standardizer(dtype, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)).astype(dtype) * [1.0, 1e12, 1e-12, 0.0] + [0.0, 1e12, 0.0, 5.0]
    X = X.astype(dtype)
    weight = rng.integers(0, 4, 50).astype(float) if weighted else None
    repeated = X if weight is None else np.repeat(X, weight.astype(int), 0)
    scaler = Standardizer(True).fit(X, weight)
    exact = repeated.astype(np.float64)
    np.testing.assert_allclose(scaler.mean, exact.mean(0), rtol=1e-6, atol=1e-18)
    np.testing.assert_allclose(scaler.scale[:3], exact.std(0)[:3], rtol=1e-6)
    assert (scaler.transform(X)[:, 3] == 0).all()
    inside = scaler.transform(repeated)[:, :3]
    np.testing.assert_allclose(inside.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(inside.std(0), 1.0, rtol=1e-6)
    # sparse columns are divided by their largest value and not moved
    sparse = Standardizer(True).fit(sp.csr_array(X.astype(np.float64)), weight)
    np.testing.assert_allclose(sparse.mean, 0.0)
    np.testing.assert_allclose(sparse.scale, np.abs(exact).max(0))


@pytest.mark.parametrize("weighted", [False, True])
def test_heavy_tails_are_bent(weighted):
    """Normal and binary columns and constants stay as they are, and weights are repetitions."""
    rng = np.random.default_rng(0)
    normal, tails, amounts = rng.normal(size=800), rng.standard_t(3, 800), rng.lognormal(0, 3, 800)
    X = np.column_stack([normal, tails, rng.random(800) < 0.02, np.full(800, 5.0), amounts])
    weight = rng.integers(0, 4, 800).astype(float) if weighted else None
    repeated = X if weight is None else np.repeat(X, weight.astype(int), 0)
    scaler = Standardizer(True, bend=True).fit(X, weight)
    plain = Standardizer(True).fit(X, weight).transform(repeated)
    assert scaler.factor.tolist() == [0.0, 1.0, 10.0, 0.0, 10.0]
    inside = scaler.transform(repeated)
    np.testing.assert_allclose(inside[:, [0, 2, 3]], plain[:, [0, 2, 3]], atol=1e-9)
    for column, factor in ((1, 1.0), (4, 10.0)):
        bent = np.arcsinh(factor * plain[:, column])
        expected = (bent - bent.mean()) / bent.std()
        np.testing.assert_allclose(inside[:, column], expected, atol=1e-9)
    kurtosis = (inside**4).mean(0)
    assert kurtosis[1] <= 6 < (plain[:, 1] ** 4).mean()


def test_what_the_classifier_bends():
    """By default with hidden layers; a linear model stays linear in X."""
    rng = np.random.default_rng(0)
    X = rng.lognormal(sigma=2.0, size=(200, 2))
    y = X[:, 0] > np.median(X[:, 0])

    def bent(cls, **kw):
        return make(cls, method=MAP(max_epochs=5), **kw).fit(X, y)._scaler.factor.all()

    assert bent(BayesianMLPClassifier)
    assert not bent(BayesianMLPClassifier, hidden_layer_sizes=())
    assert bent(BayesianMLPClassifier, hidden_layer_sizes=(), standardize="arcsinh")
    assert not bent(BayesianMLPClassifier, standardize=True)
    assert not bent(BayesianMLPRegressor)
    assert bent(BayesianMLPRegressor, standardize="arcsinh")
    with pytest.raises(ValueError, match="standardize='auto' is not allowed"):
        bent(BayesianMLPRegressor, standardize="auto")


@pytest.mark.parametrize("name", METHOD_SETTINGS)
@pytest.mark.parametrize("noise", ["learned", "heteroscedastic", 0.5])
def test_constant_y(name, noise):
    X = np.random.default_rng(0).normal(size=(24, 3))
    model = make(BayesianMLPRegressor, method=METHOD_SETTINGS[name], noise=noise)
    model.fit(X, np.full(24, 7.0))
    assert np.isfinite(answers(model, X)).all()
    assert np.abs(model.predict(X) - 7.0).mean() < 0.5


@pytest.mark.parametrize("name", METHOD_SETTINGS)
@BOTH
def test_few_rows(cls, name):
    """Two rows are enough; one is too, except for a classifier, which needs two classes."""
    X = np.array([[0.0, 1.0], [1.0, 3.0]])
    model = make(cls, method=METHOD_SETTINGS[name])
    assert np.isfinite(answers(model.fit(X, [0, 1]), X)).all()
    if cls is BayesianMLPRegressor:
        assert np.isfinite(answers(model.fit(X[:1], [0.0]), X)).all()
    else:
        with pytest.raises(ValueError, match="at least 2 classes"):
            model.fit(X[:1], [0])


def test_values_too_large_to_scale():
    X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 4.0]])
    model = make(BayesianMLPRegressor).fit(X * 1e-12, [0.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="X has values so large"):
        model.predict(X * 1e300)


@pytest.mark.parametrize("value", [{0: -1, 1: 1}, {0: np.nan, 1: 1}, {0: 0, 1: 0}, [1, 2], "bal"])
def test_bad_class_weight(value):
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match="class_weight"):
        BayesianMLPClassifier((3,), method="map", class_weight=value).fit(X, X[:, 0] > 0)


def test_unfitted():
    X = np.zeros((2, 3))
    for model in (BayesianMLPClassifier(), BayesianMLPRegressor()):
        with pytest.raises(NotFittedError):
            model.sample_y(X)
    with pytest.raises(NotFittedError):
        BayesianMLPRegressor().noise_std_  # noqa: B018
