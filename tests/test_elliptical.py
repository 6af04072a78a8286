"""Elliptical slices by themselves; test_subspace.py has them where users meet them."""

import numpy as np
import pytest
from gaussian_target import Mixture, correlated

from skbayes.inference import NUTS, Streams
from skbayes.inference.elliptical import EllipticalKernel


def moved(target, theta, prior_scale, n_steps, first=0):
    """Theta after some transitions, and how many densities each chain asked for."""
    target.prior_scale = prior_scale
    kernel = EllipticalKernel(NUTS(), target, theta)
    streams = Streams(1, len(theta), first=first)
    n_evaluations = sum(kernel.step(streams, i)["n_evaluations"] for i in range(n_steps))
    return kernel, n_evaluations


@pytest.mark.parametrize("prior_scale", [0.5, 1.0, 4.0])
def test_exact_draws_stay_exact_draws(prior_scale):
    """Whatever the ellipses are drawn from: the rest of the density is the likelihood."""
    target = correlated(2, seed=3)
    before = target.sample(Streams(2, 10_000))
    kernel, _ = moved(target, before, prior_scale, 2)
    centred = kernel.theta.numpy() - target.mean
    assert np.abs(np.corrcoef(centred.T, before.numpy().T)[:2, 2:]).max() < 0.9  # they did move
    products = np.einsum("ni,nj->nij", centred, centred).reshape(-1, 4)
    for values, right in ((centred, 0.0), (products, target.cov.ravel())):
        error = values.std(0) / np.sqrt(len(values))
        np.testing.assert_array_less(np.abs(values.mean(0) - right), 4.0 * error)


def test_two_modes_get_their_weights():
    """All chains start in the lighter one; those that arrive are normal there."""
    target = Mixture(apart=5.0, weight=0.7, d=2)
    theta = target.sample(Streams(2, 2000))  # around zero, of unit deviation
    theta[:, 0] -= target.half
    kernel, _ = moved(target, theta, 3.0, 60)
    x = kernel.theta[:, 0].numpy()
    assert abs((x > 0).mean() - 0.7) < 4.0 * np.sqrt(0.7 * 0.3 / len(x))
    right = x[x > 0] - target.half  # 0.6 % of each mode are beyond zero: 0.012 of the mean
    assert abs(right.mean() - 0.012) < 4.0 / np.sqrt(len(right))
    np.testing.assert_allclose(kernel.value.numpy(), target(kernel.theta).numpy(), atol=1e-12)


def test_a_chain_does_not_depend_on_its_neighbours():
    """They find their points after different numbers of shrinks."""
    target = correlated(4, condition=100.0)
    theta0 = target.sample(Streams(3, 5))
    kernel, n_evaluations = moved(target, theta0, 2.0, 10)
    assert len(set(n_evaluations)) > 1
    for c in range(5):
        alone, n_alone = moved(target, theta0[c : c + 1], 2.0, 10, first=c)
        np.testing.assert_allclose(alone.theta[0].numpy(), kernel.theta[c].numpy(), atol=1e-12)
        assert n_alone[0] == n_evaluations[c]
