"""Acquisition functions and batches against enumeration."""

import itertools

import numpy as np
import pytest
from scipy.special import entr, log_softmax

from skbayes.active import acquisition as acq
from skbayes.active import moments as reg
from skbayes.active.batch import (
    BatchBALD,
    LogDet,
    Power,
    Top,
    _least_power,
    joint_information,
    top,
)

EXACT = {"rtol": 0, "atol": 1e-10}


def log_probs(n_draws=4, n=6, n_classes=3, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return log_softmax(scale * rng.normal(size=(n_draws, n, n_classes)), axis=-1)


def plogp(p):
    return 0.0 if p == 0 else p * np.log(p)


def H(p):
    return -sum(plogp(v) for v in p)


# --------------------------------------------------------------- classification


def test_functions_of_the_mean_by_hand():
    proba = np.array([[[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]], [[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]])
    mean = proba.mean(0)  # [.4 .5 .1], [.2 .2 .6]
    logs = np.log(proba)
    np.testing.assert_allclose(acq.margin(logs), [1 - 0.1, 1 - 0.4], **EXACT)
    np.testing.assert_allclose(acq.least_confident(logs), [0.5, 0.4], **EXACT)
    np.testing.assert_allclose(acq.entropy(logs), [H(mean[0]), H(mean[1])], **EXACT)
    np.testing.assert_allclose(
        acq.variance(logs), [(0.6**2 + 0.6**2) / 2, 0.0], **EXACT
    )  # of two draws: half the squared difference
    np.testing.assert_allclose(acq.qbc(logs), [np.log(2), 0.0], **EXACT)


@pytest.mark.parametrize("corrected", [False, True])
def test_bald_is_the_mutual_information_by_enumeration(corrected):
    logs = log_probs()
    p = np.exp(logs)
    K, n, C = p.shape
    want = np.zeros(n)
    for i, k, c in itertools.product(range(n), range(K), range(C)):
        want[i] += p[k, i, c] / K * np.log(p[k, i, c] / p[:, i, c].mean())
    factor = K / (K - 1) if corrected else 1.0
    np.testing.assert_allclose(acq.bald(logs, corrected), factor * want, **EXACT)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(
    ("function", "G"),
    [
        (acq.epig, lambda p: -H(p)),
        (acq.core_mse, lambda p: sum(v * v for v in p)),
        (acq.expected_error, max),
    ],
)
def test_expected_utility_by_enumeration(function, G, corrected, monkeypatch):
    monkeypatch.setattr(acq, "BLOCK", 50)  # so that there are several blocks
    logs, targets = log_probs(), log_probs(n=5, seed=1)
    p, star = np.exp(logs), np.exp(targets)
    K, n, C = p.shape

    def value(star):
        out = np.zeros(n)
        for i, m in itertools.product(range(n), range(star.shape[1])):
            for c in range(C):
                joint = [sum(p[k, i, c] * star[k, m, d] for k in range(K)) / K for d in range(C)]
                total = sum(joint)
                out[i] += total * G([v / total for v in joint])
            out[i] -= G([star[:, m, d].mean() for d in range(C)])
        return out / star.shape[1]

    want = value(star)
    if corrected:
        want = want - value(star[acq.elsewhere(K)])
    np.testing.assert_allclose(function(logs, targets, corrected), want, **EXACT)


def test_epig_is_the_mutual_information_of_two_labels():
    logs, targets = log_probs(), log_probs(n=1, seed=1)
    p, star = np.exp(logs), np.exp(targets[:, 0])
    want = []
    for i in range(p.shape[1]):
        joint = np.einsum("kc,kd->cd", p[:, i], star) / len(p)
        want.append((joint * np.log(joint / joint.sum(1)[:, None] / joint.sum(0))).sum())
    np.testing.assert_allclose(acq.epig(logs, targets, False), want, **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sharp_probabilities_stay_finite(dtype):
    logs = (log_probs(scale=3.0) * 400).astype(dtype)
    logs[0, 0] = [0.0, -np.inf, -np.inf]
    targets = logs[:, :3]
    for f in (acq.margin, acq.entropy, acq.least_confident, acq.bald, acq.variance, acq.qbc):
        assert np.isfinite(f(logs)).all(), f.__name__
        assert (f(logs) >= 0).all(), f.__name__
    for g in (acq.epig, acq.core_mse, acq.expected_error):
        assert np.isfinite(g(logs, targets)).all(), g.__name__
    assert np.isfinite(joint_information(logs[:, :3])[0])


def test_corrections_repair_the_mean_over_draws():
    """Few draws against many, on a logistic model with a normal posterior."""
    rng = np.random.default_rng(0)
    x, xs = rng.normal(size=(2, 20, 20)) / 20**0.5

    def draws(n_draws, rng):
        w = 2 * rng.normal(size=(n_draws, 20))
        return [log_softmax(np.stack([0 * (w @ r.T), w @ r.T], -1), -1) for r in (x, xs)]

    many = draws(4000, rng)
    truth = acq.bald(many[0]).mean()
    few = [draws(5, rng) for _ in range(300)]
    plain = np.mean([acq.bald(a, False).mean() for a, _ in few])
    mended = np.mean([acq.bald(a).mean() for a, _ in few])
    assert plain < 0.85 * truth
    assert abs(mended - truth) < 0.1 * truth
    truth = acq.epig(*many, False).mean()
    some = [draws(50, rng) for _ in range(100)]
    plain = np.mean([acq.epig(*d, False).mean() for d in some])
    mended = np.mean([acq.epig(*d).mean() for d in some])
    assert plain > 1.3 * truth
    assert abs(mended - truth) < 0.3 * (plain - truth)


@pytest.mark.parametrize("length", [2, 25, 50])
def test_correction_leaves_what_chains_know_from_each_other(length):
    # every chain sits in a mode of its own: all draws of a chain say the same
    mode = np.repeat(np.resize([1.0, -1.0], 100 // length), length)
    logs = log_softmax(np.stack([0 * mode, 2 * mode], -1), -1)[:, None]
    plain = acq.epig(logs, logs, False)
    np.testing.assert_allclose(acq.epig(logs, logs), plain, rtol=0.15)
    assert sorted(acq.elsewhere(7)) == list(range(7))
    assert (acq.elsewhere(7) != np.arange(7)).all()


# ------------------------------------------------------------------- regression


def some_moments(n_draws=5, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return reg.Moments(rng.normal(size=(n_draws, n)), 0.5 + rng.random((n_draws, n)))


def test_regression_by_hand():
    m, t = some_moments(), some_moments(n=3, seed=1)
    K = len(m.mean)
    ep = m.mean.var(0, ddof=1)
    np.testing.assert_allclose(reg.variance(m), ep, **EXACT)
    V = ep + (m.noise**2).mean(0)
    want = [np.mean([0.5 * np.log(V[i] / m.noise[k, i] ** 2) for k in range(K)]) for i in range(4)]
    np.testing.assert_allclose(reg.bald(m), want, **EXACT)
    Vs = t.mean.var(0, ddof=1) + (t.noise**2).mean(0)
    cov = np.array([[np.cov(m.mean[:, i], t.mean[:, j])[0, 1] for j in range(3)] for i in range(4)])
    want = (-0.5 * np.log(1 - cov**2 / V[:, None] / Vs)).mean(1)
    np.testing.assert_allclose(reg.epig(m, t, False), want, **EXACT)
    want = (cov**2 / V[:, None]).mean(1)
    np.testing.assert_allclose(reg.expected_error(m, t, False), want, **EXACT)


def test_blocks_of_targets_change_nothing(monkeypatch):
    m, t = some_moments(), some_moments(n=7, seed=1)
    whole = reg.epig(m, t), reg.expected_error(m, t)
    monkeypatch.setattr(reg, "BLOCK", 8)
    np.testing.assert_allclose((reg.epig(m, t), reg.expected_error(m, t)), whole, **EXACT)


def test_squared_covariance_has_no_bias():
    rng = np.random.default_rng(0)
    cov, size = np.array([[1.0, 0.3], [0.3, 2.0]]), 6
    root = np.linalg.cholesky(cov)
    big = 1e6  # noise so large that the total variance is a constant
    plain, mended = [], []
    for _ in range(1500):
        f = rng.normal(size=(size, 2)) @ root.T
        a, b = (reg.Moments(f[:, [j]], np.full((size, 1), big)) for j in (0, 1))
        plain.append(reg.expected_error(a, b, False)[0] * big**2)
        mended.append(reg.expected_error(a, b)[0] * big**2)
    error = np.std(mended) / len(mended) ** 0.5
    assert abs(np.mean(mended) - 0.3**2) < 4 * error
    assert np.mean(plain) > 0.3**2 + 10 * error


def test_varying_noise_does_not_attract_information():
    """Total variance would take the noisy row; information takes the other."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(200, 2)) * [0.5, 1.0]
    m = reg.Moments(mean, np.broadcast_to([3.0, 0.3], mean.shape))
    assert reg.bald(m)[1] > 10 * reg.bald(m)[0]


# ---------------------------------------------------------------------- batches


def brute_information(p):
    """Mutual information of labels of all rows (K, b, C) with the draw."""
    K, b, C = p.shape
    out = 0.0
    for labels in itertools.product(range(C), repeat=b):
        q = np.prod([p[:, i, c] for i, c in enumerate(labels)], axis=0)
        out -= plogp(q.mean())
    return out - sum(H(p[k, i]) for k in range(K) for i in range(b)) / K


def test_batch_bald_is_greedy_on_exact_joint_information():
    logs = log_probs(n=7, seed=3)
    p = np.exp(logs)
    chosen = [int(acq.bald(logs).argmax())]
    while len(chosen) < 4:
        values = [-1 if i in chosen else brute_information(p[:, [*chosen, i]]) for i in range(7)]
        chosen.append(int(np.argmax(values)))
    got = BatchBALD().select(acq.bald(logs), 4, np.random.default_rng(0), logs)
    assert got.tolist() == chosen
    value, error = joint_information(logs[:, chosen])
    assert error == 0.0
    assert abs(value - brute_information(p[:, chosen])) < 1e-10


def test_joint_information_by_monte_carlo_is_within_its_error():
    logs = log_probs(n_draws=10, n=5, n_classes=4, seed=2)
    exact, _ = joint_information(logs, 4**5)
    found = np.array([joint_information(logs, 500, seed) for seed in range(60)])
    z = (found[:, 0] - exact) / found[:, 1]
    assert (np.abs(z) < 4).all()
    assert abs(z.mean()) < 4 / 60**0.5  # no bias
    # draws of the weights are taken in equal numbers, which can only make the spread smaller
    assert z.std() < 1.3


def test_batch_bald_by_monte_carlo_finds_what_enumeration_finds():
    logs = log_probs(n_draws=10, n=12, n_classes=3, seed=5)
    u = acq.bald(logs)
    exact = BatchBALD(3**5).select(u, 5, np.random.default_rng(0), logs)
    some = BatchBALD(100).select(u, 5, np.random.default_rng(0), logs)  # drawn from the sixth on
    many = BatchBALD(20_000).select(u, 5, np.random.default_rng(0), logs)
    assert many.tolist() == exact.tolist()
    best = joint_information(logs[:, exact], 3**5)[0]
    assert joint_information(logs[:, some], 3**5)[0] > best - 0.05


def test_log_det_is_greedy_on_the_determinant():
    m = some_moments(n_draws=6, n=9, seed=4)
    noise = (m.noise**2).mean(0)
    sigma = np.cov(m.mean.T) / np.sqrt(np.outer(noise, noise))
    chosen = [int(np.argmax(np.diag(sigma)))]
    while len(chosen) < 4:
        rows = [[*chosen, i] for i in range(9)]
        values = [
            -1 if r[-1] in chosen else np.linalg.slogdet(np.eye(len(r)) + sigma[np.ix_(r, r)])[1]
            for r in rows
        ]
        chosen.append(int(np.argmax(values)))
    got = LogDet().select(np.diag(sigma), 4, np.random.default_rng(0), m)
    assert got.tolist() == chosen


@pytest.mark.parametrize("batch", [Top(), Power(), BatchBALD(50)])
def test_no_row_twice_also_among_duplicates(batch):
    logs = np.repeat(log_probs(n=3), 4, axis=1)
    for seed in range(30):
        got = batch.select(acq.bald(logs), 8, np.random.default_rng(seed), logs)
        assert len(set(got.tolist())) == 8


def test_log_det_takes_no_row_twice():
    m = some_moments(n=3)
    m = reg.Moments(np.repeat(m.mean, 4, 1), np.repeat(m.noise, 4, 1))
    got = LogDet().select(reg.variance(m), 10, np.random.default_rng(0), m)
    assert len(set(got.tolist())) == 10


def test_power_draws_in_proportion():
    s = np.array([1.0, 2.0, 3.0, 4.0])
    first = [Power().select(s, 2, np.random.default_rng(i))[0] for i in range(4000)]
    share = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(share, s / 10, atol=4 * 0.5 / 4000**0.5)
    sharp = Power(200.0).select(s, 2, np.random.default_rng(0))
    assert sharp.tolist() == [3, 2]


def test_power_of_middling_utilities():
    """Among many rows of like utility few count; among a few, or far apart, the power is one."""
    s = 0.5 + 0.5 * np.random.default_rng(0).random(5000)
    beta = _least_power(np.log(s), 20.0)
    p = (s / s.max()) ** beta
    np.testing.assert_allclose(np.exp(entr(p / p.sum()).sum()), 20.0, rtol=0.01)
    assert beta > 50
    got = np.concatenate([Power().select(s, 5, np.random.default_rng(i)) for i in range(200)])
    assert np.median(s[got]) > np.quantile(s, 0.99)  # one of chance has a median of 0.75
    assert len(set(got.tolist())) > 10
    assert _least_power(np.log(s), 5000.0) == 1.0
    assert _least_power(-0.5 * np.arange(5000.0), 20.0) == 1.0
    equal = np.zeros(100)  # which no power tells apart
    assert len(set(Power().select(np.exp(equal), 5, np.random.default_rng(0)).tolist())) == 5


def test_power_explores_while_labels_are_few():
    """Five times as many rows count at ten labels as from fifty on."""
    s = 0.5 + 0.5 * np.random.default_rng(0).random(5000)

    def rank(batch, n_labelled):
        got = [batch.select(s, 5, np.random.default_rng(i), None, n_labelled) for i in range(400)]
        return (s > np.median(s[np.concatenate(got)])).sum()

    many = rank(Power(), 50)
    assert 4 < rank(Power(), 10) / many < 6
    assert rank(Power(n_explore=0), 1) == rank(Power(), None) == many
    assert rank(Power(200.0), 1) == rank(Power(200.0), 50)
    with pytest.raises(ValueError, match="Power: n_explore=-1 is not allowed"):
        Power(n_explore=-1).check()


def test_ties_are_broken_by_the_seed():
    u = np.array([1.0, 3.0, 3.0, 3.0, 0.0])
    firsts = {int(top(u, 1, np.random.default_rng(i))[0]) for i in range(30)}
    assert firsts == {1, 2, 3}
    assert (
        top(u, 2, np.random.default_rng(7)).tolist() == top(u, 2, np.random.default_rng(7)).tolist()
    )
    assert top(u, 4, np.random.default_rng(0))[3] == 0


def test_batches_refuse_the_wrong_task():
    u = np.ones(3)
    with pytest.raises(ValueError, match="log_det"):
        BatchBALD().select(u, 2, np.random.default_rng(0), some_moments(n=3))
    with pytest.raises(ValueError, match="batch_bald"):
        LogDet().select(u, 2, np.random.default_rng(0), log_probs(n=3))
    with pytest.raises(ValueError, match=r"beta=-1.*'auto' or a number over 0"):
        Power(-1).check()
    with pytest.raises(ValueError, match=r"n_configurations=0.*integer >= 1"):
        BatchBALD(0).check()
