"""Rows that stay where they are, on disk or in a dataset, and are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from skbayes.model.inputs import Inputs
from skbayes.model.log_posterior import LogPosterior

BLOCK_ROWS = 1024
"""Rows that follow each other on disk and are read together."""


class RowSource(Protocol):
    """Where rows are read from."""

    shape: tuple[int, ...]
    """Number of rows, and the shape of one."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows by a slice or an index array, as the network sees them."""


class OutOfCoreInputs:
    """Rows of a source, with the part of the interface of `Inputs` that makes batches.

    Parameters
    ----------
    source : RowSource
        Where rows are read from.
    make : callable
        Makes the inputs of the network from rows (m, ...), in memory.
    """

    kind = "out of core"

    def __init__(self, source: RowSource, make: Callable[[np.ndarray], Inputs]) -> None:
        self.source, self.make = source, make
        empty = make(source[:1])
        self.dtype, self.device = empty.dtype, empty.device
        self.n, self.n_features = source.shape[0], source.shape[1]

    def take(self, index: np.ndarray) -> Inputs:
        """Read the rows of a minibatch; index (batch,), or (n_chains, batch)."""
        rows = self.make(self.source[index.reshape(-1)])
        if index.ndim == 1:
            return rows
        return rows.take(np.arange(index.size).reshape(index.shape))

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in their order, in parts of bounded size, each an index (m,)."""
        size = 64 * BLOCK_ROWS
        for first in range(0, self.n, size):
            yield np.arange(first, min(first + size, self.n))


class OutOfCoreLogPosterior(LogPosterior):
    """The log posterior of rows that are not in memory.

    Targets and weights are in memory. Minibatches are read and then as any other; a pass over all
    rows reads them part by part.
    """

    inputs: Any

    def statistic(self, theta: Tensor) -> Tensor:
        """See `LogPosterior.statistic`."""
        if not isinstance(self.inputs, OutOfCoreInputs):
            return super().statistic(theta)
        total: Any = 0.0
        for index in self.inputs.blocks():
            total = total + self.rows(index).statistic(theta)
        return total

    def pointwise(self, theta: Tensor, weighted: bool = True) -> Tensor:
        """See `LogPosterior.pointwise`."""
        if not isinstance(self.inputs, OutOfCoreInputs):
            return super().pointwise(theta, weighted)
        return torch.cat([self.rows(i).pointwise(theta, weighted) for i in self.inputs.blocks()], 1)

    def _evaluate(self, theta: Tensor, with_value: bool) -> tuple[Tensor | None, Tensor]:
        if not isinstance(self.inputs, OutOfCoreInputs):
            return super()._evaluate(theta, with_value)
        # every part has the whole prior; all but one are taken off again
        grad, n_parts = torch.zeros_like(theta), 0
        for index in self.inputs.blocks():
            grad += self.rows(index)._evaluate(theta, False)[1]
            n_parts += 1
        _, *parts = self._prior_terms(theta)
        prior = torch.cat([part for part in parts if part.shape[1]], 1)
        grad -= (n_parts - 1) * prior
        return (self(theta) if with_value else None), grad
