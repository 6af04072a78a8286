"""Which prior should be the default: held-out log scores on training folds.

For each data set the default estimator is fitted on three folds in turn with each candidate prior,
and scored by the mean log predictive density on the fold left out. The table shows, per prior, the
mean over data sets of the difference to the best prior of that data set (in nats per row, zero is
best), apart for classification and regression. Only sets that scikit-learn ships and simulated
tasks are used, none of which other benchmarks report (``auto.py`` apart, which chooses a default
too). In a regression a prior that is not normal is met by another method, see
`skbayes.inference.auto.choose`.

    python examples/benchmarks/default_prior.py [--quick] [--only regression]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings

import numpy as np
import torch
from _common import finish, parse, table
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
    make_friedman1,
    make_friedman2,
    make_friedman3,
    make_moons,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.model.priors import HierarchicalPrior, NormalPrior


def candidates(quick: bool) -> dict:
    out = {f"normal {s:g} fan-in": NormalPrior(s, fan_in=True) for s in (0.5, 1, 2, 3, 5)}
    if not quick:
        out |= {
            "normal 1": NormalPrior(1.0),
            "hierarchical 1": HierarchicalPrior(1.0),
        }
    return out


def subset(X, y, n, seed=0):
    rows = np.random.default_rng(seed).permutation(len(y))[:n]
    return X[rows], y[rows]


def data(quick: bool) -> dict:
    kw = {"return_X_y": True}
    sets = {
        "digits 150": subset(*load_digits(**kw), 150),
        "breast cancer": load_breast_cancer(**kw),
        "wine": load_wine(**kw),
        "iris": load_iris(**kw),
        "moons 100": make_moons(100, noise=0.25, random_state=0),
        "noisy 300": make_classification(300, 15, n_informative=5, flip_y=0.2, random_state=0),
    }
    regression = {
        "diabetes": load_diabetes(**kw),
        "diabetes 60": subset(*load_diabetes(**kw), 60),
        "friedman1 100": make_friedman1(100, noise=1.0, random_state=0),
        "friedman1 500": make_friedman1(500, noise=1.0, random_state=1),
        "friedman2 150": make_friedman2(150, noise=100.0, random_state=0),
        "friedman3 150": make_friedman3(150, noise=0.1, random_state=0),
    }
    if quick:
        sets = {k: sets[k] for k in ("wine", "iris")}
        regression = {k: regression[k] for k in ("diabetes 60", "friedman1 100")}
    return {
        **{k: ("classification", *v) for k, v in sets.items()},
        **{k: ("regression", *v) for k, v in regression.items()},
    }


def score(kind, X, y, prior) -> float:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    splitter = StratifiedKFold if kind == "classification" else KFold
    estimator = BayesianMLPClassifier if kind == "classification" else BayesianMLPRegressor
    scale = 1.0 if kind == "classification" else y.std()
    scores = []
    for a, b in splitter(3, shuffle=True, random_state=0).split(X, y):
        model = estimator(prior=clone(prior), random_state=0)
        scores.append(model.fit(X[a], y[a]).log_predictive_density(X[b], y[b]))
    return float(np.concatenate(scores).mean() + np.log(scale))


def main() -> None:
    kinds = ("classification", "regression")
    args = parse(__doc__, ("--only", {"choices": kinds, "default": None, "help": "one of the two"}))
    kinds = (args.only,) if args.only else kinds
    priors, sets = candidates(args.quick), data(args.quick)
    sets = {name: one for name, one in sets.items() if one[0] in kinds}
    jobs = [(name, prior) for name in sets for prior in priors]
    answers = Parallel(n_jobs=2)(delayed(score)(*sets[n], priors[p]) for n, p in jobs)
    scores = dict(zip(jobs, answers, strict=True))
    rows = [{"data": n, **{p: scores[n, p] for p in priors}} for n in sets]
    table(rows)
    figures = {}
    for kind in kinds:
        own = [n for n in sets if sets[n][0] == kind]
        loss = {
            p: float(np.mean([scores[n, p] - max(scores[n, q] for q in priors) for n in own]))
            for p in priors
        }
        print(f"\n{kind}: mean difference to the best prior of each set")
        table(
            [{"prior": p, "nats per row": v} for p, v in sorted(loss.items(), key=lambda i: -i[1])]
        )
        figures[kind] = {p: round(v, 4) for p, v in loss.items()}
    finish("default_prior", figures)


if __name__ == "__main__":
    main()
