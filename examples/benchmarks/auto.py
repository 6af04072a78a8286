"""Which method the default should take, by the size of data and network.

Three-fold cross-validated log predictive density (nats per row, y standardised) of candidate
methods at their defaults, and of the short chains that ``auto`` takes, on simulated tables and on
those that scikit-learn carries, from narrow to very wide; only the choice of the default prior
looks at some of them too. ``method="auto"`` follows what is found here (see the user guide's page
on choosing a method).

``--units`` fits the regressions with a layer of so many units, and chains on all weights beside
those without the output layer's.

    python examples/benchmarks/auto.py [--quick] [--out auto.jsonl]
    python examples/benchmarks/auto.py --quick --units 100,200

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
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    make_classification,
    make_friedman1,
    make_friedman2,
    make_friedman3,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import KFold, StratifiedKFold

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import MCLMC
from skbayes.inference.auto import SHORT_CHAINS

METHODS = {
    "anchored": "anchored",
    "ensemble": "ensemble",
    "map": "map",
    "auto": "auto",
    "short mclmc": MCLMC(**SHORT_CHAINS),
}
OF_WIDTHS = {
    "anchored": "anchored",
    "ensemble": "ensemble",
    "short mclmc": MCLMC(**SHORT_CHAINS, marginalize=True),
    "all weights": MCLMC(**SHORT_CHAINS, marginalize=False),
}


def text(n: int, n_words: int, seed: int):
    """Word counts of documents of three topics, Poisson, as TF-IDF rows."""
    rng = np.random.default_rng(seed)
    common = rng.gamma(0.1, size=n_words)
    topics = common * np.exp(rng.normal(size=(3, n_words)))
    topics = 40 * topics / topics.sum(1, keepdims=True)
    y = rng.integers(3, size=n)
    return TfidfTransformer().fit_transform(sp.csr_matrix(rng.poisson(topics[y]))), y


def one_hot(n: int, n_levels: int, seed: int):
    """Five categorical columns with effects of their own, and labels."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_levels, size=(n, 5))
    logit = rng.normal(size=(5, n_levels))[np.arange(5), codes].sum(1)
    return np.eye(n_levels)[codes].reshape(n, -1), (rng.random(n) < 1 / (1 + np.exp(-logit))) * 1


def wide(n: int, p: int, seed: int):
    return make_classification(
        n, p, n_informative=15, n_redundant=min(50, p // 4), flip_y=0.05, random_state=seed
    )


def regression(n: int, p: int, seed: int):
    return make_regression(n, p, n_informative=10, noise=30.0, random_state=seed)


def data(quick: bool) -> dict:
    kw = {"return_X_y": True}
    rows = np.random.default_rng(1).permutation(1797)
    digits = load_digits(**kw)
    sets = {
        "wide 300 x 30": (*wide(300, 30, 1), True),
        "wide 300 x 300": (*wide(300, 300, 2), True),
        "one-hot 600 x 50": (*one_hot(600, 10, 4), True),
        "diabetes": (*load_diabetes(**kw), False),
        "friedman1 100": (*make_friedman1(100, noise=1.0, random_state=0), False),
        "friedman1 1000": (*make_friedman1(1000, noise=1.0, random_state=1), False),
        "friedman2 150": (*make_friedman2(150, noise=100.0, random_state=0), False),
        "friedman3 300": (*make_friedman3(300, noise=0.1, random_state=0), False),
        "linear 150 x 50": (*regression(150, 50, 5), False),
        "linear 150 x 300": (*regression(150, 300, 6), False),
    }
    if quick:
        return sets
    return sets | {
        "digits 600": (digits[0][rows[:600]], digits[1][rows[:600]], True),
        "wide 300 x 2000": (*wide(300, 2000, 3), True),
        "one-hot 600 x 500": (*one_hot(600, 100, 5), True),
        "text 400 x 1000": (*text(400, 1000, 7), True),
        "text 400 x 4000": (*text(400, 4000, 8), True),
        "text 2000 x 2000": (*text(2000, 2000, 9), True),
        "linear 150 x 2000": (*regression(150, 2000, 6), False),
    }


def score(key: str, method, sizes, X, y, labels: bool) -> dict:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    splitter = StratifiedKFold if labels else KFold
    estimator = BayesianMLPClassifier if labels else BayesianMLPRegressor
    scores, start, n_params = [], time.perf_counter(), 0
    for a, b in splitter(3, shuffle=True, random_state=0).split(X, y):
        model = estimator(sizes, method=method, random_state=0).fit(X[a], y[a])
        n_params = model.posterior_.n_params
        scores.append(model.log_predictive_density(X[b], y[b]))
    mean = float(np.concatenate(scores).mean() + (0.0 if labels else np.log(y.std())))
    seconds = (time.perf_counter() - start) / 3
    return {"key": key, "score": mean, "seconds": seconds, "n_params": n_params}


def main() -> None:
    args = parse(
        __doc__,
        ("--out", {"type": Path, "default": None, "help": "file of finished fits, to resume"}),
        ("--units", {"default": None, "help": "widths to compare, such as 100,200"}),
    )
    sets, methods, widths = data(args.quick), METHODS, ["auto"]
    if args.units:
        sets = {name: one for name, one in sets.items() if not one[2]}
        methods, widths = OF_WIDTHS, [(int(units),) for units in args.units.split(",")]
    done = {}
    if args.out is not None and args.out.exists():
        done = {r["key"]: r for r in map(json.loads, args.out.read_text().splitlines())}
    fits = [(name, sizes) for sizes in widths for name in sets]
    jobs = [
        delayed(score)(f"{name}/{sizes}/{m}", methods[m], sizes, *sets[name])
        for name, sizes in fits
        for m in methods
        if f"{name}/{sizes}/{m}" not in done
    ]
    for result in Parallel(n_jobs=2, return_as="generator_unordered")(jobs):
        done[result["key"]] = result
        if args.out is not None:
            with args.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
    rows = []
    for name, sizes in fits:
        own = {m: done[f"{name}/{sizes}/{m}"] for m in methods}
        n_params = max(r["n_params"] for r in own.values())
        row = {"data": name, "units": sizes if sizes == "auto" else sizes[0]}
        row |= {"rows": sets[name][0].shape[0], "weights": n_params}
        row |= {m: own[m]["score"] for m in methods}
        row |= {f"{m}, s": own[m]["seconds"] for m in methods}
        rows.append(row)
    table(rows)
    finish(
        "auto", {f"{r['data']}, {r['units']}": {m: round(r[m], 4) for m in methods} for r in rows}
    )


if __name__ == "__main__":
    main()
