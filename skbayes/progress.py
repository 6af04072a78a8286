"""A progress bar of one line on standard error."""

from __future__ import annotations

import sys
import time


class ProgressBar:
    """Shows the steps of a long run; silent unless ``verbose``.

    Parameters
    ----------
    verbose : int
        0 is silent.
    title : str
        Text before the bar.
    """

    def __init__(self, verbose: int, title: str) -> None:
        self.active, self.title = bool(verbose), title
        self.start = time.monotonic()
        self._last = 0.0
        self._drawn = False

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` steps are done; at most ten times a second."""
        now = time.monotonic()
        if not self.active or (done < total and now - self._last < 0.1):
            return
        self._last, self._drawn = now, True
        filled = int(20 * done / max(1, total))
        bar = "#" * filled + "." * (20 - filled)
        line = f"{self.title} [{bar}] {done}/{total} {now - self.start:.0f} s, {text}"
        sys.stderr.write("\r" + line[:118].ljust(118))
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
