"""Likelihoods, latent priors, objectives, convolutions, streams and rows on disk of the VAE."""

import numpy as np
import pytest
import torch
from scipy import stats
from skorch.callbacks import EarlyStopping, EpochScoring
from torch.utils.data import TensorDataset

from skbayes import VAEDensityEstimator
from skbayes.density.columns import Columns, Layout
from skbayes.density.heads import Head
from skbayes.density.importance import normal_points
from skbayes.density.latent_priors import MixtureLatent, RelevanceLatent
from skbayes.density.linear_start import Covariance, fit_linear, log_density
from skbayes.density.model import VAE, Architecture
from skbayes.density.objectives import OBJECTIVES, Stein

TINY = {
    "hidden_layer_sizes": (8,),
    "latent_dim": 2,
    "max_epochs": 3,
    "n_importance": 32,
    "random_state": 0,
    "linear_path": False,
}


@pytest.fixture(scope="module")
def mixed():
    """Two classes with a real, an integer, a binary, a count and a category column."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=300)
    return np.c_[
        rng.normal(group * 3.0, 1.0),
        np.rint(rng.normal(group * 2.0, 1.0)) * 5 + 10,
        np.where(rng.random(300) < 0.2 + 0.6 * group, 7.0, 3.0),
        rng.poisson(1 + 3 * group),
        np.where(rng.random(300) < 0.3, 1.0, 4.0 + 2 * group),
    ]


KINDS = {"binary_features": [2], "count_features": [3], "categorical_features": [4]}


def test_discrete_heads_sum_to_one():
    layout = Layout(0, 1, 1, 1, (3,))
    head = Head(layout, "per_row", 0.01).double()
    with torch.no_grad():
        head.half_pitch.fill_(0.25)
        head.log_dispersion.fill_(0.3)
    out = torch.tensor([0.1, -0.4, 0.8, 0.3, -1.0, 0.5, 0.2], dtype=torch.float64)
    n = 400
    v = torch.zeros(n, 4, dtype=torch.float64)
    v[:, 0] = (torch.arange(n) - n / 2) * 0.5  # the grid
    v[:, 1] = torch.arange(n) % 2
    v[:, 2] = torch.arange(n)
    v[:, 3] = torch.arange(n) % 3
    p = torch.exp(head.log_prob(out.expand(n, -1), v).detach())
    assert float(p[:, 0].sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(p[:2, 1].sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(p[:, 2].sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(p[:3, 3].sum()) == pytest.approx(1.0, abs=1e-12)


def test_counts_against_scipy():
    head = Head(Layout(0, 0, 0, 1, ()), "shared", 0.01).double()
    with torch.no_grad():
        head.log_dispersion.fill_(0.3)
    k = torch.arange(6, dtype=torch.float64)[:, None]
    found = head.log_prob(torch.full((6, 1), 0.8, dtype=torch.float64), k).detach()[:, 0]
    r, mean = np.exp(-0.3), np.exp(0.8)
    np.testing.assert_allclose(found, stats.nbinom(r, r / (r + mean)).logpmf(np.arange(6)))


def test_tails_of_integers_are_finite():
    head = Head(Layout(0, 1, 0, 0, ()), "shared", 0.01)
    with torch.no_grad():
        head.half_pitch.fill_(0.01)
    v = torch.tensor([[0.0], [5.0], [50.0], [-50.0]])
    log_p = head.log_prob(torch.zeros(4, 1), v)[:, 0]
    expected = stats.norm.logpdf([0.0, 5.0, 50.0, 50.0]) + np.log(0.02)
    np.testing.assert_allclose(log_p.detach(), expected, rtol=0.02)


def test_mixed_columns(mixed):
    vae = VAEDensityEstimator(**{**TINY, "max_epochs": 30}, **KINDS).fit(mixed)
    score = vae.score_samples(mixed)
    assert np.isfinite(score).all()
    drawn = vae.sample(300, random_state=0)
    assert set(drawn[:, 1] % 5) == {0.0}  # the grid of the data
    assert set(drawn[:, 2]) == {3.0, 7.0} and set(drawn[:, 4]) <= {1.0, 4.0, 6.0}
    assert (drawn[:, 3] >= 0).all() and (drawn[:, 3] == np.rint(drawn[:, 3])).all()
    # all values of the discrete columns together have the density of the others
    rows = np.repeat(mixed[:1], 6, 0)
    rows[:, 2] = np.tile([3.0, 7.0], 3)
    rows[:, 4] = np.repeat([1.0, 4.0, 6.0], 2)
    both = np.exp(vae.score_samples(rows)).sum()
    single = []
    for binary in (3.0, 7.0):
        row = rows[:3].copy()
        row[:, 2], row[:, 4] = binary, [1.0, 4.0, 6.0]
        single.append(np.exp(vae.score_samples(row)).sum())
    assert both == pytest.approx(sum(single), rel=1e-9)
    with pytest.raises(ValueError, match="column 4 has the value"):
        vae.score_samples(mixed + [0, 0, 0, 0, 0.5])
    parts = vae.explain(mixed[:20])
    np.testing.assert_allclose(parts.features.sum(1) + parts.latent, -score[:20], rtol=1e-9)


def test_integer_columns_shift_with_the_unit(mixed):
    X = mixed[:, :2]
    a, b = Columns().fit(X), Columns().fit(X * [1.0, 1000.0])
    assert a.pitch.tolist() == [0.0, 5.0] and b.pitch.tolist() == [0.0, 5000.0]
    np.testing.assert_allclose(b.log_volume - a.log_volume, [0.0, np.log(1000.0)])
    np.testing.assert_allclose(a.transform(X), b.transform(X * [1.0, 1000.0]))
    np.testing.assert_allclose(a.inverse_transform(a.transform(X)), X)


def test_closed_forms_against_quadratures():
    """Mixture and relevance priors integrate to one, and the divergence is what sampling finds."""
    rng = np.random.default_rng(0)
    prior = MixtureLatent(2, 4).double()
    z = np.concatenate([rng.normal(size=(200, 2)) * 0.4 + c for c in ([-2, 0], [2, 1])])
    prior.start(z, z, 0)
    axis = np.linspace(-6, 6, 200)
    grid = torch.tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    total = float(torch.exp(prior.log_prob(grid)).sum().detach()) * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1.0, abs=1e-3)
    drawn = prior.sample(20000, torch.Generator().manual_seed(0)).detach()
    mean, variance = prior.moments()
    np.testing.assert_allclose(drawn.mean(0), mean.detach(), atol=0.05)
    np.testing.assert_allclose(drawn.var(0), variance.detach(), rtol=0.05)
    ard = RelevanceLatent(2).double()
    with torch.no_grad():
        ard.log_precision.copy_(torch.tensor([0.5, -1.0]))
    mean, log_var = torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[-0.5, 0.2]]).double()
    eps = torch.as_tensor(normal_points(4096, 2, 0))
    q = mean + torch.exp(0.5 * log_var) * eps
    sampled = (stats.norm(mean, torch.exp(0.5 * log_var)).logpdf(q).sum(1)) - ard.log_prob(
        q
    ).detach().numpy()
    assert float(ard.kl(mean, log_var, q, None).sum().detach()) == pytest.approx(
        sampled.mean(), abs=2e-3
    )


def test_linear_fit_is_a_density():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    X -= X.mean(0)
    fit = fit_linear(Covariance(X), 2, True, 0.01)
    peer = stats.multivariate_normal(np.zeros(3), fit.loadings @ fit.loadings.T + np.diag(fit[1]))
    np.testing.assert_allclose(log_density(X, fit), peer.logpdf(X))
    inner = fit.loadings.T @ (fit.loadings / fit.variance[:, None])
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-8)


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp", "relevance", "two_stage"])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_priors_give_densities(blobs, prior, objective):
    X = blobs[0][:, :2]
    params = {**TINY, "max_epochs": 40, "n_components": 4, "noise_floor": 0.2}
    vae = VAEDensityEstimator(latent_prior=prior, objective=objective, **params).fit(X)
    axis = np.linspace(-9, 12, 50)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    vae.set_params(n_importance=256, importance_inflation=1.2)
    total = np.exp(vae.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1.0, abs=0.05)
    assert vae.sample(10, random_state=0).shape == (10, 2)
    assert (np.diff(vae.latent_relevance_) <= 0).all()


@pytest.mark.parametrize("objective", ["mse", "mmd", "gan", "mmd+gan", "vae-gan", "stein"])
def test_objectives_without_density(blobs, objective):
    X, y = blobs
    params = {**TINY, "max_epochs": 60}
    vae = VAEDensityEstimator(objective=objective, penalty=1.0, learning_rate=0.01, **params).fit(X)
    assert not hasattr(vae, "score_samples") and not hasattr(vae, "elbo")
    with pytest.raises(AttributeError, match="score_samples"):
        vae.score_samples(X)
    Z = vae.transform(X)
    assert Z.shape == (60, 2) and np.isfinite(Z).all()
    error = ((vae.reconstruct(X) - X) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert error < 1.0
    assert vae.validation_curve_[-1] < vae.validation_curve_[0] * 1.5
    assert vae.sample(5, random_state=0).shape == (5, 4)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_discrepancies_see_the_prior(kernel):
    """Near zero where encodings have the prior's distribution, clearly above elsewhere."""
    model = VAE(Architecture(Layout(2, 0, 0, 0, ()), 2, (4,)))
    eps = torch.as_tensor(normal_points(256, 2, 0), dtype=torch.float32)[None]
    mmd = OBJECTIVES["mmd"](strength=1.0)
    mmd.prepare(model, kernel, 0, "cpu", torch.float32)
    z = torch.as_tensor(np.random.default_rng(0).normal(size=(256, 2)), dtype=torch.float32)
    for measure in (mmd, Stein(strength=1.0)):
        near = float(measure._penalty(model, z, z, eps).detach())
        far = float(measure._penalty(model, z, 0.3 * z + 1.0, eps).detach())
        assert abs(near) < 0.2 * far and far > 0.05


def test_free_bits_and_beta_in_the_loss():
    model = VAE(Architecture(Layout(3, 0, 0, 0, ()), 2, (4,)))
    v = torch.as_tensor(np.random.default_rng(0).normal(size=(20, 3)), dtype=torch.float32)
    eps, share = torch.zeros(1, 20, 2), torch.full((20,), 0.05)

    def value(**options) -> float:
        return float(OBJECTIVES["elbo"](**options).loss(model, v, eps, share, 1.0)[0].detach())

    fit = value(beta=0.0)
    kl = value() - fit
    assert kl > 0 and value(beta=3.0) - fit == pytest.approx(3 * kl, rel=1e-4)
    assert value(free_bits=50.0) - fit == pytest.approx(100.0, rel=1e-4)
    assert value(free_bits=1e-9) == pytest.approx(value(), rel=1e-6)


def test_beta_lowers_the_divergence(blobs):
    params = {**TINY, "max_epochs": 100, "validation_fraction": 0, "patience": 100, "warm_up": 0}
    plain, strong = (
        VAEDensityEstimator(beta=beta, **params).fit(blobs[0]).latent_relevance_.sum()
        for beta in (1.0, 8.0)
    )
    assert strong < plain


def test_convolutions():
    rng = np.random.default_rng(0)
    place = rng.integers(1, 7, size=(80, 2))
    X = 0.1 * rng.normal(size=(80, 8, 8))
    for image, (i, j) in zip(X, place, strict=True):
        image[i - 1 : i + 2, j - 1 : j + 2] += 1.0
    vae = VAEDensityEstimator(
        latent_dim=3, image_shape=(8, 8), channels=(4, 8), noise="shared", linear_path=False,
        max_epochs=100, learning_rate=0.01, warm_up=0, n_importance=16, random_state=0,
    )  # fmt: skip
    vae.fit(X)
    assert vae.n_features_in_ == 64 and vae.score_samples(X[:3]).shape == (3,)
    error = ((vae.reconstruct(X) - X.reshape(80, -1)) ** 2).mean() / X.var()
    assert error < 0.9
    with pytest.raises(ValueError, match="multiples of 4"):
        vae.set_params(image_shape=(6, 8)).fit(X)


def test_partial_fit_learns_and_repeats(blobs):
    X = np.tile(blobs[0], (4, 1))
    one, two = (VAEDensityEstimator(**{**TINY, "linear_path": True}) for _ in range(2))
    for part in np.array_split(X, 4):
        one.partial_fit(part)
        two.partial_fit(part)
    np.testing.assert_array_equal(one.score_samples(X), two.score_samples(X))
    before = one.score(X)
    for _ in range(10):
        one.partial_fit(X)
    assert one.score(X) > before and len(one.loss_curve_) == 14


def test_rows_on_disk(tmp_path, monkeypatch, blobs):
    monkeypatch.setattr("skbayes.rows_on_disk.LARGE", 100)
    X = np.tile(blobs[0], (5, 1)).astype(np.float32)
    mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=X.shape)
    mapped[:] = X
    vae = VAEDensityEstimator(**TINY, refit=False)
    inside = vae.fit(X).score_samples(X)
    np.testing.assert_allclose(vae.fit(mapped).score_samples(X), inside, rtol=1e-4)
    dataset = TensorDataset(torch.as_tensor(X))
    np.testing.assert_allclose(vae.fit(dataset).score_samples(X), inside, rtol=1e-4)


def test_callbacks_and_progress(blobs, capsys):
    calls = EarlyStopping(monitor="valid_loss", patience=1, threshold=1e9, threshold_mode="abs")
    params = {**TINY, "max_epochs": 200}
    with pytest.warns(Warning, match="interrupted"):
        vae = VAEDensityEstimator(callbacks=[calls], verbose=1, **params).fit(blobs[0])
    assert len(vae.history_) < 10 and "valid_loss" in vae.history_[0]
    assert "VAEDensityEstimator" in capsys.readouterr().err
    assert np.isfinite(vae.score(blobs[0]))
    scoring = VAEDensityEstimator(callbacks=[EpochScoring("neg_log_loss")])
    with pytest.raises(ValueError, match="watch 'train_loss' or 'valid_loss'"):
        scoring.fit(blobs[0])
