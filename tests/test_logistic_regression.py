"""Samplers on a logistic regression, against moments by another program."""

import numpy as np
import pytest
import torch
from gaussian_target import mcse_of_mean
from logistic import REFERENCE, logistic_target

from skbayes.inference import HMC, MCLMC, NUTS, AdjustedMCLMC, Streams

MEAN, SQUARE = np.array(REFERENCE["mean"]), np.array(REFERENCE["square"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "method",
    [
        HMC(n_chains=48, n_warmup=120, n_draws=70),
        NUTS(n_chains=48, n_warmup=100, n_draws=50),
        AdjustedMCLMC(n_chains=48, n_warmup=120, n_draws=170),
    ],
    ids=lambda method: type(method).__name__,
)
def test_means_and_squares(method, dtype):
    posterior = method.run(logistic_target(dtype), None, Streams(4, 48))
    centred = posterior.draws.astype(np.float64) - MEAN
    assert np.all(mcse_of_mean(centred) < 0.03 * np.array(REFERENCE["sd"]))
    for values, expected, error in (
        (centred, 0.0, REFERENCE["mcse_mean"]),
        (centred**2, SQUARE, REFERENCE["mcse_square"]),
    ):
        combined = np.hypot(mcse_of_mean(values), error)
        z = (values.mean((0, 1)) - expected) / combined
        assert np.all(np.abs(z) < 4), z


@pytest.mark.slow
def test_bias_of_mclmc_at_its_defaults():
    """Variances within 10 %."""
    method = MCLMC(n_chains=192, n_warmup=120, n_draws=50)
    posterior = method.run(logistic_target(), None, Streams(4, 192))
    centred = posterior.draws - MEAN
    ratio = (centred**2).mean((0, 1)) / SQUARE
    error = np.hypot(mcse_of_mean(centred**2), REFERENCE["mcse_square"]) / SQUARE
    assert np.all(error < 0.03)
    assert np.all(np.abs(ratio - 1.0) < 0.1 + 2 * error), ratio
