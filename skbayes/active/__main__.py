"""``python -m skbayes.active serve data.csv ...``: label a file in the browser.

``python -m skbayes.active export labels.sqlite`` writes the labels of a store as CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import webbrowser
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skbayes import ActiveLearner, BayesianMLPClassifier
from skbayes.active.checks import resolve_acquisition
from skbayes.active.missing import empty_labels
from skbayes.active.store import standing_events
from skbayes.active.utility import ACQUISITIONS


def main(argv: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m skbayes.active", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("serve", help="open the labelling page").add_argument
    add("data", help="a .csv file with a header, or a .npy file of rows or pictures")
    add("--text", help="column of texts; without it all columns but the label are numbers")
    add("--label", help="column of labels that are known, empty where they are not")
    add("--classes", nargs="+", required=True, help="all classes")
    add("--store", required=True, help="file that keeps the answers (SQLite)")
    add("--annotator", help="name that is written with the answers")
    add("--model", choices=("bayes", "logistic"), default="bayes", help="what learns")
    add("--acquisition", default="auto", choices=("auto", *ACQUISITIONS))
    add("--port", type=_port, default=0)
    add("--seed", type=int, default=0)
    add("--open", action="store_true", help="open the browser too")
    add = commands.add_parser("export", help="write the labels of a store as CSV").add_argument
    add("store", help="file that serve has kept the answers in")
    add("--output", help="file to write; the terminal without it")
    args = parser.parse_args(argv)
    try:
        (_serve if args.command == "serve" else _export)(args)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def _serve(args) -> None:
    learner, show = make_learner(args)
    learner.open_store(args.store, args.annotator)
    server = learner.serve(port=args.port, show=show)
    print(f"Open {server.url}\nCtrl-C ends it; all answers are in {args.store}.", flush=True)
    if args.open:
        webbrowser.open(server.url)
    server.wait()


def _export(args) -> None:
    """Row, label, weight, annotator and time of the last answer about each row."""
    last: dict[int, tuple] = {}
    for event in standing_events(args.store):
        if event.labels is None:
            continue
        for i, row in enumerate(event.items):
            before = last[row][2] if row in last else ""
            weight = before if event.weights is None else event.weights[i]
            last[row] = (row, event.labels[i], weight, event.annotator or "", event.time)
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if args.output is not None:
            path = Path(args.output)
            file = stack.enter_context(path.open("w", newline="", encoding="utf-8"))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "label", "weight", "annotator", "time"])
        writer.writerows(last[row] for row in sorted(last))


def make_learner(args):
    """The learner on a file, and what to show of its rows."""
    X, y, show = read(args.data, args.text, args.label, args.classes)
    if args.model == "bayes":
        final = BayesianMLPClassifier(random_state=args.seed)
    else:
        final = LogisticRegression(max_iter=1000)
    if args.text is not None:
        estimator = make_pipeline(TfidfVectorizer(sublinear_tf=True), final)
    elif X.ndim > 2:
        estimator = make_pipeline(FunctionTransformer(_flat), StandardScaler(), final)
    else:
        estimator = make_pipeline(StandardScaler(), final)
    learner = ActiveLearner(
        estimator,
        resolve_acquisition(args.acquisition),
        classes=args.classes,
        random_state=args.seed,
    )
    return learner.fit(X, y), show


def read(path: str, text: str | None, label: str | None, classes: list[str]):
    """Rows and labels (None where there are none) of a file, and what to show of rows."""
    if path.endswith(".npy"):
        if text is not None or label is not None:
            raise ValueError("--text and --label are for .csv files.")
        try:
            X = np.load(path)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an array: {error}") from None
        if X.ndim < 2:
            raise ValueError(f"{path} must hold rows or pictures, but has the shape {X.shape}.")
        return X, empty_labels(len(X), False), None
    header, table = _table(path)
    for name in (text, label):
        if name is not None and name not in header:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(header)}.")
    y = empty_labels(len(table), False)
    if label is not None:
        column = header.index(label)
        y[:] = [row[column] or None for row in table]
        unknown = {v for v in y if v is not None} - set(classes)
        if unknown:
            raise ValueError(f"column {label!r} holds {sorted(unknown)}, not among --classes.")
    if text is not None:
        column = header.index(text)
        return [row[column] for row in table], y, None
    columns = [j for j, name in enumerate(header) if name != label]
    X = np.array(
        [
            [_number(row[j], f"{path}: row {i}, column {header[j]!r}") for j in columns]
            for i, row in enumerate(table, 2)
        ]
    )
    names = [header[j] for j in columns]
    return X, y, lambda i: dict(zip(names, X[i], strict=True))


def _table(path: str) -> tuple[list[str], list[list[str]]]:
    csv.field_size_limit(1 << 30)  # texts may be long
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table in UTF-8: {error}.") from None
    if len(rows) < 2:
        raise ValueError(f"{path} must have a header and at least one row.")
    header = rows[0]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has several columns of the name {', '.join(map(repr, twice))}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, not {len(header)}.")
    return header, rows[1:]


def _number(cell: str, where: str) -> float:
    """A cell as a number."""
    try:
        return float(cell)
    except ValueError:
        what = repr(cell) if cell else "an empty cell"
        raise ValueError(f"{where} is {what}, not a number; texts need --text.") from None


def _port(text: str) -> int:
    """A port, 0 for any."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be from 0 to 65535")
    return int(text)


def _flat(X):
    """Pictures as rows of numbers."""
    return X.reshape(len(X), -1)


if __name__ == "__main__":
    main()
