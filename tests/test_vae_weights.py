"""The posterior over the decoder's weights, and the beta divergence."""

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from torch.distributions import Normal, kl_divergence

from skbayes import VAEAnomalyDetector, VAEDensityEstimator
from skbayes.density.columns import Layout
from skbayes.density.decoder_weights import NormalDense
from skbayes.density.heads import Head
from skbayes.density.importance import normal_points
from skbayes.density.model import VAE, Architecture
from skbayes.density.objectives import OBJECTIVES

REAL = Layout(3, 0, 0, 0, ())


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    t = rng.uniform(-2, 2, size=300)
    return np.c_[t, t**2] + 0.2 * rng.normal(size=(300, 2))


@pytest.fixture(scope="module")
def fitted(rows):
    return VAEDensityEstimator(
        (8,), latent_dim=2, linear_path=True, decoder_weights="normal", n_weight_draws=4,
        max_epochs=100, noise_floor=0.1, n_importance=64, importance_inflation=1.2, random_state=0,
    ).fit(rows)  # fmt: skip


def test_divergence_of_weights_against_torch():
    model = VAE(Architecture(REAL, 2, (4,), n_weight_draws=3, linear=True)).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    expected = sum(
        kl_divergence(Normal(mean, torch.exp(0.5 * log_var)), Normal(0.0, 1.0)).sum()
        for layer in model.decoder_weights.layers
        for mean, log_var in (
            (layer.weight, layer.weight_log_var),
            (layer.bias, layer.bias_log_var),
        )
    )
    assert len(model.decoder_weights.layers) == 3  # two of the deep path, one linear
    torch.testing.assert_close(model.weights_kl(), expected)


def test_training_noise_has_the_moments_of_drawn_weights():
    model = VAE(Architecture(REAL, 2, (), linear=True, n_weight_draws=1)).double()
    layer = model.decoder_weights.layers[0]
    assert isinstance(layer, NormalDense)
    z = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    with torch.no_grad():
        layer.weight_log_var.fill_(-1.0)
        local = model.decoder(z.expand(20_000, 2))
        model.eval()
        torch.testing.assert_close(model.decoder(z)[0], local.mean(0), atol=0.06, rtol=0)
        model.decoder_weights.n_draws = 4000
        drawn = torch.cat([model.decoder(z) for _ in model.decoder_weights.draws()])
    torch.testing.assert_close(drawn.mean(0), local.mean(0), atol=0.12, rtol=0)
    torch.testing.assert_close(drawn.std(0), local.std(0), atol=0, rtol=0.06)
    assert layer.drawn is None


def test_density_is_the_mean_over_plain_decoders(rows, fitted):
    """Brute force: put each draw into a model whose weights are points."""
    model = fitted._model()
    V = fitted._columns.transform(rows[:20])
    eps = torch.as_tensor(normal_points(fitted.n_importance, model.n_noise, fitted._point_seed))
    values = []
    for _ in model.decoder_weights.draws():
        plain = VAE(Architecture(**{**model.spec.__dict__, "n_weight_draws": 0})).double()
        state = {k: t for k, t in model.state_dict().items() if k in plain.state_dict()}
        for name, part in model.decoder.named_modules():
            if isinstance(part, NormalDense):
                weight, bias = part.drawn
                state[f"decoder.{name}.weight"], state[f"decoder.{name}.bias"] = weight, bias
        plain.load_state_dict(state)
        v = torch.as_tensor(V)
        with torch.no_grad():
            mean, log_var = plain.encode(v)
            log_var = log_var + 2 * np.log(1.2)
            log_weight = plain.log_weights(v, mean, log_var, eps[:, None])[0]
        values.append(logsumexp(log_weight.numpy(), 0) - np.log(len(eps)))
    expected = logsumexp(values, 0) - np.log(4) - fitted._columns.log_volume.sum()
    assert np.std(values, 0).max() > 1e-3
    np.testing.assert_allclose(fitted.score_samples(rows[:20]), expected, rtol=1e-10)


def test_density_with_normal_weights_integrates_to_one(rows, fitted):
    x, y = np.linspace(-4, 4, 51), np.linspace(-3, 8, 51)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(fitted.score_samples(grid)).sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert total == pytest.approx(1.0, abs=0.01)
    # own samples: the mean of g / p is one
    S = fitted.sample(2000, random_state=1)
    g = stats.multivariate_normal(rows.mean(0), 0.3 * np.cov(rows.T))
    ratio = np.exp(g.logpdf(S) - fitted.score_samples(S))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(S))
    parts = fitted.explain(rows[:5])
    total = parts.features.sum(1) + parts.latent
    np.testing.assert_allclose(-total, fitted.score_samples(rows[:5]), rtol=1e-8)


def test_fewer_rows_leave_weights_less_certain(rows):
    def spread(n: int) -> float:
        vae = VAEDensityEstimator(
            (), latent_dim=1, decoder_weights="normal", max_epochs=12_000 // n, batch_size=30,
            learning_rate=0.03, validation_fraction=0, patience=1000, random_state=0,
        ).fit(rows[:n])  # fmt: skip
        return float(vae._weights["decoder.linear.bias_log_var"].mean())

    # variances of an output's mean go as 1 / n
    assert spread(30) - spread(300) == pytest.approx(np.log(10), abs=0.8)


@pytest.mark.parametrize("more", [{"objective": "iwae"}, {"image_shape": (4, 4)}])
def test_what_normal_weights_do_not_go_with(rows, more):
    with pytest.raises(ValueError, match="decoder_weights"):
        VAEDensityEstimator(decoder_weights="normal", **more).fit(rows)


# ------------------------------------------------------------------ beta divergence


def test_integral_of_the_power_of_the_likelihood():
    layout, b = Layout(1, 1, 1, 0, (3,)), 0.4
    head = Head(layout, "per_row", 0.01).double()
    head.half_pitch.fill_(0.25)
    rng = np.random.default_rng(0)
    out = torch.as_tensor(rng.normal(size=head.n_outputs))

    def one(j: int, value: float) -> float:
        v = torch.zeros(4, dtype=torch.float64)
        v[j] = value
        return float(torch.exp((1 + b) * head.log_prob(out, v)[j]))

    with torch.no_grad():
        parts = [
            integrate.quad(lambda x: one(0, x), -20, 20)[0],
            sum(one(1, 0.5 * k) for k in range(-40, 41)),
            one(2, 0.0) + one(2, 1.0),
            sum(one(3, k) for k in range(3)),
        ]
        found = float(head.log_power_integral(out, b))
    assert found == pytest.approx(np.log(parts).sum(), abs=2e-3)


def test_small_robustness_is_the_bound_and_large_leaves_outliers_out():
    model = VAE(Architecture(REAL, 2, (4,), noise="shared")).double()
    v = torch.as_tensor(np.random.default_rng(0).normal(size=(20, 3)))
    v[0] = 8.0
    eps, share = torch.zeros(1, 20, 2, dtype=torch.float64), torch.full((20,), 0.05).double()

    def gradient(name: str, at=v, **options) -> torch.Tensor:
        model.zero_grad()
        OBJECTIVES[name](**options).loss(model, at, eps, share, 1.0)[0].backward()
        return torch.cat([p.grad.reshape(-1) for p in model.decoder.parameters()])

    near = gradient("beta-divergence", robustness=1e-5)
    torch.testing.assert_close(near, gradient("elbo"), rtol=1e-3, atol=1e-3)
    moved = v.clone()
    moved[0] = -8.0  # where the outlier is matters to the bound only
    change = [
        (gradient(name, robustness=3.0) - gradient(name, moved, robustness=3.0)).norm()
        for name in ("elbo", "beta-divergence")
    ]
    assert change[1] < 1e-3 * change[0]


def test_beta_divergence_of_one_normal():
    """Without latent variables: the minimum of the density power divergence, found apart."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=180), rng.normal(9.0, 0.5, size=20)])
    b = 0.5

    def divergence(p) -> float:
        mean, sd = p[0], np.exp(p[1])
        integral = (2 * np.pi * sd**2) ** (-b / 2) * (1 + b) ** -0.5
        return integral - (1 + b) / b * np.mean(stats.norm(mean, sd).pdf(x) ** b)

    best = optimize.minimize(divergence, [0.5, 0.3], method="Nelder-Mead").x
    head = Head(Layout(1, 0, 0, 0, ()), "shared", 1e-3).double()
    model = VAE(Architecture(head.layout, 1, (), noise="shared")).double()
    model.head = head
    objective = OBJECTIVES["beta-divergence"](robustness=b)
    mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    leaves = [mean, head.log_noise]
    v, share = torch.as_tensor(x)[:, None], torch.full((200,), 1 / 200).double()
    for _ in range(400):
        loss = objective._misfit(model, mean.expand(1, 200, 1), v, share)
        with torch.no_grad():
            for p, g in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                p.sub_(0.3 * g)
    assert float(mean.detach()) == pytest.approx(best[0], abs=1e-3)
    assert float(head.log_noise.detach()) / 2 == pytest.approx(best[1], abs=1e-3)
    assert abs(best[0]) < 0.2  # the mean of x is 0.9


def test_detector_with_beta_divergence_resists_contamination():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(540, 1)) + 0.3 * rng.normal(size=(540, 3))
    X = np.concatenate([normal, 3.0 * rng.normal(size=(60, 3))])
    truth = np.repeat([1, 0], [540, 60])
    density = VAEDensityEstimator(
        (), latent_dim=1, noise="per_feature", max_epochs=100, learning_rate=0.02, n_importance=8
    )
    plain, robust = (
        VAEAnomalyDetector(density, robustness=r, random_state=0).fit(X) for r in (0.0, 1.0)
    )
    assert (plain.models_[0].noise_std_ > 0.6).all()  # 0.3 without the outliers
    assert (np.abs(robust.models_[0].noise_std_ - 0.3) < 0.1).all(), robust.models_[0].noise_std_
    auc = [roc_auc_score(truth, d.score_samples(X)) for d in (plain, robust)]
    assert auc[1] > auc[0], auc
    with pytest.raises(ValueError, match="robustness"):
        VAEAnomalyDetector(VAEDensityEstimator(objective="iwae"), robustness=1.0).fit(X)
