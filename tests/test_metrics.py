"""Calibration error, intervals and densities against sums written out."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skbayes.functions
from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP, Anchored
from skbayes.metrics import (
    cumulative_log_predictive_density,
    expected_calibration_error,
    interval_coverage,
    interval_width,
    log_density_draws,
)

SHORT = HMC(n_chains=3, n_warmup=20, n_draws=12, max_leapfrog=6, init=MAP(max_epochs=20))


def calibration_error_by_loops(y, proba, n_bins):
    confidence, correct = proba.max(1), proba.argmax(1) == y
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = (confidence > (m - 1) / n_bins) & (confidence <= m / n_bins)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


@pytest.mark.parametrize("n_bins", [1, 7, 15])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_equation(n_classes, n_bins):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(n_classes), size=300)
    y = rng.integers(n_classes, size=300)
    found = expected_calibration_error(y, proba, n_bins)
    assert abs(found - calibration_error_by_loops(y, proba, n_bins)) < 1e-12
    names = np.array(["a", "b", "c", "d"])[y]
    assert expected_calibration_error(names, proba, n_bins) == found


def test_confidence_on_the_edge_of_a_bin():
    """Bins are open on the left: 0.5 and 0.75 lie below their edges, and cancel in one bin."""
    y, p = [0, 1, 1, 0], [0.75, 0.75, 0.625, 0.625]
    # confidence 0.75 with accuracy 1/2 and 0.625 with accuracy 1/2 share (0.5, 0.75]
    assert abs(expected_calibration_error(y, p, 4) - 0.1875) < 1e-12
    # here the gaps have opposite signs, so that one bin or two is not the same
    y, p = [1, 1, 0, 0], [0.75, 0.75, 0.625, 0.625]
    assert abs(expected_calibration_error(y, p, 4) - abs(0.5 - 0.6875)) < 1e-12
    assert abs(expected_calibration_error(y, p, 8) - (0.25 + 0.625) / 2) < 1e-12


def test_binary_forms_agree():
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y = rng.integers(2, size=200)
    both = expected_calibration_error(y, np.column_stack([1 - p, p]))
    assert expected_calibration_error(y, p) == both
    assert expected_calibration_error(y, p[:, None]) == both


def test_calibrated_and_overconfident():
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    y = (rng.random(100_000) < p).astype(int)
    assert expected_calibration_error(y, p) < 0.01
    sure = np.where(p > 0.5, 1.0, 0.0)
    accuracy = (sure == y).mean()
    assert abs(expected_calibration_error(y, sure) - (1 - accuracy)) < 1e-12


def test_labels_that_do_not_all_occur():
    proba = np.array([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    assert abs(expected_calibration_error([2, 0], proba) - (0.3 + 0.4) / 2) < 1e-12
    with pytest.raises(ValueError, match="2 classes and y_proba 3 columns"):
        expected_calibration_error(["x", "y"], proba)


@pytest.mark.parametrize(
    ("proba", "n_bins", "words"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], 15, "sum to one"),
        ([[1.5, -0.5], [0.5, 0.5]], 15, "probabilities"),
        ([[np.nan, 0.5], [0.5, 0.5]], 15, "NaN"),
        ([[0.5, 0.5]], 15, "inconsistent"),
        ([[0.5, 0.5]] * 2, 0, "n_bins=0 is not allowed"),
        ([[0.5, 0.5]] * 2, 2.5, "n_bins=2.5"),
    ],
)
def test_bad_input_of_the_calibration_error(proba, n_bins, words):
    with pytest.raises(ValueError, match=words):
        expected_calibration_error([0, 1], proba, n_bins)


def test_intervals():
    interval = np.array([[0.0, 1.0], [2.0, 5.0], [3.0, 3.0], [0.0, 4.0]])
    y = [1.0, 1.9, 3.0, 7.0]  # on the end, below, on a point, above
    assert interval_coverage(y, interval) == 0.5
    assert interval_coverage(np.reshape(y, (-1, 1)), interval) == 0.5
    assert interval_width(interval) == 2.0
    both = np.stack([interval, interval + 1.0], 1)
    np.testing.assert_allclose(interval_coverage(np.column_stack([y, y]), both), [0.5, 0.25])
    np.testing.assert_allclose(interval_width(both), [2.0, 2.0])


def test_coverage_of_exact_intervals():
    rng = np.random.default_rng(0)
    interval = np.tile([-1.6448536, 1.6448536], (20_000, 1))
    error = np.sqrt(0.9 * 0.1 / 20_000)
    assert abs(interval_coverage(rng.normal(size=20_000), interval) - 0.9) < 4 * error


@pytest.mark.parametrize(
    ("y", "interval", "words"),
    [
        ([1.0, 2.0], [[0.0, 1.0, 2.0]] * 2, "must be"),
        ([1.0, 2.0], [[1.0, 0.0]] * 2, "lower ends above"),
        ([1.0], [[0.0, 1.0]] * 2, "y_true has the shape"),
        ([np.nan, 1.0], [[0.0, 1.0]] * 2, "NaN"),
    ],
)
def test_bad_intervals(y, interval, words):
    with pytest.raises(ValueError, match=words):
        interval_coverage(y, interval)


def cumulative_by_loops(joint):
    """Mean over rows of the log of the mean density of the first draws."""
    n_chains, n_draws, _ = joint.shape
    chains, pooled = np.empty((n_chains, n_draws)), np.empty(n_draws)
    for t in range(1, n_draws + 1):
        for chain in range(n_chains):
            chains[chain, t - 1] = (logsumexp(joint[chain, :t], axis=0) - np.log(t)).mean()
        part = joint[:, :t].reshape(n_chains * t, -1)
        pooled[t - 1] = (logsumexp(part, axis=0) - np.log(n_chains * t)).mean()
    return chains, pooled


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_cumulative_density_of_a_regressor(n_outputs, curve, quiet, monkeypatch):
    X, y = curve
    y = y if n_outputs == 1 else np.column_stack([y, 10 * X[:, 1]])
    model = make_pipeline(
        StandardScaler(), BayesianMLPRegressor((4,), method=SHORT, random_state=0)
    ).fit(X, y)
    mean, std = model[-1].predict_draws(model[0].transform(X))
    joint = stats.norm.logpdf(y, mean, std).reshape(36, 60, n_outputs).sum(2).reshape(3, 12, 60)
    np.testing.assert_allclose(log_density_draws(model, X, y), joint)
    monkeypatch.setattr(skbayes.functions, "MEMORY", 1)  # rows in several chunks
    found = cumulative_log_predictive_density(model, X, y)
    chains, pooled = cumulative_by_loops(joint)
    np.testing.assert_allclose(found.chains, chains)
    np.testing.assert_allclose(found.pooled, pooled)
    last = model[-1].log_predictive_density(model[0].transform(X), y).mean()
    assert found.pooled[-1] == pytest.approx(last)


def test_cumulative_density_of_a_classifier(blobs, quiet):
    X, y = blobs
    model = BayesianMLPClassifier((4,), method=SHORT, random_state=0).fit(X, y)
    joint = model.predict_draws(X)[:, np.arange(60), y].reshape(3, 12, 60)
    found = cumulative_log_predictive_density(model, X, y)
    chains, pooled = cumulative_by_loops(joint)
    np.testing.assert_allclose(found.chains, chains)
    np.testing.assert_allclose(found.pooled, pooled)
    unseen = cumulative_log_predictive_density(model, X, np.where(y == 0, 7, y))
    assert (unseen.pooled == -np.inf).all()  # and never NaN


def test_members_count_as_draws(curve, quiet):
    X, y = curve
    model = BayesianMLPRegressor((4,), method=Anchored(5, max_epochs=20), random_state=0).fit(X, y)
    joint = log_density_draws(model, X, y)
    assert joint.shape == (5, 1, 60)
    found = cumulative_log_predictive_density(model, X, y)
    expected = cumulative_by_loops(joint.reshape(1, 5, 60))
    np.testing.assert_allclose(found.chains, expected[0])
    np.testing.assert_allclose(found.pooled, expected[1])


def test_densities_need_a_fitted_estimator_with_draws(curve):
    with pytest.raises(ValueError, match="LinearRegression has no draws"):
        log_density_draws(LinearRegression().fit(*curve), *curve)
    with pytest.raises(NotFittedError):
        cumulative_log_predictive_density(BayesianMLPRegressor(), *curve)
