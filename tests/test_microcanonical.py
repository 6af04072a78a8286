"""The dynamics of inference/microcanonical.py: reversibility, volume, energy; the bias of mclmc."""

import numpy as np
import pytest
import torch
from gaussian_target import GaussianTarget, Mixture, correlated, linear_model, mcse_of_mean

from skbayes.inference import MCLMC, AdjustedMCLMC, Streams


def run(method, target, seed=1):
    return method.run(target, None, Streams(seed, method.chain_count()))


def adjusted_kernel(target, theta, step_size):
    method = AdjustedMCLMC(n_chains=len(theta), n_warmup=0, step_size=step_size)
    kernel = method._kernel(target, theta)
    scale = np.linspace(0.5, 1.5, theta.shape[1])
    kernel.metric = type(kernel.metric)(torch.as_tensor(scale[None] ** 2, dtype=theta.dtype))
    return kernel


def test_adjusted_mclmc_is_reversible():
    target = Mixture(3.0, d=6)
    theta = target.initial(Streams(1, 7))
    kernel = adjusted_kernel(target, theta, 0.1)
    u = kernel.momentum(Streams(2, 7))
    step = np.linspace(0.05, 0.2, 7)
    end_u = u.clone()
    end, _, grad, kinetic = kernel.follow(end_u, step, 25, theta, kernel.grad)
    assert float((end - theta).abs().max()) > 0.5
    back_u = -end_u
    back, value, _, back_kinetic = kernel.follow(back_u, step, 25, end, grad)
    torch.testing.assert_close(back, theta, rtol=0, atol=1e-10)
    torch.testing.assert_close(back_u, -u, rtol=0, atol=1e-10)
    torch.testing.assert_close(value, kernel.value, rtol=0, atol=1e-10)
    np.testing.assert_allclose(back_kinetic, -kinetic, atol=1e-10)


def test_kinetic_energy_is_the_volume_of_the_map():
    """exp(-kinetic) times the volume that (x, u) gains is one: what detailed balance asks for."""
    target = Mixture(3.0, d=2)
    theta = torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    kernel = adjusted_kernel(target, theta, 0.3)
    kernel.metric = type(kernel.metric)(torch.ones((1, 2), dtype=torch.float64))

    def end(x, y, angle):
        start = torch.tensor([[x, y]], dtype=torch.float64)
        u = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float64)
        grad = target.grad(start)
        out, _, _, kinetic = kernel.follow(u, np.array([0.3]), 4, start, grad)
        return np.array([*out[0].tolist(), np.arctan2(u[0, 1], u[0, 0])]), float(kinetic[0])

    at, h = np.array([0.4, -0.7, 1.1]), 1e-5
    columns = [(end(*(at + h * e))[0] - end(*(at - h * e))[0]) / (2 * h) for e in np.eye(3)]
    volume = np.linalg.det(np.array(columns).T)
    np.testing.assert_allclose(np.log(abs(volume)), -end(*at)[1], atol=1e-6)


def test_energy_error_falls_as_the_square_of_the_step():
    target = correlated(20, condition=4.0)
    theta = target.sample(Streams(1, 64))
    kernel = adjusted_kernel(target, theta, 0.1)
    u = kernel.momentum(Streams(2, 64))
    sizes = []
    for k in (1, 2, 4):
        _, value, _, kinetic = kernel.follow(
            u.clone(), np.full(64, 0.2 / k), 12 * k, theta, kernel.grad
        )
        error = kinetic - (value - kernel.value).numpy()
        sizes.append(np.sqrt(np.mean(error**2)))
    assert 3.2 < sizes[0] / sizes[1] < 4.8 and 3.6 < sizes[1] / sizes[2] < 4.4


def test_mean_of_exp_minus_energy_error_is_one():
    """Jarzynski's identity, at stationarity."""
    n_chains = 20_000
    target = correlated(5, condition=4.0)
    theta = target.sample(Streams(5, n_chains))
    kernel = adjusted_kernel(target, theta, 1.2)
    u = kernel.momentum(Streams(6, n_chains))
    _, value, _, kinetic = kernel.follow(u, np.full(n_chains, 1.2), 5, theta, kernel.grad)
    ratio = np.exp((value - kernel.value).numpy() - kinetic)
    error = ratio.std() / np.sqrt(n_chains)
    assert 0.001 < error < 0.05
    assert abs(ratio.mean() - 1.0) < 4 * error


# ---------------------------------------------------------------------- mclmc


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 20, 1000])
def test_mclmc_has_little_bias_on_gaussians(d):
    """At its defaults, the variance (averaged over the axes) within 5 %."""
    rng = np.random.default_rng(d)
    target = GaussianTarget(np.zeros(d), np.diag(rng.uniform(0.2, 5.0, d) ** 2))
    target.grad = lambda theta: -theta / scale2
    scale2 = torch.as_tensor(np.diag(target.cov).copy())
    target.value_and_grad = lambda theta: (
        -0.5 * (theta**2 / scale2).sum(1).double(),
        -theta / scale2,
    )
    n_chains = {2: 256, 20: 128, 1000: 32}[d]  # many chains and few draws: it is one batch
    posterior = run(MCLMC(init="prior", n_chains=n_chains, n_draws=50, n_warmup=100), target)
    ratio = (posterior.draws**2 / np.diag(target.cov)).mean(2, keepdims=True)
    error = mcse_of_mean(ratio)[0]
    assert error < 0.0125
    assert abs(ratio.mean() - 1.0) < 0.05 + 2 * error


@pytest.mark.slow
def test_mclmc_has_little_bias_on_the_conjugate_model():
    model = linear_model(n_outputs=2, weighted=True, noise=(0.5, 1.0))
    method = MCLMC(init="prior", n_chains=192, n_draws=50, n_warmup=120)
    posterior = run(method, model.log_posterior)
    centred = posterior.draws - model.mean
    ratio = (centred**2).mean((0, 1)) / np.diag(model.cov)
    error = mcse_of_mean(centred**2) / np.diag(model.cov)
    assert np.all(error < 0.03)
    assert np.all(np.abs(ratio - 1.0) < 0.1 + 2 * error)
