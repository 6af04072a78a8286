"""Rows that are not in memory: numpy memory maps and torch datasets."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.validation import validate_data
from torch.utils.data import DataLoader, Dataset, IterableDataset

LARGE = 1 << 26
"""Bytes from which a memory map is read in parts rather than loaded."""

PART_ROWS = 1 << 16


def is_on_disk(X: Any) -> bool:
    """Whether the rows of X are to be read when they are needed."""
    return isinstance(X, Dataset | DataLoader) or (isinstance(X, np.memmap) and X.nbytes >= LARGE)


class RowsOnDisk:
    """Rows of a memory map or a dataset, by slices and index arrays.

    Parameters
    ----------
    source : numpy.memmap or Dataset
        Rows, or pairs of a row and its target.
    scaler : Standardizer, optional
        Applied to what is read.

    Attributes
    ----------
    shape : tuple of int
        Number of rows, and the shape of one.
    """

    def __init__(self, source: Any, scaler: Any = None) -> None:
        self.source, self.scaler = source, scaler
        self.is_dataset = isinstance(source, Dataset)
        if self.is_dataset:
            self.shape = (len(source), *np.shape(source[0][0]))
        else:
            self.shape = source.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if self.is_dataset:
            if isinstance(rows, slice):
                rows = range(*rows.indices(len(self)))
            X = self._stack([np.asarray(self.source[int(i)][0]) for i in rows], rows)
        else:
            X = np.asarray(self.source[rows])
        if X.dtype != np.float64:
            X = X.astype(np.float32, copy=False)
        return X if self.scaler is None else self.scaler.transform(X)

    def _stack(self, items: list[np.ndarray], rows) -> np.ndarray:
        first = items[0]
        for i, item in zip(rows, items, strict=True):
            if item.shape != first.shape:
                raise ValueError(
                    "X is a Dataset whose rows differ in shape: that of row "
                    f"{int(i)} is {item.shape}, that of row {int(rows[0])} {first.shape}."
                )
        return np.stack(items)

    @property
    def dtype(self) -> np.dtype:
        """Float type of what is read, before it is scaled."""
        return self[:1].dtype

    def scaled(self, scaler) -> RowsOnDisk:
        """The same rows as the network sees them."""
        return RowsOnDisk(self.source, scaler)

    def flat(self) -> RowsOnDisk:
        """The same rows, unscaled, each as a vector."""
        out = RowsOnDisk(self.source, _Flat())
        out.shape = (len(self), int(np.prod(self.shape[1:])))
        return out

    def parts(self):
        """Slices that cover all rows."""
        return parts(len(self))

    def get_params(self, deep=True) -> dict[str, Any]:
        """What `skbayes.inference.checkpoint.fingerprint` takes the rows for: a hash of them."""
        out = hashlib.sha256()
        for rows in self.parts():
            out.update(np.ascontiguousarray(self[rows]).data)
        return {"shape": self.shape, "hash": out.hexdigest()}


def parts(n: int, size: int | None = None):
    """Slices that cover n rows, so that temporaries stay small."""
    size = size or PART_ROWS
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class _Flat:
    """Makes vectors of rows; stands where a scaler does."""

    def transform(self, X: np.ndarray) -> np.ndarray:
        return X.reshape(len(X), -1)


def check_dataset(X: Any) -> None:
    """Raise where X is something of torch that rows cannot be read from by their numbers."""
    if isinstance(X, DataLoader):
        raise ValueError(
            "X=DataLoader is not allowed: pass its dataset (X.dataset); the method draws the "
            "minibatches."
        )
    if isinstance(X, IterableDataset) or (isinstance(X, Dataset) and not hasattr(X, "__len__")):
        raise ValueError(
            f"X={type(X).__name__} is not allowed: a Dataset must have a length and give row i "
            "by X[i]. For a stream of rows call partial_fit."
        )
    if isinstance(X, Dataset) and not len(X):  # type: ignore[arg-type]
        raise ValueError("X is a Dataset without rows.")


def open_rows(estimator, X: Any, y: Any, checks: dict[str, Any], reset: bool):
    """Check rows that are not in memory, part by part.

    Returns
    -------
    rows : RowsOnDisk
    y : ndarray
        Targets, which are in memory.
    """
    check_dataset(X)
    if not isinstance(X, np.memmap):
        if y is not None:
            raise ValueError("y must be None where X is a Dataset, which has its own targets.")
        item = X[0]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError("X is a Dataset, but its items are not pairs (x, y).")
        y = np.stack([np.asarray(X[i][1]) for i in range(len(X))])
    elif y is None:
        raise ValueError("y must not be None where X is a memory map.")
    rows = RowsOnDisk(X)
    # the names and numbers of features, and the number of dimensions, are those of some rows
    validate_data(estimator, rows[:2], **checks, reset=reset)
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
    check_consistent_length(rows, y)
    for part in rows.parts():
        assert_all_finite(rows[part], input_name="X")
    return rows, y
