"""The exact samplers on targets that are hard in a known way.

Rotated normals, two modes, and Neal's funnel; right answers where they can be had, and warnings
that name the trouble where they can not.
"""

import numpy as np
import pytest
import torch
from gaussian_target import (
    GaussianTarget,
    Mixture,
    check_moments,
    correlated,
    linear_model,
    mcse_of_mean,
)
from sklearn.base import clone

from skbayes.diagnostics import diagnose, warnings_for
from skbayes.inference import HMC, MALA, NUTS, AdjustedMCLMC, Metropolis, Streams

EXACT = {
    "metropolis": Metropolis(n_chains=64, n_warmup=1500, n_draws=100, thin=20, init="prior"),
    "mala": MALA(n_chains=64, n_warmup=500, n_draws=100, thin=10, init="prior"),
    "hmc": HMC(n_chains=64, n_warmup=150, n_draws=80, init="prior"),
    "nuts": NUTS(n_chains=64, n_warmup=150, n_draws=50, init="prior"),
    "adjusted_mclmc": AdjustedMCLMC(n_chains=64, n_warmup=150, n_draws=200, init="prior"),
}
"""Many chains and few draws: a batch of chains costs these small targets nothing."""


def run(method, target, seed=1, theta0=None, **kwargs):
    method = clone(method).set_params(**kwargs)
    method.check()
    return method.run(target, theta0, Streams(seed, method.chain_count()))


def found_wrong(posterior):
    """The warnings that a user would get, theta itself standing for the predictions."""
    diagnostics = diagnose(posterior, posterior.draws)
    return diagnostics, " ".join(warnings_for(diagnostics, posterior.n_chains))


# ---------------------------------------------------------------------- right answers


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_conjugate_linear_model(name, seed):
    model = linear_model(n_outputs=2, weighted=True, noise=(0.5, 1.0))
    posterior = run(EXACT[name], model.log_posterior, seed)
    check_moments(posterior.draws, model.mean, model.cov)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric"), [*((name, "diagonal") for name in EXACT), ("hmc", "low_rank")]
)
def test_rotated_gaussian(name, metric):
    condition = 100.0 if name in ("metropolis", "mala") else 1e4
    target = correlated(10, seed=3, condition=condition)
    more = {
        "metropolis": {"thin": 100},
        "mala": {"thin": 40},
        "hmc": {"n_draws": 300, "metric": metric},
        "nuts": {"n_warmup": 100, "n_draws": 100},
        "adjusted_mclmc": {"thin": 6},
    }
    posterior = run(EXACT[name], target, **more[name])
    check_moments(posterior.draws, target.mean, target.cov)


def test_mixture_is_the_one_meant():
    target = Mixture(3.0)
    theta = torch.randn((5, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = theta.numpy()
    shift = np.array([1.5, 0.0, 0.0])
    density = 0.7 * np.exp(-0.5 * ((x - shift) ** 2).sum(1))
    density = np.log(density + 0.3 * np.exp(-0.5 * ((x + shift) ** 2).sum(1)))
    found = target(theta).numpy()
    np.testing.assert_allclose(found - found[0], density - density[0], atol=1e-10)
    theta.requires_grad_()
    (by_autograd,) = torch.autograd.grad(target(theta).sum(), theta)
    torch.testing.assert_close(target.grad(theta.detach()), by_autograd)


@pytest.mark.parametrize("name", EXACT)
def test_overlapping_modes_get_their_weights(name):
    target = Mixture(3.0)
    posterior = run(EXACT[name], target)
    x = posterior.draws[:, :, :1].astype(float)
    right = 1.0 / (1.0 + np.exp(-(np.log(0.7 / 0.3) + 3.0 * x)))
    error = mcse_of_mean(right)[0]
    assert error < 0.03
    assert abs(right.mean() - 0.7) < 4 * error


class Funnel(GaussianTarget):
    """Neal's (2003) funnel: v ~ N(0, spread^2), x_i ~ N(0, e^v)."""

    def __init__(self, spread, d=9):
        super().__init__(np.zeros(d + 1), np.eye(d + 1))
        self.spread, self.d = spread, d

    def value_and_grad(self, theta):
        v, x = theta[:, 0].double(), theta[:, 1:].double()
        inverse = torch.exp(-v)
        square = (x * x).sum(1)
        value = -0.5 * (v / self.spread) ** 2 - 0.5 * square * inverse - 0.5 * self.d * v
        grad_v = -v / self.spread**2 + 0.5 * square * inverse - 0.5 * self.d
        grad = torch.cat([grad_v[:, None], -x * inverse[:, None]], 1)
        return value, grad.to(theta.dtype)

    def __call__(self, theta):
        return self.value_and_grad(theta)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_a_mild_funnel_is_sampled_right(name):
    kwargs = {} if name == "metropolis" else {"target_accept": 0.9}
    more = {"metropolis": {"thin": 100}, "mala": {"thin": 20}}.get(name, {"n_draws": 200})
    posterior = run(EXACT[name], Funnel(1.0), **kwargs, **more)
    v = posterior.draws[:, :, :1].astype(float)
    for values, expected in ((v, 0.0), (v**2, 1.0), (np.abs(v), np.sqrt(2 / np.pi))):
        error = mcse_of_mean(values)[0]
        assert error < 0.1
        assert abs(values.mean() - expected) < 4 * error


# ---------------------------------------------------------------------- honest failure


@pytest.mark.parametrize("name", EXACT)
def test_modes_far_apart_end_in_a_warning(name):
    target = Mixture(20.0)
    theta0 = target.initial(Streams(4, 6))
    theta0[:, 0] += torch.as_tensor(np.where(np.arange(6) % 2, 10.0, -10.0))
    posterior = run(EXACT[name], target, theta0=theta0, n_chains=6, n_draws=500)
    diagnostics, text = found_wrong(posterior)
    assert diagnostics["r_hat_max"] > 1.1
    assert "do not agree" in text and "R-hat" in text
    assert diagnostics["r_hat_within_max"] < 1.1  # each chain is well in its own mode


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_a_wild_funnel_ends_in_a_warning(name):
    posterior = run(EXACT[name], Funnel(3.0), n_chains=16)
    diagnostics, text = found_wrong(posterior)
    assert (
        diagnostics["r_hat_max"] > 1.1
        or diagnostics.get("n_divergences", 0) > 0
        or diagnostics.get("e_bfmi", 1.0) < 0.3
    )
    assert "R-hat" in text or "diverged" in text or "E-BFMI" in text


# ---------------------------------------------------------------------- nuts


@pytest.mark.slow
def test_trees_are_as_deep_as_they_need_be():
    """An easy direction turns soon, a long one late; the depth is capped and reported."""
    short = run(NUTS(n_chains=4, n_warmup=50, n_draws=50, init="prior"), correlated(3))
    long = run(
        NUTS(n_chains=4, n_warmup=50, n_draws=50, init="prior"),
        correlated(10, seed=3, condition=1e4),
    )
    capped = run(
        NUTS(n_chains=4, n_warmup=50, n_draws=50, init="prior", max_tree_depth=3),
        correlated(10, seed=3, condition=1e4),
    )
    assert short.stats["tree_depth"].mean() < 4 < long.stats["tree_depth"].mean()
    assert capped.stats["tree_depth"].max() == 3
    assert capped.stats["n_leapfrog"].max() == 7


def test_a_chain_does_not_depend_on_its_neighbours():
    """Chains leave the batch at different times; with adaptation off each goes its own way."""
    target = correlated(4, condition=20.0)
    method = NUTS(n_chains=5, n_warmup=0, n_draws=20, step_size=0.2, init="prior")
    theta0 = target.sample(Streams(3, 5))
    together = run(method, target, theta0=theta0).draws
    for c in range(5):
        alone = clone(method).set_params(n_chains=1)
        posterior = alone.run(target, theta0[c : c + 1], Streams(1, 1, first=c))
        np.testing.assert_allclose(posterior.draws[0], together[c], atol=1e-9)


def test_the_two_halves_of_a_trajectory_weigh_by_their_points():
    """Invariance in one step: exact draws stay exact draws, means and squares alike."""
    n_chains = 20_000
    target = correlated(3, condition=4.0)
    before = target.sample(Streams(5, n_chains))
    method = NUTS(n_chains=n_chains, n_warmup=0, n_draws=1, step_size=0.6)
    kernel = method._kernel(target, before)
    kernel.step(Streams(6, n_chains), 0)
    after = kernel.theta.numpy()
    white = np.linalg.solve(np.linalg.cholesky(target.cov), (after - target.mean).T)
    assert abs(np.corrcoef(white[0], (before.numpy() - target.mean)[:, 0])[0, 1]) < 0.7
    for values, expected in ((white, 0.0), (white**2, 1.0), (white[0] * white[1], 0.0)):
        values = np.atleast_2d(values)
        z = (values.mean(1) - expected) / (values.std(1) / np.sqrt(n_chains))
        assert np.all(np.abs(z) < 4), z
