"""A file that holds every answer, so that none is ever lost."""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skbayes.inference.checkpoint import fingerprint

FORMAT = 2
"""Version of the file's layout."""

WAIT = 60.0
"""Seconds that a writer waits for another."""

COLUMNS = "kind, items, labels, weights, target, annotator, time, writer, uid"

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('label', 'skip', 'undo')),
    items TEXT NOT NULL,
    labels TEXT,
    weights TEXT,
    target TEXT,
    annotator TEXT,
    time TEXT NOT NULL,
    writer TEXT,
    uid TEXT NOT NULL UNIQUE
);
"""


class Event(NamedTuple):
    """Something that an annotator did."""

    id: int
    """Its place in the file, 0 where it is in none."""

    kind: str
    """"label", "skip" or "undo"."""

    items: list[int]
    labels: list | None = None
    weights: list[float] | None = None
    target: str | None = None
    """The event that an undo takes back, by its ``uid``."""

    annotator: str | None = None
    time: str = ""
    """When, in universal time (ISO 8601)."""

    writer: str | None = None
    """Which opening of a file it came by, so that two without a name are told apart."""

    uid: str = ""
    """Its name, the same in all files."""


class LabelStore:
    """Answers in an SQLite file.

    Every event is a transaction, on disk before `append` returns: the process may be killed and
    the power may fail. Events are never changed or removed; a later answer about the same row comes
    in the place of an earlier one, and an undo is an event of its own. Several processes, on one
    machine, may write to the same file.

    Parameters
    ----------
    path : str or path-like
        The file, made where it does not exist. Not on a network drive, whose locks cannot be
        relied on.
    print_of_rows : str
        Fingerprint of X, see `rows_fingerprint`.
    n_rows : int
        Its number of rows.
    kind : str, optional
        What labels are: "number", "string" or "regression".
    classes : list, optional
        All classes.

    Attributes
    ----------
    kind, classes : str or None, list or None
        The kind of labels, and all classes, by whoever told them first.

    Raises
    ------
    ValueError
        If the file belongs to other rows or another kind of labels, or is no label store.
    OSError
        If it cannot be opened, or another process keeps it locked for a minute.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        print_of_rows: str,
        n_rows: int,
        kind: str | None = None,
        classes: list | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.kind, self.classes = kind, classes
        self._connection = connect(self.path)
        try:
            self._open(print_of_rows, n_rows)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _told(self.path, error) from None
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.close()
            raise

    def _open(self, print_of_rows: str, n_rows: int) -> None:
        connection = self._connection
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        known = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        mine = {"format": str(FORMAT), "rows": print_of_rows, "n_rows": str(n_rows)}
        if known and any(known.get(name) != value for name, value in mine.items()):
            detail = "they differ in content"
            if known.get("format") != mine["format"]:
                detail = f"it has the format {known.get('format')}, this is {FORMAT}"
            elif known.get("n_rows") != mine["n_rows"]:
                detail = f"it is about {known.get('n_rows')} rows, X has {n_rows}"
            raise ValueError(
                f"{self.path} holds labels of another X: {detail}. Pass the X that it was made "
                "with, in the same order, or another file."
            )
        kind = known.get("kind", self.kind)
        if self.kind not in (None, kind):
            raise ValueError(
                f"{self.path} holds labels of the kind {kind!r}, but those of this learner are of "
                f"the kind {self.kind!r}."
            )
        self.kind = kind
        before = json.loads(known.get("classes", "[]"))
        if self.classes is None:
            self.classes = before or None
        elif not set(before) <= set(self.classes):
            raise ValueError(
                f"{self.path} is about the classes {before}, which are not all among "
                f"classes={self.classes!r}."
            )
        mine |= {} if kind is None else {"kind": kind}
        mine |= {} if self.classes is None else {"classes": json.dumps(self.classes)}
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", mine.items())
        connection.execute("COMMIT")

    def append(
        self,
        kind: str,
        items: Sequence[int],
        labels: list | None = None,
        weights: list[float] | None = None,
        target: str | None = None,
        annotator: str | None = None,
    ) -> None:
        """Write an event; it is on disk when this returns."""
        uid = uuid.uuid4().hex
        rows = [int(i) for i in items]
        self.add([Event(0, kind, rows, labels, weights, target, annotator, now(), None, uid)])

    def add(self, events: Sequence[Event]) -> None:
        """Write events that are not in it yet, all or none; on disk when this returns."""
        entries = [
            (
                event.kind,
                json.dumps(event.items),
                None if event.labels is None else json.dumps(plain(event.labels)),
                None if event.weights is None else json.dumps([float(w) for w in event.weights]),
                *event[5:],
            )
            for event in events
        ]
        if not entries:
            return
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                f"INSERT OR IGNORE INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entries,
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def events(self, after: int = 0) -> list[Event]:
        """Events of all annotators, in their order, from the one after a number on."""
        return read_events(self._connection, after)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def connect(path: str) -> sqlite3.Connection:
    """A connection to a file, whose transactions are begun by hand."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path} cannot be opened: there is no folder {folder}.")
    try:
        # a writer waits for another one rather than fail
        connection = sqlite3.connect(path, timeout=WAIT, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise _told(path, error) from None
    connection.isolation_level = None
    return connection


def read_events(connection: sqlite3.Connection, after: int = 0) -> list[Event]:
    """Events from the one after a number on, in their order."""
    found = connection.execute(
        f"SELECT id, {COLUMNS} FROM events WHERE id > ? ORDER BY id", (after,)
    )
    return [_event(row) for row in found]


def standing_events(path: str) -> list[Event]:
    """Labels and skips of a file that were not taken back, whatever rows it is about."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}.")
    connection = connect(path)
    try:
        events = read_events(connection)
    except sqlite3.DatabaseError as error:
        raise _told(path, error) from None
    finally:
        connection.close()
    return standing(events)


def standing(events: Sequence[Event]) -> list[Event]:
    """Labels and skips among events that were not taken back."""
    gone = {event.target for event in events if event.kind == "undo"}
    return [event for event in events if event.kind != "undo" and event.uid not in gone]


def _told(path: str, error: sqlite3.Error) -> Exception:
    """What an error of SQLite means."""
    if "locked" in str(error):
        return TimeoutError(f"{path} is locked by another process.")
    if isinstance(error, sqlite3.OperationalError):
        return OSError(f"{path} cannot be opened: {error}.")
    return ValueError(f"{path} is not a label store: {error}.")


def rows_fingerprint(X: Any) -> str:
    """Hash of the rows of X: arrays, sparse matrices, data frames, lists."""
    if hasattr(X, "iloc"):
        columns = [X.iloc[:, j] for j in range(X.shape[1])] if X.ndim == 2 else [X]
        names = [str(name) for name in getattr(X, "columns", [])]
        return fingerprint(names, [np.asarray(column) for column in columns])
    return fingerprint(X)


def plain(labels: Any) -> list:
    """Labels as JSON has them."""
    return [v.item() if isinstance(v, np.generic) else v for v in labels]


def now() -> str:
    """The time, in universal time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _event(row: tuple) -> Event:
    """An event from its row in the table."""
    number, kind, items, labels, weights, *rest = row
    return Event(
        number,
        kind,
        json.loads(items),
        None if labels is None else json.loads(labels),
        None if weights is None else json.loads(weights),
        *rest,
    )
