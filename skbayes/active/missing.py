"""Labels, and how rows without one are marked."""

from __future__ import annotations

from typing import Any

import numpy as np

AUTO = "auto"


def is_missing(y: np.ndarray, marker: Any) -> np.ndarray:
    """Which entries of y (n,) carry the marker; None and NaN stand for each other in objects."""
    if marker is None or _is_nan(marker):
        if y.dtype.kind == "f":
            return np.isnan(y)
        if y.dtype == object:
            return np.fromiter((v is None or _is_nan(v) for v in y), bool, len(y))
        return np.zeros(len(y), dtype=bool)
    if y.dtype == object:
        return np.fromiter((v is None or _same(v, marker) for v in y), bool, len(y))
    if y.dtype.kind in "US" and not isinstance(marker, str | bytes):
        return np.zeros(len(y), dtype=bool)
    return np.asarray(y == marker).reshape(len(y))


def resolve_marker(y: np.ndarray, missing_label, classes, regression: bool) -> Any:
    """What marks rows without a label, for ``missing_label="auto"`` by the kind of y.

    -1 for integers, NaN for floats and regression, None for objects; None (nothing) where -1 is
    one of ``classes``.

    Raises
    ------
    ValueError
        If -1 could be a class as well.
    """
    if not (isinstance(missing_label, str) and missing_label == AUTO):
        if classes is not None and any(_same(c, missing_label) for c in classes):
            raise ValueError(
                f"missing_label={missing_label!r} is among classes={list(classes)!r}; it must "
                "mark rows without a label."
            )
        return missing_label
    if regression or y.dtype.kind == "f":
        return np.nan
    if y.dtype.kind in "iu":
        if classes is not None:
            return None if -1 in np.asarray(classes).tolist() else -1
        known = np.unique(y[y != -1])
        if y.dtype.kind == "i" and (y == -1).any() and known.tolist() == [1]:
            raise ValueError(
                "y holds only the labels -1 and 1, and -1 marks rows without a label. Pass "
                "classes=[-1, 1] if -1 is a class, or classes=[0, 1] (all that there will be) if "
                "it is not."
            )
        return -1
    return None


def known_labels(y: np.ndarray) -> np.ndarray:
    """Labels in an array of their own kind, where they came as objects."""
    return np.array(y.tolist()) if y.dtype == object else y


def empty_labels(n: int, regression: bool) -> np.ndarray:
    """Labels of n rows of which none is known."""
    return np.full(n, np.nan) if regression else np.full(n, None, dtype=object)


def put(labels: np.ndarray, rows: np.ndarray, values: np.ndarray, marker) -> np.ndarray:
    """A copy of labels with some entries replaced, in a type that holds them all.

    Integers and floats become one type, longer strings fit; what would change its meaning does
    not go in.
    """
    values = np.asarray(values)
    if labels.dtype == object:
        out = labels.copy()
        out[rows] = values.tolist() if values.dtype != object else values
        return out
    if values.dtype == object:
        values = known_labels(values)
    numbers = "iufb"
    if (labels.dtype.kind in numbers) != (values.dtype.kind in numbers):
        raise ValueError(
            f"labels of type {values.dtype} do not go with those known, of type {labels.dtype}."
        )
    if labels.dtype.kind in "iu" and values.dtype.kind == "f" and (values == values.round()).all():
        values = values.astype(labels.dtype)  # an answer of 1.0 is the class 1
    out = labels.astype(np.promote_types(labels.dtype, values.dtype))
    out[rows] = values
    return out


def _is_nan(value) -> bool:
    """Whether this is NaN, or the NA of pandas."""
    return (isinstance(value, float | np.floating) and value != value) or (
        type(value).__name__ == "NAType"
    )


def _same(value, marker) -> bool:
    """Whether two labels are equal; NaN equals NaN."""
    if _is_nan(value) or _is_nan(marker):
        return _is_nan(value) and _is_nan(marker)
    return bool(value == marker)
