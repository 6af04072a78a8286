"""Labels given while the process is killed: is every acknowledged one there?

    python examples/benchmarks/label_crash.py [--quick]

A child process teaches a learner with an open store, one label after the other, and prints each
row's number once `teach` has returned. It is killed (SIGKILL) at a random time, and the file is
opened again: every row that was printed must have its label. The file goes on from kill to kill.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_ROWS = 5000


def pool():
    """Rows and their labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 3))
    return X, (X[:, 0] > 0).astype(int)


def open_learner(path: str):
    """A learner on the pool with its file open."""
    from sklearn.naive_bayes import GaussianNB

    from skbayes import ActiveLearner

    X, truth = pool()
    y = np.where(np.arange(N_ROWS) < 20, truth, -1)
    return ActiveLearner(GaussianNB(), random_state=0).fit(X, y).open_store(path), truth


def child(path: str) -> None:
    """Teach until killed; a line for every label that was acknowledged."""
    learner, truth = open_learner(path)
    print("open", flush=True)
    while True:
        rows = learner.query(1)
        learner.teach(rows, truth[rows], refit=False)
        print(int(rows[0]), flush=True)


def main() -> None:
    """Kill, look, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 kills instead of 50")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    n_kills, rng = (5 if args.quick else 50), np.random.default_rng(1)
    acknowledged: set[int] = set()
    missing = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "labels.sqlite")
        begin = time.perf_counter()
        for kill in range(n_kills):
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--child", path],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "open"
            time.sleep(float(rng.uniform(0.0, 0.4)))
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
            # the last line may have been cut short by the kill
            lines = rest.split("\n")[:-1]
            acknowledged.update(int(line) for line in lines)
            process.wait()
            learner, truth = open_learner(path)
            rows = np.array(sorted(acknowledged), dtype=int)
            missing += int((learner.labels_[rows] == -1).sum())
            wrong += int((learner.labels_[rows] != truth[rows]).sum())
            learner.close_store()
            print(f"kill {kill + 1:2d}: {len(acknowledged)} acknowledged, {missing} missing")
        seconds = time.perf_counter() - begin
    out = {
        "kills": n_kills,
        "acknowledged": len(acknowledged),
        "missing": missing,
        "wrong": wrong,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(out))
    if missing or wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
