"""Diagnostics on sequences whose answer is known, and the words of the warnings."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from skbayes.diagnostics import (
    E_BFMI_LIMIT,
    R_HAT_LIMIT,
    diagnose,
    e_bfmi,
    ess_bulk,
    ess_tail,
    ess_within,
    normal_scores,
    rank_r_hat,
    split_chains,
    split_r_hat,
    warnings_for,
)
from skbayes.effective_size import effective_size
from skbayes.posterior import Posterior


def posterior(n_chains=4, n_draws=500, **kwargs):
    return Posterior(np.zeros((n_chains, n_draws, 2)), None, **kwargs)


def chains(shift=0.0, seed=0, k=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 500, k)) + shift * np.arange(4)[:, None, None]


def autoregression(a, n_chains=4, n_draws=500, seed=0):
    """Chains with correlation ``a`` from draw to draw and variance one."""
    noise = np.random.default_rng(seed).normal(size=(n_chains, n_draws, 1))
    values = noise.copy()
    for t in range(1, n_draws):
        values[:, t] = a * values[:, t - 1] + np.sqrt(1 - a * a) * noise[:, t]
    return values


def r_hat_by_loops(sequences):
    """R-hat of m sequences of n draws, written out, of ranks; the larger of centre and spread."""
    centre = np.median(np.concatenate(sequences))
    found = []
    for values in (sequences, [abs(s - centre) for s in sequences]):
        ranks = stats.rankdata(np.concatenate(values))
        z = stats.norm.ppf((ranks - 3 / 8) / (len(ranks) + 1 / 4)).reshape(len(values), -1)
        m, n = z.shape
        mean = z.mean()
        between = n / (m - 1) * sum((row.mean() - mean) ** 2 for row in z)
        within = sum(((row - row.mean()) ** 2).sum() / (n - 1) for row in z) / m
        found.append(np.sqrt(((n - 1) / n * within + between / n) / within))
    return max(found)


def test_independent_chains_agree():
    values = chains()
    found = diagnose(posterior(stats={"log_prob": values[:, :, 0]}), values)
    assert 0.99 < found["r_hat_median"] <= found["r_hat_max"] < 1.02
    assert 0.99 < found["r_hat_log_prob"] < 1.02
    assert 1500 < found["ess_bulk_min"] <= found["ess_bulk_median"] < 3000
    assert 1000 < found["ess_tail_min"] < 3000
    assert warnings_for(found, 4) == []


def test_chains_that_disagree():
    found = diagnose(posterior(), chains(shift=2.0))
    assert found["r_hat_max"] > 1.5 and found["ess_bulk_min"] < 50
    (message,) = warnings_for(found, 4)
    assert f"the largest R-hat of the predictions is {found['r_hat_max']:.2f}" in message
    assert "they sit in different modes" in message


def test_one_prediction_in_disagreement_is_enough():
    values = chains()
    values[:, :, 1] += 3.0 * np.arange(4)[:, None]
    assert diagnose(posterior(), values)["r_hat_max"] > 1.5


def test_slow_chains_have_few_effective_draws():
    """A first-order autoregression has n (1 - a) / (1 + a) effective draws."""
    found = diagnose(posterior(n_draws=4000), autoregression(0.8, n_draws=4000))
    assert abs(found["ess_bulk_min"] / (16_000 / 9) - 1) < 0.2
    assert abs(found["ess_within_min"] / (16_000 / 9) - 1) < 0.2


@pytest.mark.parametrize("n_draws", [8, 100])
def test_r_hat_against_loops(n_draws):
    values = np.random.default_rng(0).standard_t(3, size=(3, n_draws, 5))
    values[0] *= 2.0  # a chain that agrees in the middle, and not in its spread
    values[1, :, 2] += 1.0
    np.testing.assert_allclose(
        rank_r_hat(values), [r_hat_by_loops(list(values[:, :, j])) for j in range(5)]
    )
    within = rank_r_hat(split_chains(values, 4))
    assert within.shape == (3, 5)
    for chain in range(3):
        for j in range(5):
            quarters = np.split(values[chain, :, j], 4)
            assert within[chain, j] == pytest.approx(r_hat_by_loops(quarters))
    expected = array_stats.rhat(values, chain_axis=0, draw_axis=1)
    np.testing.assert_allclose(split_r_hat(values), expected)


@pytest.mark.parametrize("n_chains, n_draws", [(1, 4), (2, 6), (4, 8), (1, 10), (3, 60), (2, 500)])
@pytest.mark.parametrize("a", [-0.9, 0.0, 0.5, 0.99])
def test_effective_sizes_against_arviz(n_chains, n_draws, a):
    """The same numbers, for chains of all kinds, rounded values and constants."""
    values = np.concatenate([autoregression(a, n_chains, n_draws, seed) for seed in range(12)], 2)
    values[:, :, 3] = np.round(values[:, :, 3])
    values[:, :, 4] = 1.0
    values[0, :, 5] += 5.0
    axes = {"chain_axis": 0, "draw_axis": 1}
    with np.errstate(all="ignore"):
        bulk = array_stats.ess(values, method="bulk", **axes)
        tail = array_stats.ess(values, method="tail", prob=(0.05, 0.95), **axes)
        plain = array_stats.ess(values, method="identity", **axes)
    np.testing.assert_allclose(ess_bulk(values), bulk, rtol=1e-9)
    np.testing.assert_allclose(ess_tail(values), tail, rtol=1e-9)
    np.testing.assert_allclose(effective_size(values), plain, rtol=1e-9)


def test_chains_are_cut_from_their_end():
    parts = split_chains(np.arange(11.0).reshape(1, 11, 1), 4)
    np.testing.assert_array_equal(parts[0, :, :, 0], [[3, 4], [5, 6], [7, 8], [9, 10]])


def test_modes_far_apart_are_a_disagreement_of_chains_that_mix():
    values = autoregression(0.5, n_draws=2000)
    own = [array_stats.ess(c, chain_axis=0, draw_axis=1)[0] for c in np.split(values, 4)]
    found = diagnose(posterior(n_draws=2000), values + 20.0 * np.arange(4)[:, None, None])
    assert found["r_hat_max"] > 2 and found["r_hat_between_max"] > 2
    assert found["r_hat_within_max"] < 1.03
    assert found["ess_bulk_min"] < 10
    assert found["ess_within_min"] == pytest.approx(sum(own), rel=0.1)
    (message,) = warnings_for(found, 4)
    assert "The chains do not agree" in message and "different modes" in message
    assert f"at most {found['r_hat_within_max']:.2f}" in message


def test_a_slow_random_walk_does_not_mix():
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(4, 500, 2)), 1)
    found = diagnose(posterior(), values)
    assert found["r_hat_within_max"] > 1.5 and found["ess_within_min"] < 50
    (message,) = warnings_for(found, 4)
    assert "The chains do not mix" in message and "modes" not in message
    assert f"{found['r_hat_within_max']:.2f} within a chain" in message


def test_one_chain_is_compared_with_itself():
    good = diagnose(posterior(n_chains=1), chains()[:1])
    assert good["r_hat_max"] < 1.02 and "r_hat_between_max" not in good
    assert warnings_for(good, 1) == []
    walk = np.cumsum(np.random.default_rng(0).normal(size=(1, 500, 1)), 1)
    (message,) = warnings_for(diagnose(posterior(n_chains=1), walk), 1)
    assert "The chain does not mix" in message


def test_a_chain_that_never_moves_does_not_mix():
    values = chains()
    values[2] = 0.3
    found = diagnose(posterior(), values)
    assert found["r_hat_within_max"] == np.inf
    assert (ess_within(values) < 1700).all()  # of three chains


def test_few_draws_say_nothing_of_single_chains():
    found = diagnose(posterior(n_draws=6), chains(shift=5.0)[:, :6])
    assert "r_hat_within_max" not in found
    (message,) = warnings_for(found, 4)
    assert "do not agree" in message and "Raise n_draws" in message


def test_predictions_that_never_vary_are_left_out():
    values = chains()
    values[:, :, 0] = 3.0
    found = diagnose(posterior(), values)
    assert np.isfinite(list(found.values())).all() and found["r_hat_max"] < 1.02
    assert "r_hat_max" not in diagnose(posterior(), np.ones((4, 500, 2)))


def test_statistics_of_the_sampler():
    rng = np.random.default_rng(0)
    stats = {
        "acceptance": rng.random((4, 500)),
        "diverging": rng.random((4, 500)) < 0.01,
        "energy": np.cumsum(rng.normal(size=(4, 500)), 1),
    }
    found = diagnose(posterior(stats=stats), chains())
    assert found["acceptance"] == pytest.approx(stats["acceptance"].mean())
    assert found["n_divergences"] == stats["diverging"].sum()
    assert found["e_bfmi"] == pytest.approx(e_bfmi(stats["energy"]).min())
    messages = warnings_for(found, 4)
    assert any(f"{found['n_divergences']} trajectories diverged" in m for m in messages)
    assert any("E-BFMI" in m and f"below {E_BFMI_LIMIT}" in m for m in messages)


def test_independent_members_have_no_r_hat():
    assert diagnose(posterior(independent=True), chains()) == {}
    assert diagnose(posterior(n_draws=3), chains()[:, :3]) == {}


def test_e_bfmi_of_known_sequences():
    # differences 1, -1, 1: sum of squares 3; around the mean 1/2 four times 1/4
    assert e_bfmi(np.array([[0.0, 1.0, 0.0, 1.0]]))[0] == pytest.approx(3.0)
    # 0, 1, 2, 3: differences 3, around the mean 9/4 + 1/4 + 1/4 + 9/4 = 5
    assert e_bfmi(np.array([[0.0, 1.0, 2.0, 3.0]]))[0] == pytest.approx(3.0 / 5.0)
    # independent energies: differences have twice the variance
    energy = np.random.default_rng(0).normal(size=(2, 50_000))
    np.testing.assert_allclose(e_bfmi(energy), 2.0, rtol=0.03)
    assert np.isfinite(e_bfmi(np.ones((1, 5)))).all()


def test_warnings_at_the_limits():
    assert warnings_for({"r_hat_max": R_HAT_LIMIT, "e_bfmi": E_BFMI_LIMIT}, 4) == []
    assert warnings_for({}, 4) == []
    (message,) = warnings_for({"r_hat_max": 1.05, "r_hat_log_prob": 1.3}, 4)
    assert "R-hat of the log posterior is 1.30" in message
    # what is said of the predictions is not said again of the log posterior
    assert len(warnings_for({"r_hat_max": 1.3, "r_hat_log_prob": 1.3}, 4)) == 1


def test_normal_scores_of_equal_and_missing_values():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(2, 50, 4)), 1)
    values[0, :, 1], values[1, 3, 2] = 1.0, np.nan
    expected = stats.norm.ppf((stats.rankdata(values, axis=1) - 0.375) / 50.25)
    np.testing.assert_allclose(normal_scores(values), expected, rtol=1e-12, atol=1e-12)
