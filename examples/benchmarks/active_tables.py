"""Active learning on three small tables, beside scikit-activeml; refits of the filter; a big pool.

    python examples/benchmarks/active_tables.py [--quick] [--part tables] [--seeds 20] [--out FILE]

``--part tables``: digits (5 labels a query, to 200), breast cancer and two moons (1 a query, to
100), from 10 labels of balanced classes. Ours is a Bayesian MLP by the default method, its default
acquisition function and batch, which goes on from query to query (``warm_start=True``), beside its
own random arm; ``ours_margin`` and ``ours_filter`` (the ensemble filter) on request. The prior,
N(0, 1) on every weight, and the acquisition function were chosen by `active_default.py`, on other
sets (the prior by an earlier run; by one of now it would be the default). The peer is a committee
of five of scikit-learn's MLPs, fitted anew at each query (Adam with a rate of 0.01, at which it
does better than at scikit-learn's default of 0.001 on digits and moons), whose labels are chosen by
scikit-activeml's Kullback-Leibler divergence of committees and by its margin; BatchBALD and random
on request. All arms of a seed share the network (32 tanh units), the split and the first labels.
Needs scikit-activeml for the peers; without it their rows are left out. Figures: area under the
learning curve (mean test accuracy over the fits), and accuracy, NLL and CPU seconds a query at its
end; ours less its own random arm, and less the peer's best arm, paired by seeds.

``--part refit``: the ensemble filter on digits with default settings: CPU seconds of refit and
choice out of 1,078 rows, and NLL beside that of a fit anew on the same labels.

``--part lecture``: a network learns sin 14 x^2 on [0, 1] from noisy values (deviation 0.05, which
it knows; 3 at first, then where its variance is largest among 201 places, to 18): RMSE beside
that of places at random. Tanh units and a wide prior, `NormalPrior(5, fan_in=True)`, since the
function turns five times; by the default method and by anchored networks.

``--part pool``: one query on a pool of a million rows of 20 columns, with 20 draws: CPU seconds,
and the peak of the memory above what was there before.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
from _common import Runs, finish, installed, mean_and_error, parse, rounded, table
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_moons
from sklearn.model_selection import train_test_split

TABLES = {"digits": (5, 200), "breast_cancer": (1, 100), "moons": (1, 100)}
OURS = ("ours", "ours_random", "ours_margin", "ours_filter")
PEERS = ("committee_kl", "committee_margin", "committee_random", "committee_bald")
ARMS = (*OURS[:2], *PEERS[:2])
PRIOR_SCALE = 1.0


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
    from skbayes.model.priors import NormalPrior

    warnings.simplefilter("ignore")
    X, X_test, truth, y_test, first = data(name, seed)
    y = np.full(len(truth), -1)
    y[first] = truth[first]
    method = "ensemble_filter" if arm == "ours_filter" else "auto"
    inner = BayesianMLPClassifier(
        (32,),
        activation="tanh",
        method=method,
        prior=NormalPrior(PRIOR_SCALE),
        standardize=False,
        warm_start=True,
        random_state=seed,
    )
    acquisition = {"ours_random": "random", "ours_margin": "margin"}.get(arm, "auto")
    learner = ActiveLearner(inner, acquisition, random_state=seed).fit(X, y)
    curve = Curve(X_test, y_test)
    curve.add(learner)
    n = TABLES[name][0]
    while len(learner.labelled_()[1]) < last:
        begin = time.process_time()
        rows = learner.query(n)
        learner.teach(rows, truth[rows])
        curve.seconds.append(time.process_time() - begin)
        curve.add(learner)
    return curve.figures()


class Committee:
    """Five of scikit-learn's MLPs, averaged."""

    def __init__(self, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self.members = [
            MLPClassifier(
                (32,),
                activation="tanh",
                learning_rate_init=0.01,
                max_iter=200,
                random_state=seed * 5 + k,
            )
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
        begin = time.process_time()
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
        curve.seconds.append(time.process_time() - begin)
        curve.add(model)
    return curve.figures()


def one_arm(name: str, arm: str, seed: int, last: int) -> dict:
    """One arm on one split."""
    return (ours if arm in OURS else peer)(name, arm, seed, last)


def refit(seed: int, last: int) -> dict:
    """Refits and choices of the filter on digits, and fits anew to the same labels."""
    from skbayes import ActiveLearner, BayesianMLPClassifier

    warnings.simplefilter("ignore")
    X, X_test, truth, y_test, first = data("digits", seed)
    y = np.full(len(truth), -1)
    y[first] = truth[first]
    inner = BayesianMLPClassifier(method="ensemble_filter", standardize=False, random_state=seed)
    learner = ActiveLearner(clone(inner).set_params(warm_start=True), random_state=seed).fit(X, y)
    warm, anew = Curve(X_test, y_test), Curve(X_test, y_test)
    seconds, more = [], []
    for k in range((last - len(first)) // 5):
        begin = time.process_time()
        rows = learner.query(5)
        learner.teach(rows, truth[rows])
        seconds.append(time.process_time() - begin)
        if k % 8 == 7:
            known = np.flatnonzero(learner.labels_ >= 0)
            begin = time.process_time()
            cold = clone(inner).fit(X[known], truth[known])
            anew.seconds.append(time.process_time() - begin)
            warm.add(learner)
            anew.add(cold)
            more.append(warm.nll - anew.nll)
    return {
        "seconds": float(np.median(seconds)),
        "slowest": max(seconds),
        "cold_seconds": float(np.median(anew.seconds)),
        "nll_less_cold": float(np.mean(more)),
        "nll_less_cold_worst": float(max(more)),
    }


def lecture(method: str, acquisition: str, seed: int, last: int) -> dict:
    """RMSE of a network against the number of values known, from three on."""
    from skbayes import ActiveLearner, BayesianMLPRegressor
    from skbayes.model.priors import NormalPrior

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 201)
    truth = np.sin(14 * x**2)
    noisy = truth + 0.05 * rng.standard_normal(201)
    X = ((x - x.mean()) / x.std())[:, None]
    y = np.full(201, np.nan)
    first = rng.choice(201, 3, replace=False)
    y[first] = noisy[first]
    model = BayesianMLPRegressor(
        (50,),
        activation="tanh",
        method=method,
        prior=NormalPrior(5.0, fan_in=True),
        noise=0.05,
        standardize=False,
        warm_start=True,
        random_state=seed,
    )
    begin = time.process_time()
    learner = ActiveLearner(model, acquisition, random_state=seed).fit(X, y)
    errors = [float(np.sqrt(np.mean((learner.predict(X) - truth) ** 2)))]
    for _ in range(last - 3):
        row = learner.query()
        learner.teach(row, noisy[row])
        errors.append(float(np.sqrt(np.mean((learner.predict(X) - truth) ** 2))))
    seconds = (time.process_time() - begin) / len(errors)
    return {"rmse": errors[-1], "rmse_13": errors[10], "seconds": seconds, "curve": errors}


def pool(n: int) -> dict:
    """One query on many rows."""
    from skbayes import ActiveLearner, BayesianMLPClassifier
    from skbayes.inference import Ensemble

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 20), dtype=np.float32)
    y = np.full(n, -1)
    y[:200] = (X[:200, 0] + X[:200, 1] ** 2 > 1).astype(int)
    model = BayesianMLPClassifier(method=Ensemble(n_members=20), random_state=0)
    learner = ActiveLearner(model, "bald", random_state=0).fit(X, y)
    learner.query(10, candidates=np.arange(1000, 3000))  # caches
    before, begin = _peak(reset=True), time.process_time()
    rows = learner.query(10)
    seconds = time.process_time() - begin
    return {
        "rows": n,
        "seconds": seconds,
        "extra_gib": (_peak() - before) / 2**20,
        "of_all_draws_gib": n * 20 * 2 * 8 / 2**30,
        "chosen": len(set(rows.tolist())),
    }


def _peak(reset: bool = False) -> int:
    """Peak of the resident set, in KiB, and let it start from where it is now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run a part and print its figures."""
    args = parse(
        __doc__,
        ("--part", {"choices": ("tables", "refit", "lecture", "pool"), "default": "tables"}),
        ("--seeds", {"type": int, "default": 20}),
        ("--out", {"type": Path, "help": "file that keeps finished runs"}),
        ("--tables", {"nargs": "+", "default": list(TABLES)}),
        ("--arms", {"nargs": "+", "default": list(ARMS)}),
    )
    runs = Runs(args.out)
    if args.part == "pool":
        n = 100_000 if args.quick else 1_000_000
        finish("active_tables pool", runs.get(f"pool {n}", pool, n))
        return
    if args.part == "lecture":
        print_lecture(runs, args.quick, min(args.seeds, 20))
        return
    if args.part == "refit":
        n_seeds, last = (1, 90) if args.quick else (min(args.seeds, 5), 200)
        rows = [runs.get(f"refit {s} {last}", refit, s, last) for s in range(n_seeds)]
        table(rows)
        keys = [key for key in rows[0] if key != "key"]
        means = {key: rounded(mean_and_error([row[key] for row in rows])[0]) for key in keys}
        finish("active_tables refit", means)
        return
    arms = [a for a in args.arms if a in OURS or (a in PEERS and installed("skactiveml"))]
    n_seeds, figures = 2 if args.quick else args.seeds, {}
    names = ["moons"] if args.quick else args.tables
    found: dict[str, list[dict]] = {name: [] for name in names}
    for seed in range(n_seeds):
        for name in names:
            last = 20 if args.quick else TABLES[name][1]
            found[name].append({})
            for arm in arms:
                key = f"{name} {seed} {last} {arm}"
                found[name][-1][arm] = runs.get(key, one_arm, name, arm, seed, last)
    for name, results in found.items():
        figures[name] = summary(name, arms, results)
    finish("active_tables", figures, ("scikit-activeml",) if installed("skactiveml") else ())


def print_lecture(runs: Runs, quick: bool, n_seeds: int) -> None:
    """The loop of the lecture by two methods, and at random."""
    rows, figures = [], {}
    for method in ("anchored",) if quick else ("anchored", "auto"):
        found = {
            function: [
                runs.get(f"lecture {method} {function} {s}", lecture, method, function, s, 18)
                for s in range(2 if quick else n_seeds)
            ]
            for function in ("variance", "random")
        }
        for function, results in found.items():
            row: dict = {"method": method, "function": function}
            for key in ("rmse_13", "rmse", "seconds"):
                row[key], row[f"{key}_error"] = mean_and_error([r[key] for r in results])
            rows.append(row)
        share = rows[-2]["rmse"] / rows[-1]["rmse"]
        figures[method] = {"variance": rows[-2]["rmse"], "random": rows[-1]["rmse"], "share": share}
    table(rows)
    finish("active_tables lecture", figures)


def summary(name: str, arms: list[str], results: list[dict]) -> dict:
    """Print a table of one set, and give its figures."""
    rows, entry = [], {}
    for arm in arms:
        row: dict = {"table": name, "arm": arm}
        for key in ("area", "end", "nll", "seconds"):
            row[key], row[f"{key}_error"] = mean_and_error([r[arm][key] for r in results])
        rows.append(row)
        entry[arm] = {k: rounded(v) for k, v in row.items() if isinstance(v, float)}
    table(rows, 4)
    peers = [arm for arm in arms if arm in PEERS]
    best = max(peers, key=lambda arm: entry[arm]["area"], default=None)
    for other in ("ours_random", best):
        if "ours" not in arms or other not in arms:
            continue
        for key in ("area", "nll"):
            mean, error = mean_and_error([r["ours"][key] - r[other][key] for r in results])
            print(f"{name}: ours less {other}, {key}: {mean:.4f} +- {error:.4f}")
            entry[f"ours less {other} {key}"] = [rounded(mean), rounded(error)]
    return entry


if __name__ == "__main__":
    main()
