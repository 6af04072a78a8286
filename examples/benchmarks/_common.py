"""What the benchmark scripts share: arguments, data, versions, and how figures are printed."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
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
