"""Variational inference: which settings are the defaults, and what covariances are worth.

``--part defaults``: the mean log score of rows held out (a third, one split, in nats per row; of
regressions in units of y's deviation) with one setting changed at a time, on sets that scikit-learn
ships and simulated ones. A layer of 20 tanh units. ``steps`` are those until the bound is flat.

``--part families``: independent normals, low rank and full rank on banknote, beside HMC on the same
model (a layer of 10 tanh units, N(0, 1) weights): five splits of 300 training rows and the other
1,072 for the test.

    python examples/benchmarks/variational.py [--quick] [--part defaults] [--out variational.jsonl]

A run that is stopped goes on where it was when it is started again with the same ``--out``.
"""

import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import Runs, finish, load, mean_and_error, parse, rounded, table
from sklearn.datasets import load_diabetes, make_friedman1, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, VI

BASE = {"init_scale": 0.1, "learning_rate": 0.01, "kl_warmup": 0}
CHANGES = [
    {},
    {"init_scale": 0.01},
    {"init_scale": 1.0},
    {"learning_rate": 0.003},
    {"learning_rate": 0.03},
    {"kl_warmup": 1000},
]
FAMILIES = {
    "mean_field": VI(),
    "low_rank": VI("low_rank", rank=8),
    "full_rank": VI("full_rank"),
    "hmc": HMC(n_chains=4, n_warmup=300, n_draws=250),
}
QUICK = {
    "mean_field": VI(max_epochs=300, learning_rate=0.03),
    "full_rank": VI("full_rank", max_epochs=300, learning_rate=0.03),
}


def data(name: str):
    kw = {"return_X_y": True}
    return {
        "diabetes": lambda: load_diabetes(**kw),
        "friedman1 300": lambda: make_friedman1(300, noise=1.0, random_state=0),
        "moons 200": lambda: make_moons(200, noise=0.25, random_state=0),
    }[name]()


SETS = ("friedman1 300", "diabetes", "moons 200")


def fit_and_score(estimator, X, y, X_test, y_test) -> dict:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    start = time.process_time()
    estimator.fit(X, y)
    seconds = time.process_time() - start
    out = {
        "log_score": float(estimator.log_predictive_density(X_test, y_test).mean()),
        "score": float(estimator.score(X_test, y_test)),
        "seconds": seconds,
        "steps": int(estimator.n_iter_),
    }
    if hasattr(estimator, "elbo_"):
        out["elbo"] = float(estimator.elbo_)
    return out


def one_setting(name: str, change: dict, quick: bool) -> dict:
    X, y = data(name)
    method = VI(**{**BASE, **change}, **({"max_epochs": 200} if quick else {}))
    regression = len(np.unique(y)) > 2
    cls = BayesianMLPRegressor if regression else BayesianMLPClassifier
    kw = {"noise": "learned"} if regression else {}
    parts = train_test_split(X, y, test_size=1 / 3, random_state=0)
    estimator = cls((20,), activation="tanh", method=method, random_state=0, **kw)
    out = fit_and_score(estimator, parts[0], parts[2], parts[1], parts[3])
    if regression:
        out["log_score"] += float(np.log(y.std()))
    return out


def one_family(data_dir: str, name: str, split: int, quick: bool) -> dict:
    from skbayes.model import NormalPrior

    raw = load(data_dir, "classification/banknote.npz")
    parts = train_test_split(
        raw["X"], raw["y"], train_size=300, random_state=split, stratify=raw["y"]
    )
    method = (QUICK if quick else FAMILIES)[name]
    kw = {"activation": "tanh", "prior": NormalPrior(1.0), "random_state": split}
    estimator = BayesianMLPClassifier((10,), method=method, **kw)
    return fit_and_score(estimator, parts[0], parts[2], parts[1], parts[3])


def defaults(runs: Runs, quick: bool) -> dict:
    sets = SETS[::2] if quick else SETS
    changes = CHANGES[:2] if quick else CHANGES
    rows, figures = [], {}
    for change in changes:
        label = ", ".join(f"{k}={v}" for k, v in change.items()) or "defaults"
        row: dict = {"setting": label}
        steps = []
        for name in sets:
            found = runs.get(f"{name}, {label}", one_setting, name, change, quick)
            row[name] = found["log_score"]
            steps.append(found["steps"])
        row["mean"] = float(np.mean([row[name] for name in sets]))
        row["steps"] = int(np.mean(steps))
        rows.append(row)
        figures[label] = {
            k: v if isinstance(v, int) else rounded(v) for k, v in list(row.items())[1:]
        }
    table(rows)
    return figures


def families(runs: Runs, data_dir: str, quick: bool) -> dict:
    rows, figures = [], {}
    n_splits = 1 if quick else 5
    for name in QUICK if quick else FAMILIES:
        found = [
            runs.get(f"banknote, {name}, {s}", one_family, data_dir, name, s, quick)
            for s in range(n_splits)
        ]
        row: dict = {"family": name}
        for key in ("log_score", "score", "elbo", "seconds"):
            if key in found[0]:
                row[key], row[f"+- {key}"] = mean_and_error([f[key] for f in found])
            else:
                row[key] = row[f"+- {key}"] = float("nan")
        rows.append(row)
        figures[name] = {k: rounded(v) for k, v in list(row.items())[1:]}
    table(rows)
    return figures


def main() -> None:
    args = parse(
        __doc__,
        ("--part", {"choices": ("defaults", "families"), "default": None, "help": "one of two"}),
        ("--out", {"default": None, "help": "file of finished runs"}),
    )
    runs = Runs(None if args.out is None else Path(args.out))
    figures = {}
    if args.part != "families":
        figures["defaults"] = defaults(runs, args.quick)
    if args.part != "defaults":
        load(args.data_dir, "classification/banknote.npz")
        figures["families"] = families(runs, args.data_dir, args.quick)
    finish("variational", figures)


if __name__ == "__main__":
    main()
