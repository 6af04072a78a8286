"""The power of the likelihood and the anchors, chosen by rows that were left out."""

import numpy as np
import pytest
import torch
from gaussian_target import CPU
from scipy.special import expit, logsumexp

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import Anchored, Ensemble, Streams
from skbayes.inference.held_out import POWERS, Chosen, _held_out, _is_better, choose
from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, NormalPrior

ANCHORED = Anchored(
    8, max_epochs=300, bootstrap=False, likelihood_power="held_out", anchors="held_out"
)
MODES = Ensemble(validation_fraction=0.0, max_epochs=100, likelihood_power="held_out")


def logistic(n=30, weight=None):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    y = (rng.random(n) < expit(2 * X[:, 0])).astype(float)
    network = MLPNetwork(2, (), 1, "tanh")
    kw = {"dtype": torch.float64, "device": CPU}
    weight = None if weight is None else torch.as_tensor(weight[None], **kw)
    inputs, labels = Inputs(X, scale=network.input_scale, **kw), torch.as_tensor(y[None, None])
    prior = NormalPrior(1.5).build(network)
    return LogPosterior(network, Bernoulli(), prior, inputs, labels, weight), X, y


@pytest.mark.parametrize("weighted", [False, True])
def test_a_power_counts_rows_more_often(weighted):
    weight = np.linspace(0.5, 2.0, 30) if weighted else None
    target, X, y = logistic(weight=weight)
    theta = torch.as_tensor(np.random.default_rng(1).normal(size=(4, 3)))
    powered = target.with_power(4.0)
    logits = theta.numpy()[:, :2] @ X.T + theta.numpy()[:, 2:]
    logs = (np.log(expit((2 * y - 1) * logits)) * (1.0 if weight is None else weight)).sum(1)
    prior = -0.5 * (theta.numpy() ** 2).sum(1) / 1.5**2 - 3 * np.log(1.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(powered(theta), 4 * logs + prior, rtol=1e-10)
    value, grad = powered.value_and_grad(theta)
    np.testing.assert_allclose(value, 4 * logs + prior, rtol=1e-10)
    by_rows = target.grad(theta) - target.log_prior_and_grad(theta)[1]
    np.testing.assert_allclose(grad, target.grad(theta) + 3 * by_rows, rtol=1e-10)
    # minibatches add up to the whole, and parts have the power too
    batches = [powered.minibatch(np.arange(a, a + 10)) for a in (0, 10, 20)]
    mean = sum(batch(theta) for batch in batches) / 3
    np.testing.assert_allclose(mean, 4 * logs + prior, rtol=1e-10)
    some = powered.subset(np.arange(10))
    assert some.total_weight == pytest.approx(4 * target.subset(np.arange(10)).total_weight)
    np.testing.assert_allclose(
        some.log_likelihood(theta), 4 * target.subset(np.arange(10)).log_likelihood(theta)
    )
    assert target(theta).numpy() == pytest.approx(logs + prior)  # which stays as it was


def test_rows_are_judged_by_the_members_that_left_them_out():
    weight = np.tile([1.0, 0.0, 3.0], 10)
    target, X, y = logistic(weight=weight)
    theta = np.random.default_rng(1).normal(size=(3, 3))
    held = np.random.default_rng(2).random((3, 30)) < 0.4
    logs, weights = _held_out(target, torch.as_tensor(theta), held)
    expected, used = [], []
    for i in range(30):
        own = theta[held[:, i]]
        if weight[i] and len(own):
            each = np.log(expit((2 * y[i] - 1) * (own[:, :2] @ X[i] + own[:, 2])))
            expected.append(logsumexp(each) - np.log(len(own)))
            used.append(weight[i])
    np.testing.assert_allclose(logs, expected, rtol=1e-10)
    np.testing.assert_array_equal(weights, used)


def test_the_order_of_trials():
    """Powers rise while they gain by over an error; then anchors at zero from that power on."""
    target, _, _ = logistic(400)
    right = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)  # the truth

    def chosen(best_power, best_kind, anchored=(True, False), power=None):
        tried = []

        def fit(powered, held, few, kind):
            tried.append((powered._power, kind))
            assert held.shape == (8, 400) and (held.sum(0) == 2).all()
            off = abs(np.log(powered._power / best_power)) + 2.0 * (kind != best_kind)
            return right.repeat(8, 1) * np.exp(-off)

        return choose(target, Streams(0, 16), 16, fit, power, anchored), tried

    found, tried = chosen(4.0, True)
    assert found == Chosen(4.0, True)
    assert tried == [(1.0, True), (4.0, True), (16.0, True), (4.0, False)]
    found, tried = chosen(16.0, False)
    assert found == Chosen(16.0, False)
    assert tried[-2:] == [(16.0, False), (64.0, False)]
    assert chosen(1.0, True, (True,)) == (Chosen(1.0, True), [(1.0, True), (4.0, True)])
    assert chosen(1e6, False, (False,))[0] == Chosen(64.0, False)
    assert chosen(4.0, False, power=2.0) == (Chosen(2.0, False), [(2.0, True), (2.0, False)])


def test_a_gain_has_to_be_larger_than_its_error():
    gain = np.array([1.0, 1.0, -0.5, 0.5])
    error = gain.std() / 2
    assert gain.mean() > error and _is_better(gain, np.ones(4))
    assert not _is_better(gain - gain.mean() + 0.9 * error, np.ones(4))
    twice = np.array([2.0, 2.0, 2.0, 2.0])  # rows that count twice tell more
    assert _is_better(gain - gain.mean() + 0.8 * error, twice)


@pytest.mark.parametrize("method", [ANCHORED, MODES])
@pytest.mark.parametrize("clean", [True, False])
def test_clean_labels_count_more_than_noisy_ones(method, clean):
    """And the choice is better than Bayes' rule on other rows, or the same."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    y = X[:, 0] + 0.5 * X[:, 1] ** 2 > 0.3
    y = y if clean else y ^ (rng.random(600) < 0.3)
    train, test = slice(0, 120), slice(120, None)
    clf = BayesianMLPClassifier((10,), method=method, random_state=0).fit(X[train], y[train])
    power = float(clf.posterior_.adapted["likelihood_power"])
    assert power > 1.0 if clean else power == 1.0
    usual = type(method)(**{**method.get_params(deep=False), "likelihood_power": 1.0})
    if method is ANCHORED:
        usual.anchors = "prior"
    plain = BayesianMLPClassifier((10,), method=usual, random_state=0).fit(X[train], y[train])
    scores = (model.log_predictive_density(X[test], y[test]) for model in (clf, plain))
    gain = next(scores) - next(scores)
    if clean:
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
    else:
        assert gain.mean() >= -2 * gain.std() / np.sqrt(len(gain))


def test_what_was_chosen_can_be_asked_for():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] > 0
    clf = BayesianMLPClassifier((5,), method=ANCHORED, random_state=0).fit(X, y)
    adapted = clf.posterior_.adapted
    assert adapted["likelihood_power"] in POWERS and adapted["anchors"] in ("prior", "zero")
    found = {name: adapted[name].item() for name in ("likelihood_power", "anchors")}
    method = Anchored(**{**ANCHORED.get_params(deep=False), **found})
    again = BayesianMLPClassifier((5,), method=method, random_state=0).fit(X, y)
    np.testing.assert_allclose(again.posterior_.draws, clf.posterior_.draws, rtol=1e-6)


def test_anchors_at_zero_are_modes_of_the_posterior():
    target, _, _ = logistic()
    method = Anchored(4, solver="lbfgs", bootstrap=False, anchors="zero")
    theta = torch.as_tensor(method.run(target, None, Streams(0, 4)).flat)
    assert float(target.grad(theta).abs().max()) < 1e-3 and float(theta.std(0).max()) < 1e-3


@pytest.mark.parametrize("method", [Anchored, Ensemble])
def test_errors(method):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    for power in (0.0, -1.0, np.nan, "best", None, True):
        with pytest.raises(ValueError, match="likelihood_power="):
            method(likelihood_power=power).check()
    with pytest.raises(ValueError, match=r"likelihood_power=4.0 is not allowed in a regression"):
        BayesianMLPRegressor((3,), method=method(likelihood_power=4.0)).fit(X, y)
    with pytest.raises(ValueError, match=r"anchors='one' is not allowed"):
        Anchored(anchors="one").check()
    with pytest.raises(ValueError, match=r"anchors='zero' is not allowed in a regression"):
        BayesianMLPRegressor((3,), method=Anchored(anchors="zero")).fit(X, y)


@pytest.mark.parametrize("method", [ANCHORED, MODES])
def test_an_interrupted_trial_ends_the_fit(method):
    def on_step(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    target, _, _ = logistic()
    n = method.chain_count()
    with pytest.raises(KeyboardInterrupt):
        method.run(target, None, Streams(0, n), on_step)


@pytest.mark.parametrize("n_members", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("method", [ANCHORED, MODES])
def test_few_rows_and_members(method, n_members, n):
    target, _, _ = logistic(n)
    few = type(method)(**{**method.get_params(deep=False), "n_members": n_members})
    posterior = few.run(target, None, Streams(0, n_members))
    assert posterior.draws.shape == (n_members, 1, 3) and np.isfinite(posterior.draws).all()
