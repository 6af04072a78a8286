"""Hamiltonian Monte Carlo: integrator, invariance, tuning, runs, and a logistic regression."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_target import CPU, check_moments, correlated

from skbayes.inference import HMC, Streams
from skbayes.inference.adaptation import DualAveraging, RunningVariance, windows
from skbayes.inference.hmc import _HMCKernel
from skbayes.inference.metric import DiagonalMetric
from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior

REFERENCE = Path(__file__).parent / "data" / "logistic_reference.json"


def make_kernel(target, theta, step_size, **kwargs):
    """A kernel that stays as it is: nothing is tuned."""
    return _HMCKernel(
        HMC(n_chains=len(theta), n_warmup=0, step_size=step_size, **kwargs), target, theta
    )


def tanh_network(n, dtype, seed=0, width=10):
    """A network on data of its own, and the theta that made them, an exact posterior draw."""
    rng = np.random.default_rng(seed)
    network = MLPNetwork(3, (width,), 1, "tanh")
    kw = {"dtype": dtype, "device": CPU}
    inputs = Inputs(rng.normal(size=(n, 3)), scale=network.input_scale, **kw)
    likelihood, prior = Normal(1, "learned", np.ones(1)), NormalPrior().build(network)
    target = LogPosterior(network, likelihood, prior, inputs, torch.zeros((1, 1, n), **kw))
    theta = torch.as_tensor(rng.normal(size=(1, target.n_params)), **kw)
    noise = torch.as_tensor(rng.normal(size=(1, 1, n)), **kw)
    sigma = likelihood.noise_std(target.layout.split(theta)[1], 1)[:, :, None]
    target.y = network.forward(theta[:, : network.n_params], inputs) + sigma * noise
    return target, theta


def energy_error(kernel, momentum, step_size, n_steps):
    """H at the end less H at the start, (n_chains,)."""
    _, after, value, _ = kernel.leapfrog(momentum, step_size, n_steps)
    after_less_before = kernel.metric.kinetic(after) - kernel.metric.kinetic(momentum)
    return (kernel.value - value + after_less_before).numpy()


# ---------------------------------------------------------------------- the integrator


def test_leapfrog_is_reversible():
    target, theta = tanh_network(50, torch.float64)
    theta = theta + 0.1 * Streams(1, 5).normal(target.n_params, dtype=torch.float64)
    kernel = make_kernel(target, theta, 0.02)
    kernel.metric = DiagonalMetric(0.5 + torch.rand((1, target.n_params), dtype=torch.float64))
    momentum = kernel.momentum(Streams(2, 5))
    step_size = np.linspace(0.005, 0.02, 5)
    end, after, value, grad = kernel.leapfrog(momentum, step_size, 30)
    assert float((end - theta).abs().max()) > 0.1
    back = make_kernel(target, end, 0.02)
    back.metric = kernel.metric
    start, before, value, grad = back.leapfrog(-after, step_size, 30)
    for found, expected in (
        (start, theta),
        (before, -momentum),
        (value, kernel.value),
        (grad, kernel.grad),
    ):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * max(1.0, scale))


def test_energy_error_falls_as_the_square_of_the_step():
    target, theta = tanh_network(50, torch.float64)
    theta = theta.expand(32, -1).clone()
    kernel = make_kernel(target, theta, 0.01)
    momentum = kernel.momentum(Streams(2, 32))
    errors = [energy_error(kernel, momentum, np.full(32, 0.008 / k), 20 * k) for k in (1, 2, 4)]
    size = [np.sqrt(np.mean(error**2)) for error in errors]
    assert 3.5 < size[0] / size[1] < 4.5 and 3.8 < size[1] / size[2] < 4.2
    assert size[2] > 1e-9  # well above rounding


def test_float32_energy_error_of_many_rows():
    """The sum over 100,000 rows is near 1e5; its differences must be right to far below one.

    They must be below 0.05 for the acceptance to be right to a few per cent; sums in float64 make
    them a hundred times smaller, and sums in float32 would be off by their last digit, 0.01.
    """
    errors = {}
    for dtype in (torch.float64, torch.float32):
        target, theta = tanh_network(100_000, dtype)
        kernel = make_kernel(target, theta, 1e-3)
        momentum = torch.as_tensor(np.random.default_rng(3).normal(size=theta.shape), dtype=dtype)
        errors[dtype] = np.array(
            [energy_error(kernel, momentum, np.array([step]), 20)[0] for step in (1e-3, 4e-3)]
        )
    assert np.abs(errors[torch.float64][1]) > 0.05  # a step of the size that tuning finds
    difference = np.abs(errors[torch.float32] - errors[torch.float64])
    assert difference.max() < 0.005, (difference, errors)


# ---------------------------------------------------------------------- invariance


@pytest.fixture(scope="module")
def transitions():
    """Exact draws of a Gaussian target, where one transition takes them, and its statistics."""
    n_chains = 20_000
    target = correlated(3, condition=4.0)
    before = target.sample(Streams(5, n_chains))
    kernel = make_kernel(target, before, 0.65, trajectory_length=3.0)
    kernel.metric = DiagonalMetric(torch.tensor([[2.5, 0.3, 1.0]], dtype=torch.float64))
    result = kernel.step(Streams(6, n_chains), 0)
    return target, before, kernel.theta, result


def z_score(values, expected=0.0):
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(len(values)))


def test_energy_error_obeys_its_identity(transitions):
    """E[exp(-energy error)] = 1 at stationarity, as the flow keeps volumes (Neal, 2011, 5.4)."""
    result = transitions[3]
    assert 0.6 < result["acceptance"].mean() < 0.95  # not trivially one
    assert abs(z_score(np.exp(-result["energy_error"]), 1.0)) < 4


def test_transition_leaves_the_target_invariant(transitions):
    target, before, after, result = transitions
    moved = (after != before).any(1).double().mean()
    assert abs(moved - result["acceptance"].mean()) < 0.02
    check_moments(after.numpy()[:, None], target.mean, target.cov)


def test_detailed_balance(transitions):
    """E[f(x) g(x')] = E[g(x) f(x')] for pairs of functions of the same parity."""
    target, before, after, _ = transitions
    x, new = (np.asarray(t) - target.mean for t in (before, after))
    functions = [lambda x: x[:, 0], lambda x: x[:, 0] ** 3, lambda x: x[:, 1] * x[:, 2] ** 2]
    functions += [lambda x: x[:, 1] ** 3]
    for i, f in enumerate(functions):
        for g in functions[:i]:
            assert abs(z_score(f(x) * g(new) - g(x) * f(new))) < 4


# ---------------------------------------------------------------------- tuning


def test_windows_are_stans():
    assert windows(1000) == (75, [100, 150, 250, 450, 950], 50)
    assert windows(500) == (75, [100, 150, 250, 450], 50)
    assert windows(750) == (75, [100, 150, 250, 700], 50)
    assert windows(100) == (15, [90], 10)
    assert windows(0) == (0, [], 0) and windows(19) == (19, [], 0)
    for n in range(20, 1200):
        first, ends, last = windows(n)
        assert ends[-1] == n - last and ends == sorted(set(ends)) and ends[0] > first >= 0


def test_dual_averaging_reaches_its_target():
    """Acceptance exp(-size * step) gives the step log(1 / target) / size."""
    rng = np.random.default_rng(0)
    size = np.array([0.5, 5.0, 500.0])
    for target in (0.65, 0.9):
        averaging = DualAveraging(np.ones(3), target)
        for _ in range(2000):
            noisy = np.exp(-size * averaging.step_size) + 0.1 * rng.normal(size=3)
            averaging.update(np.clip(noisy, 0.0, 1.0))
        assert np.all(np.abs(np.exp(-size * averaging.finish()) - target) < 0.02)
    averaging.restart(np.ones(3))
    np.testing.assert_array_equal(averaging.step_size, 1.0)


@pytest.mark.parametrize("target_accept", [0.6, 0.8, 0.95])
def test_tuning_of_a_run(target_accept):
    target, n_warmup = correlated(20), 700
    method = HMC(n_chains=8, n_warmup=n_warmup, target_accept=target_accept)
    streams = Streams(1, 8)
    kernel = _HMCKernel(method, target, target.sample_prior(streams))
    kernel.find_step_size(streams)
    acceptance = []
    for i in range(n_warmup):
        now = kernel.step(streams, i)
        kernel.adapt(i, n_warmup, now)
        acceptance.append(now["acceptance"])
    # the long last window, without what follows at once on the change of the masses
    assert abs(np.mean(acceptance[350:650]) - target_accept) < 0.03
    # the averaged step is smaller than many on the way, so that it is accepted more often
    fixed = [kernel.step(streams, i)["acceptance"] for i in range(100)]
    assert target_accept - 0.05 < np.mean(fixed) < 0.5 + 0.5 * target_accept + 0.05
    variance = kernel.adapted()["inverse_mass"]
    np.testing.assert_allclose(variance, np.diag(target.cov), rtol=0.25)


def test_running_variance():
    draws = np.random.default_rng(0).normal([[5.0], [-5.0]], [[1.0], [3.0]], size=(40, 2, 1))
    running = RunningVariance()
    for _ in range(2):
        running.reset()
        for draw in draws:
            running.add(torch.as_tensor(draw, dtype=torch.float32))
    within = draws.var(0, ddof=1).mean(0)  # not what lies between the chains
    expected = 80 / 85 * within + 1e-3 * 5 / 85
    np.testing.assert_allclose(running.variance().numpy(), expected, rtol=1e-6)


# ---------------------------------------------------------------------- the run


def run_small(on_step=None, seed=3, **kwargs):
    settings = {"n_chains": 3, "n_warmup": 30, "n_draws": 24, "init": "prior", **kwargs}
    return HMC(**settings).run(correlated(4), None, Streams(seed, settings["n_chains"]), on_step)


def test_thinning_keeps_every_third_draw():
    every, third = run_small(), run_small(n_draws=8, thin=3)
    np.testing.assert_array_equal(third.draws, every.draws[:, 2::3])
    for name, values in third.stats.items():
        np.testing.assert_array_equal(values, every.stats[name][:, 2::3])


def test_statistics_are_those_of_the_draws():
    posterior, target = run_small(), correlated(4)
    log_prob = target(torch.as_tensor(posterior.flat)).numpy().reshape(3, 24)
    np.testing.assert_allclose(posterior.stats["log_prob"], log_prob)
    assert all(values.shape == (3, 24) for values in posterior.stats.values())
    np.testing.assert_array_equal(posterior.last_state, posterior.draws[:, -1])
    assert not posterior.stats["diverging"].any() and not posterior.messages


@pytest.mark.parametrize("thin", [1, 3])
@pytest.mark.parametrize("stop", [1, 12, 30, 31, 40])
def test_interruption_keeps_the_draws(stop, thin):
    seen = []

    def on_step(done, total, text):
        seen.append((done, total))
        if done == stop:
            raise KeyboardInterrupt

    posterior, whole = run_small(on_step, thin=thin), run_small(thin=thin)
    assert seen == [(i + 1, 30 + 24 * thin) for i in range(stop)]
    kept = (stop - 30) // thin
    assert "interrupted" in posterior.messages[0]
    if kept > 0:
        np.testing.assert_array_equal(posterior.draws, whole.draws[:, :kept])
        kept_stats = {name: values[:, :kept] for name, values in whole.stats.items()}
    else:
        assert posterior.draws.shape == (3, 1, 4) and np.isfinite(posterior.draws).all()
        kept_stats = dict.fromkeys(whole.stats, np.empty((3, 1)))
    assert {k: v.shape for k, v in posterior.stats.items()} == {
        k: v.shape for k, v in kept_stats.items()
    }
    np.testing.assert_array_equal(posterior.last_state, posterior.draws[:, -1])


def test_starts():
    target = correlated(4)
    theta0 = target.sample(Streams(9, 3))
    method = HMC(n_chains=3, n_warmup=0, n_draws=1, step_size=1e-7)
    posterior = method.run(target, theta0, Streams(0, 3))
    np.testing.assert_allclose(posterior.draws[:, 0], theta0, atol=1e-3)
    bad = torch.full_like(theta0, torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        method.run(target, bad, Streams(0, 3))
