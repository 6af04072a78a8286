"""What the benchmark scripts share: arguments, data, versions, and how figures are printed."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

README = Path(__file__).with_name("README.md")


def parse(doc: str, *more: tuple[str, dict]) -> argparse.Namespace:
    """Read the command line; ``more`` are further options as (name, keywords)."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("SKBAYES_DATA"),
        help="folder of data sets (default: the environment's SKBAYES_DATA)",
    )
    parser.add_argument("--quick", action="store_true", help="a short version, under two minutes")
    for name, keywords in more:
        parser.add_argument(name, **keywords)
    return parser.parse_args()


def load(data_dir: str | None, name: str) -> np.lib.npyio.NpzFile:
    """Open a data set, or say what the file is and where it comes from."""
    path = None if data_dir is None else Path(data_dir) / name
    if path is None or not path.exists():
        place = "no --data-dir was given" if data_dir is None else f"{path} does not exist"
        print(f"This benchmark needs the file {name}, but {place}.\n")
        print(README.read_text(encoding="utf-8"))
        sys.exit(2)
    return np.load(path, allow_pickle=False)


def regression_rows(data_dir: str | None, name: str, split: int):
    """Training rows, test rows, training targets, test targets, as they are."""
    data = load(data_dir, f"uci_regression/{name}.npz")
    X, y, test = data["X"], data["y"], data["test_mask"][split]
    return X[~test], X[test], y[~test], y[test]


def scores(mean, log_density, y, seconds: float) -> dict:
    """RMSE and mean log predictive density of test rows."""
    return {
        "rmse": float(np.sqrt(np.mean((y - mean) ** 2))),
        "lpd": float(np.mean(log_density)),
        "seconds": seconds,
    }


class Runs:
    """Results of runs by key, kept in a file of JSON lines so that a stopped benchmark can go on.

    Every run has a process of its own: it starts with cold caches and empty memory, and libraries
    that do not get along are not loaded together.

    Parameters
    ----------
    path : Path or None
        The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done: dict[str, dict] = {}
        if path is not None and path.exists():
            self.done = {r["key"]: r for r in map(json.loads, path.read_text().splitlines())}

    def get(self, key: str, function: Callable[..., dict], *args, apart: bool = True) -> dict:
        """The result of ``function(*args)``, run now if the file does not have it.

        With ``apart=False`` it runs in this process, for what is short.
        """
        if key not in self.done:
            if apart:
                context = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    result = pool.submit(function, *args).result()
            else:
                result = function(*args)
            self.done[key] = {"key": key, **result}
            shown = {n: v for n, v in self.done[key].items() if not isinstance(v, list | dict)}
            print(json.dumps(shown), file=sys.stderr, flush=True)
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps(self.done[key]) + "\n")
        return self.done[key]


def mean_and_error(values) -> tuple[float, float]:
    """Mean and its standard error (NaN for a single value)."""
    values = np.asarray(values, dtype=np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def difference(first: list[dict], second: list[dict], score: str) -> tuple[float, float]:
    """Mean over splits of the difference of a score, and its standard error."""
    return mean_and_error([r[score] - s[score] for r, s in zip(first, second, strict=True)])


def rounded(value: float, digits: int = 4) -> float | None:
    """A figure as JSON has it, where NaN is null."""
    return round(value, digits) if np.isfinite(value) else None


def installed(module: str) -> bool:
    """Whether a module can be imported; says so where it cannot."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"{module} is not installed: its rows are left out.", file=sys.stderr)
    return found


def table(rows: list[dict], digits: int = 3) -> None:
    """Print rows as columns that a person can read."""

    def show(value: object) -> str:
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    names = list(rows[0])
    width = {n: max(len(n), *(len(show(row[n])) for row in rows)) for n in names}
    print("  ".join(n.rjust(width[n]) for n in names))
    for row in rows:
        print("  ".join(show(row[n]).rjust(width[n]) for n in names), flush=True)


def finish(name: str, figures: dict, packages: tuple[str, ...] = ()) -> None:
    """Print the last line: one JSON object with figures, versions and the date."""
    versions = {"python": platform.python_version()}
    for package in ("skbayes", "torch", "numpy", "scikit-learn", *packages):
        versions[package] = importlib.metadata.version(package)
    record = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "figures": figures,
        "versions": versions,
    }
    print(json.dumps(record))
