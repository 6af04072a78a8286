"""Stochastic-gradient chains against their own theory on a linear model, where all is known."""

from functools import partial

import numpy as np
import pytest
import torch
from gaussian_target import GaussianTarget, linear_model

from skbayes.inference import (
    CSGMCMC,
    MAP,
    METHODS,
    PSGLD,
    SGHMC,
    SGLD,
    SGLMC,
    SGNHT,
    ConstantSGD,
    Streams,
)
from skbayes.inference.constant_sgd import _ConstantSGDKernel
from skbayes.inference.stochastic import StochasticKernel, StochasticMethod, slower

STOCHASTIC = [name for name, cls in METHODS.items() if issubclass(cls, StochasticMethod)]


class Theory:
    """Gradients of minibatches of a linear model, drawn with repetition, and what follows."""

    def __init__(self, model, batch_size):
        self.A = np.column_stack([model.X, np.ones(len(model.X))])
        self.n, self.d = self.A.shape
        self.precision = float(model.log_posterior.likelihood.noise[0]) ** -2.0
        self.prior = model.prior_scale[:, 0] ** -2.0
        self.mean, self.cov = model.mean, model.cov
        self.hessian = np.linalg.inv(model.cov)
        self.by_rows = self.hessian - np.diag(self.prior)
        self.residual = model.y[:, 0] - self.A @ self.mean
        self.batch_size = batch_size

    def noise(self, cov):
        """Covariance of the gradient, averaged over theta of covariance ``cov`` (d, d)."""
        square = np.einsum("ij,jk,ik->i", self.A, cov, self.A) + self.residual**2
        rows = self.precision**2 * (self.A.T * square) @ self.A * self.n
        centre = self.prior * self.mean  # gradient of the likelihood at the posterior's mean
        whole = self.by_rows @ cov @ self.by_rows + np.outer(centre, centre)
        return (rows - whole) / self.batch_size

    def sgld(self, epsilon, scale=1.0):
        """Covariance of theta; ``scale`` is a fixed diagonal preconditioner."""
        G = np.diag(np.broadcast_to(scale, self.d))
        M = np.eye(self.d) - 0.5 * epsilon * G @ self.hessian
        return self.stationary(
            M, lambda cov: epsilon * G + 0.25 * epsilon**2 * G @ self.noise(cov) @ G
        )

    def constant(self, H):
        M = np.eye(self.d) - H @ self.hessian
        return self.stationary(M, lambda cov: H @ self.noise(cov) @ H.T)

    def sghmc(self, eta, alpha, corrected=True):
        d, eye = self.d, np.eye(self.d)
        M = np.block(
            [
                [eye - eta * self.hessian, (1 - alpha) * eye],
                [-eta * self.hessian, (1 - alpha) * eye],
            ]
        )

        def shocks(cov):
            noise = self.noise(cov[:d, :d])
            heat = alpha - 0.5 * eta * np.diag(noise) * corrected
            part = eta**2 * noise + 2 * eta * np.diag(heat)
            return np.block([[part, part], [part, part]])

        cov = self.stationary(M, shocks)[:d, :d]
        assert (0.5 * eta * np.diag(self.noise(cov)) < alpha).all()  # else there is a limit
        return cov

    @staticmethod
    def stationary(M, shocks):
        """Solve cov = M cov M' + shocks(cov), which is linear up to a constant."""
        d = len(M)
        constant = shocks(np.zeros((d, d)))
        columns = []
        for unit in np.eye(d * d).reshape(-1, d, d):
            columns.append((M @ unit @ M.T + shocks(unit) - constant).ravel())
        return np.linalg.solve(np.eye(d * d) - np.array(columns).T, constant.ravel()).reshape(d, d)


@pytest.fixture(scope="module")
def model():
    return linear_model(n=60, d=2, noise=0.7)


def draws(method, model, seed=1):
    method.check()
    with torch.no_grad():
        return method.run(model.log_posterior, None, Streams(seed, method.chain_count()))


def check_cov(posterior, mean, cov):
    """Second moments about the mean, with errors from the chains, which are independent."""
    x = posterior.draws - mean
    moments = np.einsum("cdi,cdj->cij", x, x) / x.shape[1]
    error = moments.std(0, ddof=1) / np.sqrt(len(x))
    z = (moments.mean(0) - cov) / error
    assert np.abs(z).max() < 4, f"z = {np.round(z, 1)}"
    # the errors are small enough for the check to tell this covariance from another
    assert (np.diag(error) < 0.06 * np.diag(cov)).all()


LONG = {"n_chains": 100, "n_warmup": 10, "init": MAP(max_epochs=200)}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [6, 30])
@pytest.mark.parametrize("rate", [0.2, 0.1])
def test_sgld_has_the_stationary_covariance(model, rate, batch_size):
    theory = Theory(model, batch_size)
    method = SGLD(
        **LONG, n_draws=40, n_steps=25, batch_size=batch_size, learning_rate=rate, decay=0
    )
    check_cov(draws(method, model), model.mean, theory.sgld(rate / 60))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.005])
def test_sghmc_has_the_stationary_covariance(model, rate):
    theory = Theory(model, 20)
    method = SGHMC(**LONG, n_draws=60, n_steps=25, batch_size=20, learning_rate=rate, friction=0.3)
    check_cov(draws(method, model), model.mean, theory.sghmc(rate / 60, 0.3))


@pytest.mark.slow
def test_sghmc_without_the_correction_is_as_wide_as_its_theory(model):
    theory = Theory(model, 20)
    method = SGHMC(
        **LONG,
        n_draws=60,
        n_steps=25,
        batch_size=20,
        learning_rate=0.01,
        friction=0.3,
        noise_correction=False,
    )
    exact = theory.sghmc(0.01 / 60, 0.3, corrected=False)
    assert (np.diag(exact) > 1.1 * np.diag(theory.sghmc(0.01 / 60, 0.3))).all()
    check_cov(draws(method, model), model.mean, exact)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.2, 0.1])
def test_psgld_has_the_stationary_covariance_of_its_preconditioner(model, rate):
    """With a memory so long that G stays where it began, as chains from one start share it."""
    theory = Theory(model, 10)
    method = PSGLD(
        **LONG, n_draws=40, n_steps=25, batch_size=10, learning_rate=rate, decay=0, alpha=0.99999
    ).set_params(damping=1.0)
    start = torch.as_tensor(model.mean)[None].expand(100, -1).clone()
    target = model.log_posterior.minibatch(np.arange(10))
    square = (target.grad(start[:1])[0].numpy() / 60) ** 2
    with torch.no_grad():
        posterior = method.run(model.log_posterior, start, Streams(2, 100))
    scale = 1.0 / (1.0 + np.sqrt(square))
    check_cov(posterior, model.mean, theory.sgld(rate / 60, scale))


def excess(cov, exact):
    return np.diag(cov) / np.diag(exact) - 1.0


def test_the_bias_falls_with_the_step_at_the_order_of_the_theory(model):
    """Of first order in the step for both, as what the chains above are compared with says."""
    for batch_size in (6, 30):
        theory = Theory(model, batch_size)
        for function, rate in (
            (theory.sgld, 0.02 / 60),
            (partial(theory.sghmc, alpha=0.3), 0.002 / 60),
        ):
            whole, half = (excess(function(r), model.cov) for r in (rate, rate / 2))
            np.testing.assert_allclose(whole / half, 2.0, rtol=0.1)
            assert (np.abs(half) < 0.1).all()
    # the step is what counts, not the batch, when the step is small
    few, many = (Theory(model, b).sgld(1e-4 / 60) for b in (6, 30))
    np.testing.assert_allclose(np.diag(few), np.diag(many), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SGLD(decay=0), PSGLD(decay=0), SGHMC(), SGNHT()])
def test_default_rates_leave_the_posterior_nearly_as_wide_as_it_is(method):
    model = linear_model(n=1000, d=2, noise=0.7)
    method.set_params(n_chains=50, n_warmup=10, n_draws=20, n_steps=60, batch_size=50)
    posterior = draws(method.set_params(init=MAP()), model)
    ratio = posterior.flat.std(0) / np.sqrt(np.diag(model.cov))
    assert ((ratio > 0.9) & (ratio < 1.25)).all(), ratio


class Noisy(GaussianTarget):
    """A unit Gaussian whose gradients carry noise of a variance, alike in all directions."""

    def __init__(self, d, variance):
        super().__init__(np.zeros(d), np.eye(d), n=1000)
        self.variance, self.rng = variance, np.random.default_rng(0)

    def minibatch(self, index):
        return self

    def grad(self, theta):
        noise = torch.as_tensor(self.rng.normal(size=tuple(theta.shape)))
        return super().grad(theta) + self.variance**0.5 * noise


@pytest.mark.slow
def test_the_thermostat_of_sgnht_takes_up_the_noise_of_gradients():
    """To some percent, which leaves no order to be seen; with fixed friction it is far off."""
    spread = {}
    for rate in (50.0, 25.0):  # steps of 0.05 and 0.025 on the log posterior
        method = SGNHT(
            n_chains=20,
            n_warmup=60,
            n_draws=60,
            n_steps=20,
            batch_size=10,
            learning_rate=rate,
            friction=0.1,
            init="prior",
        )
        posterior = method.run(Noisy(100, 6.0), None, Streams(1, 20))
        spread[rate] = float((posterior.draws**2).mean())
        mean = posterior.draws.mean((1, 2))
        assert abs(mean.mean()) < 4 * mean.std(ddof=1) / np.sqrt(20)
    method = SGHMC(
        n_chains=20,
        n_warmup=60,
        n_draws=50,
        n_steps=20,
        batch_size=10,
        learning_rate=50.0,
        friction=0.1,
        noise_correction=False,
        init="prior",
    )
    wrong = float((method.run(Noisy(100, 6.0), None, Streams(1, 20)).draws ** 2).mean())
    assert wrong > 1.8
    for value in spread.values():
        assert abs(value - 1) < 0.02


class Flat(GaussianTarget):
    """A density without slopes."""

    def value_and_grad(self, theta):
        return theta.double().sum(1) * 0.0, torch.zeros_like(theta)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize(
    ("method", "variance"),
    [
        (SGLD(learning_rate=0.5), 0.5),
        (PSGLD(learning_rate=0.5, damping=0.2), 0.5 / 0.2),
        (SGLMC(learning_rate=0.5), 0.5),
        (SGHMC(learning_rate=0.5, friction=0.2), 2 * 0.2 * 0.5),
        # and what is left of the first velocity
        (SGNHT(learning_rate=0.5, friction=0.2), 2 * 0.2 * 0.5 + 0.8**2 * 0.5),
    ],
)
def test_noise_injected_where_there_is_no_gradient(method, variance, temperature):
    target = Flat(np.zeros(500), np.eye(500), n=10)
    method.set_params(n_chains=40, n_warmup=0, n_draws=1, n_steps=1, temperature=temperature)
    start = torch.zeros((40, 500), dtype=torch.float64)
    moved = method.run(target, start, Streams(3, 40)).flat
    expected = temperature * variance / 10
    assert abs(moved.var() / expected - 1) < 4 * np.sqrt(2 / moved.size)


def test_control_variates_do_not_move_the_mean_and_take_the_noise_at_their_centre(model):
    method = SGLD(n_chains=1, batch_size=5, learning_rate=0.1, control_variates=True)
    centre = torch.as_tensor(model.mean)[None] + 0.1
    kernel = method._kernel(model.log_posterior, centre)
    index = np.arange(60).reshape(12, 1, 5)  # every row once
    exact = model.log_posterior.grad(centre)
    for batch in index:
        torch.testing.assert_close(kernel.gradient(batch, centre), exact)
    other = centre + 0.3
    mean = torch.stack([kernel.gradient(batch, other) for batch in index]).mean(0)
    torch.testing.assert_close(mean, model.log_posterior.grad(other))


def test_draws_of_falling_steps_are_equally_far_apart(model):
    sizes = []
    method = SGLD(n_chains=1, n_steps=20, batch_size=10, learning_rate=0.05, decay_steps=50)
    kernel = method._kernel(model.log_posterior, torch.as_tensor(model.mean)[None])
    move = kernel.move

    def remember(streams, epsilon):
        sizes.append(float(epsilon[0, 0]))
        move(streams, epsilon)

    kernel.move = remember
    streams, ends = Streams(0, 1), [0]
    for i in range(30):
        kernel.step(streams, i)
        ends.append(len(sizes))
    expected = 0.05 / 60 * (1 + np.arange(len(sizes)) / 50) ** -0.55
    np.testing.assert_allclose(sizes, expected, rtol=1e-10)  # Welling and Teh's schedule
    passed = np.diff(np.concatenate([[0.0], np.cumsum(sizes)])[ends])
    np.testing.assert_allclose(passed, 20 * 0.05 / 60, rtol=0.06)
    assert np.diff(ends)[-1] > 2 * np.diff(ends)[0]


def test_sglmc_on_all_rows_is_exact(model):
    method = SGLMC(**LONG, n_draws=30, n_steps=20, batch_size=60, learning_rate=0.4)
    posterior = draws(method, model)
    check_cov(posterior, model.mean, model.cov)
    assert not posterior.messages


def test_sglmc_subtracts_half_the_variance_of_the_difference(model):
    """One step by hand, on a minibatch."""
    method = SGLMC(n_chains=3, n_warmup=0, n_draws=1, n_steps=1, batch_size=7, learning_rate=0.3)
    start = torch.as_tensor(model.mean)[None] + 0.05 * torch.arange(3.0)[:, None]
    posterior = method.run(model.log_posterior, start, Streams(5, 3))
    assert "do not converge" in posterior.messages[0]
    A = np.column_stack([model.X, np.ones(60)])
    own = Streams(5, 3)
    index = np.stack([g.integers(60, size=7) for g in own.generators])
    noise = own.normal(3, dtype=torch.float64).numpy()

    def rows(theta, batch):  # log likelihood of each, up to a constant
        return -0.5 * ((model.y[batch, 0] - A[batch] @ theta) / 0.7) ** 2

    def grad(theta, batch):
        slope = A[batch].T @ (model.y[batch, 0] - A[batch] @ theta) / 0.49
        return 60 / 7 * slope - theta

    for c in range(3):
        here, batch, eps = start[c].numpy(), index[c], 0.3 / 60
        there = here + 0.5 * eps * grad(here, batch) + np.sqrt(eps) * noise[c]
        change = rows(there, batch) - rows(here, batch)
        delta = 60 / 7 * change.sum() - 0.5 * (there @ there - here @ here)
        to = there - here - 0.5 * eps * grad(here, batch)
        back = here - there - 0.5 * eps * grad(there, batch)
        ratio = delta + (to @ to - back @ back) / (2 * eps) - 0.5 * 60**2 / 7 * change.var(ddof=1)
        assert np.isclose(posterior.stats["acceptance"][c, 0], min(1, np.exp(ratio)))


def test_cycles_follow_their_schedule(model):
    method = CSGMCMC(
        n_chains=2, draws_per_cycle=2, n_draws=6, n_steps=50, batch_size=10, learning_rate=0.1
    )
    kernel = method._kernel(model.log_posterior, torch.as_tensor(model.mean)[None].repeat(2, 1))
    sizes, noisy = [], []
    kernel.gradient = lambda index, theta: torch.zeros_like(theta)
    size = kernel.size

    def remember(t):
        sizes.append(size(t))
        return sizes[-1]

    kernel.size = remember
    move = kernel.move

    def moved(streams, epsilon):
        noisy.append(kernel.t)
        return move(streams, epsilon)

    kernel.move = moved
    at = []
    for i in range(6):
        kernel.step(Streams(0, 2), i)
        at.append(kernel.t)
    k = np.arange(150)
    np.testing.assert_allclose(sizes, 0.5 * (np.cos(np.pi * (k % 50) / 50) + 1))
    assert noisy == [t for t in range(150) if t % 50 >= 40]
    assert at == [45, 50, 95, 100, 145, 150]


# ----------------------------------------------------------------- constant rate


@pytest.mark.slow
@pytest.mark.parametrize("preconditioner", ["scalar", "diagonal", "full"])
def test_constant_sgd_solves_its_lyapunov_equation(preconditioner):
    model = linear_model(n=400, d=2, noise=0.7)
    method = ConstantSGD(
        **{**LONG, "n_warmup": 100},
        n_draws=40,
        n_steps=30,
        batch_size=20,
        preconditioner=preconditioner,
    )
    theory = Theory(model, 20)
    posterior = draws(method, model)
    gain = posterior.adapted["preconditioner"]
    gain = gain if preconditioner == "full" else np.eye(3) * gain[:, None]
    exact = np.mean([theory.constant(H) for H in gain], 0)  # each chain has estimated its own
    check_cov(posterior, model.mean, exact)
    # and H is the paper's, of the covariance at the mode
    V = theory.noise(np.zeros((3, 3)))
    best = {
        "scalar": 2 * 3 / np.trace(V) * np.eye(3),
        "diagonal": np.diag(2 / np.diag(V)),
        "full": 2 * np.linalg.inv(V),
    }[preconditioner]
    np.testing.assert_allclose(gain.mean(0), best, atol=0.05 * np.abs(best).max())
    if preconditioner == "full":
        ratio = np.einsum("cdi,cdi->i", *[posterior.draws - model.mean] * 2) / 4000
        assert np.abs(ratio / np.diag(model.cov) - 1).max() < 0.15


def test_constant_sgd_says_when_its_steps_are_not_safe():
    model = linear_model(n=60, d=2, noise=0.7)
    method = ConstantSGD(n_chains=2, n_warmup=20, n_draws=2, n_steps=5, batch_size=50)
    assert "not safe" in draws(method, model).messages[0]


@pytest.mark.parametrize(
    ("params", "match"),
    [({"batch_size": 60}, "batch_size=60"), ({"preconditioner": "full"}, "at most 2")],
)
def test_constant_sgd_refuses(model, params, match, monkeypatch):
    monkeypatch.setattr("skbayes.inference.constant_sgd.MOST_PARAMS", 2)
    method = ConstantSGD(n_chains=2, n_warmup=2, n_draws=2).set_params(**params)
    with pytest.raises(ValueError, match=match):
        draws(method, model)


@pytest.mark.parametrize("rows", [2000, 30])
@pytest.mark.parametrize("far", [1e8, np.inf, np.nan])
def test_constant_sgd_takes_back_an_iteration_that_diverges(model, far, rows, monkeypatch):
    """Also where it has not reached infinity yet: what is restored must be near the mode."""
    monkeypatch.setattr("skbayes.inference.stochastic.CURVATURE_ROWS", rows)
    step = _ConstantSGDKernel.move

    def move(kernel, streams, epsilon):
        step(kernel, streams, epsilon)
        if kernel.t == 38:  # in the fourth of the iterations whose draws are kept
            kernel.theta[1] = far

    monkeypatch.setattr(_ConstantSGDKernel, "move", move)
    method = ConstantSGD(n_chains=2, n_warmup=4, n_draws=6, n_steps=5, init=MAP(max_epochs=50))
    posterior = draws(method, model)
    assert np.abs(posterior.draws).max() < 5
    assert (posterior.draws[1, 3] == posterior.draws[1, 2]).all()
    assert (posterior.draws[0, 3] != posterior.draws[0, 2]).all()
    assert any("not safe" in message for message in posterior.messages)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", STOCHASTIC)
def test_rows_without_weight_do_not_matter(name):
    """Nor does the scale of the weights to where a rate leads, see `StochasticMethod`."""
    model = linear_model(n=50, weighted=True)
    assert (model.weight == 0).any()
    method = METHODS[name](n_chains=2, n_draws=4, n_steps=60, init=MAP(max_epochs=20))
    if "n_warmup" in method.get_params():
        method.set_params(n_warmup=2)
    if "batch_size" in method.get_params():
        method.set_params(batch_size=5)
    assert np.isfinite(draws(method, model).draws).all()


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht", "csgmcmc"])
def test_a_default_rate_that_is_too_high_is_halved(model, name, monkeypatch):
    """The curvature may be larger elsewhere than where a chain starts."""
    curvature = StochasticKernel._largest_curvature

    def one_is_flat(kernel, streams):
        return curvature(kernel, streams) * torch.tensor([[1.0], [2e-3]])

    monkeypatch.setattr(StochasticKernel, "_largest_curvature", one_is_flat)
    method = METHODS[name](n_chains=2, n_draws=4, n_steps=300, init=MAP(max_epochs=20))
    if "n_warmup" in method.get_params():
        method.set_params(n_warmup=2)
    posterior = draws(method, model)
    assert np.abs(posterior.draws).max() < 100
    assert any("ran away" in message for message in posterior.messages)
    first, second = posterior.stats["step_size"][:, -1]
    assert second < 100 * first  # from 500 times


def test_halved_steps_have_velocities_of_their_own_temperature(model):
    """v^2 / rate, whose mean is the temperature, stays what it was."""
    method = SGHMC(n_chains=2, n_steps=200)
    streams = Streams(0, 2)
    theta = torch.as_tensor(np.tile(model.mean, (2, 1)))
    kernel = method._kernel(model.log_posterior, theta)
    kernel.find_step_size(streams)
    kernel.step(streams, 0)
    before = kernel.state()
    after = slower(before, np.array([[1.0], [0.25]]))
    for i, factor in enumerate((1.0, 0.25)):
        np.testing.assert_allclose(after["rate"][i], factor * before["rate"][i])
        heat = [(state["velocity"][i] ** 2 / state["rate"][i]).mean() for state in (before, after)]
        np.testing.assert_allclose(heat[1], heat[0])
    np.testing.assert_array_equal(after["theta"], before["theta"])


def test_halvings_are_said_once_and_besides_other_things(model):
    settings = {"n_draws": 3, "n_steps": 20, "n_warmup": 1, "batch_size": 5}
    method = SGLMC(n_chains=2, **settings, init=MAP(max_epochs=20))
    streams = Streams(0, 2)
    kernel = method._kernel(model.log_posterior, torch.as_tensor(np.tile(model.mean, (2, 1))))
    own = list(kernel.messages)
    assert own
    for n in (1, 2):
        kernel.restore({**slower(kernel.state(), 0.5), "halvings": np.array(n)})
        assert kernel.messages[:-1] == own and "ran away" in kernel.messages[-1]
    posterior = method.run(model.log_posterior, None, streams)
    state = posterior.state["groups"][0]
    state["kernel"]["halvings"] = np.array(20)
    later = method.run(model.log_posterior, None, Streams(1, 2), state=state)
    assert not any("ran away" in message for message in later.messages)


@pytest.mark.parametrize("name", [n for n in STOCHASTIC if n != "constant_sgd"])
def test_a_rate_too_high_is_named(model, name):
    method = METHODS[name](n_chains=2, n_draws=4, n_steps=300, learning_rate=50.0)
    method.set_params(batch_size=5, init="prior", **({} if name == "csgmcmc" else {"n_warmup": 0}))
    if name == "sglmc":
        assert draws(method, model).stats["acceptance"].max() < 0.01  # it stays where it is
    elif name != "psgld":  # whose preconditioner grows with the gradient
        with pytest.raises(ValueError, match=r"learning_rate=50\.0"):
            draws(method, model)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": "auto"}, "learning_rate='auto'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"n_steps": 1.5}, "n_steps=1.5"),
        ({"temperature": -1}, "temperature=-1"),
        ({"control_variates": "yes"}, "control_variates='yes'"),
        ({"decay": 2}, "decay=2"),
    ],
)
def test_bad_parameters_are_named(params, match):
    with pytest.raises(ValueError, match=match):
        SGLD(**params).check()


def test_more_bad_parameters_are_named():
    for method, match in (
        (PSGLD(alpha=1), "alpha=1"),
        (SGHMC(friction=0), "friction=0"),
        (SGNHT(thermostat_rate=0), "thermostat_rate=0"),
        (CSGMCMC(draws_per_cycle=0), "draws_per_cycle=0"),
        (CSGMCMC(exploration=1), "exploration=1"),
        (SGLMC(temperature=0), "temperature=0"),
        (ConstantSGD(preconditioner="half"), "preconditioner='half'"),
    ):
        with pytest.raises(ValueError, match=match):
            method.check()
