"""Runs of Markov chains on disk, so that a process that is killed costs at most a minute.

A folder holds one folder per run, named by its fingerprint, and in it one folder per group of
chains. A group's files are ``<first iteration>-<last>.npz``: the draws and statistics of these
iterations, and the state of the sampler after them. Files are written once, in one piece, and never
touched again. There is no pickle in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from skbayes.inference.chains import Past
from skbayes.inference.kernel import part_of, with_prefix

SAVE_EVERY = 30.0
"""Seconds between two files of a group."""

FORMAT = 1
"""Version of the files' layout."""

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)
"""What reading a file that is broken, or another run's, ends in."""


class Checkpoint:
    """A run's place on disk.

    Parameters
    ----------
    folder : str or path-like
        Made where it does not exist; other runs may share it.
    fingerprint : str
        Names the run, see `fingerprint`.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str) -> None:
        self.folder, self.fingerprint = Path(folder), fingerprint

    def group(self, number: int) -> GroupStore:
        """Where a group of chains is kept."""
        name = self.fingerprint[:32]
        return GroupStore(self.folder / name / f"group-{number:03d}", self.fingerprint, SAVE_EVERY)


class GroupStore:
    """The files of one group of chains, see `skbayes.inference.chains.Store`.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    fingerprint : str
        Names the run.
    every : float
        Seconds between two files.

    Attributes
    ----------
    problems : list of str
        What was found to be wrong with files, one message each.
    """

    def __init__(self, folder: Path, fingerprint: str, every: float) -> None:
        self.folder, self.fingerprint, self.every = folder, fingerprint, every
        self.problems: list[str] = []
        self._saved, self._kept = 0, 0  # iterations and draws on disk
        self._last = time.monotonic()

    def load(self, first: int) -> Past | None:
        """Follow the files from iteration ``first`` on, as far as they are whole.

        Parameters
        ----------
        first : int
            Where the run begins.

        Returns
        -------
        Past or None
            None where there is no file of the run yet.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files: dict[int, list[tuple[int, Path]]] = {}
        for path in self.folder.glob("*-*.npz"):
            begin, _, end = path.stem.partition("-")
            if begin.isdecimal() and end.isdecimal():
                files.setdefault(int(begin), []).append((int(end), path))
        parts: list[Past] = []
        self._saved = first
        while part := self._next(sorted(files.get(self._saved, []), reverse=True)):
            parts.append(part)
            self._saved = part.state["iteration"]
        self._last = time.monotonic()
        if not parts:
            return None
        draws = np.concatenate([p.draws for p in parts], 1)
        self._kept = draws.shape[1]
        drawn = [p.stats for p in parts if p.stats]  # there are none in the warm-up
        names = drawn[0] if drawn else {}
        stats = {name: np.concatenate([s[name] for s in drawn], 1) for name in names}
        return Past(parts[-1].state, draws, stats)

    def _next(self, candidates: list[tuple[int, Path]]) -> Past | None:
        """The first of some files that can be read; several begin alike after a failure."""
        for end, path in candidates:
            try:
                part = self._read(path)
                if part.state["iteration"] == end:
                    return part
                raise ValueError("it does not end where its name says")
            except UNREADABLE as error:
                self.problems.append(ignored(path, error))
        return None

    def _read(self, path: Path) -> Past:
        record, arrays = read(path, self.fingerprint)
        state = {**record["state"], "kernel": part_of(arrays, "kernel")}
        return Past(state, arrays["draws"], part_of(arrays, "stats"))

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.every

    def save(self, past: Past) -> None:
        """Write the iterations since the last file.

        Parameters
        ----------
        past : Past
            All draws so far, and the state after them.
        """
        state = {name: value for name, value in past.state.items() if name != "kernel"}
        arrays = {
            "draws": past.draws[:, self._kept :],
            **with_prefix("stats", {k: v[:, self._kept :] for k, v in past.stats.items()}),
            **with_prefix("kernel", past.state["kernel"]),
        }
        done = past.state["iteration"]
        path = self.folder / f"{self._saved:09d}-{done:09d}.npz"
        write(path, self.fingerprint, {"state": state}, arrays)
        self._saved, self._kept = done, past.draws.shape[1]
        self._last = time.monotonic()


def ignored(path: Path, error: Exception) -> str:
    """What to tell of a file that could not be read."""
    return f"The checkpoint file {path} is ignored: {str(error) or type(error).__name__}."


def read(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The record and the arrays of a file that `write` made.

    Raises
    ------
    One of UNREADABLE
        If the file is broken, or of another run or version.
    """
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}  # zip checks their CRC
    record = json.loads(str(arrays.pop("json")))
    if (record["format"], record["fingerprint"]) != (FORMAT, fingerprint):
        raise ValueError("it is of another run or version")
    return record, arrays


def write(
    path: Path, fingerprint: str, record: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write a file that is there as a whole or not at all, even if the power fails.

    Parameters
    ----------
    path : Path
        An .npz file.
    fingerprint : str
        Names the run.
    record : dict
        What JSON can hold.
    arrays : dict of str to ndarray
        The rest.
    """
    head = {"format": FORMAT, "fingerprint": fingerprint, **record}
    arrays = {"json": np.array(json.dumps(head)), **arrays}
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the folder's entry too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ------------------------------------------------------------------ fingerprints


def fingerprint(*parts: Any) -> str:
    """Hash what a run depends on, 64 hexadecimal digits.

    Parameters
    ----------
    *parts : object
        Numbers, strings, None, arrays (also sparse), sequences and dicts of such, and objects with
        ``get_params``, which stand for their class and their parameters.

    Returns
    -------
    str
    """
    out = hashlib.sha256()
    _feed(out, parts)
    return out.hexdigest()


def _feed(out, value: Any) -> None:
    """Add a value to a hash, with its type and its length, so that no two read the same."""
    if sp.issparse(value):
        value = value.tocsr()
        _feed(out, ("csr", value.shape, value.indptr, value.indices, value.data))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        out.update(f"array {value.dtype.str} {value.shape} ".encode())
        out.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Mapping):
        out.update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=repr):
            _feed(out, (key, value[key]))
    elif isinstance(value, list | tuple | np.ndarray):
        out.update(f"list {len(value)} ".encode())
        for entry in value:
            _feed(out, entry)
    elif hasattr(value, "get_params") and not isinstance(value, type):
        kind = type(value)
        _feed(out, (kind.__module__, kind.__qualname__, value.get_params(deep=False)))
    else:
        value = value.item() if isinstance(value, np.generic) else value
        text = repr(value)
        out.update(f"{type(value).__name__} {len(text)} {text} ".encode())


def check_checkpoint(checkpoint, method, random_state) -> None:
    """Raise unless a run can be kept on disk."""
    if checkpoint is None:
        return
    if not isinstance(checkpoint, str | os.PathLike):
        raise ValueError(
            f"checkpoint={checkpoint!r} is not allowed; it must be the path of a folder, or None."
        )
    if os.path.isfile(checkpoint):
        raise ValueError(
            f"checkpoint={str(checkpoint)!r} is not allowed: it is a file; pass the path of a "
            "folder, which is made where there is none."
        )
    if not method.keeps_on_disk:
        raise ValueError(
            f"checkpoint={str(checkpoint)!r} is not allowed with {type(method).__name__}; only "
            "Markov chains, such as HMC or NUTS, and variational dropout can be kept on disk: use "
            "checkpoint=None."
        )
    if isinstance(random_state, bool) or not isinstance(random_state, Integral):
        raise ValueError(
            f"random_state={random_state!r} is not allowed with a checkpoint; it must be an "
            "integer, by which a run that was stopped is known again."
        )
