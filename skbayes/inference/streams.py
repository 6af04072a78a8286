"""One random stream per chain, on the CPU, whatever the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Streams:
    """Random numbers for ``n_chains`` chains, each from a generator of its own.

    Chain c of seed s draws from ``SeedSequence(s, spawn_key=(*key, c))``, so that a chain's
    numbers depend neither on how many chains there are nor on where they run. The global states
    of torch, numpy and Python are never touched.

    Parameters
    ----------
    seed : int
        Seed of the whole run.
    n_chains : int
        Number of chains.
    key : sequence of int
        Name of this set of streams within the seed, see `child`.
    first : int
        Number of the first chain (others count from it).
    """

    def __init__(self, seed: int, n_chains: int, key: Sequence[int] = (), first: int = 0) -> None:
        self.seed, self.n_chains, self.key, self.first = seed, n_chains, tuple(key), first
        self.generators = [
            np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(*self.key, first + c)))
            )
            for c in range(n_chains)
        ]

    def child(self, number: int, n_chains: int | None = None) -> Streams:
        """Independent streams for a part of the run, named by a number."""
        return Streams(
            self.seed,
            self.n_chains if n_chains is None else n_chains,
            (*self.key, 1_000_003 + number),
            self.first,
        )

    def normal(self, *shape: int, dtype=torch.float32, device=None) -> Tensor:
        """Standard normal numbers, (n_chains, *shape)."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        return self._fill(
            lambda g, row: g.standard_normal(dtype=kind, out=row), shape, dtype, device, kind
        )

    def uniform(self, *shape: int, dtype=torch.float64, device=None) -> Tensor:
        """Uniform numbers in [0, 1), (n_chains, *shape)."""
        return self._fill(lambda g, row: g.random(out=row), shape, dtype, device)

    def exponential(self, *shape: int, dtype=torch.float32, device=None) -> Tensor:
        """Exponential numbers of mean one, (n_chains, *shape)."""
        return self._fill(lambda g, row: g.standard_exponential(out=row), shape, dtype, device)

    def gamma(self, concentration, *shape: int, dtype=torch.float32, device=None) -> Tensor:
        """Gamma numbers of scale one, (n_chains, *shape)."""
        return self._fill(
            lambda g, row: g.standard_gamma(concentration, out=row), shape, dtype, device
        )

    def permutation(self, n: int) -> np.ndarray:
        """A random order of n rows for every chain, (n_chains, n)."""
        return np.stack([g.permutation(n) for g in self.generators])

    def rows(self, n: int, size: int) -> np.ndarray:
        """Rows out of n at random, with repetition, for every chain, (n_chains, size)."""
        return np.stack([g.integers(n, size=size) for g in self.generators])

    def _fill(self, draw, shape, dtype, device, kind=np.float64) -> Tensor:
        """Let ``draw(generator, row)`` fill each chain's row: there may be many, and short."""
        block = np.empty((self.n_chains, math.prod(shape)), dtype=kind)
        for generator, row in zip(self.generators, block, strict=True):
            draw(generator, row)
        return torch.as_tensor(block.reshape(self.n_chains, *shape)).to(dtype=dtype, device=device)

    def state(self) -> list[Mapping[str, Any]]:
        """States of the generators, plain Python numbers that JSON can hold."""
        return [g.bit_generator.state for g in self.generators]

    def restore(self, states: list[Mapping[str, Any]]) -> None:
        """Go on from what `state` gave."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.bit_generator.state = state

    def select(self, chains: Sequence[int]) -> Streams:
        """The streams of some chains, sharing their generators."""
        out = object.__new__(Streams)
        out.__dict__.update(self.__dict__)
        out.generators = [self.generators[c] for c in chains]
        out.n_chains = len(out.generators)
        return out
