"""Predict 1,000,000 rows x 20 columns with 200 draws of a (50,) network: memory and time.

Prints the time and the peak of extra memory (resident set above that before the call) of
``predict(return_std=True)`` and ``predict_proba``. Each runs in a process of its own.

    python examples/benchmarks/prediction.py [--quick]
"""

import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
from _common import finish, parse, table


def resident() -> int:
    """Resident memory in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Watch(threading.Thread):
    """Notes the largest resident memory while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.going = 0, True

    def run(self) -> None:
        while self.going:
            self.peak = max(self.peak, resident())
            time.sleep(0.01)


def one(kind: str, n: int) -> None:
    """Fit on few rows, predict n, print seconds and extra bytes."""
    from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
    from skbayes.inference import Anchored

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 20)).astype(np.float32)
    train = X[:500]
    signal = train[:, 0] + np.sin(2 * train[:, 1])
    method = Anchored(n_members=200, solver="adam", max_epochs=60)
    if kind == "regressor":
        model = BayesianMLPRegressor((50,), method=method, random_state=0).fit(train, signal)
    else:
        model = BayesianMLPClassifier((50,), method=method, random_state=0).fit(train, signal > 0)
    assert model.posterior_.n_chains == 200
    model.predict(X[:100])
    before = resident()
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    if kind == "regressor":
        mean, std = model.predict(X, return_std=True)
        assert mean.shape == std.shape == (n,)
    else:
        assert model.predict_proba(X).shape == (n, 2)
    seconds = time.perf_counter() - start
    watch.going = False
    watch.join()
    print(f"{seconds} {watch.peak - before}")


def main() -> None:
    args = parse(__doc__, ("--child", {"default": None, "help": "used by the script itself"}))
    n = 100_000 if args.quick else 1_000_000
    if args.child is not None:
        one(args.child, n)
        return
    rows, figures = [], {}
    for kind in ("regressor", "classifier"):
        command = [sys.executable, __file__, "--child", kind] + ["--quick"] * args.quick
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds, extra = answer.split()[-2:]
        gib = int(extra) / 2**30
        rows.append({"call": kind, "rows": n, "seconds": float(seconds), "extra GiB": gib})
        figures[kind] = {
            "rows": n,
            "draws": 200,
            "seconds": round(float(seconds), 1),
            "extra_gib": round(gib, 3),
            "cores": len(os.sched_getaffinity(0)),
        }
    table(rows)
    finish("prediction", figures)


if __name__ == "__main__":
    main()
