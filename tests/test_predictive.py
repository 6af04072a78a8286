"""From draws to answers: mixtures, entropies, densities, samples, and the order of rows."""

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.base import clone

import skbayes.functions
from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP
from skbayes.predictive import entropy_parts, mixture_quantiles, variance_parts

HMC_SHORT = HMC(n_chains=3, n_warmup=30, n_draws=20, max_leapfrog=8, init=MAP(max_epochs=20))
FIT = {"method": HMC_SHORT, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def clf(blobs):
    return BayesianMLPClassifier((4,), **FIT).fit(*blobs)


@pytest.fixture(scope="module")
def two(binary):
    return BayesianMLPClassifier((4,), **FIT).fit(*binary)


@pytest.fixture(scope="module")
def labels(blobs):
    X, y = blobs
    return BayesianMLPClassifier((4,), **FIT).fit(X, np.column_stack([y == 0, y > 1]).astype(int))


@pytest.fixture(scope="module", params=["learned", "heteroscedastic", 0.5])
def reg(request, curve):
    return BayesianMLPRegressor((4,), noise=request.param, **FIT).fit(*curve)


@pytest.fixture(scope="module")
def plain(curve):
    return BayesianMLPRegressor((4,), **FIT).fit(*curve)


@pytest.fixture(scope="module")
def several(curve):
    X, y = curve
    return BayesianMLPRegressor((4,), **FIT).fit(X, np.column_stack([y, 10 * X[:, 1]]))


# ------------------------------------------------------------------------ pure functions


MIXTURES = {
    "one": ([[2.0]], [[0.5]]),
    "near": ([[0.0], [0.1], [-0.2]], [[1.0], [1.2], [0.7]]),
    "separated": ([[-50.0], [50.0]], [[0.1], [0.1]]),
    "far and wide": ([[0.0], [0.0], [1000.0]], [[1e-3], [1.0], [100.0]]),
    "spikes": ([[0.0], [1.0], [2.0], [3.0]], [[1e-6], [1e-6], [1e-6], [1e-6]]),
    "equal": ([[3.0]] * 4, [[2.0]] * 4),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_quantiles_by_root_finding(name):
    mean, std = (np.array(part) for part in MIXTURES[name])
    probabilities = np.array([1e-6, 0.02, 0.05, 0.3, 0.5, 0.61, 0.9, 0.999])
    found = mixture_quantiles(mean, std, probabilities)[0]

    def cdf(x):
        return stats.norm.cdf(x, mean[:, 0], std[:, 0]).mean()

    low, high = (mean - 10 * std).min(), (mean + 10 * std).max()
    for p, x in zip(probabilities, found, strict=True):
        exact = optimize.brentq(lambda q, p=p: cdf(q) - p, low, high, xtol=1e-13)
        # between separated parts the distribution function is flat: only its value is defined
        assert abs(cdf(x) - p) < 1e-7 or abs(x - exact) < 1e-7 * (high - low)
    assert (np.diff(found) >= 0).all()


def test_quantiles_of_many_mixtures():
    rng = np.random.default_rng(0)
    mean, std = 10 * rng.normal(size=(30, 200)), rng.exponential(size=(30, 200)) + 1e-3
    p = np.array([0.05, 0.5, 0.95])
    found = mixture_quantiles(mean, std, p)
    back = stats.norm.cdf(found[None], mean[:, :, None], std[:, :, None]).mean(0)
    np.testing.assert_allclose(back, np.broadcast_to(p, back.shape), atol=1e-8)


def test_entropy_parts():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), size=(50, 7))
    parts = entropy_parts(proba, binary=False)
    np.testing.assert_allclose(parts.total, stats.entropy(proba.mean(0), axis=1))
    np.testing.assert_allclose(parts.aleatoric, stats.entropy(proba, axis=2).mean(0))
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic)
    joint = proba / len(proba)  # of draw and label; the epistemic part is mutual information
    expected = (joint * np.log(joint / (joint.sum(0) * joint.sum(2)[:, :, None]))).sum((0, 2))
    np.testing.assert_allclose(parts.epistemic, expected)
    labels = entropy_parts(proba[..., :2], binary=True)
    np.testing.assert_allclose(labels.total, stats.bernoulli(proba[..., :2].mean(0)).entropy())
    certain = entropy_parts(np.eye(3)[None], binary=False)
    np.testing.assert_array_equal(certain.total, 0.0)


def test_variance_parts():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(40, 3)), rng.random((40, 3))
    parts = variance_parts(mean, std)
    second = (std**2 + mean**2).mean(0)
    np.testing.assert_allclose(parts.total, second - mean.mean(0) ** 2)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic)


# ------------------------------------------------------------------------ classifiers


def test_probabilities_are_averaged_not_logits(clf, two, blobs, binary):
    for model, (X, _) in ((clf, blobs), (two, binary)):
        X = 3.0 * X  # far out draws differ, and so do the two averages
        log_proba = model.predict_draws(X)
        proba = model.predict_proba(X)
        np.testing.assert_allclose(proba, np.exp(log_proba).mean(0), rtol=1e-12)
        logits = special.softmax(log_proba.mean(0), axis=1)
        assert np.abs(proba - logits).max() > 1e-3
        np.testing.assert_allclose(model.predict_log_proba(X), np.log(proba), rtol=1e-9)
        np.testing.assert_allclose(proba.sum(1), 1.0, rtol=1e-12)


def test_log_proba_where_proba_underflows(two):
    X = np.full((1, 3), 1e6)
    assert np.isfinite(two.predict_log_proba(X)).all()


def test_draws_are_those_of_the_networks(clf, blobs):
    """Each draw through the plain torch module that it stands for."""
    import torch

    X, _ = blobs
    inside = torch.as_tensor(clf._scaler.transform(X))
    draws = clf.predict_draws(X, 5)
    assert draws.shape == (5, 60, 3)
    for module, found in zip(clf.posterior_.to_modules(5), draws, strict=True):
        with torch.no_grad():
            expected = module.double()(inside).log_softmax(1)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_log_predictive_density_of_classes(clf, labels, blobs):
    X, y = blobs
    rows = np.arange(60)
    found = clf.log_predictive_density(X, y)
    np.testing.assert_allclose(found, clf.predict_log_proba(X)[rows, y], rtol=1e-12)
    assert (clf.log_predictive_density(X, np.full(60, 9)) == -np.inf).all()
    assert np.isneginf(clf.log_predictive_density(X[:1], [-1])).all()
    Y = np.column_stack([y == 0, y > 1]).astype(int)
    p = np.exp(labels.predict_draws(X))
    joint = np.where(Y, p, 1 - p).prod(2).mean(0)
    np.testing.assert_allclose(labels.log_predictive_density(X, Y), np.log(joint), rtol=1e-9)


def test_uncertainty_of_classifiers(clf, labels, blobs):
    X, _ = blobs
    parts = clf.predict_uncertainty(X)
    np.testing.assert_allclose(parts.total, stats.entropy(clf.predict_proba(X), axis=1))
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic)
    assert labels.predict_uncertainty(X).total.shape == (60, 2)
    assert (parts.epistemic >= 0).all()


def test_sampled_classes(clf, labels, blobs):
    X, _ = blobs
    drawn = clf.sample_y(X[:5], 800, random_state=0)
    assert drawn.shape == (5, 800)
    share = (drawn[:, :, None] == clf.classes_).mean(1)
    # 60 draws of the weights are used again and again: only the labels are random
    np.testing.assert_allclose(share, clf.predict_proba(X[:5]), atol=4 * 0.5 / np.sqrt(800))
    assert labels.sample_y(X[:5], 7, random_state=0).shape == (5, 2, 7)
    np.testing.assert_array_equal(drawn, clf.sample_y(X[:5], 800, random_state=0))
    assert (drawn != clf.sample_y(X[:5], 800, random_state=1)).any()


# ------------------------------------------------------------------------ regressors


def test_moments_of_the_mixture(reg, curve):
    X, _ = curve
    mean, std = reg.predict_draws(X)
    assert mean.shape == std.shape == (60, 60)
    found_mean, found_std = reg.predict(X, return_std=True)
    np.testing.assert_allclose(found_mean, mean.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found_std**2, (std**2).mean(0) + mean.var(0), rtol=1e-10)
    np.testing.assert_array_equal(found_mean, reg.predict(X))
    parts = reg.predict_uncertainty(X)
    np.testing.assert_allclose(parts.total, found_std**2, rtol=1e-10)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic, rtol=1e-12)


def test_intervals_are_of_the_mixture(reg, curve):
    X, _ = curve
    mean, std = reg.predict_draws(X)
    interval = reg.predict_interval(X, coverage=0.8)
    assert interval.shape == (60, 2)
    for end, p in enumerate((0.1, 0.9)):
        back = stats.norm.cdf(interval[:, end], mean, std).mean(0)
        np.testing.assert_allclose(back, p, atol=1e-8)
    np.testing.assert_allclose(reg.predict_quantiles(X, [0.1, 0.9]), interval, rtol=1e-12)
    assert reg.predict_quantiles(X, 0.5).shape == (60, 1)


def test_log_density_of_targets(reg, several, curve):
    X, y = curve
    mean, std = reg.predict_draws(X)
    expected = np.log(stats.norm(mean, std).pdf(y).mean(0))
    np.testing.assert_allclose(reg.log_predictive_density(X, y), expected, rtol=1e-8)
    mean, std = several.predict_draws(X)
    Y = np.column_stack([y, 10 * X[:, 1]])
    expected = np.log(stats.norm(mean, std).pdf(Y).prod(2).mean(0))
    np.testing.assert_allclose(several.log_predictive_density(X, Y), expected, rtol=1e-8)


def test_shapes_of_several_outputs(several, curve):
    X, _ = curve
    assert several.predict(X).shape == (60, 2)
    assert several.predict_interval(X).shape == (60, 2, 2)
    assert several.predict_quantiles(X, [0.1, 0.5, 0.7]).shape == (60, 2, 3)
    assert several.predict_uncertainty(X).total.shape == (60, 2)
    assert several.sample_y(X, 4).shape == (60, 2, 4)
    assert several.sample_prior(X, 4).shape == (4, 60, 2)
    assert several.predict_draws(X, 7)[0].shape == (7, 60, 2)


def test_sampled_targets(reg, curve):
    X, _ = curve
    drawn = reg.sample_y(X[:5], 1000, random_state=0)
    assert drawn.shape == (5, 1000)
    mean, std = reg.predict(X[:5], return_std=True)
    assert np.all(np.abs(drawn.mean(1) - mean) < 4 * std / np.sqrt(1000))
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.1)


def test_one_theta_across_the_rows_of_a_draw(curve):
    """Equal rows differ by the noise alone, which is small beside what is known far out."""
    X, y = curve
    model = BayesianMLPRegressor((4,), noise=0.05, **FIT).fit(X[:4], y[:4])
    drawn = model.sample_y(np.full((6, 2), 9.0), 20, random_state=0)
    assert np.ptp(drawn, axis=0).max() < 8 * 0.05
    assert np.ptp(drawn, axis=1).min() > 16 * 0.05


# ------------------------------------------------------------------------ all estimators


def everything(model, X):
    out = [np.stack(model.predict_uncertainty(X), -1), model.predict(X)]
    if hasattr(model, "predict_proba"):
        out += [model.predict_proba(X), model.predict_log_proba(X)]
        out.append(np.moveaxis(model.predict_draws(X), 1, 0))
    else:
        out += [model.predict_interval(X)]
        out += [np.moveaxis(part, 1, 0) for part in model.predict_draws(X)]
    return out


@pytest.fixture(params=["clf", "two", "labels", "plain", "several"])
def model(request):
    return request.getfixturevalue(request.param)


def test_rows_do_not_depend_on_their_neighbours(model):
    X = np.random.default_rng(0).normal(size=(50, model.n_features_in_))
    order = np.random.default_rng(1).permutation(50)
    whole = everything(model, X)
    parts = [everything(model, X[i : i + 1]) for i in range(50)]
    for k, (a, b) in enumerate(zip(whole, everything(model, X[order]), strict=True)):
        np.testing.assert_allclose(a[order], b, rtol=1e-7, atol=1e-12)
        one_by_one = np.concatenate([part[k] for part in parts])
        np.testing.assert_allclose(a, one_by_one, rtol=1e-7, atol=1e-12)


def test_chunks_change_nothing(model, monkeypatch):
    X = np.random.default_rng(0).normal(size=(50, model.n_features_in_))
    y = model.predict(X)
    whole = [*everything(model, X), model.log_predictive_density(X, y)]
    sizes = []
    forward = model._forward
    monkeypatch.setattr(skbayes.functions, "MEMORY", 1)
    monkeypatch.setattr(
        model,
        "_forward",
        lambda theta, rows, *args: (sizes.append(rows.shape[0]), forward(theta, rows, *args))[1],
    )
    chunked = [*everything(model, X), model.log_predictive_density(X, y)]
    assert max(sizes) == 16
    for a, b in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_posterior_samples(model):
    posterior = model.posterior_
    drawn = model.sample_posterior(60, random_state=0)
    assert drawn.shape == (60, posterior.n_params)
    # no repetition up to the number of draws
    assert len(np.unique(drawn, axis=0)) == len(np.unique(posterior.flat, axis=0))
    assert model.sample_posterior(100, random_state=0).shape == (100, posterior.n_params)
    again = model.sample_posterior(60, random_state=0)
    np.testing.assert_array_equal(drawn, again)


@pytest.mark.parametrize("cls", [BayesianMLPClassifier, BayesianMLPRegressor])
def test_prior_functions_before_the_fit(cls):
    """Of a linear model: the mean over functions is known, and so is the variance."""
    X = np.random.default_rng(0).normal(size=(20, 3))
    model = cls((), prior="normal", random_state=0)
    drawn = model.sample_prior(X, 3000, random_state=0)
    if cls is BayesianMLPClassifier:
        assert drawn.shape == (3000, 20, 2)
        drawn = special.logit(drawn[..., 1])
    Z = (X - X.mean(0)) / X.std(0)
    variance = (Z**2).sum(1) + 1.0
    assert np.all(np.abs(drawn.mean(0)) < 4.5 * np.sqrt(variance / 3000))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=5 * np.sqrt(2 / 3000))
    assert not hasattr(model, "posterior_") and not hasattr(clone(model), "n_features_in_")


def test_prior_functions_after_the_fit(curve):
    """In the units of y."""
    X, y = curve
    model = BayesianMLPRegressor((), prior="normal", method=MAP()).fit(X, y)
    drawn = model.sample_prior(X, 3000, random_state=0)
    Z = (X - X.mean(0)) / X.std(0)
    std = y.std() * np.sqrt((Z**2).sum(1) + 1.0)
    assert np.all(np.abs(drawn.mean(0) - y.mean()) < 4.5 * std / np.sqrt(3000))
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.1)
