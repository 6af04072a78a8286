"""Active learning on three small tables, beside scikit-activeml.

    python examples/benchmarks/active_tables.py [--quick] [--seeds 20] [--keep runs.jsonl]

Digits (5 labels a query, to 200), breast cancer and two moons (1 a query, to 100), from 10 labels
of balanced classes. Ours is a Bayesian MLP by the default method, its default acquisition function
and batch, and its own random arm; ``ours_filter`` goes on from query to query by the ensemble
filter. The peer is a committee of five of scikit-learn's MLPs whose labels are chosen by
scikit-activeml's query by committee (Kullback-Leibler), uncertainty sampling (margin, entropy) and
BatchBALD. All arms of a seed share the split and the first labels. Needs scikit-activeml for the
peers; without it their rows are left out.

Figures: area under the learning curve (mean test accuracy over the fits), and the negative log
likelihood, ECE and seconds a query at its end; ours less its own random arm, and less the peer's
best arm, paired by seeds.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
from _common import Runs, finish, installed, mean_and_error, parse, rounded, table
from sklearn.datasets import load_breast_cancer, load_digits, make_moons
from sklearn.model_selection import train_test_split

TABLES = {"digits": (5, 200), "breast_cancer": (1, 100), "moons": (1, 100)}
OURS = ("ours", "ours_random", "ours_margin", "ours_filter")
PEERS = ("committee_random", "committee_kl", "committee_margin", "committee_bald")


def data(name: str, seed: int):
    """Pool and test rows, scaled by the pool, and the first labels."""
    if name == "moons":
        X, y = make_moons(1000, noise=0.2, random_state=seed)
        share = 0.5
    else:
        X, y = (load_digits if name == "digits" else load_breast_cancer)(return_X_y=True)
        share = 0.4
    parts = train_test_split(X, y, test_size=share, random_state=seed, stratify=y)
    X_pool, X_test, y_pool, y_test = parts
    centre, scale = X_pool.mean(0), X_pool.std(0) + (X_pool.std(0) == 0)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y_pool))
    classes = np.unique(y_pool)
    first = [np.flatnonzero(y_pool[order] == c)[: 10 // len(classes)] for c in classes]
    first = order[np.concatenate(first)]
    return (X_pool - centre) / scale, (X_test - centre) / scale, y_pool, y_test, first


class Curve:
    """Accuracies over the queries, and what is known at their end."""

    def __init__(self, X_test, y_test) -> None:
        self.X, self.y, self.accuracy, self.nll = X_test, y_test, [], float("nan")
        self.seconds: list[float] = []

    def add(self, model) -> None:
        """Look at a fitted model."""
        proba = np.clip(model.predict_proba(self.X), 1e-12, 1.0)
        classes = np.asarray(model.classes_)
        self.accuracy.append(float((classes[proba.argmax(1)] == self.y).mean()))
        column = np.searchsorted(classes, self.y)
        self.nll = float(-np.log(proba[np.arange(len(proba)), column]).mean())

    def figures(self) -> dict:
        """All of it."""
        return {
            "area": float(np.mean(self.accuracy)),
            "end": self.accuracy[-1],
            "nll": self.nll,
            "seconds": float(np.median(self.seconds)),
            "curve": [round(a, 4) for a in self.accuracy],
        }


def ours(name: str, arm: str, seed: int, last: int) -> dict:
    """One arm of this package."""
    from skbayes import ActiveLearner, BayesianMLPClassifier

    warnings.simplefilter("ignore")
    X, X_test, truth, y_test, first = data(name, seed)
    y = np.full(len(truth), -1)
    y[first] = truth[first]
    method = "ensemble_filter" if arm == "ours_filter" else "auto"
    inner = BayesianMLPClassifier(
        method=method, standardize=False, warm_start=arm == "ours_filter", random_state=seed
    )
    acquisition = {"ours_random": "random", "ours_margin": "margin"}.get(arm, "auto")
    learner = ActiveLearner(inner, acquisition, random_state=seed).fit(X, y)
    curve = Curve(X_test, y_test)
    curve.add(learner)
    n = TABLES[name][0]
    while len(learner.labelled_()[1]) < last:
        begin = time.perf_counter()
        rows = learner.query(n)
        learner.teach(rows, truth[rows])
        curve.seconds.append(time.perf_counter() - begin)
        curve.add(learner)
    return curve.figures()


class Committee:
    """Five of scikit-learn's MLPs, averaged."""

    def __init__(self, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self.members = [
            MLPClassifier((32,), activation="tanh", max_iter=200, random_state=seed * 5 + k)
            for k in range(5)
        ]

    def fit(self, X, y):
        """Fit all members."""
        for member in self.members:
            member.fit(X, y)
        self.classes_ = self.members[0].classes_
        return self

    def draws(self, X):
        """Probabilities of the members, (n, members, classes) as scikit-activeml has it."""
        return np.stack([member.predict_proba(X) for member in self.members])

    def predict_proba(self, X):
        """Mean of the members' probabilities."""
        return self.draws(X).mean(0)


def peer(name: str, arm: str, seed: int, last: int) -> dict:
    """One arm of scikit-activeml."""
    from skactiveml.pool import average_kl_divergence, batch_bald, uncertainty_scores

    warnings.simplefilter("ignore")
    X, X_test, truth, y_test, first = data(name, seed)
    known = list(first)
    curve, rng, n = Curve(X_test, y_test), np.random.default_rng(seed), TABLES[name][0]
    model = Committee(seed).fit(X[known], truth[known])
    curve.add(model)
    while len(known) < last:
        begin = time.perf_counter()
        rest = np.setdiff1d(np.arange(len(X)), known)
        draws = model.draws(X[rest])
        if arm == "committee_random":
            scores = rng.random(len(rest))
        elif arm == "committee_kl":
            scores = average_kl_divergence(draws)
        elif arm == "committee_margin":
            scores = uncertainty_scores(draws.mean(0), method="margin_sampling")
        else:
            scores = None
        if scores is None and n > 1:
            utilities = batch_bald(draws, n, n_MC_samples=1000, random_state=seed)
            chosen: list[int] = []
            for row in utilities:
                row = np.asarray(row, dtype=float).copy()
                row[chosen] = -np.inf
                chosen.append(int(np.nanargmax(row)))
        else:
            scores = average_kl_divergence(draws) if scores is None else scores
            chosen = list(np.lexsort((rng.random(len(scores)), -scores))[:n])
        known += [int(rest[i]) for i in chosen]
        model = Committee(seed).fit(X[known], truth[known])
        curve.seconds.append(time.perf_counter() - begin)
        curve.add(model)
    return curve.figures()


def main() -> None:
    """Run all arms and print the figures."""
    args = parse(
        __doc__,
        ("--seeds", {"type": int, "default": 20}),
        ("--keep", {"type": Path, "help": "file that keeps finished runs"}),
        ("--tables", {"nargs": "+", "default": list(TABLES)}),
        ("--arms", {"nargs": "+", "default": [*OURS, *PEERS]}),
    )
    arms = [a for a in args.arms if a in OURS or (a in PEERS and installed("skactiveml"))]
    n_seeds = 2 if args.quick else args.seeds
    runs, figures = Runs(args.keep), {}
    for name in ["moons"] if args.quick else args.tables:
        last = 20 if args.quick else TABLES[name][1]
        found = {
            arm: [
                runs.get(
                    f"{name} {arm} {seed} {last}",
                    ours if arm in OURS else peer,
                    name,
                    arm,
                    seed,
                    last,
                )
                for seed in range(n_seeds)
            ]
            for arm in arms
        }
        rows = []
        for arm, results in found.items():
            row: dict = {"table": name, "arm": arm}
            for key in ("area", "end", "nll", "seconds"):
                mean, error = mean_and_error([r[key] for r in results])
                row[key] = mean
                row[f"{key}_error"] = error
            rows.append(row)
        table(rows)
        areas = {arm: np.array([r["area"] for r in results]) for arm, results in found.items()}
        entry = {
            row["arm"]: {k: rounded(v) for k, v in row.items() if k not in ("table", "arm")}
            for row in rows
        }
        best = max((a for a in areas if a in PEERS), key=lambda a: areas[a].mean(), default=None)
        for other in ("ours_random", best):
            if other is None or "ours" not in areas or other not in areas:
                continue
            mean, error = mean_and_error(areas["ours"] - areas[other])
            print(f"{name}: ours less {other}: {mean:.4f} +- {error:.4f}")
            entry[f"ours less {other}"] = [rounded(mean), rounded(error)]
        figures[name] = entry
    packages = ("scikit-activeml",) if installed("skactiveml") else ()
    finish("active_tables", figures, packages)


if __name__ == "__main__":
    main()
