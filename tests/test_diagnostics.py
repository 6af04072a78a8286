"""Diagnostics on sequences whose answer is known, and the words of the warnings."""

import numpy as np
import pytest

from skbayes.diagnostics import E_BFMI_LIMIT, R_HAT_LIMIT, diagnose, e_bfmi, warnings_for
from skbayes.posterior import Posterior


def posterior(n_chains=4, n_draws=500, **kwargs):
    return Posterior(np.zeros((n_chains, n_draws, 2)), None, **kwargs)


def chains(shift=0.0, seed=0, k=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 500, k)) + shift * np.arange(4)[:, None, None]


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
    assert "Raise n_draws or n_warmup" in message


def test_one_prediction_in_disagreement_is_enough():
    values = chains()
    values[:, :, 1] += 3.0 * np.arange(4)[:, None]
    assert diagnose(posterior(), values)["r_hat_max"] > 1.5


def test_slow_chains_have_few_effective_draws():
    """A first-order autoregression has n (1 - a) / (1 + a) effective draws."""
    rng = np.random.default_rng(0)
    values = np.zeros((4, 4000, 1))
    noise = rng.normal(size=values.shape)
    for t in range(1, 4000):
        values[:, t] = 0.8 * values[:, t - 1] + noise[:, t]
    found = diagnose(posterior(n_draws=4000), values)
    assert abs(found["ess_bulk_min"] / (16_000 / 9) - 1) < 0.2


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
