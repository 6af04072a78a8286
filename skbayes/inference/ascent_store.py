"""A climb of a bound on disk, so that a process that is killed costs at most a minute."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from skbayes.inference.checkpoint import SAVE_EVERY, UNREADABLE, ignored, read, write


class AscentStore:
    """The file of one climb, see `skbayes.inference.ascent.ascend`.

    It is replaced as a whole, so that it is always that of some epoch's end. There is no pickle in
    it.

    Parameters
    ----------
    folder : str or path-like
        Made where it does not exist; other runs may share it.
    fingerprint : str
        Names the run, see `skbayes.inference.checkpoint.fingerprint`.
    every : float, default=30.0
        Seconds between two savings.

    Attributes
    ----------
    problems : list of str
        What was found to be wrong with the file.
    """

    def __init__(
        self, folder: str | os.PathLike, fingerprint: str, every: float = SAVE_EVERY
    ) -> None:
        self.path = Path(folder) / f"{fingerprint[:32]}.npz"
        self.fingerprint, self.every = fingerprint, every
        self.problems: list[str] = []
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """What was saved: numbers and arrays; None where there is no such file yet."""
        if not self.path.exists():
            return None
        try:
            record, arrays = read(self.path, self.fingerprint)
            return record["numbers"], arrays
        except UNREADABLE as error:
            self.problems.append(ignored(self.path, error))
            return None

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.every

    def save(self, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Replace the file.

        Parameters
        ----------
        numbers : dict
            What JSON can hold.
        arrays : dict of str to ndarray
            The rest.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.fingerprint, {"numbers": numbers}, arrays)
        self._last = time.monotonic()
