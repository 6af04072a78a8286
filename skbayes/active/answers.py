"""Reading labels: what is allowed to be one, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import column_or_1d

from skbayes.active.missing import AUTO, empty_labels, is_missing, known_labels, resolve_marker


class Answers(NamedTuple):
    """What labels of a pool may be; the one reader of those of `fit`, `teach`, `run` and stores."""

    marker: Any
    """What marks rows without a label."""

    classes: list | None
    """All classes, where they are known."""

    regression: bool

    guarded: bool = False
    """Whether -1 is refused, which marks rows without a label."""

    def absent(self, values: np.ndarray) -> np.ndarray:
        """Which entries are no answer: the marker, NaN and None."""
        return is_missing(values, self.marker) | is_missing(values, None)

    def unlabelled(self, values: np.ndarray) -> np.ndarray:
        """Which entries mean rows without a label, also where another pool marks them by -1."""
        out = self.absent(values)
        if self.guarded and values.dtype.kind in "iuf":
            out = out | (values == -1)
        return out

    def read(self, values: np.ndarray, family: str | None = None) -> np.ndarray:
        """Labels in an array of their own kind.

        Parameters
        ----------
        values : ndarray of shape (n,)
            Labels.
        family : {"number", "string"} or None
            Of the labels that are known, see `family_of`.

        Raises
        ------
        ValueError
            If one is not allowed.
        """
        absent = self.absent(values)
        if absent.any():
            value = values[absent].tolist()[0]
            raise ValueError(
                f"y holds {value!r}, which is no label. In fit, rows without one are marked by "
                f"{self.marker!r}; later, pass these rows to skip."
            )
        if self.regression:
            values = values.astype(np.float64)
            if not np.isfinite(values).all():
                raise ValueError("Input y contains infinity or a value too large.")
            return values
        self._check_kinds(values, family)
        values = known_labels(values)
        if self.classes is not None:
            unknown = set(values.tolist()) - set(self.classes)
            if unknown:
                raise ValueError(
                    f"y holds {', '.join(sorted(map(repr, unknown)))}, which is not among "
                    f"classes={self.classes!r}."
                )
        elif self.guarded and values.dtype.kind in "if" and (values == -1).any():
            raise ValueError(
                "-1 marks rows without a label; pass classes= with all classes if it is one."
            )
        return values

    def read_some(self, values: np.ndarray, family: str | None):
        """Which labels are allowed, (n,), and the error of the first that is not (or None)."""
        good, error = np.ones(len(values), dtype=bool), None
        try:
            self.read(values, family)
        except ValueError:
            for i in range(len(values)):
                try:
                    family = family_of(self.read(values[i : i + 1], family))
                except ValueError as found:
                    good[i], error = False, error or found
        return good, error

    def check_events(self, events: Iterable, family: str | None, n_rows: int) -> None:
        """Raise unless the labels of events may be taken."""
        for event in events:
            if event.items and not 0 <= min(event.items) <= max(event.items) < n_rows:
                raise ValueError(f"Event {event.id} of the store is about rows that X has not.")
            if event.kind == "label":
                try:
                    family = family_of(self.read(as_labels(event.labels), family))
                except ValueError as error:
                    raise ValueError(
                        f"Event {event.id} of the store, of {event.time}, does not go with this "
                        f"learner: {error}"
                    ) from None

    def _check_kinds(self, values: np.ndarray, family: str | None) -> None:
        """Raise unless all labels are whole numbers, or all are strings, as those known are."""
        kinds = _kinds(values)
        base = family or next(iter(kinds), None)
        for kind, value in kinds.items():
            value = value.item() if isinstance(value, np.generic) else value
            if kind not in ("number", "string"):
                raise ValueError(
                    f"Unknown label type: {value!r}; labels of classes must be whole numbers, "
                    "strings or booleans."
                )
            if kind != base:
                raise ValueError(
                    f"y holds {value!r}, a {kind}, where other labels are {base}s; they must be "
                    "of one kind."
                )


def read_pool(y, n: int, missing_label, classes, regression: bool):
    """Labels (n,) that a pool has at first, and what further ones may be.

    Parameters
    ----------
    y : array-like of shape (n,) or None
        Labels.
    n : int
        Rows, where there is no y.
    missing_label, classes, regression
        As in `ActiveLearner`.

    Returns
    -------
    labels : ndarray of shape (n,)
    answers : Answers
    """
    classes = None if classes is None else np.asarray(classes).tolist()
    labels = empty_labels(n, regression) if y is None else np.array(as_labels(y))
    if regression and y is not None:
        if labels.dtype == object:
            labels[is_missing(labels, None)] = np.nan
        labels = labels.astype(np.float64)
    marker = resolve_marker(labels, missing_label, classes, regression)
    if marker is None and labels.dtype.kind in "iu" and classes is None:
        raise ValueError(
            f"missing_label=None does not go with y of type {labels.dtype}; mark rows without "
            "a label by -1, or pass y as objects."
        )
    auto = isinstance(missing_label, str) and missing_label == AUTO
    answers = Answers(marker, classes, regression, auto and classes is None and not regression)
    own = family_of(labels) if classes is None else family_of(as_labels(classes))
    if labels.dtype != object and family_of(labels) != own:
        raise ValueError(
            f"y of type {labels.dtype} does not go with classes={classes!r}; mark rows without a "
            "label by None."
        )
    answers.read(labels[~is_missing(labels, marker)], own if labels.dtype != object else None)
    return labels, answers


def as_labels(y) -> np.ndarray:
    """Labels as an array in one dimension; strings and what is between them stay what they are."""
    if hasattr(y, "__array__") and not hasattr(y, "iloc"):
        y = np.asarray(y)
    if isinstance(y, str | bytes) or np.ndim(y) == 0:
        out = np.empty(1, dtype=object)
        out[0] = y.item() if isinstance(y, np.ndarray) else y
        return out
    if not hasattr(y, "__array__"):
        y = list(y)
        if any(isinstance(value, str) for value in y):
            out = np.empty(len(y), dtype=object)
            out[:] = y
            return out
    return np.asarray(column_or_1d(y, warn=True))


def family_of(labels: np.ndarray) -> str | None:
    """What labels of one kind are, "number" or "string"; None where no object tells."""
    if labels.dtype == object:
        labels = next((np.array([v]) for v in labels if v is not None and v == v), labels[:0])
        if labels.dtype == object:
            return None
    return "string" if labels.dtype.kind == "U" else "number"


def _kinds(values: np.ndarray) -> dict[str, Any]:
    """Kinds of labels, with the first label of each."""
    if values.dtype == object:
        out: dict[str, Any] = {}
        for value in values:
            out.setdefault(_kind(value), value)
        return out
    if not len(values):
        return {}
    if values.dtype.kind == "f":
        odd = ~(np.isfinite(values) & (values == np.round(values)))
        return {"fraction": values[odd][0]} if odd.any() else {"number": values[0]}
    return {
        {"U": "string", "b": "number", "i": "number", "u": "number"}.get(
            values.dtype.kind, "other"
        ): values[0]
    }


def _kind(value) -> str:
    """Kind of one label."""
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return "number"
    if isinstance(value, float | np.floating):
        return "number" if float(value).is_integer() else "fraction"
    return "other"
