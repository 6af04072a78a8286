"""The power of the likelihood, chosen by rows that were left out."""

import numpy as np
import pytest
import torch
from gaussian_target import CPU
from scipy.special import expit, logsumexp

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import Anchored, Ensemble, Streams
from skbayes.inference.likelihood_power import (
    POWERS,
    _held_out,
    _is_better,
    _of_frequencies,
    choose_power,
)
from skbayes.model import Bernoulli, Categorical, Inputs, LogPosterior, MLPNetwork, NormalPrior

ANCHORED = Anchored(8, max_epochs=300, bootstrap=False, likelihood_power="held_out")
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
    """Powers rise while they gain by over an error."""
    target, _, _ = logistic(400)
    right = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)  # the truth

    def chosen(best_power, target=target):
        tried = []

        def fit(powered, held, few):
            tried.append(powered._power)
            assert held.shape == (8, target.n) and (held.sum(0) == 2).all()
            return right.repeat(8, 1) * np.exp(-abs(np.log(powered._power / best_power)))

        return choose_power(target, Streams(0, 16), 16, fit), tried

    assert chosen(1.0) == (1.0, [1, 4])
    assert chosen(16.0) == (16.0, [1, 4, 16, 64])
    assert chosen(1e6) == (64.0, [1, 4, 16, 64])
    # less than one only where the classes' frequencies are better than what one gives
    wrong = -right.repeat(8, 1)

    def overconfident(best_power):
        tried = []

        def fit(powered, held, few):
            tried.append(powered._power)
            far = abs(np.log(powered._power / best_power))
            return wrong * (1.0 - np.exp(-far))

        return choose_power(target, Streams(0, 16), 16, fit), tried

    assert overconfident(0.25) == (0.25, [1, 4, 0.25, 0.0625])
    assert overconfident(1 / 16) == (1 / 16, [1, 4, 0.25, 1 / 16])
    # rows that cannot be judged, and rows without weight, are too few to choose by
    assert chosen(1e6, logistic(15)[0]) == (1.0, [])
    weight = np.r_[np.ones(15), np.zeros(85)]
    assert chosen(1e6, logistic(100, weight)[0]) == (1.0, [])


def test_a_gain_has_to_be_larger_than_its_error():
    gain = np.array([1.0, 1.0, -0.5, 0.5])
    error = gain.std(ddof=1) / 2
    assert gain.mean() > error and _is_better(gain, np.ones(4))
    for scale in (1.0, 1000.0):  # weights are of one observation each
        assert not _is_better(gain - gain.mean() + 0.99 * error, np.full(4, scale))
        assert _is_better(gain - gain.mean() + 1.01 * error, np.full(4, scale))
    # the variance of a weighted mean, against the formula written out
    weight = np.array([1.0, 2.0, 3.0, 0.5])
    mean = weight @ gain / weight.sum()
    n = weight.sum() ** 2 / (weight**2).sum()
    error = np.sqrt((weight**2 @ (gain - mean) ** 2) / weight.sum() ** 2 * n / (n - 1))
    assert not _is_better(gain - mean + 0.99 * error, weight)
    assert _is_better(gain - mean + 1.01 * error, weight)


@pytest.mark.parametrize("method", [ANCHORED, MODES])
def test_weights_do_not_raise_the_power(method):
    """Unlike copies of rows, which members see in part."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] > 0) ^ (rng.random(60) < 0.3)
    for weight in (None, np.full(60, 2.0), np.full(60, 1000.0)):
        clf = BayesianMLPClassifier((5,), method=method, random_state=0)
        clf.fit(X, y, sample_weight=weight)
        assert clf.posterior_.adapted["likelihood_power"] <= 1.0


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
    plain = BayesianMLPClassifier((10,), method=usual, random_state=0).fit(X[train], y[train])
    scores = (model.log_predictive_density(X[test], y[test]) for model in (clf, plain))
    gain = next(scores) - next(scores)
    if clean:
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_what_was_chosen_can_be_asked_for():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] > 0
    clf = BayesianMLPClassifier((5,), method=ANCHORED, random_state=0).fit(X, y)
    power = clf.posterior_.adapted["likelihood_power"].item()
    assert power in POWERS and power > 1.0
    method = Anchored(**{**ANCHORED.get_params(deep=False), "likelihood_power": power})
    again = BayesianMLPClassifier((5,), method=method, random_state=0).fit(X, y)
    np.testing.assert_allclose(again.posterior_.draws, clf.posterior_.draws, rtol=1e-6)


@pytest.mark.parametrize("method", [Anchored, Ensemble])
def test_errors(method):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    for power in (0.0, -1.0, np.nan, 1e7, "best", None, True):
        with pytest.raises(ValueError, match="likelihood_power="):
            method(likelihood_power=power).check()
    with pytest.raises(ValueError, match=r"likelihood_power=4.0 is not allowed in a regression"):
        BayesianMLPRegressor((3,), method=method(likelihood_power=4.0)).fit(X, y)


@pytest.mark.parametrize("method", [ANCHORED, MODES])
def test_ctrl_c_in_a_trial_keeps_its_members(method):
    target, X, y = logistic(200)
    seen, gradient = [], type(target)._evaluate

    def stop(self, theta, with_value):
        seen.append(self._power)
        if self._power == 4.0 and seen.count(4.0) > 5:
            raise KeyboardInterrupt
        return gradient(self, theta, with_value)

    n = method.chain_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(target), "_evaluate", stop)
        posterior = method.run(target, None, Streams(0, n))
    assert posterior.interrupted and "interrupted while the power" in posterior.messages[0]
    assert posterior.draws.shape == (n, 1, 3) and len(np.unique(posterior.flat, axis=0)) == 8
    logits = posterior.flat[:, :2] @ X.T + posterior.flat[:, 2:]
    assert np.mean((logits.mean(0) > 0) == y) > 0.65
    assert len(posterior.loss_curve) == n


def test_trials_are_not_reported():
    """Progress and callbacks are of the fit itself."""
    target, _, _ = logistic(100)
    for method in (ANCHORED, MODES):
        n, done, plain = method.chain_count(), [], []
        method.run(target, None, Streams(0, n), lambda *step: done.append(step[:2]))  # noqa: B023
        usual = type(method)(**{**method.get_params(deep=False), "likelihood_power": 2.0})
        usual.run(target, None, Streams(0, n), lambda *step: plain.append(step[:2]))  # noqa: B023
        assert len(done) == len(set(done)) and done[:100] == plain[:100]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(error, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = np.where(X[:, 0] > 0, "b", "a")
    new = BayesianMLPClassifier((5,), method=MODES, random_state=0)
    old = BayesianMLPClassifier((5,), method=MODES, random_state=0).fit(X, y)
    before, names = old.predict_proba(X), set(vars(old))
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "run", lambda *args: (_ for _ in ()).throw(error()))
        for clf in (old, new):
            with pytest.raises(error):
                clf.fit(X[:, :2] * 100 + 500, np.where(X[:, 0] > 0, "no", "yes"))
    assert set(vars(old)) == names and list(old.classes_) == ["a", "b"]
    np.testing.assert_array_equal(old.predict_proba(X), before)
    assert not hasattr(new, "classes_") and not hasattr(new, "n_features_in_")


@pytest.mark.parametrize("n_members", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 16, 65])
@pytest.mark.parametrize("method", [ANCHORED, MODES])
def test_few_rows_and_members(method, n_members, n):
    target, _, _ = logistic(n)
    few = type(method)(**{**method.get_params(deep=False), "n_members": n_members})
    posterior = few.run(target, None, Streams(0, n_members))
    assert posterior.draws.shape == (n_members, 1, 3) and np.isfinite(posterior.draws).all()


def test_frequencies_of_classes_are_what_networks_are_compared_with():
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 3, 40).astype(float)
    held = np.ones((2, 40), dtype=bool)
    kw = {"dtype": torch.float64, "device": CPU}
    classes = np.eye(3)[rng.integers(3, size=40)].T[None]
    labels = (rng.random((1, 2, 40)) < 0.3) * 1.0
    for likelihood, y in ((Categorical(), classes), (Bernoulli(), labels)):
        network = MLPNetwork(2, (), y.shape[1], "tanh")
        inputs = Inputs(rng.normal(size=(40, 2)), scale=network.input_scale, **kw)
        rows = torch.as_tensor(weight[None], **kw)
        prior = NormalPrior(1.0).build(network)
        target = LogPosterior(network, likelihood, prior, inputs, torch.as_tensor(y, **kw), rows)
        share = (y[0] * weight).sum(1) / weight.sum()
        expected = (y[0] * np.log(share)[:, None]).sum(0)
        if isinstance(likelihood, Bernoulli):
            expected += ((1 - y[0]) * np.log(1 - share)[:, None]).sum(0)
        np.testing.assert_allclose(_of_frequencies(target, held), expected[weight > 0])


def test_rare_levels_are_not_taken_for_knowledge():
    """One-hot columns of a hundred levels, each of them seen a few times."""
    rng = np.random.default_rng(0)
    codes = rng.integers(100, size=(300, 5))
    logit = rng.normal(size=(5, 100))[np.arange(5), codes].sum(1)
    X = np.eye(100)[codes].reshape(300, -1)
    y = rng.random(300) < expit(logit)
    clf = BayesianMLPClassifier((10,), method=MODES, random_state=0).fit(X[:200], y[:200])
    assert clf.posterior_.adapted["likelihood_power"] < 1
    assert clf.log_predictive_density(X[200:], y[200:]).mean() > -0.72
