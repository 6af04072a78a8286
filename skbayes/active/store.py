"""A file that holds every answer, so that none is ever lost."""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skbayes.inference.checkpoint import fingerprint

FORMAT = 1
"""Version of the file's layout."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('label', 'skip', 'undo')),
    items TEXT NOT NULL,
    labels TEXT,
    weights TEXT,
    target INTEGER,
    annotator TEXT,
    time TEXT NOT NULL
);
"""


class Event(NamedTuple):
    """Something that an annotator did."""

    id: int
    kind: str
    """"label", "skip" or "undo"."""

    items: list[int]
    labels: list | None = None
    weights: list[float] | None = None
    target: int | None = None
    """The event that an undo takes back."""

    annotator: str | None = None
    time: str = ""
    """When, in universal time (ISO 8601)."""


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

    Raises
    ------
    ValueError
        If the file belongs to other rows, or is no label store.
    """

    def __init__(self, path: str | os.PathLike, print_of_rows: str, n_rows: int) -> None:
        self.path = os.fspath(path)
        # a writer waits for another one rather than fail
        self._connection = sqlite3.connect(self.path, timeout=60.0, check_same_thread=False)
        self._connection.isolation_level = None  # transactions are begun by hand
        try:
            self._open(print_of_rows, n_rows)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(f"{self.path} is not a label store: {error}.") from None
        except BaseException:
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
        if not known:
            connection.executemany("INSERT INTO meta VALUES (?, ?)", mine.items())
        connection.execute("COMMIT")
        if known and known != mine:
            detail = "they differ in content"
            if known.get("format") != mine["format"]:
                detail = f"it has the format {known.get('format')}, this is {FORMAT}"
            elif known.get("n_rows") != mine["n_rows"]:
                detail = f"it is about {known.get('n_rows')} rows, X has {n_rows}"
            raise ValueError(
                f"{self.path} holds labels of another X: {detail}. Pass the X that it was made "
                "with, in the same order, or another file."
            )

    def append(
        self,
        kind: str,
        items: Sequence[int],
        labels: Sequence | None = None,
        weights: Sequence[float] | None = None,
        target: int | None = None,
        annotator: str | None = None,
    ) -> Event:
        """Write an event; it is on disk when this returns."""
        time = now()
        entry = (
            kind,
            json.dumps([int(i) for i in items]),
            None if labels is None else json.dumps(plain(labels)),
            None if weights is None else json.dumps([float(w) for w in weights]),
            target,
            annotator,
            time,
        )
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            cursor = connection.execute(
                "INSERT INTO events (kind, items, labels, weights, target, annotator, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                entry,
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        assert cursor.lastrowid is not None
        return _event((cursor.lastrowid, *entry))

    def events(self, after: int = 0) -> list[Event]:
        """Events of all annotators, in their order, from the one after a number on."""
        found = self._connection.execute(
            "SELECT id, kind, items, labels, weights, target, annotator, time FROM events "
            "WHERE id > ? ORDER BY id",
            (after,),
        )
        return [_event(row) for row in found]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


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
    number, kind, items, labels, weights, target, annotator, time = row
    return Event(
        number,
        kind,
        json.loads(items),
        None if labels is None else json.loads(labels),
        None if weights is None else json.loads(weights),
        target,
        annotator,
        time,
    )
