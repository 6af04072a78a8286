"""Divergences against quadrature, Monte Carlo and finite differences."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from skbayes.layers import kl

MEANS = np.array([-1.3, 0.0, 0.4, 2.0])
VARIANCES = np.array([0.05, 0.5, 1.0, 2.5])


def on_logs(density):
    """The log density of log x, where x has a density of scipy's."""
    return lambda u: density.logpdf(np.exp(u)) + u


# name: divergence, and the log density of p at what is normal under q, by scipy
PAIRS = {
    "normal": (
        lambda m, v: kl.kl_normal(m, v, 0.3, 1.7),
        stats.norm(0.3, np.sqrt(1.7)).logpdf,
    ),
    "laplace": (
        lambda m, v: kl.kl_normal_laplace(m, v, 0.8),
        stats.laplace(0, 0.8).logpdf,
    ),
    "gamma": (
        lambda m, v: kl.kl_log_normal_gamma(m, v, 0.5, 1.44),
        on_logs(stats.gamma(0.5, scale=1.44)),
    ),
    "inverse_gamma": (
        lambda m, v: kl.kl_log_normal_inverse_gamma(m, v, 0.5, 0.7),
        on_logs(stats.invgamma(0.5, scale=0.7)),
    ),
    "gamma of shape 2": (
        lambda m, v: kl.kl_log_normal_gamma(m, v, 2.0, 0.5),
        on_logs(stats.gamma(2.0, scale=0.5)),
    ),
}
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


def grid(dtype=torch.float64):
    m, v = np.meshgrid(MEANS, VARIANCES)
    return torch.as_tensor(m.ravel(), dtype=dtype), torch.as_tensor(v.ravel(), dtype=dtype)


def by_quadrature(log_p, mean, var):
    q = stats.norm(mean, np.sqrt(var))
    span = mean - 12 * np.sqrt(var), mean + 12 * np.sqrt(var)
    points = [0.0, mean] if span[0] < 0 < span[1] else [mean]
    value = integrate.quad(
        lambda w: q.pdf(w) * (q.logpdf(w) - log_p(w)), *span, points=points, limit=200
    )
    return value[0]


@EVERY_PAIR
def test_quadrature(name):
    divergence, log_p = PAIRS[name]
    mean, var = grid()
    expected = [by_quadrature(log_p, m, v) for m, v in zip(mean.numpy(), var.numpy(), strict=True)]
    found = divergence(mean, var)
    assert found.shape == mean.shape and bool((found >= 0).all())
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    single = divergence(*grid(torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@EVERY_PAIR
def test_monte_carlo_in_the_right_direction(name):
    """An asymmetric pair: draws are from q, and KL(p || q) would be far off."""
    divergence, log_p = PAIRS[name]
    mean, var = -1.0, 0.2
    q = stats.norm(mean, np.sqrt(var))
    w = q.rvs(40_000, random_state=np.random.default_rng(0))
    logs = q.logpdf(w) - log_p(w)
    found = float(divergence(torch.tensor(mean), torch.tensor(var)))
    assert abs(found - logs.mean()) < 4 * logs.std() / np.sqrt(len(w))
    span = (-60, 60) if name in ("normal", "laplace") else (-60, 8)
    other = integrate.quad(
        lambda x: np.exp(log_p(x)) * (log_p(x) - q.logpdf(x)), *span, points=[0.0, -2.0], limit=400
    )[0]
    assert abs(found - other) > 0.5


def test_zero_at_equal_densities():
    mean, var = grid()
    np.testing.assert_allclose(kl.kl_normal(mean, var, mean, var), 0.0, atol=1e-15)
    away = kl.kl_normal(mean, var, mean + 1e-3, var * 1.001)
    assert bool((away > 0).all())


@EVERY_PAIR
def test_gradients(name):
    mean, var = (part.requires_grad_() for part in grid())
    assert torch.autograd.gradcheck(PAIRS[name][0], (mean, var))


def test_product_of_the_pair_is_half_cauchy():
    """sqrt(a b) with a gamma and b inverse-gamma, the pair that the divergences belong to."""
    rng = np.random.default_rng(0)
    a = stats.gamma(0.5, scale=0.7**2).rvs(20_000, random_state=rng)
    b = stats.invgamma(0.5).rvs(20_000, random_state=rng)
    assert stats.kstest(np.sqrt(a * b), stats.halfcauchy(scale=0.7).cdf).pvalue > 1e-3


# ------------------------------------------------------------------ log-uniform

LOG_ALPHA = np.r_[np.linspace(-14.0, 10.0, 49), -4.2767, -4.2766, 7.13, 7.14]  # around the branches


def test_log_uniform_is_the_integral_of_dawsons():
    x = np.exp(-0.5 * LOG_ALPHA) * 0.5**0.5
    expected = [
        2 * sum(integrate.quad(special.dawsn, *span, epsabs=1e-13)[0] for span in
                zip([0, *[c for c in (1.0, 4.0, 16.0, 64.0, 256.0) if c < end]],
                    [*[c for c in (1.0, 4.0, 16.0, 64.0, 256.0) if c < end], end], strict=True))
        for end in x
    ]  # fmt: skip
    value, slope = kl.kl_log_uniform_and_slope(torch.as_tensor(LOG_ALPHA))
    np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(slope, -x * special.dawsn(x), rtol=1e-10)
    assert bool((value > 0).all())
    last = kl.kl_log_uniform(torch.tensor([60.0, torch.inf], dtype=torch.float64))
    assert float(last[0]) < 1e-20 and float(last[1]) == 0.0


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")  # log 0
def test_log_uniform_by_its_definition():
    """Differences between alphas are those of E log|w| minus the entropy, by quadrature."""
    alpha, mu = np.array([0.05, 0.5, 3.0]), 1.7
    exact = kl.kl_log_uniform(torch.as_tensor(np.log(alpha))).numpy()
    defined = []
    for a in alpha:
        q = stats.norm(mu, mu * np.sqrt(a))
        ends = [(-40.0, -1e-9), (1e-9, 1.0), (1.0, 3.0), (3.0, 40.0)]
        logs = sum(
            integrate.quad(lambda w, q=q: q.pdf(w) * np.log(abs(w)), *span, limit=300)[0]
            for span in ends
        )
        defined.append(logs - q.entropy())
    np.testing.assert_allclose(np.diff(exact), np.diff(defined), atol=1e-6)


def test_log_uniform_approximations():
    log_alpha = torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    exact = kl.kl_log_uniform(log_alpha)
    error = (kl.kl_log_uniform_molchanov(log_alpha) - exact).abs().max()
    assert 0.005 < error < 0.0095
    small = log_alpha[log_alpha <= 0]
    error = (kl.kl_log_uniform_kingma(small) - exact[: len(small)]).abs().max()
    assert 0.01 < error < 0.0235
    with pytest.raises(ValueError, match="alpha <= 1"):
        kl.kl_log_uniform_kingma(log_alpha)


@pytest.mark.parametrize(
    "function", [kl.kl_log_uniform, kl.kl_log_uniform_molchanov, kl.kl_log_uniform_kingma]
)
def test_gradients_of_log_uniform(function):
    high = -0.1 if function is kl.kl_log_uniform_kingma else 9.0
    log_alpha = torch.linspace(-9.0, high, 23, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, log_alpha)
    assert function(log_alpha.float()).dtype == torch.float32
