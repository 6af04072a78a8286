"""The deep ensemble filter against exact posteriors."""

import numpy as np
import pytest
import torch
from gaussian_target import linear_model
from sklearn.base import clone
from sklearn.datasets import make_moons

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor, streaming
from skbayes.inference import EnsembleFilter, Laplace, Streams
from skbayes.inference.ensemble_kalman import _gain
from skbayes.inference.inflation import inflate
from skbayes.inference.noise import sample_noise
from skbayes.model import HierarchicalPrior, LaplacePrior, NormalPrior, StudentTPrior

pytestmark = pytest.mark.usefixtures("quiet")


def linear(method, noise=0.7, **kwargs):
    return BayesianMLPRegressor(
        (),
        noise=noise,
        standardize=False,
        prior="normal",
        method=method,
        dtype="float64",
        random_state=0,
        **kwargs,
    )


def check_gaussian(theta, mean, cov):
    """Moments of independent members, to 5 standard errors."""
    n = len(theta)
    deviation = np.sqrt(np.diag(cov))
    assert (np.abs(theta.mean(0) - mean) < 5 * deviation / n**0.5).all()
    found = np.cov(theta.T)
    error = np.sqrt((cov**2 + np.outer(deviation, deviation) ** 2) / n)
    assert (np.abs(found - cov) < 5 * error).all()


@pytest.mark.parametrize("scale", [1.0, 1.5, 10.0])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_kalman_updates_give_the_exact_posterior_of_a_linear_model(scale, n_steps):
    model = linear_model(n=60, d=3, noise=0.7)
    assert np.abs(np.corrcoef(model.X.T) - np.eye(3)).max() > 0.1
    method = EnsembleFilter(
        n_members=500,
        update="kalman",
        inflation="multiplicative",
        inflation_scale=scale,
        n_kalman_steps=n_steps,
    )
    reg = linear(method)
    for rows in np.split(np.arange(60), [10, 12, 40]):
        reg.partial_fit(model.X[rows], model.y[rows, 0])
    check_gaussian(reg.posterior_.flat, model.mean, model.cov)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_gradient_updates_are_exact_where_the_weights_are_independent(scale):
    rng = np.random.default_rng(0)
    signs = np.array([[a, b, a * b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    X = np.concatenate([signs * [1.0, 0.5, 0.2]] * 6)  # orthogonal columns in all chunks of 4
    y = X @ [1.0, -1.0, 0.5] + 0.3 + 0.7 * rng.normal(size=24)
    method = EnsembleFilter(500, inflation="multiplicative", inflation_scale=scale)
    reg = linear(method)
    for rows in np.split(np.arange(24), [4, 12]):
        reg.partial_fit(X[rows], y[rows])
    design = np.column_stack([X, np.ones(24)])
    cov = np.linalg.inv(design.T @ design / 0.49 + np.eye(4))
    check_gaussian(reg.posterior_.flat, cov @ design.T @ y / 0.49, cov)


@pytest.mark.parametrize("scale", [0.03, 1.0])
def test_additive_inflation_counts_no_row_twice(scale):
    """Updates by rows that say nothing of the slopes leave these as they are."""
    model = linear_model(n=10, d=3, noise=2.0)
    X = model.X - model.X.mean(0)
    y = model.y[:, 0] - model.y.mean()
    method = EnsembleFilter(200, inflation_scale=scale)
    reg = linear(method, noise=2.0).partial_fit(X, y)
    for _ in range(15):
        reg.partial_fit(np.zeros((1, 3)), np.zeros(1))
    slopes = reg.posterior_.flat[:, :3]
    exact = np.linalg.solve(X.T @ X + 4.0 * np.eye(3), X.T @ y)
    least_squares = np.linalg.solve(X.T @ X, X.T @ y)
    # members are independent; their own spread tells the error of their mean
    error = slopes.std(0, ddof=1) / len(slopes) ** 0.5
    assert (np.abs(slopes.mean(0) - exact) < 5 * error).all()
    assert (np.abs(least_squares - exact) > 8 * error).any()  # where counting twice leads


def some_members(prior, n_members=1000, seed=0):
    rng = np.random.default_rng(seed)
    target = linear_model(prior=prior).log_posterior
    theta = torch.as_tensor(rng.normal(size=(n_members, target.n_params)) * 0.3 + 1.0)
    return target, theta


@pytest.mark.parametrize(
    ("prior", "variance"),
    [
        (NormalPrior(2.0), 4.0),
        (LaplacePrior(2.0), 8.0),
        (StudentTPrior(2.0, df=4.0), 8.0),
        (HierarchicalPrior(fan_in=False), 1.0),
    ],
)
def test_inflation(prior, variance):
    target, theta = some_members(prior)
    spread = theta.var(0)
    more = inflate(target, theta, Streams(1, len(theta)), "additive", 0.5)
    error = 5 * (2 / len(theta)) ** 0.5 * (spread + 0.5 * variance)
    assert ((more.theta.var(0) - spread - 0.5 * variance).abs() < error).all()
    # what weighs on an unknown weight stays as it is: 1 / v~ + w / s^2 is 1 / s^2 at v = s^2
    wide = theta / theta.std(0) * variance**0.5
    out = inflate(target, wide, Streams(1, len(theta)), "additive", 0.5)
    total = out.precision + out.root_share**2 * out.prior_precision
    torch.testing.assert_close(total * variance, torch.ones_like(total))
    out = inflate(target, theta, Streams(1, len(theta)), "multiplicative", 2.5)
    torch.testing.assert_close(out.theta.T.cov(), 2.5 * theta.T.cov())
    torch.testing.assert_close(out.theta.mean(0), theta.mean(0))
    assert out.root_share.square().allclose(torch.tensor(0.6, dtype=torch.float64))


def test_the_likelihoods_own_parameters_are_not_inflated():
    target = linear_model(noise="learned").log_posterior
    theta = torch.randn(5, target.n_params, dtype=torch.float64, generator=torch.Generator())
    for kind, scale in (("additive", 0.5), ("multiplicative", 2.0)):
        out = inflate(target, theta, Streams(1, 5), kind, scale)
        assert torch.equal(out.theta[:, -1], theta[:, -1])
        assert out.precision[-1] == 0 and out.root_share[-1] == 0


@pytest.mark.parametrize("inflation", ["additive", "multiplicative"])
def test_weights_that_the_data_say_nothing_of_do_not_walk_away(inflation):
    scale = 0.5 if inflation == "additive" else 2.0
    reg = linear(EnsembleFilter(200, inflation=inflation, inflation_scale=scale))
    X, y = np.zeros((5, 2)), np.zeros(5)
    for _ in range(8):
        reg.partial_fit(X, y)
    deviation = reg.posterior_.flat[:, :2].std(0)  # prior: one; by noise alone 1 + 8 q
    assert (np.abs(deviation - 1) < 0.25).all()
    assert reg.posterior_.flat[:, 2].std() < 0.2  # the bias, which all rows tell of


@pytest.mark.parametrize("m", [4, 9])
def test_gain_is_that_of_the_textbook(m):
    rng = np.random.default_rng(0)
    theta, f = rng.normal(size=(5, 7)), rng.normal(size=(5, m))
    noise, d = 0.5 + rng.random(m), rng.normal(size=(5, m))
    cross = np.cov(theta.T, f.T)[:7, 7:]
    want = d @ np.linalg.inv(np.cov(f.T) + np.diag(noise)) @ cross.T
    got = _gain(*(torch.as_tensor(v) for v in (theta, f, noise, d)))
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_taper_by_layer(moons):
    X, y = moons
    moved = {}
    for taper in (0.0, 0.5, 1.0):
        method = EnsembleFilter(
            8,
            update="kalman",
            inflation="multiplicative",
            inflation_scale=1.0,
            taper=taper,
            n_kalman_steps=1,
            max_epochs=20,
        )
        clf = BayesianMLPClassifier((4,), method=method, dtype="float64", random_state=0)
        clf.partial_fit(X[:40], y[:40])
        before = clf.posterior_.flat.copy()
        clf.partial_fit(X[40:60], y[40:60])
        moved[taper] = clf.posterior_.flat - before
    first = slice(0, 12)  # (2 + 1) * 4 weights of the first layer
    assert np.abs(moved[0.0][:, first]).max() < 1e-12
    np.testing.assert_allclose(moved[0.5][:, first], 0.5 * moved[1.0][:, first], atol=1e-12)
    np.testing.assert_allclose(moved[0.5][:, 12:], moved[1.0][:, 12:], atol=1e-12)
    assert np.abs(moved[1.0][:, 12:]).max() > 1e-3


@pytest.fixture(scope="module")
def moons():
    return make_moons(300, noise=0.2, random_state=0)


@pytest.mark.parametrize("update", ["gradient", "kalman"])
@pytest.mark.parametrize("inflation", ["additive", "multiplicative"])
def test_a_stream_of_moons(moons, update, inflation):
    X, y = moons
    method = EnsembleFilter(
        10 if update == "gradient" else 40,
        update=update,
        inflation=inflation,
        inflation_scale=0.1 if inflation == "additive" else 1.2,
        max_epochs=100,
        learning_rate=0.05,
    )
    clf = BayesianMLPClassifier((10,), method=method, random_state=0)
    clf.partial_fit(X[:60], y[:60])
    first = clf.log_predictive_density(X[200:], y[200:]).mean()
    for rows in np.split(np.arange(60, 200), 4):
        clf.partial_fit(X[rows], y[rows])
    last = clf.log_predictive_density(X[200:], y[200:]).mean()
    # covariances over a few modes are a rough guide: the Kalman update loses a little here
    assert last > first - (0.02 if update == "gradient" else 0.15)
    assert clf.score(X[200:], y[200:]) > (0.9 if update == "gradient" else 0.8)
    again = clone(clf).partial_fit(X[:60], y[:60])
    for rows in np.split(np.arange(60, 200), 4):
        again.partial_fit(X[rows], y[rows])
    np.testing.assert_array_equal(again.posterior_.draws, clf.posterior_.draws)


def test_old_rows_are_sampled_and_weighted(curve, monkeypatch):
    X, y = curve
    seen = []
    prepare = BayesianMLPRegressor._prepare

    def spy(self, X, y, weight, *rest):
        seen.append((len(X), weight))
        return prepare(self, X, y, weight, *rest)

    monkeypatch.setattr(BayesianMLPRegressor, "_prepare", spy)
    monkeypatch.setattr(streaming, "MOST_KEPT", 40)
    method = EnsembleFilter(
        3, inflation="multiplicative", inflation_scale=4.0, n_replay=15, max_epochs=5
    )
    reg = BayesianMLPRegressor((4,), method=method, noise=0.3, random_state=0)
    for rows in np.split(np.arange(60), [30, 50]):
        reg.partial_fit(X[rows], y[rows])
    assert [n for n, _ in seen] == [30, 35, 25]
    assert seen[0][1] is None
    np.testing.assert_allclose(seen[1][1], [0.75 * 30 / 15] * 15 + [1.0] * 20)
    np.testing.assert_allclose(seen[2][1], [0.75 * 50 / 15] * 15 + [1.0] * 10)
    assert len(reg._reservoir.y) == 40 and reg._reservoir.n_seen == 60


@pytest.mark.parametrize("noise", ["learned", "heteroscedastic", 0.5])
def test_noise(curve, noise):
    X, y = curve
    method = EnsembleFilter(4, max_epochs=60, learning_rate=0.05)
    reg = BayesianMLPRegressor((6,), method=method, noise=noise, random_state=0)
    reg.partial_fit(X[:30], y[:30]).partial_fit(X[30:], y[30:])
    low, high = reg.predict_interval(X).T
    assert 0.75 < np.mean((low < y) & (y < high)) <= 1
    assert reg.score(X, y) > 0.6
    reg.set_params(method__update="kalman")
    if noise == "heteroscedastic":
        with pytest.raises(ValueError, match=r"update='kalman'.*heteroscedastic"):
            reg.partial_fit(X, y)
    else:
        assert reg.partial_fit(X, y).score(X, y) > 0.6


def test_interruption_keeps_what_there_is(curve, monkeypatch):
    X, y = curve

    def interrupt(bar, done, total, text):
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("skbayes.progress.ProgressBar.__call__", interrupt)
    reg = BayesianMLPRegressor((4,), method=EnsembleFilter(3), noise=0.3, random_state=0)
    reg.fit(X, y)
    assert reg.posterior_.interrupted and reg.n_iter_ == 5


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_members": 1}, "n_members=1"),
        ({"update": "none"}, "update='none'"),
        ({"inflation_scale": -0.1}, "inflation_scale=-0.1"),
        ({"inflation": "multiplicative", "inflation_scale": 0.5}, "inflation_scale=0.5"),
        ({"taper": 2}, "taper=2"),
        ({"n_replay": 0}, "n_replay=0"),
    ],
)
def test_parameters_that_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        EnsembleFilter(**params).check()


@pytest.mark.parametrize(
    ("update", "hidden", "prior"),
    [("gradient", (), "normal"), ("gradient", (4,), "hierarchical"), ("kalman", (), "normal")],
)
def test_learned_noise_is_drawn_from_all_rows_and_stays(update, hidden, prior, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(121, 3))
    y = X @ [1.0, -1.0, 0.5] + 0.1 * rng.normal(size=121)
    drawn = []

    def spy(log_posterior, *rest):
        out = sample_noise(log_posterior, *rest)
        drawn.append((log_posterior.n, log_posterior.layout.split(out)[1][:, 0].clone()))
        return out

    monkeypatch.setattr("skbayes.inference.ensemble_filter.sample_noise", spy)
    method = EnsembleFilter(
        5, update=update, inflation="multiplicative", inflation_scale=1.0, max_epochs=5
    )
    reg = BayesianMLPRegressor(hidden, method=method, prior=prior, noise="learned", random_state=0)
    reg.partial_fit(X[:120], y[:120]).partial_fit(X[120:], y[120:])
    assert [n for n, _ in drawn] == [120, 121]  # old rows weigh nothing in the update itself
    own = reg.posterior_.layout.split(torch.as_tensor(reg.posterior_.flat))[1][:, 0]
    torch.testing.assert_close(own, drawn[-1][1])
    if not hidden:
        np.testing.assert_allclose(reg.noise_std_, 0.1, rtol=0.25)


def test_kalman_update_of_three_classes_counts_the_data_once():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    logits = X @ [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    y = (logits + rng.gumbel(size=(300, 3))).argmax(1)
    common = {"standardize": False, "prior": "normal", "dtype": "float64", "random_state": 0}
    method = EnsembleFilter(400, update="kalman", inflation="multiplicative", inflation_scale=1.0)
    clf = BayesianMLPClassifier((), method=method, **common)
    for rows in np.split(np.arange(300), [60, 180]):
        clf.partial_fit(X[rows], y[rows])
    exact = BayesianMLPClassifier((), method=Laplace(n_draws=400), **common).fit(X, y)
    spread = [np.exp(m.predict_draws(X)).std(0).mean() for m in (clf, exact)]
    assert abs(spread[0] / spread[1] - 1) < 0.1  # with p (1 - p) on the diagonal: a fifth less
