"""The passes and the bound of variational inference; its optimum is in `test_vi_families`."""

import numpy as np
import pytest
import torch
from gaussian_target import linear_model
from modules import Conv, Small
from problems import KINDS, make_log_posterior, random_theta
from scipy import integrate, stats

from skbayes.inference import VI, Streams
from skbayes.layers.families import MeanField, prior_kl
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import Noise
from skbayes.model import (
    LaplacePrior,
    LogPosterior,
    ModuleNetwork,
    ModuleSource,
    Normal,
    NormalPrior,
    TensorInputs,
)
from skbayes.model.priors import HierarchicalPrior, StudentTPrior

CPU = torch.device("cpu")
F64 = {"dtype": torch.float64, "device": CPU}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_pass_without_noise_is_the_networks(kind, sparse):
    target = make_log_posterior(kind, hidden=(4, 3), sparse=sparse)
    theta = random_theta(target, 1)
    network = VariationalNetwork.of(target, Noise(0, CPU), "mean")
    assert network.is_noisy.all() and len(network.layers) == 3
    family = MeanField(target, theta[0], 0.1)
    objective = Objective(target, family, network)
    with torch.no_grad():
        value = objective.log_likelihood(target, *family.moments())
    torch.testing.assert_close(value, target.log_likelihood(theta)[0])


@pytest.mark.parametrize("norm", [None, "batch", "group"])
def test_the_pass_of_a_module(norm):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(9, 1, 6, 6))
    network = ModuleNetwork(ModuleSource(Conv, {"norm": norm}, X.shape[1:]), X, 3)
    inputs = TensorInputs(X, **F64)
    theta = torch.as_tensor(rng.normal(size=(1, network.n_params)))
    converted = VariationalNetwork(network, torch.as_tensor(X), Noise(0, CPU))
    assert set(converted.layers) == {"first", "second", "out"}
    others = {"batch": 4 + 16, "group": 4}.get(norm, 0)
    assert (~converted.is_noisy).sum() == others
    with torch.no_grad():
        found = converted.forward(theta[0], None, torch.as_tensor(X))
    torch.testing.assert_close(found, network.forward(theta, inputs))


def test_minibatches_are_parts_of_the_sum():
    target = make_log_posterior("learned", n=12, weight=np.arange(12.0))
    network = VariationalNetwork.of(target, Noise(0, CPU), "mean")
    family = MeanField(target, random_theta(target, 1)[0], 0.1)
    objective = Objective(target, family, network)
    with torch.no_grad():
        whole = objective(target)
        parts = [objective(target.minibatch(rows)) for rows in np.arange(12).reshape(3, 4)]
    mean = torch.stack([part.log_likelihood for part in parts]).mean()
    torch.testing.assert_close(mean, whole.log_likelihood)


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_estimators_agree_on_the_expected_log_likelihood(estimator):
    """Of a linear model, where it is known."""
    model = linear_model(n=20)
    target = model.log_posterior
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=4), rng.uniform(0.1, 0.5, size=4)
    A = np.column_stack([model.X, np.ones(20)])
    square = (model.y[:, 0] - A @ mean) ** 2 + A**2 @ var
    expected = (-0.5 * square / 0.25 - np.log(0.5) - 0.5 * np.log(2 * np.pi)).sum()
    family = MeanField(target, torch.as_tensor(mean), 0.1)
    objective = Objective(target, family, VariationalNetwork.of(target, Noise(0, CPU), estimator))
    with torch.no_grad():
        moments = torch.as_tensor(mean), torch.as_tensor(var)
        draws = [float(objective.log_likelihood(target, *moments)) for _ in range(1000)]
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(1000)


@pytest.mark.parametrize(
    "prior, density",
    [
        (NormalPrior(0.7), stats.norm(0, 0.7)),
        (LaplacePrior(0.7), stats.laplace(0, 0.7)),
        (StudentTPrior(0.7, df=3.0), stats.t(3.0, 0, 0.7)),
    ],
)
def test_divergence_from_priors(prior, density):
    target = make_log_posterior("bernoulli", hidden=(), prior=prior)
    mean = torch.tensor([0.9, -0.3, 0.1, 0.0], dtype=torch.float64)
    var = torch.tensor([0.4, 0.05, 1.0, 0.2], dtype=torch.float64)
    noise = Noise(0, CPU)
    draws = [float(prior_kl(target.prior, target.layout, mean, var, noise)) for _ in range(1500)]
    expected = 0.0
    for m, v in zip(mean.numpy(), var.numpy(), strict=True):
        q = stats.norm(m, np.sqrt(v))

        def gap(w, q=q):
            return q.pdf(w) * (q.logpdf(w) - density.logpdf(w))

        points = (m - 9 * np.sqrt(v), m + 9 * np.sqrt(v))
        expected += integrate.quad(gap, *points, points=[0.0, m], limit=200)[0]
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(1500) + 1e-7


def test_divergence_with_hyper_parameters():
    """Of the hierarchical prior, whose theta is standard normal, weights and scales alike."""
    target = make_log_posterior("bernoulli", prior=HierarchicalPrior())
    mean, var = random_theta(target, 1)[0], torch.full((target.n_params,), 0.3, dtype=torch.float64)
    noise = Noise(0, CPU)
    draws = [float(prior_kl(target.prior, target.layout, mean, var, noise)) for _ in range(1000)]
    expected = float(0.5 * (0.3 + mean**2 - 1 - np.log(0.3)).sum())
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(1000) + 1e-7, (
        np.mean(draws) - expected
    )


def test_learned_noise_and_modules_with_float32():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)).astype(np.float32)
    y = X[:, 0] + 0.3 * rng.normal(size=60)
    network = ModuleNetwork(ModuleSource(Small, {"n_inputs": 2}, (2,)), X[:8], 1)
    kw = {"dtype": torch.float32, "device": CPU}
    target = LogPosterior(
        network,
        Normal(1, "learned", np.ones(1)),
        NormalPrior().build(network),
        TensorInputs(X, **kw),
        torch.as_tensor(y[None, None], **kw),
    )
    posterior = VI(max_epochs=600, learning_rate=0.03).run(target, None, Streams(0, 1))
    assert posterior.draws.dtype == np.float32
    assert abs(posterior.unflatten()["noise_std"].mean() - 0.3) < 0.1
