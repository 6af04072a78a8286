"""Unlabelled rows in memory or on disk, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data
from torch.utils.data import Dataset

from skbayes.rows_on_disk import RowsOnDisk, check_dataset, is_on_disk, parts

HELD_OUT_AT_MOST = 5000


def check_rows(estimator, X: Any, reset: bool, min_rows: int = 1, image_shape=None):
    """Check X, part by part where it is not in memory.

    Returns
    -------
    ndarray or RowsOnDisk
    """
    if isinstance(X, CheckedRows):
        return X
    if not is_on_disk(X):
        shape = getattr(estimator, "image_shape", image_shape)
        if shape is not None and np.ndim(X) > 2:
            X = np.asarray(X)
            X = X.reshape(len(X), -1)
        return validate_data(
            estimator,
            X,
            dtype=[np.float64, np.float32],
            reset=reset,
            ensure_min_samples=min_rows,
        )
    check_dataset(X)
    if isinstance(X, Dataset) and not isinstance(X[0], tuple | list):
        raise ValueError("X is a Dataset, but its items are not tuples whose first is the row.")
    rows = RowsOnDisk(X)
    if len(rows.shape) > 2:
        rows = rows.flat()
    validate_data(estimator, rows[:2], dtype=[np.float64, np.float32], reset=reset)
    for part in rows.parts():
        assert_all_finite(rows[part], input_name="X")
    return rows


class CheckedRows:
    """Rows that `check_rows` has passed, or some of them, which are not checked again.

    Parameters
    ----------
    rows : ndarray, RowsOnDisk or CheckedRows
        What `check_rows` gave.
    index : ndarray of int, optional
        Which of them.
    """

    def __init__(self, rows, index: np.ndarray | None = None) -> None:
        self.rows, self.index = rows, index
        self.on_disk = getattr(rows, "on_disk", isinstance(rows, RowsOnDisk))
        self.shape = (rows.shape[0] if index is None else len(index), rows.shape[1])
        self.dtype = rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i) -> np.ndarray:
        return self.rows[i if self.index is None else self.index[i]]

    def parts(self):
        """Slices that cover all rows."""
        return parts(len(self))


def in_parts(values: Callable, X: CheckedRows) -> np.ndarray:
    """``values(part)`` of all rows, some of them at a time."""
    some = [np.arange(rows.start, rows.stop) for rows in X.parts()]
    return np.concatenate([values(CheckedRows(X, part)) for part in some])


class Split:
    """Rows to train on and rows held out, which may be the same where there are few.

    Parameters
    ----------
    n : int
        Number of rows.
    fraction : float or "auto"
        Held out, at most 5,000 rows; 0 holds none out and stops by the training rows. "auto" is
        0.15, but 100 rows or a third at least.
    rng : Generator
        Chooses them.
    """

    def __init__(self, n: int, fraction: float | str, rng: np.random.Generator) -> None:
        share = max(0.15 * n, min(100, n / 3)) if isinstance(fraction, str) else fraction * n
        m = min(round(share), HELD_OUT_AT_MOST)
        if m < 1 and share > 0:
            raise ValueError(
                f"validation_fraction={fraction!r} is not allowed with {n} rows: none would be "
                "held out. Take 0 to stop by the training rows."
            )
        if m < 1 or n - m < 2:
            size = min(n, HELD_OUT_AT_MOST)
            self.held_out = np.sort(rng.choice(n, size, replace=False))
            self.n, self._shift = n, np.empty(0, dtype=np.int64)
            return
        if n > 1 << 21:  # choice without replacement would make an order of all rows
            self.held_out = np.unique(rng.integers(n, size=m))
        else:
            self.held_out = np.sort(rng.choice(n, m, replace=False))
        self.n = n - len(self.held_out)
        self._shift = self.held_out - np.arange(len(self.held_out))

    def index(self, i: np.ndarray) -> np.ndarray:
        """Row numbers in X of the training rows i."""
        return i + np.searchsorted(self._shift, i, side="right")
