"""Edges of the variational autoencoders: kinds of columns, weights, interruptions, options."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from skbayes import VAEAnomalyDetector, VAEDensityEstimator
from skbayes.density import candidates
from skbayes.density.columns import Layout
from skbayes.density.conformal import cross_scores, p_values
from skbayes.density.importance import normal_points
from skbayes.density.linear_start import (
    Covariance,
    LinearFit,
    fit_linear,
    log_density,
    start_rates,
)
from skbayes.density.model import VAE, Architecture
from skbayes.density.objectives import ELBO, OBJECTIVES
from skbayes.density.training import Rows, Schedule, Stepper, train
from skbayes.rows_on_disk import RowsOnDisk

TINY = {
    "hidden_layer_sizes": (4,),
    "latent_dim": 2,
    "max_epochs": 2,
    "n_importance": 16,
    "random_state": 0,
    "linear_path": False,
}
LINEAR = VAEDensityEstimator((), latent_dim=2, noise="shared", max_epochs=1, n_importance=8)
REAL = Architecture(Layout(3, 0, 0, 0, ()), 2, (4,))


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(200, 4))


@pytest.fixture(scope="module")
def bits():
    return (np.random.default_rng(0).random((100, 16)) < 0.3).astype(float)


# ---------------------------------------------------------------------- columns


@pytest.mark.parametrize("kind", ["binary", "count", "categorical"])
def test_no_real_column(bits, kind):
    vae = VAEDensityEstimator(**TINY, **{f"{kind}_features": range(16)}).fit(bits)
    assert np.isfinite(vae.score_samples(bits)).all() and np.isnan(vae.noise_std_).all()
    assert set(np.unique(vae.sample(50, random_state=0)[:, 0])) <= set(range(50))


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_convolutions_of_discrete_pixels(bits, kind):
    options = {f"{kind}_features": range(16)[::-1], "image_shape": (4, 4), "channels": (3,)}
    vae = VAEDensityEstimator(**TINY, **options).fit(bits.reshape(-1, 4, 4))
    assert np.isfinite(vae.score_samples(bits)).all()
    np.testing.assert_array_equal(vae._columns.order, np.arange(16))
    layout = Layout(0, 0, 8, 0, ()) if kind == "binary" else Layout(0, 0, 0, 8, ())
    model = VAE(Architecture(layout, 2, (), image_shape=(2, 2, 2), channels=(3,)))
    V = np.repeat([[0.0, 1.0], [1.0, 1.0]], 4, 1)  # rates of the maps: a half, and all
    start_rates(model, V, np.array([1.0, 1.0]))
    bias = model.decoder.deep.layers[-1].bias.detach()
    expected = [0.0, math.log(5.0)] if kind == "binary" else [math.log(0.501), math.log(1.001)]
    np.testing.assert_allclose(bias, expected, rtol=1e-5, atol=1e-6)


def test_pixels_keep_their_order():
    images = np.random.default_rng(0).normal(size=(60, 4, 4))
    images[:, 0, 1] = np.rint(3 * images[:, 0, 1])  # whole numbers, but not the others
    params = {**TINY, "image_shape": (4, 4), "channels": (3,)}
    vae = VAEDensityEstimator(**params).fit(images)
    np.testing.assert_array_equal(vae._columns.order, np.arange(16))
    assert vae._columns.layout.n_integer == 0
    with pytest.raises(ValueError, match="all of one kind"):
        vae.set_params(integer_features=[1]).fit(images)
    assert list(vae.set_params(integer_features="auto", linear_path="auto").fit(images).candidates_)
    assert "linear" not in vae.candidates_


@pytest.mark.parametrize(
    "options",
    [
        {"categorical_features": [0], "binary_features": [0]},
        {"integer_features": "nonsense"},
        {"objective": "iwae", "free_bits": 0.1},
        {"objective": "mmd", "linear_path": True},
        {"objective": "mmd", "beta": 2.0},
        {"objective": "vae-gan", "n_points": 2},
        {"validation_fraction": 1e-4},
    ],
)
def test_options_without_a_part_are_named(options):
    X = np.tile(np.eye(4), (5, 1))
    name = list(options)[-1]
    with pytest.raises(ValueError, match=name):
        VAEDensityEstimator(**{**TINY, **options}).fit(X)


def test_columns_named_twice_and_nearly_constant(X):
    Y = np.c_[X, X[:, 0] > 0]
    vae = VAEDensityEstimator(**TINY, binary_features=[4, -1]).fit(Y)
    assert vae._columns.layout.n_columns == 5
    Y = np.c_[X, 1e6 + 3e-10 * X[:, 0]]  # constant but for rounding
    vae = VAEDensityEstimator(**TINY).fit(Y)
    assert not vae.constant_violations(Y).any()
    assert vae.constant_violations(Y + [0, 0, 0, 0, 1e-6]).all()


def test_latent_dim_above_what_is_chosen_by_itself():
    Y = np.random.default_rng(0).normal(size=(60, 45))
    vae = VAEDensityEstimator((4,), latent_dim=40, max_epochs=1, refit=False, random_state=0)
    assert vae.fit(Y).n_latent_ == 40


def test_wide_rows_against_their_matrix(monkeypatch):
    """Fewer rows than columns, by a thin and by a randomised decomposition."""
    rng = np.random.default_rng(0)
    V = 3 * rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60)) + 0.1 * rng.normal(size=(40, 60))
    weight = rng.uniform(1, 2, size=40)
    dense = np.cov(V.T, aweights=weight, bias=True)
    value, vector = np.linalg.eigh(dense)
    for most in (2000, 10):
        monkeypatch.setattr("skbayes.density.linear_start.MOST_EXACT", most)
        covariance = Covariance(V, weight)
        np.testing.assert_allclose(covariance.diagonal, np.diag(dense))
        np.testing.assert_allclose(covariance @ vector, dense @ vector, atol=1e-8)
        W, psi = fit_linear(covariance, 3, False, 0.01)
        assert psi[0] == pytest.approx(value[:-3].mean())
        top = vector[:, -3:] * (value[-3:] - psi[0])
        np.testing.assert_allclose(W @ W.T, top @ vector[:, -3:].T, atol=1e-3)
        W, psi = fit_linear(covariance, 3, True, 0.01)
        model = W @ W.T + np.diag(psi)
        np.testing.assert_allclose(np.diag(model), np.diag(dense), rtol=1e-2)
        peer = stats.multivariate_normal(np.zeros(60), model).logpdf(V)
        np.testing.assert_allclose(log_density(V, LinearFit(W, psi)), peer)
    wide = rng.normal(size=(30, 3000))  # a matrix of all columns would take a minute
    wide[:, 0] = 1.0
    vae = VAEDensityEstimator((), latent_dim=2, noise="shared", n_importance=8, max_epochs=1)
    assert np.isfinite(vae.fit(wide).score(wide))


# ---------------------------------------------------------------------- answers


def test_pandas_output(X):
    vae = VAEDensityEstimator(**TINY).set_output(transform="pandas").fit(X)
    Z = vae.transform(X)
    assert Z.columns.tolist() == ["vaedensityestimator0", "vaedensityestimator1"]
    assert isinstance(vae.reconstruct(X), np.ndarray)
    options = {"anomaly_score": "latent_knn", "random_state": 0}
    assert np.isfinite(VAEAnomalyDetector(vae, **options).fit(X).score_samples(X)).all()


@pytest.mark.parametrize("noise", ["per_row", "shared"])
@pytest.mark.parametrize("objective", ["mse", "vae-gan"])
def test_noise_without_a_density(noise, objective):
    rng = np.random.default_rng(0)
    t = rng.normal(size=(300, 1))
    X = np.c_[t, t] * 5 + 0.1 * rng.normal(size=(300, 2))
    params = {**TINY, "max_epochs": 60, "noise": noise, "refit": False, "learning_rate": 0.02}
    vae = VAEDensityEstimator(objective=objective, **params).fit(X)
    held_out = X[vae.validation_indices_]
    residual = np.sqrt(((vae.reconstruct(held_out) - held_out) ** 2).mean(0))
    if noise == "shared":
        residual = np.full(2, np.sqrt((residual**2).mean()))
    np.testing.assert_allclose(vae.noise_std_, residual, rtol=0.05)


def test_the_objective_of_the_fit_counts(X):
    vae = VAEDensityEstimator(**TINY).fit(X).set_params(objective="mse")
    assert np.isfinite(vae.score_samples(X)).all()
    with pytest.raises(ValueError, match="n_importance"):
        vae.set_params(n_importance=0).score_samples(X)


# ---------------------------------------------------------------------- objectives


def _batch():
    rng = np.random.default_rng(0)
    v = torch.as_tensor(rng.normal(size=(20, 3)), dtype=torch.float32)
    eps = torch.as_tensor(normal_points(16, 2, 0), dtype=torch.float32)[:, None]
    return v, eps, torch.full((20,), 0.05)


@pytest.mark.parametrize("options", [{"beta": 3.0}, {"free_bits": 2.0}])
def test_stopped_by_what_is_trained(X, options):
    model, (v, eps, share) = VAE(REAL), _batch()
    objective = ELBO(**options)
    loss = objective.loss(model, v, eps, share, 1.0)[0]
    assert float(objective.held_out(model, v, eps, share).detach()) == pytest.approx(
        float(loss.detach())
    )
    assert abs(float(ELBO().held_out(model, v, eps, share) - loss.detach())) > 0.05
    vae = VAEDensityEstimator(**{**TINY, "linear_path": "auto"}, **options).fit(X)
    assert "linear" not in vae.candidates_
    assert -vae.candidates_[vae.candidate_] == pytest.approx(min(vae.validation_curve_))


def test_the_verdict_does_not_go_into_the_encoder():
    v, eps, share = _batch()
    gradients = []
    for strength in (0.0, 100.0):
        model = VAE(REAL)
        objective = OBJECTIVES["vae-gan"](strength=strength)
        objective.prepare(model, "imq", 0, "cpu", torch.float32)
        objective.loss(model, v, eps.expand(-1, 20, -1), share, 1.0)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
    torch.testing.assert_close(*gradients)


SCHEDULE = Schedule(5, 2, 0.01, 0, 10, 0.1, 2)


def test_a_start_without_a_finite_bound_is_trained():
    class Infinite(ELBO):
        calls = 0

        def held_out(self, model, v, eps, share):
            self.calls += 1
            bound = super().held_out(model, v, eps, share)
            return bound if self.calls > 1 else bound + math.inf

    v, _, _ = _batch()
    out = train(VAE(REAL), Infinite(), Rows(lambda i: v[i], 20), v, SCHEDULE, 0)
    assert math.isfinite(out.best) and out.path


def test_training_that_ends_too_early_warns():
    t = np.random.default_rng(0).normal(size=(300, 1))
    X = np.c_[t, t, t] + 0.01
    vae = VAEDensityEstimator(**{**TINY, "max_epochs": 100}, warm_up=0)
    with pytest.warns(ConvergenceWarning, match="max_epochs=100"):
        vae.fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAEDensityEstimator((), latent_dim=1, noise="shared", max_epochs=20).fit(X)


# ---------------------------------------------------------------------- weights


def test_weights_of_minibatches():
    """Over a pass every row counts by its weight, whatever the rows beside it."""
    found = np.zeros(20)

    class Record(ELBO):
        def loss(self, model, v, eps, share, warm):
            found[v[:, 0].long().numpy()] += share.numpy()
            return super().loss(model, v, eps, share, warm)

    v, _, _ = _batch()
    v[:, 0] = torch.arange(20)
    weight = np.where(np.arange(20) < 3, 5.0, 0.0)  # whole batches without a weight
    weight[19] = 1.0
    for objective in (Record(), OBJECTIVES["beta-divergence"](robustness=1.0)):
        model = VAE(REAL)
        stepper = Stepper(model, objective, Rows(lambda i: v[i], 20, weight), SCHEDULE, 0)
        assert all(math.isfinite(stepper.step(0.01)) for _ in range(4))
    np.testing.assert_allclose(found, weight / weight.mean() / 5, rtol=1e-6)


def test_rows_without_a_weight_are_not_there(X):
    weight = (np.arange(200) % 3 > 0).astype(float)
    Y = np.where(weight[:, None] > 0, X, 50.0)
    params = {**TINY, "linear_path": True, "latent_prior": "mixture"}
    one = VAEDensityEstimator(**params).fit(Y, sample_weight=weight)
    two = VAEDensityEstimator(**params).fit(X[weight > 0], sample_weight=weight[weight > 0])
    np.testing.assert_array_equal(one.score_samples(X), two.score_samples(X))
    np.testing.assert_array_equal(one.latent_relevance_, two.latent_relevance_)
    assert weight[one.validation_indices_].all()
    with pytest.raises(ValueError, match="sample_weight"):
        one.fit(X, sample_weight=np.eye(200)[0])


def test_the_start_is_weighted():
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=400)
    X = np.c_[rng.normal(6.0 * side, 1.0), rng.poisson(np.where(side, 9.0, 1.0))]
    weight = np.where(side, 9.0, 1.0)
    params = {**TINY, "linear_path": True, "latent_prior": "mixture", "learning_rate": 1e-12}
    vae = VAEDensityEstimator(**params, count_features=[1]).fit(X, sample_weight=weight)
    drawn = vae.sample(4000, random_state=0)[:, 0]
    assert drawn.mean() == pytest.approx(np.average(X[:, 0], weights=weight), abs=0.4)
    expected = np.average(np.log1p(X[:, 1]), weights=weight)
    assert vae._weights["count_mean"][0] == pytest.approx(expected, rel=1e-5)


def test_partial_fit_after_fit_has_no_second_warm_up(X):
    rng = np.random.default_rng(0)
    Y = np.tanh(X[:, :2] @ rng.normal(size=(2, 4))) + 0.05 * X
    params = {**TINY, "hidden_layer_sizes": (16,), "max_epochs": 80, "learning_rate": 0.02}
    vae = VAEDensityEstimator(**params).fit(Y)
    before, kl, n_iter = vae.score(Y), vae.latent_relevance_.sum(), vae.n_iter_
    for _ in range(10):
        vae.partial_fit(Y)
    assert vae.score(Y) > before - 0.1 and vae.latent_relevance_.sum() < 1.15 * kl
    assert vae.n_iter_ == n_iter + 20


# ---------------------------------------------------------------------- interruptions


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_interrupted_fits_keep_what_there_is(X, monkeypatch):
    vae = VAEDensityEstimator(**{**TINY, "linear_path": "auto", "refit": True})
    whole = vae.fit(X).score_samples(X)
    assert vae.candidate_ == "linear"
    monkeypatch.setattr(candidates, "replay", _interrupt)
    deep = VAEDensityEstimator(**TINY, refit=True)
    with pytest.warns(ConvergenceWarning, match="trained on all rows"):
        deep.fit(X)
    assert np.isfinite(deep.score_samples(X)).all()
    monkeypatch.setattr(candidates.Stepper, "step", _interrupt)
    with pytest.warns(ConvergenceWarning, match="interrupted after 0 steps of the model 'deep"):
        vae.fit(X)  # the model that is kept was not interrupted, but the fit was
    assert vae.candidate_ == "linear" and np.abs(vae.score_samples(X) - whole).max() > 1e-6
    with pytest.warns(ConvergenceWarning, match="pass was interrupted after 0 of 2"):
        deep.partial_fit(X)
    monkeypatch.setattr(candidates, "start", _interrupt)
    with pytest.raises(KeyboardInterrupt):  # nothing to keep
        vae.fit(X)


def test_an_epoch_that_ended_stays_in_the_history(X):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    params = {**TINY, "max_epochs": 40}
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        vae = VAEDensityEstimator(callbacks=[Stop()], **params).fit(X)
    assert [set(row) >= {"valid_loss", "epoch"} for row in vae.history_] == [True, True]
    vae.set_params(callbacks=[Callback()], linear_path="auto", max_epochs=1).fit(X)
    assert vae.candidate_ == "linear" and not hasattr(vae, "history_")  # it was not trained


# ---------------------------------------------------------------------- the detector


def test_cross_conformal_counts():
    rng = np.random.default_rng(0)
    calibration = [rng.normal(size=m) + c for m, c in ((10, 0.0), (12, 3.0), (9, -1.0))]
    scores = 2.0 * rng.normal(size=(3, 500)) + [[0.0], [3.0], [-1.0]]
    scores[:, :2] = [[-1e6, 1e6]] * 3
    count = sum((own[:, None] <= s).sum(0) for s, own in zip(scores, calibration, strict=True))
    found = cross_scores(scores, calibration)
    np.testing.assert_allclose(p_values(found, np.concatenate(calibration)), (1 + count) / 32)
    assert len(np.unique(found)) == 500
    order = np.lexsort((scores.mean(0), count))
    assert (np.diff(found[order]) > 0).all()  # by the count, and by the mean where it is the same


def test_false_alarms_with_a_nearly_constant_column():
    rng = np.random.default_rng(0)
    rates, Z = [], np.c_[rng.normal(size=(2000, 4)), np.zeros(2000)]
    for seed in range(5):
        Y = np.c_[rng.normal(size=(200, 4)), np.zeros(200)]
        Y[7, 4] = 1e-3
        detector = VAEAnomalyDetector(LINEAR, false_alarm_rate=0.05, random_state=seed).fit(Y)
        p = detector.predict_p_value(Z)
        np.testing.assert_array_equal(p < 0.05, detector.predict(Z) == -1)
        rates.append([(p < alpha).mean() for alpha in (0.05, 0.2)])
    for alpha, rate in zip((0.05, 0.2), np.mean(rates, 0), strict=True):
        error = np.sqrt(alpha * (1 - alpha) * (1 / 200 + 1 / 2000) / 5)
        assert abs(rate - alpha) < 3.5 * error


def test_rare_and_new_categories(X):
    Y = np.c_[X, np.random.default_rng(0).integers(3, size=200)]
    Y[11, 4] = 7.0  # in one row only, so that four models have not seen it
    density = VAEDensityEstimator(
        (), latent_dim=2, max_epochs=1, n_importance=8, categorical_features=[4]
    )
    detector = VAEAnomalyDetector(density, random_state=0).fit(Y)
    rows = Y[:3].copy()
    rows[1, 4] = 9.0
    assert detector.score_samples(rows)[1] == -np.inf and detector.predict(rows)[1] == -1
    assert np.isfinite(detector.score_samples(rows)[[0, 2]]).all()
    assert detector.predict_p_value(rows)[1] == pytest.approx(1 / 201)
    assert np.isfinite(detector.score_samples(Y)).all()


def test_float_contamination_is_the_quantile_of_all_rows():
    Y = np.random.default_rng(0).normal(size=(5000, 3))
    detector = VAEAnomalyDetector(LINEAR, contamination=0.1, random_state=0)
    assert (detector.fit_predict(Y) == -1).sum() == 500
    detector.set_params(anomaly_score="kl")  # of 2,000 rows
    assert (detector.predict(Y) == -1).mean() == pytest.approx(0.1, abs=0.02)


def test_detector_of_models_without_density(X):
    density = VAEDensityEstimator(**TINY, objective="mse")
    with pytest.raises(ValueError, match="anomaly_score='log_density' is not allowed with a dens"):
        VAEAnomalyDetector(density).fit(X)
    detector = VAEAnomalyDetector(density, "reconstruction", trim=0.1, random_state=0).fit(X)
    odd = X[:20] + 20.0
    assert (detector.predict(odd) == -1).all()
    detector.set_params(anomaly_score=["reconstruction", "latent_knn"])
    assert np.isfinite(detector.score_samples(X)).all()
    with pytest.raises(ValueError, match="rank_average"):
        detector.set_params(anomaly_score="rank_average").predict(X)


def test_detector_takes_names_and_images(X):
    frame = pd.DataFrame(np.c_[X, np.arange(200) % 3], columns=list("abcde"))
    density = VAEDensityEstimator(**TINY, categorical_features=["e"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        detector = VAEAnomalyDetector(density, random_state=0).fit(frame)
        assert detector.predict(frame).shape == (200,)
        assert detector.constant_violations(frame).sum() == 0
        detector.models_[0].explain(frame)
    density = VAEDensityEstimator(**TINY, image_shape=(2, 2), channels=(2,))
    images = X.reshape(-1, 2, 2)
    detector = VAEAnomalyDetector(density, random_state=0).fit(images)
    np.testing.assert_array_equal(detector.score_samples(images), detector.score_samples(X))


def test_detector_of_rows_on_disk(tmp_path, monkeypatch):
    Y = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=Y.shape)
    mapped[:] = Y
    density = clone(LINEAR).set_params(refit=False)  # which rows on disk have none of
    detector = VAEAnomalyDetector(density, contamination=0.1, random_state=0)
    inside = detector.fit(Y).score_samples(Y)
    monkeypatch.setattr("skbayes.rows_on_disk.LARGE", 100)
    for name in (
        "rows_on_disk.PART_ROWS",
        "density.anomaly.MOST_KEPT",
    ):
        monkeypatch.setattr(f"skbayes.{name}", 150)
    monkeypatch.setattr("skbayes.density.problem.START_ROWS", 150)
    read, most = RowsOnDisk.__getitem__, []

    def watched(self, i):
        most.append(len(read(self, i)))
        return read(self, i)

    monkeypatch.setattr(RowsOnDisk, "__getitem__", watched)
    detector.fit(mapped).score_samples(mapped)
    assert max(most) <= 160  # never all rows at once
    monkeypatch.undo()
    monkeypatch.setattr("skbayes.rows_on_disk.LARGE", 100)
    np.testing.assert_allclose(detector.fit(mapped).score_samples(mapped), inside, rtol=1e-4)


@pytest.mark.parametrize("score", [None, [["kl"]], [], 3])
def test_bad_scores_are_named(X, score):
    with pytest.raises(ValueError, match="anomaly_score"):
        VAEAnomalyDetector(LINEAR, score).fit(X)


def test_detector_checks_what_is_set_after_fit(X):
    detector = VAEAnomalyDetector(LINEAR, random_state=0).fit(X)
    for value in ("often", 3.0):
        with pytest.raises(ValueError, match="contamination"):
            detector.set_params(contamination=value).predict(X)
    detector.set_params(contamination="auto", false_alarm_rate=1e-6)
    with pytest.warns(UserWarning, match="200 calibration rows are too few"):
        detector.predict(X)
    with pytest.raises(ValueError, match="minimum of 3"):
        detector.fit(X[:2])
