"""Weight averaging: the path of SGD, its moments, and draws from the Gaussian around it."""

import numpy as np
import pytest
import torch
from gaussian_target import linear_model, mcse_of_mean
from problems import make_log_posterior
from scipy.linalg import solve_continuous_lyapunov
from sklearn.base import clone

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, SWAG, Ensemble, MultiSWAG, Streams, sgd_path
from skbayes.inference.sgd_path import collect, default_rate

PATH = {"momentum": 0.8, "batch_size": 7, "n_snapshots": 9, "thin": 3}


def test_moments_against_a_loop_by_hand():
    """SGD with momentum, snapshots, averages and deviations, written out for each mode alone."""
    target, rate, rank = make_log_posterior("learned", n=17), 0.003, 4
    theta = target.initial(Streams(5, 3))
    path = collect(target, theta, Streams(1, 3), learning_rate=rate, rank=rank, **PATH)
    assert path.deviations.shape == (3, rank, target.n_params) and not path.messages
    for m in range(3):
        generator = Streams(1, 3).generators[m]
        x, v = theta[m].numpy().copy(), np.zeros(target.n_params)
        seen, deviations = [x.copy()], []
        for _ in range(9):
            for _ in range(3):
                rows = generator.integers(17, size=7)
                grad = target.rows(rows).grad(torch.as_tensor(x[None]))[0].numpy()
                prior = target.log_prior_and_grad(torch.as_tensor(x[None]))[1][0].numpy()
                grad = (17 / len(rows)) * (grad - prior) + prior
                v = 0.8 * v + rate * grad / 17
                x = x + v
            seen.append(x.copy())
            deviations.append(x - np.mean(seen, 0))
        np.testing.assert_allclose(path.mean[m], np.mean(seen, 0), rtol=1e-9)
        np.testing.assert_allclose(path.variance[m], np.var(seen, 0), rtol=1e-7, atol=1e-15)
        np.testing.assert_allclose(path.deviations[m], deviations[-rank:], rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(path.last[m], x, rtol=1e-9)


def gaussian(adapted, m, scale):
    """Covariance of a mode by the formula, as a dense matrix."""
    D = adapted["deviations"][m].T
    return scale * (np.diag(adapted["variance"][m]) + D @ D.T / (D.shape[1] - 1))


@pytest.mark.parametrize(("rank", "n_snapshots", "scale"), [(3, 6, 0.5), (20, 5, 0.5), (4, 6, 2.0)])
def test_covariance_of_the_draws(rank, n_snapshots, scale):
    """With fewer snapshots than columns asked for, the divisor is what there are, less one."""
    target, n_draws = make_log_posterior("fixed", n=30, hidden=(2,)), 10_000
    settings = {"n_snapshots": n_snapshots, "thin": 4, "batch_size": 5, "init": MAP(max_epochs=20)}
    method = MultiSWAG(n_modes=2, n_draws=n_draws, rank=rank, scale=scale, **settings)
    posterior = method.run(target, None, Streams(3, 2))
    adapted = posterior.adapted
    assert adapted["deviations"].shape == (2, min(rank, n_snapshots), target.n_params)
    for m in range(2):
        cov = gaussian(adapted, m, scale)
        centred = posterior.draws[m] - adapted["mean"][m]
        deviation = np.sqrt(np.diag(cov))
        assert np.all(np.abs(centred.mean(0)) < 4.5 * deviation / n_draws**0.5)
        found = centred.T @ centred / n_draws
        # the variance of a sample covariance of normal numbers
        error = np.sqrt((cov**2 + np.outer(deviation, deviation) ** 2) / n_draws)
        assert np.all(np.abs(found - cov) < 5.0 * error)
        # the low-rank part is shared by the layers, and large enough here to be seen
        first, last = (target.network.layers[i].joint for i in (0, -1))
        across = cov[first, last] / np.outer(deviation[first], deviation[last])
        assert np.abs(across).max() > 0.3


def test_one_mode_for_several_paths_is_told():
    target = make_log_posterior("bernoulli")
    posterior = MultiSWAG(3, 2, n_snapshots=4, init=MAP()).run(target, None, Streams(1, 3))
    assert "found 1 of 3 modes" in posterior.messages[0]
    method = MultiSWAG(3, 2, n_snapshots=4, init=Ensemble(max_epochs=3, validation_fraction=0))
    posterior = method.run(target, None, Streams(1, 3))
    assert not posterior.messages
    assert len(np.unique(posterior.adapted["mean"], axis=0)) == 3


def test_modes_are_runs_of_their_own():
    target, method = make_log_posterior("categorical"), SWAG(3, 2, n_snapshots=4, init=MAP())
    together = method.run(target, target.initial(Streams(0, 3)), Streams(2, 3))
    alone = clone(method).set_params(n_modes=1)
    first = alone.run(target, target.initial(Streams(0, 1)), Streams(2, 1))
    np.testing.assert_allclose(first.draws[0], together.draws[0], rtol=1e-8)
    assert together.independent and together.draws.shape[:2] == (3, 2)


def test_multiswag_is_swag_with_several_modes():
    target, settings = make_log_posterior("bernoulli"), {"n_snapshots": 4, "init": MAP()}
    one = MultiSWAG(3, 2, **settings).run(target, None, Streams(1, 3))
    other = SWAG(n_modes=3, n_draws=2, **settings).run(target, None, Streams(1, 3))
    np.testing.assert_array_equal(one.draws, other.draws)
    assert one.adapted["mean"].shape[0] == 3


def test_the_average_is_the_posterior_mean_of_a_linear_model():
    """And the covariance is that of SGD, by its Lyapunov equation, not that of the posterior."""
    model, rate, batch = linear_model(n=60), 0.004, 6
    method = SWAG(
        30,
        2,
        n_snapshots=300,
        thin=5,
        learning_rate=rate,
        momentum=0.5,
        batch_size=batch,
        init=MAP(),
    )
    adapted = method.run(model.log_posterior, None, Streams(1, 30)).adapted
    mean, deviation = adapted["mean"][:, None], np.sqrt(np.diag(model.cov))
    error = mcse_of_mean(mean)
    assert np.all(np.abs(mean.mean((0, 1)) - model.mean) < 5 * error)
    assert np.all(error < 0.1 * deviation)
    # H S + S H = rate / (batch (1 - momentum)) C, with C the covariance of the rows' gradients
    rows = [model.log_posterior.rows(np.array([i])) for i in range(60)]
    mode = torch.as_tensor(model.mean)[None]
    by_prior = model.log_posterior.log_prior_and_grad(mode)[1]
    C = np.cov(np.stack([(row.grad(mode) - by_prior)[0].numpy() for row in rows]).T)
    H = np.linalg.inv(model.cov) / 60
    S = solve_continuous_lyapunov(H, rate / (batch * 0.5) * C)
    # the start at the mode and a path of finite length cost some of the variance
    ratio = adapted["variance"].mean(0) / np.diag(S)
    assert np.all((ratio > 0.8) & (ratio < 1.2)), ratio


def test_the_default_rate_follows_the_curvature():
    """Against the eigenvalues of the Hessian of a linear model."""
    for noise in (0.5, 0.05):
        model = linear_model(n=60, noise=noise)
        largest = np.linalg.eigvalsh(np.linalg.inv(model.cov)).max() / 60
        theta = torch.as_tensor(model.mean)[None].repeat(3, 1)
        rate = default_rate(model.log_posterior, theta, Streams(0, 3), 0.75)
        np.testing.assert_allclose(rate, sgd_path.RATE * 0.25 / largest, rtol=0.02)


def test_a_path_that_diverges_begins_again():
    model = linear_model(n=60, noise=0.1)
    method = SWAG(2, 3, learning_rate=1.0, n_snapshots=10, init=MAP())
    posterior = method.run(model.log_posterior, None, Streams(0, 2))
    assert np.isfinite(posterior.draws).all() and (posterior.adapted["learning_rate"] < 0.1).all()
    assert "SGD diverged at learning_rate=1.0; 2 of 2 paths took less" in posterior.messages[-1]


@pytest.mark.parametrize("done", [0, 1, 4])
def test_interruption(done, curve):
    def interrupt(at, total, text):
        if text.startswith("average") and at == done + (done == 0):
            raise KeyboardInterrupt

    method = SWAG(2, 5, n_snapshots=30, init=MAP(max_epochs=3))
    target = make_log_posterior("fixed")
    posterior = method.run(target, target.initial(Streams(0, 2)), Streams(0, 2), interrupt)
    assert posterior.interrupted and np.isfinite(posterior.draws).all()
    assert posterior.draws.shape[1] == (1 if done < 2 else 5)
    assert "interrupted" in posterior.messages[-1]


def test_learned_noise_is_averaged_too(curve):
    method = SWAG(n_draws=8, n_snapshots=20, init=MAP(max_epochs=50))
    model = BayesianMLPRegressor((4,), noise="learned", method=method, random_state=0).fit(*curve)
    noise = model.posterior_.unflatten()["noise_std"]
    assert noise.std() > 0 and (noise > 0).all()


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"rank": 1}, "rank=1 is not allowed; it must be an integer >= 2"),
        ({"n_snapshots": 1}, "n_snapshots=1"),
        ({"n_modes": 0}, "n_modes=0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"thin": 0}, "thin=0"),
        ({"init": "prior"}, "init='prior' is not allowed; it must be a method object"),
        ({"init": MAP(n_restarts=0)}, "n_restarts=0"),
    ],
)
@pytest.mark.parametrize("cls", [SWAG, MultiSWAG])
def test_bad_parameters(cls, params, match):
    with pytest.raises(ValueError, match=match):
        cls(**params).check()
