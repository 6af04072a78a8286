"""What the columns of X are, and how the network sees them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.rows_on_disk import parts

CACHED = 1 << 18
"""Numbers that are transformed at a time, so that temporaries stay in the cache."""

FINE = 1e-3
"""Distance of grid points, in standard deviations, from which a column counts as continuous."""


class Layout(NamedTuple):
    """Numbers of columns of each kind, in the order in which the model has them."""

    n_normal: int
    n_integer: int
    n_binary: int
    n_count: int
    n_categories: tuple[int, ...]

    @property
    def n_real(self) -> int:
        """Columns with a location and a scale: normal ones and integers."""
        return self.n_normal + self.n_integer

    @property
    def n_columns(self) -> int:
        """Columns that the likelihood has a term for."""
        return self.n_real + self.n_binary + self.n_count + len(self.n_categories)

    @property
    def n_inputs(self) -> int:
        """Columns that the encoder sees, categories as indicators."""
        return self.n_real + self.n_binary + self.n_count + sum(self.n_categories)


class Columns:
    """Sorts the columns of X by kind and brings them to the scale of the model.

    Real columns are standardised. Those whose values lie on a grid (integers, or multiples of one)
    keep its pitch, so that their likelihood is a probability per grid point. Constant columns are
    left out. Binary columns become 0 and 1, categories codes; counts stay as they are.

    Parameters
    ----------
    categorical, binary, count, integer : sequence of int
        Indices of columns with categories, two values, counts, and values on a grid.
    standardize : bool
        Whether real columns are centred and scaled.
    detect_integer : bool
        Whether columns of whole numbers are found and treated as ``integer``.
    image : bool
        Whether the columns are pixels, which must be all of one kind and keep their order: whole
        numbers are then found only where all pixels have them.

    Attributes
    ----------
    order : ndarray of shape (n_columns,)
        Columns of X in the order of the model: normal, integer, binary, count, categorical.
    constant : ndarray
        Columns that are left out.
    mean, scale, pitch : ndarray of shape (n_real,)
        Of the real columns; the pitch is 0 where the column is continuous.
    """

    def __init__(
        self,
        categorical=(),
        binary=(),
        count=(),
        integer=(),
        standardize: bool = True,
        detect_integer: bool = True,
        image: bool = False,
    ) -> None:
        self.mean, self.scale = np.zeros(0), np.ones(0)
        self.categorical, self.binary = tuple(sorted(categorical)), tuple(sorted(binary))
        self.count, self.integer = tuple(sorted(count)), tuple(sorted(integer))
        self.standardize, self.detect_integer = standardize, detect_integer
        self.image = image

    def fit(self, X, weight: np.ndarray | None = None) -> Columns:
        """Look at X (n, d), an array or `RowsOnDisk`, part by part."""
        n, d = X.shape
        self.n_features = d
        discrete = [*self.categorical, *self.binary, *self.count]
        real = np.setdiff1d(np.arange(d), discrete)
        first = np.asarray(X[:1], dtype=np.float64)[0]
        low, high, top = first.copy(), first.copy(), np.abs(first)
        whole = np.ones(d, dtype=bool)
        step = np.zeros(d)
        values: dict[int, np.ndarray] = {j: np.empty(0) for j in (*self.categorical, *self.binary)}
        for rows in parts(n):
            part = np.asarray(X[rows], dtype=np.float64)
            low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
            top = np.maximum(top, np.abs(part).max(0))
            whole &= (part == np.rint(part)).all(0) & (top < 2**53)
            for j in np.flatnonzero(
                whole
            ).tolist():  # the largest number that all distances divide by
                gaps = np.abs(part[:, j] - first[j]).astype(np.int64)
                step[j] = np.gcd.reduce(gaps, initial=int(step[j]))
            for k in values:
                values[k] = np.union1d(values[k], part[:, k])
        eps = np.finfo(np.float32 if X.dtype == np.float32 else np.float64).eps
        constant = high - low <= 20 * eps * top
        self.first = first
        self._tolerance = (20 * eps * top)[constant]
        real_set = np.zeros(d, dtype=bool)
        real_set[real] = True
        asked = np.zeros(d, dtype=bool)
        asked[list(self.integer)] = True
        for j in np.flatnonzero(asked & ~whole & ~constant).tolist():
            raise ValueError(
                f"integer_features names column {j}, which has values that are not whole numbers."
            )
        self.real = np.flatnonzero(real_set & ~constant)
        self._fit_scale(X, weight, first[self.real])
        on_grid = (whole & (asked | self.detect_integer))[self.real]
        # a grid this fine cannot be told from the continuum
        on_grid &= step[self.real] > FINE * self.scale
        if self.image and self.detect_integer and not on_grid.all():
            on_grid[:] = False
        if not self.standardize:
            self.mean, self.scale = np.zeros(len(self.real)), np.ones(len(self.real))
        self._check_discrete(values, low, whole)
        self.binary_values = {j: v for j, v in values.items() if j in self.binary}
        self.categories = {j: v for j, v in values.items() if j in self.categorical}
        binary = [j for j in self.binary if not constant[j]]
        count = [j for j in self.count if not constant[j]]
        categorical = [j for j in self.categorical if not constant[j]]
        self.constant = np.flatnonzero(constant)
        self._kinds = (binary, count, categorical)
        self.layout = Layout(
            int((~on_grid).sum()),
            int(on_grid.sum()),
            len(binary),
            len(count),
            tuple(len(self.categories[j]) for j in categorical),
        )
        kinds = [self.layout.n_normal, self.layout.n_integer, len(binary), len(count)]
        if self.image and (categorical or np.count_nonzero(kinds) > 1):
            raise ValueError(
                "image_shape needs pixels that are all of one kind: real, integer, binary or "
                f"counts, but there are {kinds} of these and {len(categorical)} categories."
            )
        continuous_first = np.argsort(on_grid, kind="stable")
        pitch = np.where(on_grid, step[self.real], 0.0)
        self.real, self.pitch = self.real[continuous_first], pitch[continuous_first]
        self.mean, self.scale = self.mean[continuous_first], self.scale[continuous_first]
        self.order = np.concatenate([self.real, binary, count, categorical]).astype(int)
        return self

    def _check_discrete(self, values, low, whole) -> None:
        for j in self.binary:
            if len(values[j]) > 2:
                raise ValueError(
                    f"binary_features names column {j}, which has {len(values[j])} values."
                )
        for j in self.count:
            if low[j] < 0 or not whole[j]:
                raise ValueError(
                    f"count_features names column {j}, which has values that are negative or not "
                    "whole numbers."
                )

    def _fit_scale(self, X, weight, shift) -> None:
        """Weighted mean and deviation of the real columns, in two passes."""
        n, real = X.shape[0], self.real
        total = float(n) if weight is None else float(weight.sum())
        self.mean, self.scale = np.zeros(len(real)), np.ones(len(real))

        def mean_of(values) -> np.ndarray:
            out = np.zeros(len(real))
            for rows in parts(n):
                part = values(np.asarray(X[rows], dtype=np.float64)[:, real])
                out += part.sum(0) if weight is None else weight[rows] @ part
            return out / total

        with np.errstate(over="ignore"):
            mean = mean_of(lambda part: part - shift)
            # brought near one first, so that squares neither overflow nor vanish
            size = np.maximum(mean_of(lambda part: np.abs(part - shift - mean)), 1e-300)
            square = mean_of(lambda part: ((part - shift - mean) / size) ** 2)
        self.mean, self.scale = shift + mean, size * np.sqrt(square)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all()):
            raise ValueError("X has values so large that standardising them overflows; rescale X.")

    def transform(self, X, dtype=np.float64) -> np.ndarray:
        """Values that the model takes, (n, n_columns)."""
        out = np.empty((len(X), self.layout.n_columns), dtype=dtype)
        for rows in parts(len(X), max(1, CACHED // max(1, X.shape[1]))):
            self._transform(np.asarray(X[rows], dtype=np.float64), out[rows])
        return out

    def _transform(self, X: np.ndarray, out: np.ndarray) -> None:
        """Write the values of a few rows."""
        n_real = len(self.real)
        out[:, :n_real] = (X[:, self.real] - self.mean) / self.scale
        at = n_real
        binary, count, categorical = self._kinds
        if binary:
            out[:, at : at + len(binary)] = self._binary_codes(X[:, binary], binary)
            at += len(binary)
        for j in count:
            if (X[:, j] < 0).any() or (X[:, j] != np.rint(X[:, j])).any():
                raise ValueError(f"column {j} has counts that are negative or not whole numbers.")
            out[:, at] = X[:, j]
            at += 1
        for j in categorical:
            out[:, at] = self._code(X[:, j], self.categories[j], j)
            at += 1

    def _binary_codes(self, part: np.ndarray, columns: list[int]) -> np.ndarray:
        """Which entries have the larger value of their column; all columns at once."""
        known = np.array([self.binary_values[j] for j in columns])
        high = part == known[:, 1]
        wrong = ~high & (part != known[:, 0])
        if wrong.any():
            k = int(np.flatnonzero(wrong.any(0))[0])
            self._code(part[:, k], known[k], columns[k])  # says what is wrong
        return high

    @staticmethod
    def _code(column, known, j) -> np.ndarray:
        code = np.minimum(np.searchsorted(known, column), len(known) - 1)
        wrong = known[code] != column
        if wrong.any():
            raise ValueError(
                f"column {j} has the value {column[wrong][0]}, which was not there in fit; known "
                f"are {known.tolist()}."
            )
        return code

    def inverse_transform(self, V: np.ndarray, round_integers: bool = True) -> np.ndarray:
        """Rows of X from values of the model; constant columns are filled in."""
        out = np.tile(self.first, (len(V), 1))
        n_real = len(self.real)
        real = V[:, :n_real] * self.scale + self.mean
        if round_integers:
            grid = self.pitch > 0
            start, pitch = self.first[self.real][grid], self.pitch[grid]
            real[:, grid] = start + pitch * np.rint((real[:, grid] - start) / pitch)
        out[:, self.real] = real
        at = n_real
        binary, count, categorical = self._kinds
        for j in binary:
            out[:, j] = self._value(V[:, at], self.binary_values[j], round_integers)
            at += 1
        for j in count:
            out[:, j] = V[:, at]
            at += 1
        for j in categorical:
            out[:, j] = self.categories[j][V[:, at].astype(int)]
            at += 1
        return out

    @staticmethod
    def _value(code, known, exact: bool) -> np.ndarray:
        """Values of a binary column; means between 0 and 1 give means between the two values."""
        if exact:
            return known[np.rint(code).astype(int)]
        return known[0] + code * (known[-1] - known[0])

    @property
    def half_pitch(self) -> np.ndarray:
        """Half the distance of the integer columns' grid points, as the model sees it."""
        return (0.5 * self.pitch / self.scale)[self.layout.n_normal :]

    @property
    def log_volume(self) -> np.ndarray:
        """What to subtract from each column's log likelihood for the units of X, (n_columns,).

        Continuous columns: the log of the scale. Integers: the log of the pitch, since their
        likelihood is a probability.
        """
        out = np.zeros(self.layout.n_columns)
        on_grid = self.pitch > 0
        out[: len(self.real)] = np.log(np.where(on_grid, self.pitch, self.scale))
        return out

    def constant_violations(self, X) -> np.ndarray:
        """Number of columns, constant in `fit`, that have another value, (n,)."""
        X = np.asarray(X, dtype=np.float64)[:, self.constant]
        return (np.abs(X - self.first[self.constant]) > self._tolerance).sum(1)

    def known(self, X) -> np.ndarray:
        """Rows whose categories, binary values and counts `transform` takes, (n,)."""
        X = np.asarray(X, dtype=np.float64)
        binary, count, categorical = self._kinds
        out = np.ones(len(X), dtype=bool)
        for j in (*binary, *categorical):
            values = self.categories[j] if j in self.categories else self.binary_values[j]
            out &= np.isin(X[:, j], values)
        for j in count:
            out &= (X[:, j] >= 0) & (X[:, j] == np.rint(X[:, j]))
        return out


class InputMoments(NamedTuple):
    """Means and deviations of counts as the encoder sees them."""

    mean: np.ndarray
    scale: np.ndarray


def count_moments(V: np.ndarray, layout: Layout, weight: np.ndarray | None = None) -> InputMoments:
    """Moments of log(1 + count)."""
    start = layout.n_real + layout.n_binary
    counts = np.log1p(V[:, start : start + layout.n_count].astype(np.float64))
    share = shares(weight, len(V))
    mean = share @ counts
    scale = np.sqrt(share @ (counts - mean) ** 2)
    return InputMoments(mean, np.where(scale > 0, scale, 1.0))


def expand(v: Tensor, layout: Layout, count_mean: Tensor, count_scale: Tensor) -> Tensor:
    """Inputs of the encoder (n, n_inputs) from values (n, n_columns)."""
    n_real, n_binary = layout.n_real, layout.n_binary
    if n_real == layout.n_columns:
        return v
    out = [v[:, :n_real]] if n_real else []
    at = n_real + n_binary
    if n_binary:
        out.append(2.0 * v[:, n_real:at] - 1.0)
    if layout.n_count:
        out.append((torch.log1p(v[:, at : at + layout.n_count]) - count_mean) / count_scale)
    at += layout.n_count
    for k in layout.n_categories:
        out.append(torch.nn.functional.one_hot(v[:, at].long(), k).to(v.dtype))
        at += 1
    return out[0] if len(out) == 1 else torch.cat(out, 1)


def shares(weight: np.ndarray | None, n: int) -> np.ndarray:
    """Weights of n rows that sum to one; None are equal ones."""
    return np.full(n, 1 / n) if weight is None else weight / weight.sum()
