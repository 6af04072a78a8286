"""Which acquisition function "auto" should be, and which prior small pools want, on made sets.

    python examples/benchmarks/active_default.py [--quick] [--seeds 4] [--out runs.jsonl]

The sets are simulated and none of those of the other benchmarks of active learning: two circles, a
chessboard of 3 x 3 fields, two classes in ten columns of which five matter (a tenth of the labels
is wrong), four classes of two groups each in 20 columns, and eight round classes in 16 columns
that overlap. From 10 labels (two of each class at least), 20 queries of one row (two classes) or of
four, chosen by the default batch. The default method goes on from query to query
(``warm_start=True``).

Figures: area under the learning curve (mean test accuracy over the fits) and the negative log
likelihood at its end, for each acquisition function with the default prior, and for the margin with
other priors. ``gain`` is the area less that of random, and with another prior less that of the
margin with the default prior.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
from _common import Runs, finish, mean_and_error, parse, rounded, table

SETS = ("circles", "chessboard", "noisy", "groups", "round")
FUNCTIONS = ("random", "margin", "bald", "epig")
PRIORS = {"default": None, "normal 1": 1.0, "normal 2": 2.0}
N_POOL, N_TEST = 400, 1000


def made(name: str, seed: int):
    """Rows and classes; the pool comes first."""
    from sklearn.datasets import make_circles, make_classification

    rng, n = np.random.default_rng(1000 + seed), N_POOL + N_TEST
    if name == "circles":
        X, y = make_circles(n, noise=0.15, factor=0.5, random_state=seed)
    elif name == "chessboard":
        X = rng.uniform(0, 3, (n, 2))
        y = X.astype(int).sum(1) % 2
    elif name == "noisy":
        X, y = make_classification(n, 10, n_informative=5, flip_y=0.2, random_state=seed)
    elif name == "groups":
        X, y = make_classification(
            n, 20, n_informative=8, n_classes=4, class_sep=1.5, random_state=seed
        )
    else:
        centres = rng.normal(size=(8, 16))
        y = rng.integers(0, 8, n)
        X = centres[y] + 0.8 * rng.normal(size=(n, 16))
    return (X - X[:N_POOL].mean(0)) / X[:N_POOL].std(0), y


def run(name: str, seed: int, prior: float | None, functions: list[str], n_queries: int) -> dict:
    """Area, and negative log likelihood at the end, by acquisition function."""
    from skbayes import ActiveLearner, BayesianMLPClassifier
    from skbayes.model.priors import NormalPrior

    warnings.simplefilter("ignore")
    X, truth = made(name, seed)
    n_classes = truth.max() + 1
    rng = np.random.default_rng(seed)
    order = rng.permutation(N_POOL)
    each = max(2, 10 // n_classes)
    first = np.concatenate([order[truth[order] == c][:each] for c in range(n_classes)])
    y = np.full(N_POOL, -1)
    y[first] = truth[first]
    model = BayesianMLPClassifier(
        (32,),
        activation="tanh",
        prior=None if prior is None else NormalPrior(prior),
        standardize=False,
        warm_start=True,
        random_state=seed,
    )
    begin = ActiveLearner(model, random_state=seed).fit(X[:N_POOL], y)
    out: dict = {}
    for function in functions:
        learner = copy.deepcopy(begin).set_params(acquisition=function)
        right, nll = [], np.nan
        for k in range(n_queries + 1):
            proba = learner.predict_proba(X[N_POOL:])
            right.append(float((proba.argmax(1) == truth[N_POOL:]).mean()))
            chosen = proba[np.arange(N_TEST), truth[N_POOL:]]
            nll = float(-np.log(np.maximum(chosen, 1e-12)).mean())
            if k < n_queries:
                rows = learner.query(1 if n_classes == 2 else 4)
                learner.teach(rows, truth[rows])
        out[function] = {"area": float(np.mean(right)), "nll": nll}
    return out


def main() -> None:
    """Run all and print the figures."""
    args = parse(
        __doc__,
        ("--seeds", {"type": int, "default": 4}),
        ("--out", {"type": Path, "help": "file that keeps finished runs"}),
    )
    seeds, n_queries = (2, 5) if args.quick else (args.seeds, 20)
    runs, rows, figures, usual = Runs(args.out), [], {}, {}
    for label, prior in PRIORS.items():
        functions = list(FUNCTIONS) if prior is None else ["margin"]
        for name in SETS[:2] if args.quick else SETS:
            results = [
                runs.get(
                    f"{label} {name} {seed} {n_queries}",
                    run,
                    name,
                    seed,
                    prior,
                    functions,
                    n_queries,
                )
                for seed in range(seeds)
            ]
            for function in functions:
                row: dict = {"prior": label, "set": name, "function": function}
                areas = np.array([r[function]["area"] for r in results])
                row["area"], row["area_error"] = mean_and_error(areas)
                if prior is None and function == "margin":
                    usual[name] = areas
                other = usual[name] if prior is not None else [r["random"]["area"] for r in results]
                row["gain"], row["gain_error"] = mean_and_error(areas - other)
                row["nll"] = mean_and_error([r[function]["nll"] for r in results])[0]
                rows.append(row)
                figures[f"{label} {name} {function}"] = {
                    k: rounded(v) for k, v in row.items() if isinstance(v, float)
                }
    table(rows, 4)
    finish("active_default", figures)


if __name__ == "__main__":
    main()
