"""Rows that are read from disk: the same posterior, and every row once in a pass."""

import numpy as np
import pytest
import torch
from problems import F64, KINDS, make_log_posterior, random_theta

from skbayes.inference import MAP, SGLD, Streams, minibatches
from skbayes.inference.minibatches import Minibatches
from skbayes.model import Inputs, out_of_core
from skbayes.model.out_of_core import OutOfCoreInputs, OutOfCoreLogPosterior


class Counted:
    """Rows in memory that remember what was read of them."""

    def __init__(self, X):
        self.X, self.shape, self.read = X, X.shape, []

    def __getitem__(self, rows):
        self.read.append(len(self.X[rows]))
        return self.X[rows]


def both(kind, monkeypatch, n=50, block=4, window=8, **kwargs):
    """A log posterior in memory, and the same one with its rows elsewhere."""
    monkeypatch.setattr(out_of_core, "BLOCK_ROWS", block)
    monkeypatch.setattr(minibatches, "BLOCK_ROWS", block)
    monkeypatch.setattr(minibatches, "WINDOW_ROWS", window)
    X = np.random.default_rng(0).normal(size=(n, 3))
    inside = make_log_posterior(kind, X=X, n=n, **kwargs)
    scale = inside.network.input_scale
    source = Counted(X)
    inputs = OutOfCoreInputs(source, lambda rows: Inputs(rows, scale=scale, **F64))
    outside = OutOfCoreLogPosterior(
        inside.network, inside.likelihood, inside.prior, inputs, inside.y, inside.weight
    )
    return inside, outside, source


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_the_same(kind, weighted, monkeypatch):
    parts = np.split(np.arange(50), [9, 30])
    monkeypatch.setattr(out_of_core.OutOfCoreInputs, "blocks", lambda self: parts)
    weight = np.random.default_rng(1).uniform(0, 2, 50) if weighted else None
    inside, outside, _ = both(kind, monkeypatch, weight=weight)
    theta = random_theta(inside)
    torch.testing.assert_close(outside(theta), inside(theta))
    torch.testing.assert_close(outside.grad(theta), inside.grad(theta))
    for a, b in zip(outside.value_and_grad(theta), inside.value_and_grad(theta), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(outside.pointwise(theta), inside.pointwise(theta))
    for index in (np.array([3, 1, 40]), np.array([[3, 1], [0, 0], [49, 7]])):
        a, b = outside.minibatch(index), inside.minibatch(index)
        torch.testing.assert_close(a.grad(theta).clone(), b.grad(theta))
        torch.testing.assert_close(a(theta), b(theta))


def test_all_parts_are_read_once():
    inputs = OutOfCoreInputs(Counted(np.zeros((70_000, 1))), lambda rows: Inputs(rows, **F64))
    parts = list(inputs.blocks())
    assert len(parts) == 2
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(70_000))


@pytest.mark.parametrize("n", [48, 50])
def test_a_pass_sees_every_row_once(n, monkeypatch):
    """Up to the rows of the shorter windows that stand in for those that longer ones leave over."""
    _, outside, source = both("learned", monkeypatch, n=n, window=16)
    feed = Minibatches(outside, 4)
    streams, seen = Streams(0, 2), []
    for t in range(24):
        window, index = feed.draw(streams, t)
        assert index.shape == (2, 4) and window.n == n
        seen.append(window.minibatch(index).y[:, 0].numpy())
    seen = np.concatenate(seen, 1)
    rows = outside.y[0, 0].numpy()
    counts = np.array([[np.isclose(chain, y).sum() for y in rows] for chain in seen])
    if n == 48:
        assert (counts == 2).all()
    else:
        assert counts.mean() == pytest.approx(2, abs=0.1) and counts.max() <= 4
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0, :48], seen[0, 48:])
    assert max(source.read) <= 20  # a window, never all


def test_a_step_follows_from_the_seed_and_its_number(monkeypatch):
    _, outside, _ = both("learned", monkeypatch)
    one, other = Minibatches(outside, 4), Minibatches(outside, 4)
    for t in range(20):
        one.draw(Streams(3, 2), t)
    first, second = one.draw(Streams(3, 2), 20), other.draw(Streams(3, 2), 20)
    for a, b in zip(first, second, strict=True):
        rows = [s.minibatch(i).y for s, i in ((first[0], first[1]), (second[0], second[1]))]
        torch.testing.assert_close(*rows)
        assert type(a) is type(b)


def test_sgld_from_disk_draws_from_the_same_posterior(monkeypatch):
    inside, outside, _ = both("fixed", monkeypatch, n=48, hidden=())
    method = SGLD(
        n_chains=20,
        n_warmup=10,
        n_draws=40,
        n_steps=24,
        batch_size=8,
        learning_rate=0.05,
        decay=0,
        init=MAP(max_epochs=50),
    )
    one, other = (method.run(target, None, Streams(1, 20)) for target in (inside, outside))
    assert "log_prob" in one.stats and "log_prob" not in other.stats
    centre, spread = one.flat.mean(0), one.flat.std(0)
    by_chain = other.draws.mean(1)
    error = by_chain.std(0) / np.sqrt(20)
    assert (np.abs(by_chain.mean(0) - centre) < 4 * np.sqrt(2) * error).all()
    np.testing.assert_allclose(other.flat.std(0), spread, rtol=0.25)
