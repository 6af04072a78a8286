"""The variational autoencoder: the contract of scikit-learn, and that it is a density."""

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from skbayes import VAEDensityEstimator

TINY = {"max_epochs": 2, "n_importance": 16, "random_state": 0}


@parametrize_with_checks([VAEDensityEstimator((4,), latent_dim=1, linear_path=False, **TINY)])
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def moons():
    X, _ = make_moons(400, noise=0.1, random_state=0)
    return X * [3.0, 0.02] + [7.0, 0.1]  # columns of other scales


@pytest.fixture(scope="module")
def fitted(moons):
    return VAEDensityEstimator(
        (16,),
        latent_dim=2,
        max_epochs=60,
        importance_inflation=1.2,
        noise_floor=0.1,
        random_state=0,
    ).fit(moons)


def test_density_integrates_to_one(moons, fitted):
    low, high = moons.min(0), moons.max(0)
    span = high - low
    axes = [
        np.linspace(a - 0.5 * s, b + 0.5 * s, 61) for a, b, s in zip(low, high, span, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    total = np.exp(fitted.score_samples(grid)).sum() * cell
    assert total == pytest.approx(1.0, abs=0.01)


def test_neighbours_do_not_matter(moons, fitted):
    all_at_once = fitted.score_samples(moons)
    few = np.concatenate([fitted.score_samples(moons[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(few, all_at_once[:5], rtol=1e-10)
    np.testing.assert_allclose(fitted.score_samples(moons[::-1])[::-1], all_at_once, rtol=1e-10)


def test_units_shift_the_log_density(moons, fitted):
    one = clone(fitted).set_params(max_epochs=3, dtype="float64").fit(moons)
    other = clone(one).fit(moons * 1000.0)
    shift = other.score_samples(moons * 1000.0) - one.score_samples(moons)
    np.testing.assert_allclose(shift, -2 * np.log(1000.0), rtol=1e-5)


def test_own_samples_have_the_density(fitted):
    """E[g(x) / p(x)] = 1 over samples from p, for a density g with lighter tails."""
    X = fitted.sample(2000, random_state=1)
    assert X.shape == (2000, 2)
    g = multivariate_normal(np.median(X, 0), np.cov(X.T) * 0.1)
    ratio = np.exp(g.logpdf(X) - fitted.score_samples(X))
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.2 and abs(ratio.mean() - 1.0) < 3.5 * error + 0.01


def test_beats_a_normal(moons, fitted):
    normal = multivariate_normal(moons.mean(0), np.cov(moons.T)).logpdf(moons).mean()
    assert fitted.score(moons) > normal + 0.2
    assert fitted.candidates_["linear"] < max(fitted.candidates_.values())


def test_elbo_is_below_and_explanation_adds_up(moons, fitted):
    log_p, ess = fitted.score_samples(moons, return_ess=True)
    assert (ess >= 1 - 1e-9).all() and (ess <= 512 + 1e-6).all()
    assert fitted.elbo(moons).mean() <= log_p.mean() + 1e-3
    parts = fitted.explain(moons)
    np.testing.assert_allclose(parts.features.sum(1) + parts.latent, -log_p, rtol=1e-9)
    assert parts.features.shape == moons.shape and parts.latent.mean() > 0


def test_latent_features(moons, fitted):
    Z = fitted.transform(moons)
    assert Z.shape == (400, 2)
    assert fitted.get_feature_names_out().tolist() == [
        "vaedensityestimator0",
        "vaedensityestimator1",
    ]
    assert np.all(np.diff(fitted.latent_relevance_) <= 0) and (fitted.latent_relevance_ > 0).all()
    np.testing.assert_allclose(fitted.reconstruct(moons), fitted.inverse_transform(Z))
    draws = fitted.sample_posterior(moons[:3], 2000, random_state=0)
    assert draws.shape == (2000, 3, 2)
    error = draws.std(0) / np.sqrt(2000)
    assert (np.abs(draws.mean(0) - Z[:3]) < 4.5 * error).all()


def test_same_seed_same_model(moons):
    params = {**TINY, "hidden_layer_sizes": (4,), "latent_dim": 2}
    one = VAEDensityEstimator(**params).fit(moons)
    two = VAEDensityEstimator(**params).fit(moons)
    np.testing.assert_array_equal(one.score_samples(moons), two.score_samples(moons))
    copy = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(one.score_samples(moons), copy.score_samples(moons))
    assert not np.array_equal(
        one.score_samples(moons),
        VAEDensityEstimator(**{**params, "random_state": 1}).fit(moons).score_samples(moons),
    )


def test_fewer_rows_than_a_batch_and_constant_columns():
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(9, 2)), np.full(9, 1e6)]
    vae = VAEDensityEstimator((4,), batch_size=64, **TINY).fit(X)
    score = vae.score_samples(X)
    assert np.isfinite(score).all() and (vae.sample(5, random_state=0)[:, 2] == 1e6).all()
    moved = X + [0, 0, 1e-4]
    np.testing.assert_allclose(vae.score_samples(moved), score)
    assert vae.constant_violations(moved).tolist() == [1] * 9
    assert vae.constant_violations(X).tolist() == [0] * 9
    with pytest.raises(ValueError, match="constant"):
        vae.fit(np.ones((5, 2)))


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(6, 2))
    scale = np.array([0.2, 0.3, 0.5, 0.4, 0.3, 0.2])
    X = rng.normal(size=(500, 2)) @ W.T + scale * rng.normal(size=(500, 6))
    return (X - X.mean(0)) / X.std(0)


@pytest.mark.parametrize("noise", ["shared", "per_feature"])
@pytest.mark.parametrize("trained", [False, True])
def test_linear_vae_is_ppca_and_factor_analysis(factors, noise, trained, monkeypatch):
    """The start in closed form, and a start at random trained by gradients alone."""
    peer = PCA(2) if noise == "shared" else FactorAnalysis(2, tol=1e-8, max_iter=5000)
    expected = peer.fit(factors).score_samples(factors)
    vae = VAEDensityEstimator(
        (), latent_dim=2, noise=noise, validation_fraction=0, max_epochs=3, random_state=0
    )
    if trained:
        monkeypatch.setattr("skbayes.density.candidates.start_linear", lambda *args: None)
        at_random = vae.fit(factors).score_samples(factors)
        assert at_random.mean() < expected.mean() - 0.5
        vae.set_params(max_epochs=150, learning_rate=0.02)
    found = vae.fit(factors).score_samples(factors)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.1)
    assert np.abs(found - expected).max() < 1.0


def test_sample_weights_count_rows(factors):
    weight = np.where(np.arange(500) < 250, 2.0, 0.0)
    params = {"latent_dim": 2, "noise": "shared", "validation_fraction": 0, "max_epochs": 1}
    vae = VAEDensityEstimator((), random_state=0, **params)
    weighted = vae.fit(factors, sample_weight=weight).score_samples(factors)
    repeated = vae.fit(np.repeat(factors[:250], 2, 0)).score_samples(factors)
    np.testing.assert_allclose(weighted, repeated, atol=0.15)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_dim", 0),
        ("noise", "none"),
        ("noise_floor", 0.0),
        ("latent_prior", "flow"),
        ("objective", "nll"),
        ("activation", "swish"),
        ("validation_fraction", 1.0),
        ("batch_size", 0),
        ("device", "tpu"),
        ("dtype", "float16"),
        ("image_shape", (3,)),
        ("decoder_weights", "laplace"),
        ("n_weight_draws", 0),
        ("robustness", 0.0),
        ("categorical_features", [9]),
    ],
)
def test_bad_parameters_are_named(moons, name, value):
    with pytest.raises(ValueError, match=name):
        VAEDensityEstimator(**{name: value}).fit(moons)
