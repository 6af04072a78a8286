"""What was answered: labels, skips and what was taken back, in memory and in a store."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbayes.active.missing import is_missing, put
from skbayes.active.store import Event, LabelStore, now, plain, rows_fingerprint


class Journal:
    """Labels of a pool, and how they came about.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,)
        Labels at first.
    weights : ndarray of shape (n_rows,) or None
        Weights at first.
    marker : object
        What marks rows without a label.

    Attributes
    ----------
    labels, weights
        As they are now.
    n_events : int
        Events so far, also those taken back.
    n_answers : int
        Rows that have a label by an event.
    version : int
        Changes with the labels.
    """

    def __init__(self, labels: np.ndarray, weights: np.ndarray | None, marker: Any) -> None:
        self._first = (labels, weights)
        self.marker = marker
        self._events: list[Event] = []
        self._mine: list[int] = []  # numbers of own labels and skips that were not taken back
        self._unsaved: list[int] = []  # events that are in no file
        self.version = 0
        self._store: LabelStore | None = None
        self.annotator: str | None = None
        self._rebuild()

    # ----------------------------------------------------------------- reading

    n_events = property(lambda self: len(self._events))
    n_answers = property(lambda self: len(self._answered))

    def open_rows(self) -> np.ndarray:
        """Which rows may be asked about, (n_rows,)."""
        return self._missing & ~self._skipped

    def labelled_rows(self) -> np.ndarray:
        """Rows that have labels, in their order."""
        return np.flatnonzero(~self._missing)

    def current(self) -> list[Event]:
        """Labels and skips that were not taken back."""
        gone = {event.target for event in self._events if event.kind == "undo"}
        return [e for e in self._events if e.kind != "undo" and e.id not in gone]

    # ----------------------------------------------------------------- writing

    def label(self, rows, values: np.ndarray, weights: np.ndarray | None) -> None:
        """Put labels of rows down."""
        put(self.labels, rows, values, self.marker)  # raises before anything is written
        self._add("label", rows, plain(values), None if weights is None else plain(weights))

    def skip(self, rows) -> None:
        """Put down that rows are not to be asked about."""
        self._add("skip", rows)

    def undo(self) -> tuple[np.ndarray, bool]:
        """Take back the last own event; its rows, and whether it was of labels."""
        self.sync()
        if not self._mine:
            return np.empty(0, dtype=np.intp), False
        target = self._mine[-1]
        last = next(event for event in self._events if event.id == target)
        self._add("undo", last.items, target=target)
        return np.array(last.items, dtype=np.intp), last.kind == "label"

    def _add(self, kind: str, rows, labels=None, weights=None, target=None) -> None:
        items = [int(i) for i in rows]
        if self._store is not None:
            self._store.append(kind, items, labels, weights, target, self.annotator)
            self.sync()  # by way of the file, so that events are in its order
            return
        number = 1 + (self._events[-1].id if self._events else 0)
        event = Event(number, kind, items, labels, weights, target, self.annotator, now())
        self._unsaved.append(number)
        self._take([event])

    def _take(self, events: list[Event]) -> None:
        """Add events, which are on disk already where there is a store."""
        self._events += events
        for event in events:
            if event.annotator == self.annotator:
                if event.kind == "undo":
                    self._mine = [number for number in self._mine if number != event.target]
                else:
                    self._mine.append(event.id)
        if any(event.kind != "skip" for event in events):
            self.version += 1
        if any(event.kind == "undo" for event in events):
            self._rebuild()
        else:
            self._apply(events)

    def _rebuild(self) -> None:
        """Work the state out from the beginning."""
        self.labels, self.weights = self._first
        self._missing = is_missing(self.labels, self.marker)
        self._skipped = np.zeros(len(self.labels), dtype=bool)
        self._answered: set[int] = set()
        self._apply(self.current())

    def _apply(self, events: list[Event]) -> None:
        """Bring labels, weights and skips up to date; what comes later counts."""
        newest: dict[int, tuple[Any, float]] = {}
        for event in events:
            for position, item in enumerate(event.items):
                if event.kind == "skip":
                    self._skipped[item] = True
                    continue
                weight = 1.0 if event.weights is None else event.weights[position]
                assert event.labels is not None
                newest[item] = (event.labels[position], weight)
                self._skipped[item] = False
            if event.weights is not None and self.weights is None:
                self.weights = np.ones(len(self.labels))
        if not newest:
            return
        rows = np.fromiter(newest, np.intp, len(newest))
        values = np.array([label for label, _ in newest.values()])
        self.labels = put(self.labels, rows, values, self.marker)
        self._missing[rows] = False
        self._answered.update(newest)
        if self.weights is not None:
            self.weights = self.weights.copy()
            self.weights[rows] = [weight for _, weight in newest.values()]

    # ------------------------------------------------------------------- store

    def open_store(self, path, X, annotator: str | None) -> None:
        """Open a file, put what is in none into it, and take what it holds."""
        self.close()
        store = LabelStore(path, rows_fingerprint(X), len(self.labels))
        for event in self.current():
            if event.id in self._unsaved:
                store.append(event.kind, event.items, event.labels, event.weights, None, annotator)
        self._store, self.annotator = store, annotator
        self._events, self._mine, self._unsaved = [], [], []
        self._rebuild()
        self.sync()

    def sync(self) -> None:
        """Take what others have written."""
        if self._store is not None:
            events = self._store.events(self._events[-1].id if self._events else 0)
            if events:
                self._take(events)

    def close(self) -> None:
        """Close the file; what is known stays."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __getstate__(self):
        return {**self.__dict__, "_store": None}
