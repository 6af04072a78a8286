"""Coverage of the default regressor's 90 % intervals, and the default classifier's log loss.

Regression: simulated tasks (linear, smooth, interacting, rough and kinked functions of 1 to 6
features, four noise levels) at n = 20, 50, 200 and 2,000, with equal noise and with noise that
grows along the first feature; the default ``BayesianMLPRegressor()`` is fitted to each and its
intervals are checked on 2,000 new rows. Classification: 1 % positives, TF-IDF of simulated texts,
and one-hot columns; the default ``BayesianMLPClassifier()`` beside the MAP network
(``method="map"``) with the same prior, by the paired difference of their log losses.

    python examples/benchmarks/calibration.py [--quick] [--tasks 20] [--out calibration.jsonl]
        [--part regression]

A run that is stopped goes on where it was when it is started again with the same ``--out``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from _common import finish, parse, table
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor


def regression_task(seed: int, n: int, unequal: bool, n_test: int = 2000):
    """Rows, targets, new rows, new targets, and the true mean log density of the latter."""
    rng = np.random.default_rng([seed, n, unequal])
    d, total = int(rng.integers(1, 7)), n + n_test
    X = rng.normal(size=(total, d))
    if rng.random() < 0.5:
        X = rng.uniform(-2, 2, size=(total, d))
    u, v = (X @ rng.normal(size=d) / np.sqrt(d) for _ in range(2))
    kind = seed % 5
    if kind == 0:
        f = u
    elif kind == 1:
        f = np.sin(2 * u) + 0.5 * v
    elif kind == 2:
        f = np.tanh(3 * u) * v
    elif kind == 3:  # a function with a Gaussian-process prior, by random features
        W = 1.5 * rng.normal(size=(d, 100)) / np.sqrt(d)
        f = np.cos(X @ W + rng.uniform(0, 2 * np.pi, 100)) @ rng.normal(size=100)
    else:
        f = np.abs(u) + 0.7 * (v > 0)
    f = f / f.std()
    level = (0.1, 0.3, 0.6, 1.0)[(seed // 5) % 4]
    std = np.full(total, level)
    if unequal:
        std = level * np.exp(0.6 * (X[:, 0] - X[:, 0].mean()) / X[:, 0].std())
    z = rng.normal(size=total)
    y = 100 + 10 * (f + std * z)
    log_density = -0.5 * z**2 - np.log(10 * std) - 0.5 * np.log(2 * np.pi)
    return X[:n], y[:n], X[n:], y[n:], float(log_density[n:].mean())


def regression(seed: int, n: int, unequal: bool) -> dict:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, X_new, y_new, best = regression_task(seed, n, unequal)
    start = time.perf_counter()
    reg = BayesianMLPRegressor(random_state=0).fit(X, y)
    seconds = time.perf_counter() - start
    interval = reg.predict_interval(X_new)
    inside = (y_new >= interval[:, 0]) & (y_new <= interval[:, 1])
    return {
        "key": f"{n}-{'unequal' if unequal else 'equal'}-{seed}",
        "coverage": float(inside.mean()),
        "excess_nll": float(best - reg.log_predictive_density(X_new, y_new).mean()),
        "seconds": seconds,
    }


def classification_task(name: str, seed: int):
    """Rows, labels, new rows, new labels."""
    rng = np.random.default_rng(seed)
    n, total = 2000, 6000
    if name == "1 % positives":
        X = rng.normal(size=(total, 8))
        logit = 2.0 * X[:, 0] + X[:, 1] * X[:, 2]
        y = logit + rng.logistic(size=total)
        y = (y > np.quantile(y, 0.99)).astype(int)
    elif name == "TF-IDF":
        n, total = 500, 2500
        words = 5000
        base = rng.dirichlet(np.full(words, 0.05))
        tilt = np.exp(0.8 * rng.normal(size=words))
        topics = [base, base * tilt / (base * tilt).sum()]
        y = rng.integers(2, size=total)
        counts = [rng.multinomial(rng.integers(10, 40), topics[label]) for label in y]
        X = TfidfTransformer().fit_transform(sp.csr_matrix(np.array(counts)))
    else:
        codes = rng.integers(10, size=(total, 6))
        effect = rng.normal(size=(6, 10))
        logit = effect[np.arange(6), codes].sum(1) + 1.5 * (codes[:, 0] == codes[:, 1])
        X = np.eye(10)[codes].reshape(total, -1)
        y = (logit + rng.logistic(size=total) > 0).astype(int)
    return X[:n], y[:n], X[n:], y[n:]


def classification(name: str, seed: int) -> dict:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, X_new, y_new = classification_task(name, seed)
    start = time.perf_counter()
    default = BayesianMLPClassifier(random_state=seed).fit(X, y)
    seconds = time.perf_counter() - start
    point = BayesianMLPClassifier(method="map", random_state=seed).fit(X, y)
    loss = -default.log_predictive_density(X_new, y_new)
    other = -point.log_predictive_density(X_new, y_new)
    return {
        "key": f"{name}-{seed}",
        "log_loss": float(loss.mean()),
        "map_log_loss": float(other.mean()),
        "seconds": seconds,
    }


def main() -> None:
    args = parse(
        __doc__,
        ("--tasks", {"type": int, "default": 20, "help": "simulated tasks per row of the table"}),
        ("--out", {"type": Path, "default": None, "help": "file of finished fits, to resume"}),
        ("--part", {"choices": ("regression", "classification"), "help": "one alone"}),
    )
    sizes = (20, 50) if args.quick else (20, 50, 200, 2000)
    n_tasks = 5 if args.quick else args.tasks
    seeds = range(1 if args.quick else 3)
    names = ("1 % positives", "TF-IDF", "one-hot")
    if args.part is not None:
        sizes = sizes if args.part == "regression" else ()
        names = names if args.part == "classification" else ()
    done = {}
    if args.out is not None and args.out.exists():
        done = {r["key"]: r for r in map(json.loads, args.out.read_text().splitlines())}

    def keep(results):
        for result in results:
            done[result["key"]] = result
            if args.out is not None:
                with args.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")

    jobs = [
        delayed(regression)(s, n, u)
        for n in sizes
        for u in (False, True)
        for s in range(n_tasks)
        if f"{n}-{'unequal' if u else 'equal'}-{s}" not in done
    ]
    jobs += [delayed(classification)(c, s) for c in names for s in seeds if f"{c}-{s}" not in done]
    keep(Parallel(n_jobs=2, return_as="generator_unordered")(jobs))

    rows, figures = [], {}
    for n in sizes:
        for noise in ("equal", "unequal"):
            own = [done[f"{n}-{noise}-{s}"] for s in range(n_tasks)]
            coverage = np.array([r["coverage"] for r in own])
            row = {
                "n": n,
                "noise": noise,
                "tasks": n_tasks,
                "coverage": float(coverage.mean()),
                "standard error": float(coverage.std(ddof=1) / np.sqrt(n_tasks)),
                "least": float(coverage.min()),
                "excess NLL": float(np.mean([r["excess_nll"] for r in own])),
                "s a fit": float(np.median([r["seconds"] for r in own])),
            }
            rows.append(row)
            figures[f"coverage_{n}_{noise}"] = round(row["coverage"], 4)
    if rows:
        table(rows)
    rows = []
    for name in names:
        own = [done[f"{name}-{s}"] for s in seeds]
        difference = np.array([r["log_loss"] - r["map_log_loss"] for r in own])
        spread = difference.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else float("nan")
        row = {
            "classification": name,
            "log loss": float(np.mean([r["log_loss"] for r in own])),
            "MAP": float(np.mean([r["map_log_loss"] for r in own])),
            "difference": float(difference.mean()),
            "standard error": float(spread),
        }
        rows.append(row)
        figures[f"log_loss_minus_map_{name}"] = round(row["difference"], 5)
    print()
    if rows:
        table(rows, digits=4)
    finish("calibration", figures)


if __name__ == "__main__":
    main()
