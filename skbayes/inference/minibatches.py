"""Minibatches of the rows: of all in memory, or read in blocks where rows are on disk."""

from __future__ import annotations

import numpy as np

from skbayes.model.out_of_core import BLOCK_ROWS, OutOfCoreInputs

WINDOW_ROWS = 64 * BLOCK_ROWS  # that are in memory at a time where rows are read from disk
WINDOWS = 1_000  # number of the child of streams that the order of blocks comes from


def on_disk(log_posterior) -> bool:
    """Whether the rows are read when they are needed."""
    return isinstance(getattr(log_posterior, "inputs", None), OutOfCoreInputs)


class Minibatches:
    """What every step sees, drawn for every chain on its own.

    In memory, rows are drawn at random with repetition, so that gradients of different steps are
    independent. On disk, every pass takes the blocks of consecutive rows in a new random order,
    some of them at a time (a window); within a window every chain has an order of its own.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of all rows.
    batch_size : int
        Rows of a step.
    """

    def __init__(self, log_posterior, batch_size: int) -> None:
        self.whole, self.batch_size = log_posterior, batch_size
        self.on_disk = on_disk(log_posterior)
        self._window = -1
        if self.on_disk:
            self._n_blocks = -(-log_posterior.n // BLOCK_ROWS)
            self._n_windows = -(-log_posterior.n // WINDOW_ROWS)
            # of every window, which all have as many blocks, but for one more or less
            self._steps = max(1, round(log_posterior.n / self._n_windows / batch_size))

    def draw(self, streams, t: int) -> tuple[object, np.ndarray | None]:
        """Where the rows of step t are, and which of them, index (n_chains, batch); None are all.

        ``source.minibatch(index)`` is the unbiased copy of the whole.
        """
        if self.on_disk:
            return self._draw_from_disk(streams, t)
        n = self.whole.n
        if self.batch_size >= n:
            return self.whole, None
        return self.whole, streams.rows(n, self.batch_size)

    def _draw_from_disk(self, streams, t: int) -> tuple[object, np.ndarray]:
        window, step = divmod(t, self._steps)
        if window != self._window:
            self._load(streams, window)
        start = step * self.batch_size
        return self._source, self._order[:, start : start + self.batch_size]

    def _load(self, streams, window: int) -> None:
        """Read a window; all of it follows from the seed and its number, as a restart needs it."""
        in_pass = window % self._n_windows
        number = window // self._n_windows
        # one order of blocks for all chains of the batch, since they share what is read
        shared = streams.child(WINDOWS).child(number, 1).generators[0]
        blocks = np.array_split(shared.permutation(self._n_blocks), self._n_windows)[in_pass]
        rows = (np.sort(blocks)[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).reshape(-1)
        rows = rows[rows < self.whole.n]
        self._source = self.whole.rows(rows)
        self._source.n = self.whole.n  # what its minibatches stand for
        order = streams.child(WINDOWS + 1).child(window).permutation(len(rows))
        need = self._steps * self.batch_size
        if len(rows) < need:  # windows differ by a block, and the last block may be short
            order = np.tile(order, (1, -(-need // len(rows))))
        self._order, self._window = order[:, :need], window
