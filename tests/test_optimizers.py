"""The optimisers against torch's, scipy's and the exact modes of linear models."""

import warnings

import numpy as np
import pytest
import scipy.optimize
import torch
from gaussian_target import CPU, GaussianTarget, linear_model

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, Streams
from skbayes.inference.optimizers import SGD, Adam, batches, descend, first_order, lbfgs
from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, NormalPrior


def torch_twin(name, parameter, rate):
    if name == "sgd":
        return torch.optim.SGD([parameter], lr=rate, momentum=0.9)
    return torch.optim.Adam([parameter], lr=rate)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_steps_are_torchs(name):
    rng = np.random.default_rng(0)
    theta = torch.as_tensor(rng.normal(size=(4, 7)))
    twin = torch.nn.Parameter(theta.clone())
    ours, theirs = first_order(name, theta, 0.9), torch_twin(name, twin, 0.03)
    assert isinstance(ours, SGD if name == "sgd" else Adam)
    for _ in range(50):
        grad = torch.as_tensor(rng.normal(size=(4, 7)) * np.geomspace(1e-4, 1e3, 7))
        ours.step(theta, grad.clone(), 0.03)
        twin.grad = grad
        theirs.step()
    assert float((theta - twin).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_chains_that_go_on_alone_keep_their_state(name):
    rng = np.random.default_rng(0)
    theta = torch.as_tensor(rng.normal(size=(3, 5)))
    whole, optimiser = theta.clone(), first_order(name, theta, 0.9)
    part, keep = theta.clone(), torch.tensor([True, False, True])
    other = first_order(name, theta, 0.9)
    for i in range(10):
        grad = torch.as_tensor(rng.normal(size=(3, 5)))
        optimiser.step(whole, grad.clone(), 0.1)
        if i == 5:
            part = part[keep]
            other.keep(keep)
        other.step(part, grad[keep] if i >= 5 else grad.clone(), 0.1)
    torch.testing.assert_close(part, whole[keep], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_descend_is_torchs_loop(name):
    """All rows, loss per row, the rate falling as a half cosine."""
    model, n_epochs, rate = linear_model(n=20, d=2), 40, 0.05
    target = model.log_posterior
    theta0 = torch.as_tensor(np.random.default_rng(1).normal(size=(2, target.n_params)))
    kwargs = {"solver": name, "momentum": 0.0, "batch_size": 20, "max_epochs": n_epochs}
    theta, losses = descend(target, theta0, Streams(0, 2), learning_rate=rate, **kwargs)

    A = torch.as_tensor(np.column_stack([model.X, np.ones(20)]))
    twin = torch.nn.Parameter(theta0.clone())
    make = torch.optim.SGD if name == "sgd" else torch.optim.Adam
    optimiser = make([twin], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_epochs)
    log_2pi = np.log(2 * np.pi)
    for epoch in range(n_epochs):
        residuals = torch.as_tensor(model.y.T) - twin @ A.T
        loss = 0.5 * ((residuals / 0.5) ** 2).sum(1) + 20 * (np.log(0.5) + 0.5 * log_2pi)
        loss = (loss + 0.5 * (twin**2).sum(1) + 1.5 * log_2pi) / 20
        np.testing.assert_allclose(losses[:, epoch], loss.detach(), rtol=1e-10)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    assert float((theta - twin).abs().max()) < 1e-10


def test_minibatches_cover_the_rows():
    index = list(batches(Streams(0, 3), 10, 4))
    assert [block.shape for block in index] == [(3, 4), (3, 4), (3, 2)]
    together = np.concatenate(index, 1)
    np.testing.assert_array_equal(np.sort(together, 1), np.tile(np.arange(10), (3, 1)))
    assert not np.array_equal(together[0], together[1])
    rows = np.arange(15).reshape(3, 5)
    together = np.concatenate(list(batches(Streams(0, 3), rows, 2)), 1)
    np.testing.assert_array_equal(np.sort(together, 1), rows)


# ---------------------------------------------------------------------- L-BFGS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lbfgs_with_chains_of_different_conditioning(dtype):
    """One batch of quadratics whose condition numbers run from 1 to 10^6."""
    rng, n_chains, d = np.random.default_rng(0), 12, 8
    conditions = np.geomspace(1.0, 1e6 if dtype == torch.float64 else 1e3, n_chains)
    cov = []
    for condition in conditions:
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
        cov.append(axes * np.geomspace(1.0 / condition, 1.0, d) @ axes.T)
    target = GaussianTarget(rng.normal(size=(n_chains, d)), np.array(cov), dtype=dtype, n=1)
    theta0 = 3.0 * Streams(0, n_chains).normal(d, dtype=dtype)
    tol = 1e-9 if dtype == torch.float64 else 1e-4
    theta, losses, converged = lbfgs(target, theta0, max_iter=500, tol=tol)
    assert converged.all()
    # a gradient of tol leaves an error of tol times the largest variance, which is one
    error = np.abs(theta.double().numpy() - target.mean).max(1)
    assert np.all(error < (1e-7 if dtype == torch.float64 else 2e-3)), error
    assert np.all(np.diff(losses, axis=1) <= 0)


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lbfgs_finds_the_mode_of_the_linear_model(dtype, spread):
    model = linear_model(n=50, d=6, n_outputs=2, noise=(0.3, 1.0), weighted=True, dtype=dtype)
    theta0 = spread * Streams(3, 40).normal(len(model.mean), dtype=dtype)
    theta, _, converged = lbfgs(model.log_posterior, theta0, max_iter=500, tol=1e-7)
    assert converged.all()
    deviation = np.sqrt(np.diag(model.cov))
    error = np.abs(theta.double().numpy() - model.mean) / deviation
    assert error.max() < (1e-4 if dtype == torch.float64 else 2e-2), error.max()


def test_a_chain_does_not_depend_on_its_neighbours():
    model = linear_model(n=50, d=6)
    theta0 = 5.0 * Streams(3, 5).normal(7, dtype=torch.float64)
    together = lbfgs(model.log_posterior, theta0, max_iter=7)[0]
    for c in range(5):
        alone = lbfgs(model.log_posterior, theta0[[c]], max_iter=7)[0]
        torch.testing.assert_close(alone, together[[c]], rtol=1e-9, atol=1e-9)


def test_lbfgs_finds_scipys_optimum_of_logistic_regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5)) * np.geomspace(0.1, 10.0, 5)
    y = (X.sum(1) + rng.normal(size=80) > 0).astype(float)
    network, kw = MLPNetwork(5, (), 1, "tanh"), {"dtype": torch.float64, "device": CPU}
    prior = NormalPrior(scale=2.0).build(network)
    target = LogPosterior(
        network, Bernoulli(), prior, Inputs(X, **kw), torch.as_tensor(y[None, None])
    )

    def loss(theta):
        sign = (2 * y - 1) * (X @ theta[:-1] + theta[-1])
        return np.logaddexp(0.0, -sign).sum() + 0.5 * (theta**2).sum() / 4.0

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9, "maxfun": 100_000}
    best = scipy.optimize.minimize(loss, np.zeros(6), method="L-BFGS-B", options=options)
    theta, losses, converged = lbfgs(
        target, torch.as_tensor(rng.normal(size=(10, 6))), max_iter=500, tol=1e-9
    )
    assert converged.all()
    np.testing.assert_allclose(theta, np.tile(best.x, (10, 1)), atol=2e-4)
    # scipy's gradient is numerical, so that ours must be the lower of the two
    assert all(loss(t) <= best.fun + 1e-12 for t in theta.numpy())


def test_a_run_that_is_too_short_says_so():
    target = linear_model(n=50, d=6).log_posterior
    theta0 = 30.0 * Streams(3, 4).normal(7, dtype=torch.float64)
    assert not lbfgs(target, theta0, max_iter=1)[2].any()
    posterior = MAP(max_epochs=1).run(target, theta0[:1], Streams(0, 1))
    assert "max_epochs" in posterior.messages[0]


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_map_reaches_the_mode(solver):
    model = linear_model(n=40, d=3)
    method = MAP(solver=solver, n_restarts=3)
    posterior = method.run(model.log_posterior, None, Streams(0, 3))
    assert posterior.draws.shape == (1, 1, 4)
    deviation = np.sqrt(np.diag(model.cov))
    assert np.all(np.abs(posterior.flat[0] - model.mean) < 0.02 * deviation)


@pytest.mark.parametrize("noise", ["learned", "heteroscedastic", 0.5])
def test_a_mode_without_noise_says_so(noise):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 8)), rng.normal(size=40)
    reg = BayesianMLPRegressor((50,), noise=noise, method=MAP(max_epochs=300), random_state=0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reg.fit(X, y)
    said = [str(w.message) for w in seen if "next to none" in str(w.message)]
    assert len(said) == (noise != 0.5)
    if said:
        _, std = reg.predict(X, return_std=True)
        share = np.mean(std < 2 * 0.003 * y.std())
        assert share >= 0.01
        assert ("all rows" if noise == "learned" else f"{share:.0%} of the rows") in said[0]
