"""Deep ensembles: early stopping member by member, and independence of the members."""

import numpy as np
import pytest
import torch
from gaussian_target import CPU, linear_model

from skbayes.inference import Ensemble, Streams
from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior

N_MEMBERS = 5
SETTINGS = {"learning_rate": 0.03, "batch_size": 16, "max_epochs": 150, "n_iter_no_change": 5}


@pytest.fixture(scope="module")
def target():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.sin(2 * X[:, :1]) + 0.3 * rng.normal(size=(60, 1))
    network = MLPNetwork(2, (8,), 1, "tanh")
    kw = {"dtype": torch.float64, "device": CPU}
    inputs = Inputs(X, scale=network.input_scale, **kw)
    prior, likelihood = NormalPrior().build(network), Normal(1, np.array([0.3]), np.ones(1))
    return LogPosterior(network, likelihood, prior, inputs, torch.as_tensor(y.T[None].copy()))


class Recorder:
    """A log posterior whose copies on held-out rows keep the scores that they give."""

    def __init__(self, target, scores):
        self._target, self._scores = target, scores

    def __getattr__(self, name):
        return getattr(self._target, name)

    def __call__(self, theta):
        return self._target(theta)

    def with_power(self, power):
        return Recorder(self._target.with_power(power), self._scores)

    def rows(self, index):
        return Recorder(self._target.rows(index), self._scores)

    def log_likelihood(self, theta):
        score = self._target.log_likelihood(theta)
        self._scores.append(score.numpy())
        return score


def epochs(posterior):
    return (~np.isnan(posterior.loss_curve)).sum(1)


def test_members_stop_apart_and_keep_their_best_weights(target):
    streams = Streams(1, N_MEMBERS)
    theta0 = target.initial(streams.child(7))
    scores = []
    method = Ensemble(n_members=N_MEMBERS, **SETTINGS)
    posterior = method.run(Recorder(target, scores), theta0, streams)
    n_epochs = epochs(posterior)
    assert len(set(n_epochs)) > 1 and n_epochs.max() < SETTINGS["max_epochs"]
    assert posterior.independent and not posterior.messages

    # the scores of each epoch belong to the members that were still training
    seen = np.full((N_MEMBERS, len(scores)), -np.inf)
    for epoch, score in enumerate(scores):
        seen[n_epochs > epoch, epoch] = score
    held = Streams(1, N_MEMBERS).permutation(target.n)[:, :6]
    returned = target.rows(held).log_likelihood(torch.as_tensor(posterior.last_state)).numpy()
    np.testing.assert_allclose(returned, seen.max(1), rtol=1e-10)
    # a member goes on until five epochs have not gained on the last one that did
    assert np.all(n_epochs - 1 - seen.argmax(1) <= SETTINGS["n_iter_no_change"])
    assert np.all(n_epochs > SETTINGS["n_iter_no_change"])
    # every member holds out rows of its own
    assert len({tuple(sorted(rows)) for rows in held}) == N_MEMBERS


def test_members_differ(target):
    streams = Streams(1, N_MEMBERS)
    posterior = Ensemble(n_members=N_MEMBERS, **SETTINGS).run(target, None, streams)
    assert posterior.draws.shape == (N_MEMBERS, 1, target.n_params)
    theta = posterior.flat
    distance = np.linalg.norm(theta[:, None] - theta, axis=2)
    assert distance[~np.eye(N_MEMBERS, dtype=bool)].min() > 1.0


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_member_does_not_depend_on_how_many_there_are(target, solver):
    settings = {**SETTINGS, "solver": solver}
    together = Ensemble(n_members=N_MEMBERS, **settings).run(target, None, Streams(1, N_MEMBERS))
    for c in (0, 3):
        alone = Ensemble(n_members=1, **settings).run(target, None, Streams(1, 1, first=c))
        np.testing.assert_allclose(alone.flat[0], together.flat[c], rtol=1e-6, atol=1e-8)
        assert epochs(alone)[0] == epochs(together)[c]


def test_without_held_out_rows_members_reach_the_mode():
    model = linear_model(n=40, d=3)
    settings = {"solver": "sgd", "batch_size": 40, "learning_rate": 0.02, "max_epochs": 800}
    method = Ensemble(n_members=4, validation_fraction=0, **settings)
    posterior = method.run(model.log_posterior, None, Streams(0, 4))
    np.testing.assert_array_equal(epochs(posterior), 800)
    np.testing.assert_allclose(posterior.flat, np.tile(model.mean, (4, 1)), atol=1e-6)


def test_a_falling_rate_ends_closer_to_the_mode():
    """The noise of minibatches keeps members at a constant rate from it."""
    model = linear_model(n=40, d=3)

    def distance(schedule):
        settings = {"solver": "sgd", "batch_size": 4, "learning_rate": 0.02, "max_epochs": 200}
        method = Ensemble(n_members=8, validation_fraction=0, schedule=schedule, **settings)
        posterior = method.run(model.log_posterior, None, Streams(0, 8))
        return np.sqrt(((posterior.flat - model.mean) ** 2).mean())

    assert distance("cosine") < 0.2 * distance("constant")
    with pytest.raises(ValueError, match="schedule='linear' is not allowed"):
        Ensemble(schedule="linear").check()


def test_too_few_epochs_are_reported(target):
    posterior = Ensemble(n_members=3, max_epochs=2).run(target, None, Streams(1, 3))
    assert "max_epochs" in posterior.messages[0]


def test_interruption_keeps_the_members(target):
    def on_step(done, total, text):
        if done == 4:
            raise KeyboardInterrupt

    posterior = Ensemble(n_members=3, **SETTINGS).run(target, None, Streams(1, 3), on_step)
    assert posterior.draws.shape == (3, 1, target.n_params)
    assert np.isfinite(posterior.draws).all() and "interrupted" in posterior.messages[0]
