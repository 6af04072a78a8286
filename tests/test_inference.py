"""Every method on targets that are known, and the streams of random numbers."""

import numpy as np
import pytest
import torch
from gaussian_target import correlated, linear_model, mcse_of_mean
from settings import METHOD_SETTINGS, TARGET_SETTINGS
from sklearn.base import clone

from skbayes.inference import METHODS, Streams
from skbayes.posterior import Posterior


def run(name, target, seed=1, **kwargs):
    method = clone(TARGET_SETTINGS[name]).set_params(**kwargs)
    method.check()
    return method.run(target, None, Streams(seed, method.chain_count()))


def check_mean(name, posterior, mean, cov):
    """The mean to 4 standard errors, with a tenth of a deviation for what is approximate.

    Methods that only look for the mode must come as near to it, which is the mean of these targets.
    """
    assert isinstance(posterior, Posterior)
    n_chains = 1 if METHODS[name].is_point else TARGET_SETTINGS[name].chain_count()
    assert posterior.draws.shape == (n_chains, posterior.n_draws, len(mean))
    assert posterior.last_state.shape == (n_chains, len(mean))
    assert np.isfinite(posterior.draws).all()
    for values in posterior.stats.values():
        assert values.shape[:2] == (n_chains, posterior.n_draws)
    deviation = np.sqrt(np.diag(cov))
    error = np.zeros(len(mean))
    if posterior.flat.shape[0] > 1:
        error = np.minimum(mcse_of_mean(posterior.draws.astype(np.float64)), 0.2 * deviation)
    assert np.all(np.abs(posterior.flat.mean(0) - mean) < 4 * error + 0.1 * deviation)


def test_every_method_has_its_settings():
    assert set(METHOD_SETTINGS) == set(TARGET_SETTINGS) == set(METHODS)
    for settings in (METHOD_SETTINGS, TARGET_SETTINGS):
        for name, method in settings.items():
            assert type(method) is METHODS[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_gaussian_target(name, dtype):
    if "network" in METHODS[name].needs:
        pytest.skip("looks into the network, and this target has none")
    target = correlated(5, dtype=dtype)
    posterior = run(name, target)
    assert posterior.draws.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    check_mean(name, posterior, target.mean, target.cov)


@pytest.mark.parametrize("name", METHODS)
def test_conjugate_linear_model(name):
    model = linear_model(n=40, n_outputs=2, noise=(0.5, 1.0), weighted=True)
    posterior = run(name, model.log_posterior)
    check_mean(name, posterior, model.mean, model.cov)
    # the statistics belong to the draws
    if "log_prob" in posterior.stats:
        log_prob = model.log_posterior(torch.as_tensor(posterior.flat)).numpy()
        np.testing.assert_allclose(posterior.stats["log_prob"].ravel(), log_prob, rtol=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides(name):
    target = linear_model().log_posterior
    first, again, other = (
        METHOD_SETTINGS[name].run(target, None, Streams(seed, METHOD_SETTINGS[name].chain_count()))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.draws, again.draws)
    for key, values in first.stats.items():
        np.testing.assert_array_equal(values, again.stats[key])
    if not METHODS[name].is_point:
        assert not np.array_equal(first.draws, other.draws)


@pytest.mark.parametrize("name", METHODS)
def test_global_random_states_and_the_method_are_left_alone(name):
    method = clone(METHOD_SETTINGS[name])
    before, attributes = method.get_params(), set(vars(method))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    method.run(linear_model().log_posterior, None, Streams(1, method.chain_count()))
    assert torch.equal(states[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert method.get_params().keys() == before.keys() and set(vars(method)) == attributes


# ---------------------------------------------------------------------- streams


def numbers(streams):
    """Numbers of every kind, one array per kind with chains along the first axis."""
    return [
        streams.normal(3).numpy(),
        streams.normal(2, dtype=torch.float64).numpy(),
        streams.uniform(3).numpy(),
        streams.exponential(3).numpy(),
        streams.gamma(0.7, 3).numpy(),
        streams.permutation(9),
    ]


def test_a_stream_does_not_depend_on_the_number_of_chains():
    many = numbers(Streams(4, 6))
    for few in (numbers(Streams(4, 2)), numbers(Streams(4, 6).select([0, 1]))):
        for a, b in zip(few, many, strict=True):
            np.testing.assert_array_equal(a, b[:2])
    for a, b in zip(numbers(Streams(4, 3, first=3)), many, strict=True):
        np.testing.assert_array_equal(a, b[3:])
    for a, b in zip(numbers(Streams(4, 2).child(1)), numbers(Streams(4, 5).child(1)), strict=True):
        np.testing.assert_array_equal(a, b[:2])
    for a, b in zip(
        numbers(Streams(4, 2, first=3).child(0)), numbers(Streams(4, 5).child(0)), strict=True
    ):
        np.testing.assert_array_equal(a, b[3:])


def test_streams_differ():
    sets = [Streams(4, 3), Streams(5, 3), Streams(4, 3).child(0), Streams(4, 3).child(1)]
    sets.append(Streams(4, 3).child(0).child(0))
    rows = np.concatenate([streams.normal(4).numpy() for streams in sets])
    assert len(np.unique(rows)) == rows.size


def test_a_stream_goes_on_after_selection():
    streams, other = Streams(4, 3), Streams(4, 3)
    streams.normal(2)
    chosen = streams.select([2]).normal(2)
    other.normal(2)
    assert torch.equal(chosen[0], other.normal(2)[2])


def test_moments_of_the_numbers():
    streams = Streams(0, 20)
    n = 20 * 5000
    for values, mean, variance, fourth in (
        (streams.normal(5000), 0, 1, 3),
        (streams.uniform(5000), 0.5, 1 / 12, 1 / 80),
        (streams.exponential(5000), 1, 1, 9),
        (streams.gamma(2.0, 5000, dtype=torch.float64), 2, 2, 24),
    ):
        x = values.double().numpy().ravel()
        assert abs(x.mean() - mean) < 4 * np.sqrt(variance / n)
        assert abs(((x - mean) ** 2).mean() - variance) < 4 * np.sqrt((fourth - variance**2) / n)
