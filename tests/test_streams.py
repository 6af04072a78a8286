"""Random streams: reproducible, independent of each other, and of everything global."""

import random

import numpy as np
import torch
from scipy import stats

from skbayes.inference import Streams

F64 = torch.float64


def test_same_seed_same_numbers():
    for name in ("normal", "uniform", "exponential"):
        a, b = (getattr(Streams(3, 2), name)(5, dtype=F64) for _ in range(2))
        assert torch.equal(a, b) and a.shape == (2, 5)
        assert not torch.equal(a, getattr(Streams(4, 2), name)(5, dtype=F64))
    np.testing.assert_array_equal(Streams(3, 2).permutation(9), Streams(3, 2).permutation(9))


def test_a_chain_does_not_depend_on_the_others():
    many = Streams(0, 7).normal(5)
    assert torch.equal(many[:3], Streams(0, 3).normal(5))
    assert torch.equal(many[4:6], Streams(0, 2, first=4).normal(5))


def test_chains_and_children_differ():
    streams = Streams(0, 3)
    parts = [streams.normal(4000, dtype=F64)]
    parts += [streams.child(k).normal(4000, dtype=F64) for k in range(2)]
    parts.append(streams.child(0).child(0).normal(4000, dtype=F64))
    together = np.concatenate([part.numpy() for part in parts])
    correlation = np.corrcoef(together) - np.eye(len(together))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_children_do_not_depend_on_what_was_drawn_before():
    a, b = Streams(0, 2), Streams(0, 2)
    a.normal(100)
    assert torch.equal(a.child(1).normal(5), b.child(1).normal(5))
    assert b.child(1, n_chains=4).normal(5).shape == (4, 5)


def test_selected_chains_share_their_generators():
    streams, same = Streams(0, 3), Streams(0, 3)
    first, second = same.normal(5), same.normal(5)
    assert torch.equal(streams.select([2, 0]).normal(5), first[[2, 0]])
    chosen = streams.select([0, 2])
    assert torch.equal(chosen.normal(5), second[[0, 2]])
    # the chain that was left out is where it was
    assert torch.equal(streams.select([1]).normal(5), first[[1]])


def test_distributions():
    streams = Streams(0, 2)
    for drawn, law in (
        (streams.normal(5000), stats.norm),
        (streams.uniform(5000), stats.uniform),
        (streams.exponential(5000), stats.expon),
        (streams.gamma(2.5, 5000), stats.gamma(2.5)),
        (streams.normal(5000, dtype=F64), stats.norm),
    ):
        assert stats.kstest(drawn.numpy().ravel(), law.cdf).pvalue > 1e-3
    each = streams.gamma(np.array([1.0, 50.0]), 2)
    assert each.shape == (2, 2)
    np.testing.assert_array_equal(np.sort(streams.permutation(9), 1), np.tile(np.arange(9), (2, 1)))


def numpy_state():
    state = np.random.get_state()  # noqa: NPY002
    return state[1].tolist(), *state[2:]


def test_global_states_are_not_touched():
    before = random.getstate(), numpy_state(), torch.get_rng_state()
    streams = Streams(0, 2)
    streams.normal(5), streams.uniform(5), streams.gamma(1.0, 5), streams.permutation(5)
    assert random.getstate() == before[0]
    assert numpy_state() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
