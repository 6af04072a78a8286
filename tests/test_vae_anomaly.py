"""The anomaly detector: the contract of outlier detectors, and honest false-alarm rates."""

import warnings

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skbayes import VAEAnomalyDetector, VAEDensityEstimator
from skbayes.density.conformal import p_values, smooth_ranks, threshold
from skbayes.density.scores import SCORES

LINEAR = VAEDensityEstimator((), latent_dim=2, noise="shared", max_epochs=1, n_importance=8)


@pytest.mark.filterwarnings("ignore:.*calibration rows are too few")
@parametrize_with_checks([VAEAnomalyDetector(LINEAR, random_state=0)])
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows():
    """600 normal rows around two centres, and 60 elsewhere."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(600, 4)) * [1, 1, 0.3, 0.3] + 4 * rng.integers(2, size=(600, 1))
    return normal, rng.uniform(-6, 10, size=(60, 4))


@pytest.fixture(scope="module")
def detector(rows):
    with warnings.catch_warnings():  # the default model is short by design
        warnings.simplefilter("error")
        return VAEAnomalyDetector(random_state=0).fit(rows[0])


def test_conformal_counts():
    calibration = np.arange(199.0)
    p = p_values(np.array([-1.0, 0.0, 0.5, 198.0, 500.0]), calibration)
    np.testing.assert_allclose(p, np.array([1, 2, 2, 200, 200]) / 200)
    for rate in (0.01, 0.0101, 0.05):
        cut = threshold(calibration, rate)
        scores = np.linspace(-2, 20, 500)
        np.testing.assert_array_equal(scores < cut, p_values(scores, calibration) < rate)
    assert threshold(np.arange(99.0), 0.01) is None and threshold(np.arange(100.0), 0.01) == 0.0
    ranks = smooth_ranks(np.array([-50.0, -1.0, 10.0, 198.0, 300.0]), calibration)
    assert (np.diff(ranks) > 0).all() and 0 < ranks[0] and ranks[-1] < 1


@pytest.mark.parametrize(("n", "repeats"), [(200, 8), (5000, 3)])
def test_false_alarm_rate(n, repeats):
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(4, 4))
    rates = []
    for seed in range(repeats):
        model = VAEAnomalyDetector(LINEAR, random_state=seed).fit(rng.normal(size=(n, 4)) @ mix)
        p = model.predict_p_value(rng.normal(size=(4000, 4)) @ mix)
        rates.append((p < 0.01).mean())
    m = n if n < 500 else n // 5
    error = np.sqrt(0.01 * 0.99 * (1 / m + 1 / 4000) / repeats)
    assert abs(np.mean(rates) - 0.01) < 3 * error


def test_finds_outliers_by_every_score(rows, detector):
    normal, odd = rows
    X = np.concatenate([normal, odd])
    truth = np.repeat([1, 0], [600, 60])
    offsets = {}
    for name in [*SCORES, "rank_average", ["kl", "latent_knn"]]:
        detector.set_params(anomaly_score=name)
        found = roc_auc_score(truth, detector.score_samples(X))
        assert found > (0.6 if name == "kl" else 0.8), name
        offsets[str(name)] = detector.offset_
        np.testing.assert_array_equal(detector.predict(X) == -1, detector.predict_p_value(X) < 0.01)
    assert len(set(offsets.values())) == len(offsets)
    detector.set_params(anomaly_score="log_density")
    assert detector.offset_ == offsets["log_density"]
    assert (detector.predict(odd) == -1).mean() > 0.8 and detector.n_calibration_ == 120


def test_rows_do_not_move_each_other(rows, detector):
    for name in ("regret", "rank_average", "log_density"):
        detector.set_params(anomaly_score=name)
        together = detector.score_samples(rows[1])
        alone = [detector.score_samples(row[None])[0] for row in rows[1][:3]]
        np.testing.assert_allclose(together[:3], alone, rtol=1e-8)


def test_few_rows_warn_and_float_contamination(rows):
    X = rows[0][:60]
    with pytest.warns(UserWarning, match="60 calibration rows are too few"):
        model = VAEAnomalyDetector(LINEAR, random_state=0).fit(X)
    assert len(model.models_) == 5 and (model.predict(rows[1]) == -1).any()
    model.set_params(contamination=0.25)
    assert (model.fit(X).predict(X) == -1).sum() == 15
    assert (model.fit_predict(X) == -1).sum() == 15


def test_trimming_resists_contamination():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(500, 3))
    X = np.concatenate([normal, 0.3 * rng.normal(size=(60, 3)) + 2.2])
    truth = np.repeat([1, 0], [500, 60])
    density = VAEDensityEstimator((), latent_dim=3, noise="shared", max_epochs=1, n_importance=8)
    auc = []
    for trim in (0.0, 0.15):
        model = VAEAnomalyDetector(density, trim=trim, random_state=0).fit(X)
        auc.append(roc_auc_score(truth, model.score_samples(X)))
    assert auc[1] > auc[0] + 0.005


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("density", "vae"),
        ("anomaly_score", "mse"),
        ("contamination", 0.7),
        ("false_alarm_rate", 0.0),
        ("trim", 0.5),
        ("n_neighbors", 0),
        ("robustness", -1.0),
    ],
)
def test_bad_parameters_are_named(rows, name, value):
    with pytest.raises(ValueError, match=name):
        VAEAnomalyDetector(**{name: value}).fit(rows[0])


def test_few_labels_on_a_frozen_model(rows):
    normal, odd = rows
    vae = VAEDensityEstimator((), latent_dim=3, max_epochs=1, random_state=0)
    vae.fit(np.concatenate([normal, odd]))
    X = np.concatenate([normal[:40], odd[:20]])
    y = np.repeat([0, 1], [40, 20])
    model = make_pipeline(FrozenEstimator(vae), KNeighborsClassifier(3)).fit(X, y)
    X = np.concatenate([normal[40:80], odd[20:]])
    assert model.score(X, np.repeat([0, 1], 40)) > 0.7
