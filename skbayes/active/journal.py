"""What was answered: labels, skips and what was taken back, in memory and in a store."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from skbayes.active.answers import Answers, as_labels, family_of
from skbayes.active.missing import is_missing, put
from skbayes.active.store import Event, LabelStore, now, plain, rows_fingerprint, standing


class Journal:
    """Labels of a pool, and how they came about.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,)
        Labels at first.
    weights : ndarray of shape (n_rows,) or None
        Weights at first.
    answers : Answers
        What labels may be.

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
    news : list of Event
        Events since a fit last took them out.
    """

    def __init__(self, labels: np.ndarray, weights: np.ndarray | None, answers: Answers) -> None:
        self._first = (labels, weights)
        self.answers, self.marker = answers, answers.marker
        self._events: list[Event] = []
        self._mine: list[str] = []  # own labels and skips that were not taken back
        self._known: set[str] = set()  # events that were in the news
        self.news: list[Event] = []
        self.version = 0
        self._store: LabelStore | None = None
        self._position = 0  # in the store
        self._kind: str | None = None  # of labels, as the store has it
        self.annotator: str | None = None
        self._writers: list[str] = []  # a name for every time that a store was opened
        self._sign()
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
        return standing(self._events)

    def family(self) -> str | None:
        """Of the labels that are known, see `skbayes.active.answers.family_of`."""
        if self.answers.classes is not None:
            return family_of(as_labels(self.answers.classes))
        if self.labels.dtype != object:
            return family_of(self.labels)
        known = self.labelled_rows()[:1]
        return family_of(self.labels[known]) or self._kind

    # ----------------------------------------------------------------- writing

    def read(self, values: np.ndarray) -> np.ndarray:
        """Labels of their own kind, see `Answers.read`; others' answers are taken in before."""
        self.sync()
        return self.answers.read(values, self.family())

    def label(self, rows, values: np.ndarray, weights: np.ndarray | None) -> None:
        """Put labels down, as `read` gives them."""
        self._add("label", rows, plain(values), None if weights is None else plain(weights))

    def skip(self, rows) -> None:
        """Put down that rows are not to be asked about."""
        self._add("skip", rows)

    def undo(self) -> tuple[np.ndarray, bool]:
        """Take back the last own event; its rows, and whether it was of labels."""
        self.sync()
        if not self._mine:
            return np.empty(0, dtype=np.intp), False
        last = self._find(self._mine[-1])
        assert last is not None
        self._add("undo", last.items, target=last.uid)
        return np.array(last.items, dtype=np.intp), last.kind == "label"

    def _add(self, kind: str, rows, labels=None, weights=None, target=None) -> None:
        event = Event(
            0,
            kind,
            [int(i) for i in rows],
            labels,
            weights,
            target,
            self.annotator,
            now(),
            self._writers[-1],
            uuid.uuid4().hex,
        )
        if self._store is not None:
            self._store.add([event])
            self.sync()  # by way of the file, so that events are in its order
        else:
            self._take([event])

    def was_label(self, undo: Event) -> bool:
        """Whether it was labels that an undo took back."""
        target = self._find(undo.target)
        return target is None or target.kind == "label"

    def _find(self, uid: str | None) -> Event | None:
        return next((event for event in reversed(self._events) if event.uid == uid), None)

    def _take(self, events: list[Event]) -> None:
        """Add events, which are on disk already where there is a store."""
        self._events += events
        for event in events:
            named = self.annotator is not None and event.annotator == self.annotator
            if event.kind == "undo":
                self._mine = [uid for uid in self._mine if uid != event.target]
            elif named or event.writer in self._writers:
                self._mine.append(event.uid)
            if event.uid not in self._known:
                self._known.add(event.uid)
                self.news.append(event)
            if event.kind == "label" or (event.kind == "undo" and self.was_label(event)):
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
        newest: dict[int, Any] = {}
        weights: dict[int, float] = {}
        for event in events:
            for position, item in enumerate(event.items):
                if event.kind == "skip":
                    self._skipped[item] = True
                    continue
                assert event.labels is not None
                newest[item] = event.labels[position]
                self._skipped[item] = False
                if event.weights is not None:  # else the row keeps its own
                    weights[item] = event.weights[position]
        if not newest:
            return
        rows = np.fromiter(newest, np.intp, len(newest))
        values = np.array(list(newest.values()))
        self.labels = put(self.labels, rows, values, self.marker)
        self._missing[rows] = False
        self._answered.update(newest)
        if weights:
            old = np.ones(len(self.labels)) if self.weights is None else self.weights.copy()
            old[np.fromiter(weights, np.intp, len(weights))] = list(weights.values())
            self.weights = old

    # ------------------------------------------------------------------- store

    def open_store(self, path, X, annotator: str | None) -> None:
        """Open a file, put what it lacks into it, and take what it holds.

        Nothing is changed where that fails.
        """
        classes, regression = self.answers.classes, self.answers.regression
        kind = "regression" if regression else self.family()
        store = LabelStore(path, rows_fingerprint(X), len(self.labels), kind, classes)
        try:
            found = store.events()
            answers = self.answers
            if not regression:
                answers = answers._replace(classes=store.classes)
                if store.kind == "regression":
                    raise ValueError(f"{path} holds the answers of a regression.")
            mine = [e for e in self.current() if e.kind == "label"]
            answers.check_events([*found, *mine], self.family(), len(self.labels))
            there = {event.uid for event in found}
            lacking = [event for event in self.current() if event.uid not in there]
            lacking += [e for e in self._events if e.kind == "undo" and e.target in there]
            store.add([e._replace(annotator=e.annotator or annotator) for e in lacking])
        except BaseException:
            store.close()
            raise
        self.close()
        self._store, self._position = store, 0
        self.answers, self.annotator, self._kind = answers, annotator, store.kind
        self._sign()
        self._events, self._mine = [], []
        self._rebuild()
        self.sync()

    def sync(self) -> None:
        """Take what others have written."""
        if self._store is None:
            return
        events = self._store.events(self._position)
        if events:
            self.answers.check_events(events, self.family(), len(self.labels))
            self._position = events[-1].id
            self._take(events)

    def close(self) -> None:
        """Close the file; what is known stays."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _sign(self) -> None:
        """Sign what is written from now on by another name."""
        self._writers.append(uuid.uuid4().hex)

    def __getstate__(self):
        # a copy is another writer
        writers = [*self._writers, uuid.uuid4().hex]
        return {**self.__dict__, "_store": None, "_writers": writers}
