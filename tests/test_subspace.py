"""Subspaces: the directions, the density in them, and both samplers against exact answers."""

import numpy as np
import pytest
import torch
from gaussian_target import check_moments, linear_model, mcse_of_mean
from problems import finite_differences, make_log_posterior, random_theta
from sklearn.base import clone

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, SWAG, Ensemble, Streams, Subspace
from skbayes.inference.curve import train_curve
from skbayes.inference.subspace import SubspaceDensity, principal

SAMPLERS = {"ess": {"thin": 4}, "nuts": {}}
START = {"init": MAP(max_epochs=100)}


def restricted(model, basis, centre, prior_scale, temperature):
    """Mean and covariance of z on a linear model, whose likelihood is normal in theta."""
    precision = np.linalg.inv(model.cov)
    prior = np.diag(model.prior_scale.ravel() ** -2.0)
    likelihood = (precision - prior) / temperature
    shift = precision @ model.mean / temperature  # the prior's mean is zero
    if prior_scale is None:
        inside = basis.T @ (likelihood + prior) @ basis
        right = basis.T @ (shift - (likelihood + prior) @ centre)
    else:
        inside = basis.T @ likelihood @ basis + np.eye(basis.shape[1]) / prior_scale**2
        right = basis.T @ (shift - likelihood @ centre)
    cov = np.linalg.inv(inside)
    return cov @ right, cov


def coordinates(posterior):
    """Z of every draw, and how far the draws lie outside of the subspace."""
    centre, basis = posterior.adapted["centre"], posterior.adapted["basis"]
    z = (posterior.draws - centre) @ basis / (basis**2).sum(0)
    return z, np.abs(posterior.draws - centre - z @ basis.T).max()


@pytest.mark.parametrize(
    ("kind", "prior_scale", "temperature"),
    [("random", None, 2.0), ("pca", 1.0, "n_dims")],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_linear_model_in_a_subspace(kind, prior_scale, temperature, sampler):
    model = linear_model(n=40, d=5)
    init = SWAG(n_snapshots=40, init=MAP())
    method = Subspace(
        kind, 2, sampler, temperature, prior_scale, 16, 40, 100, **SAMPLERS[sampler], init=init
    )
    posterior = method.run(model.log_posterior, None, Streams(1, 16))
    z, outside = coordinates(posterior)
    assert z.shape == (16, 100, 2) and outside < 1e-10
    if temperature == "n_dims":
        temperature = 20.0
    adapted = posterior.adapted
    mean, cov = restricted(model, adapted["basis"], adapted["centre"], prior_scale, temperature)
    check_moments(z, mean, cov, precision=0.06)


def by_quadrature(density, width, k=161):
    """Moments of z in two dimensions by a grid."""
    axis = np.linspace(-width, width, k)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logs = torch.cat([density(part) for part in torch.as_tensor(grid).split(256)]).numpy()
    mass = np.exp(logs - logs.max())
    edge = (np.abs(grid) > 0.99 * width).any(1)
    assert mass[edge].sum() < 1e-4 * mass.sum()
    return grid, mass / mass.sum()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["curve", "random"])
def test_a_network_against_quadrature(kind, sampler):
    """A density that is far from normal; its moments and the shares of four quadrants."""
    target = make_log_posterior("fixed", n=12, hidden=(2,))
    # nearly flat, or the chains could not get from one mode of the curve's plane to the other
    settings = {"temperature": 12.0, "n_chains": 16, "n_warmup": 40, "n_draws": 150}
    init = Ensemble(2, max_epochs=60) if kind == "curve" else MAP()
    method = Subspace(kind, 2, sampler, init=init, **settings)
    posterior = method.set_params(**SAMPLERS[sampler]).run(target, None, Streams(1, 16))
    z, _ = coordinates(posterior)
    density = SubspaceDensity(
        target,
        torch.as_tensor(posterior.adapted["centre"]),
        torch.as_tensor(posterior.adapted["basis"]),
        settings["temperature"],
        1.0,
    )
    grid, mass = by_quadrature(density, 5.0)
    a, b = z[..., :1], z[..., 1:]
    for name, drawn, exact in (
        ("mean", z, grid),
        ("square", z**2, grid**2),
        ("product", a * b, grid[:, :1] * grid[:, 1:]),
        ("quadrant", 1.0 * ((a > 0) & (b > 0.2)), (grid[:, :1] > 0) & (grid[:, 1:] > 0.2)),
    ):
        error = mcse_of_mean(drawn)
        assert np.all(np.abs(drawn.mean((0, 1)) - mass @ exact) < 4 * error), name
        assert np.all(error < 0.08)


@pytest.mark.parametrize("kind", ["learned", "heteroscedastic", "categorical"])
@pytest.mark.parametrize("prior_scale", [0.7, None])
def test_density_and_gradient(kind, prior_scale):
    target = make_log_posterior(kind, weight=np.arange(17) % 3)
    theta = random_theta(target, 1)[0]
    basis = torch.as_tensor(np.random.default_rng(0).normal(size=(len(theta), 3)))
    density = SubspaceDensity(target, theta, basis, 5.0, prior_scale)
    z = torch.as_tensor(np.random.default_rng(1).normal(size=(4, 3))) * 0.3
    value, grad = density.value_and_grad(z)
    torch.testing.assert_close(value, density(z))
    torch.testing.assert_close(grad, finite_differences(density, z), rtol=1e-6, atol=1e-5)
    there = theta + z @ basis.T
    prior = target.log_prior_and_grad(there)[0]
    if prior_scale is not None:
        prior = -0.5 * (z**2).sum(1) / 0.49
    torch.testing.assert_close(value, target.log_likelihood(there) / 5.0 + prior)
    whole, log_prob = density.complete(z, value, None)
    torch.testing.assert_close(whole, there)
    torch.testing.assert_close(log_prob, target(there))


def test_principal_directions():
    rng = np.random.default_rng(0)
    deviations = rng.normal(size=(30, 4)) * [3.0, 1.0, 0.1, 2.0] @ rng.normal(size=(4, 9))
    basis = principal(torch.as_tensor(deviations), 3).numpy()
    values, vectors = np.linalg.eigh(deviations.T @ deviations / 29)
    np.testing.assert_allclose((basis**2).sum(0), values[::-1][:3])
    cosines = np.abs((basis / np.sqrt(values[::-1][:3]) * vectors[:, ::-1][:, :3]).sum(0))
    np.testing.assert_allclose(cosines, 1.0)
    assert principal(torch.as_tensor(deviations), 9).shape == (9, 4)  # there are no more
    with pytest.raises(ValueError, match="needs a path that moves"):
        principal(torch.zeros(4, 3), 2)


# ------------------------------------------------------------------------- curves


def test_a_curve_between_two_modes():
    target = make_log_posterior("fixed", n=60, hidden=(8,))
    ends = MAP(solver="lbfgs", max_epochs=200).run(target, None, Streams(3, 1)).draws[0]
    other = MAP(solver="lbfgs", max_epochs=200).run(target, None, Streams(4, 1)).draws[0]
    ends = torch.as_tensor(np.concatenate([ends, other]))
    assert target.grad(ends).abs().max() < 0.2  # of sums over 60 rows
    curve = train_curve(target, ends, Streams(0, 8), n_steps=600, batch_size=30)
    t = np.linspace(0, 1, 41)
    torch.testing.assert_close(curve.points([0.0, 1.0]), ends)
    line = (1 - t[:, None]) * ends[0].numpy() + t[:, None] * ends[1].numpy()
    along, straight = -target(curve.points(t)), -target(torch.as_tensor(line))
    top = (-target(ends)).max()
    assert along.max() - top < 0.3 * (straight.max() - top)
    assert straight.max() - top > 10.0  # nats: there is a barrier
    # the plane holds the curve, and the modes are at one and minus one on the first axis
    centre, basis = curve.plane()
    z = (curve.points(t) - centre) @ basis / (basis**2).sum(0)
    torch.testing.assert_close(centre + z @ basis.T, curve.points(t))
    expected = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(z[[0, -1]], expected, atol=1e-9, rtol=0)
    assert z[20, 1] > 0
    torch.testing.assert_close(basis[:, 0].norm(), basis[:, 1].norm())


def test_the_gradient_of_a_curve_by_its_bend():
    """One full-batch step of plain differences against the chain rule in `train_curve`."""
    target = make_log_posterior("fixed", n=10, hidden=(2,))
    ends, bend = random_theta(target, 2), random_theta(target, 1, seed=4)
    t = torch.tensor([[0.1], [0.6]], dtype=torch.float64)

    def value(b):
        return torch.stack([target((1 - t) ** 2 * ends[:1] + 2 * t * (1 - t) * x + t**2 * ends[1:])
                            for x in b]).mean(1)  # fmt: skip

    theta = (1 - t) ** 2 * ends[:1] + 2 * t * (1 - t) * bend + t**2 * ends[1:]
    by_bend = (2 * t * (1 - t) * target.grad(theta)).mean(0, keepdim=True)
    torch.testing.assert_close(by_bend, finite_differences(value, bend), rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------------- the method


@pytest.mark.parametrize("kind", ["random", "curve"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_start_of_every_kind(kind, sampler, curve, monkeypatch):
    monkeypatch.setattr("skbayes.inference.subspace.CURVE_STEPS", 20)
    init = MAP(max_epochs=10) if kind == "random" else Ensemble(2, max_epochs=5)
    method = Subspace(kind, 2, sampler, n_chains=5, n_warmup=8, n_draws=6, init=init)
    model = BayesianMLPRegressor((3,), method=method, random_state=0)
    longer = clone(model).set_params(method__n_draws=12).fit(*curve).posterior_
    model.set_params(warm_start=True)
    first, second = model.fit(*curve).posterior_, model.fit(*curve).posterior_
    np.testing.assert_array_equal(np.concatenate([first.draws, second.draws], 1), longer.draws)
    model.fit(curve[0], curve[1] + curve[0][:, 0])  # another posterior: a new subspace
    assert not np.array_equal(model.posterior_.adapted["centre"], first.adapted["centre"])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_checkpoint_with_slices(curve, tmp_path):
    method = Subspace("random", 2, "ess", n_chains=2, n_warmup=4, n_draws=6, **START)
    model = BayesianMLPRegressor((3,), method=method, random_state=0)
    first = clone(model).fit(*curve, checkpoint=tmp_path).posterior_
    again = clone(model).fit(*curve, checkpoint=tmp_path).posterior_
    np.testing.assert_array_equal(first.draws, again.draws)
    np.testing.assert_array_equal(first.adapted["basis"], again.adapted["basis"])


def test_interruption_of_the_search(curve):
    def interrupt(done, total, text):
        raise KeyboardInterrupt

    target = make_log_posterior("fixed")
    method = Subspace("pca", n_chains=3, init=SWAG(n_snapshots=5, init=MAP(max_epochs=20)))
    posterior = method.run(target, None, Streams(0, 3), interrupt)
    assert posterior.interrupted and posterior.draws.shape == (3, 1, target.n_params)
    assert "interrupted" in posterior.messages[0]


def test_a_curve_needs_two_modes():
    target = make_log_posterior("fixed")
    with pytest.raises(ValueError, match=r"needs two modes, but init=MAP\(\) finds one"):
        Subspace("curve", init=MAP()).run(target, None, Streams(0, 4))


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"kind": "line"}, "kind='line'"),
        ({"sampler": "hmc"}, "sampler='hmc' is not allowed; allowed are 'ess', 'nuts'"),
        ({"n_dims": 0}, "n_dims=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": "n"}, "temperature='n'"),
        ({"prior_scale": -1.0}, "prior_scale=-1.0"),
        ({"kind": "curve", "n_dims": 3}, "n_dims=3 is not allowed with kind='curve'"),
        ({"init": MAP()}, r"init=MAP\(\) is not allowed with kind='pca'"),
        ({"kind": "random", "init": "prior"}, "init='prior' is not allowed"),
    ],
)
def test_bad_parameters(params, match):
    with pytest.raises(ValueError, match=match):
        Subspace(**params).check()
