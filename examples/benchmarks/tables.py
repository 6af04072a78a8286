"""Tables: the default beside MAP, gradient boosting, Gaussian processes and linear models.

Classification: banknote, spambase, magic04, letter, and ``rare``, all gamma rows of magic04 with so
many hadron rows (the class to find) that these are 1 % of all. Regression: sets of the usual
benchmark and scikit-learn's diabetes. Scores are mean log losses of test rows, in nats (regression:
negative log density in the original units of y), over five folds (letter: its own test rows; five
folds of at most 20,000 rows of protein). Differences are paired over test rows, with their standard
error; ``ok`` is whether the default is no worse by two of them.

- ``default``: ``BayesianMLPClassifier()`` or ``BayesianMLPRegressor()``.
- ``map``: the same with ``method="map"`` (and ``noise="learned"``, which a single mode wants).
- ``boosting``: scikit-learn's ``HistGradientBoosting*``; for a density, the normal whose deviation
  is that of the residuals of five folds inside the training rows.
- ``gp``: Gaussian process on standardised columns, radial basis functions with a length scale for
  each column; sets of at most 1,600 rows and two classes.
- ``ridge``: ``BayesianRidge`` on standardised columns.

``seconds`` is wall time of the default's fit on two threads, on simulated data of 20 columns with
1,000 and 100,000 rows; the limits are 10 and 60 seconds.

    python examples/benchmarks/tables.py --data-dir DIR [--quick] [--out tables.jsonl]
    python examples/benchmarks/tables.py --sets banknote,yacht --only default,map --max-rows 2000

A run that is stopped goes on where it was when it is started again with the same ``--out``. Lines
are kept by name, set, fold and number of rows, not by settings: take another file when settings
have changed. ``--quick`` is one fold of at most 500 rows of four sets and the short timing.
"""

import os
import time
import warnings
from pathlib import Path

import numpy as np
from _common import Runs, finish, load, mean_and_error, parse, rounded, table

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes of single fits, read when they start

CLASSIFICATION = ("banknote", "spambase", "rare", "magic04", "letter")
REGRESSION = (
    "yacht",
    "diabetes",
    "energy",
    "airfoil",
    "wine-quality-red",
    "kin8nm",
    "protein-tertiary-structure",
)
QUICK_SETS = ("banknote", "rare", "yacht", "diabetes")
NAMES = ("default", "map", "boosting", "gp", "ridge")
TIMES = {"1000": 10.0, "100000": 60.0}  # rows and allowed seconds
MOST_GP_ROWS = 1600
MOST_ROWS = 20_000
N_FOLDS = 5
THREADS = 2


def rows_of(data_dir, name: str):
    """X, y and, where the set has one, the mask of its test rows."""
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        return *load_diabetes(return_X_y=True), None
    if name == "rare":
        data = load(data_dir, "classification/magic04.npz")
        X, hadron = data["X"], data["y"] == 0
        n = round((~hadron).sum() / 99)
        some = np.random.default_rng(0).choice(np.flatnonzero(hadron), n, replace=False)
        keep = np.concatenate([np.flatnonzero(~hadron), some])
        return X[keep], hadron[keep].astype(int), None
    folder = "classification" if name in CLASSIFICATION else "uci_regression"
    data = load(data_dir, f"{folder}/{name}.npz")
    return data["X"].astype(float), data["y"], data["test_mask"] if name == "letter" else None


def fold_of(data_dir, name: str, fold: int, max_rows: int):
    """Training rows, test rows, training targets, test targets."""
    from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

    X, y, test = rows_of(data_dir, name)
    labels = name in CLASSIFICATION
    if test is not None and len(y) <= max_rows:
        return X[~test], X[test], y[~test], y[test]
    if len(y) > max_rows:
        stratify = y if labels else None
        X, _, y, _ = train_test_split(X, y, train_size=max_rows, stratify=stratify, random_state=0)
    kind = StratifiedKFold if labels else KFold
    parts = list(kind(N_FOLDS, shuffle=True, random_state=0).split(X, y))
    train, held = parts[fold]
    return X[train], X[held], y[train], y[held]


def normal_loss(y, mean, std) -> np.ndarray:
    return 0.5 * ((y - mean) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)


def classifier(name: str, kernel, seed: int):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from skbayes import BayesianMLPClassifier

    if name == "boosting":
        return HistGradientBoostingClassifier(random_state=seed)
    if name == "gp":
        gp = GaussianProcessClassifier(kernel, random_state=seed)
        return make_pipeline(StandardScaler(), gp)
    return BayesianMLPClassifier(method="map" if name == "map" else "auto", random_state=seed)


def kernel_of(n_features: int, noise: bool):
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(np.ones(n_features), (1e-2, 1e4))
    return kernel + WhiteKernel(0.1, (1e-6, 1e2)) if noise else kernel


def loss_of_classifier(name: str, A, B, a, b, seed: int):
    """Log loss of every test row, and the class that is most probable."""
    estimator = classifier(name, kernel_of(A.shape[1], noise=False), seed)
    start = time.perf_counter()
    estimator.fit(A, a)
    seconds = time.perf_counter() - start
    proba = estimator.predict_proba(B)
    at = np.searchsorted(estimator.classes_, b)
    loss = -np.log(np.maximum(proba[np.arange(len(b)), at], 1e-15))
    return loss, float(np.mean(estimator.classes_[proba.argmax(1)] != b)), seconds


def loss_of_regressor(name: str, A, B, a, b, seed: int):
    """Negative log density of every test row, and the root mean squared error."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.linear_model import BayesianRidge
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from skbayes import BayesianMLPRegressor

    start = time.perf_counter()
    if name == "boosting":
        estimator = HistGradientBoostingRegressor(random_state=seed)
        std = np.std(a - cross_val_predict(estimator, A, a, cv=5))
        mean = estimator.fit(A, a).predict(B)
    elif name in ("gp", "ridge"):
        estimator = BayesianRidge()
        if name == "gp":
            estimator = GaussianProcessRegressor(
                kernel_of(A.shape[1], noise=True),
                normalize_y=True,
                random_state=seed,
            )
        mean, std = make_pipeline(StandardScaler(), estimator).fit(A, a).predict(B, return_std=True)
    else:
        own = {"method": "map", "noise": "learned"} if name == "map" else {}
        estimator = BayesianMLPRegressor(random_state=seed, **own).fit(A, a)
        seconds = time.perf_counter() - start
        rmse = float(np.sqrt(np.mean((estimator.predict(B) - b) ** 2)))
        return -estimator.log_predictive_density(B, b), rmse, seconds
    seconds = time.perf_counter() - start
    return normal_loss(b, mean, std), float(np.sqrt(np.mean((mean - b) ** 2))), seconds


def score(data_dir, name: str, set_name: str, fold: int, max_rows: int) -> dict:
    """One fit on one thread: the loss of each test row, error rate or RMSE, seconds."""
    quiet(1)
    A, B, a, b = fold_of(data_dir, set_name, fold, max_rows)
    function = loss_of_classifier if set_name in CLASSIFICATION else loss_of_regressor
    loss, error, seconds = function(name, A, B, a, b, fold)
    return {
        "mean": float(loss.mean()),
        "error": error,
        "seconds": seconds,
        "n": len(a),
        "loss": [round(float(value), 5) for value in loss],
    }


def timing(task: str, n: int) -> dict:
    """Wall seconds of the default's fit on simulated rows."""
    quiet(THREADS)
    from sklearn.datasets import make_classification

    from skbayes import BayesianMLPClassifier, BayesianMLPRegressor

    if task == "classification":
        X, y = make_classification(n, 20, n_informative=10, flip_y=0.05, random_state=0)
        estimator = BayesianMLPClassifier(random_state=0)
    else:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, 20))
        y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n)
        estimator = BayesianMLPRegressor(random_state=0)
    start, cpu = time.perf_counter(), time.process_time()
    estimator.fit(X, y)
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def quiet(n_threads: int) -> None:
    """Set torch's threads; no warnings of short chains and of optimisers that stop early."""
    import torch
    from sklearn.exceptions import ConvergenceWarning

    torch.set_num_threads(n_threads)
    warnings.simplefilter("ignore", ConvergenceWarning)


def fits(name: str, set_name: str, n: int) -> bool:
    """Whether a model is meant for a set of n rows."""
    if name == "gp":
        return n <= MOST_GP_ROWS and set_name != "letter"
    return name != "ridge" or set_name in REGRESSION


def main() -> None:
    args = parse(
        __doc__,
        ("--only", {"default": None, "help": f"of {', '.join(NAMES)}"}),
        ("--sets", {"default": None, "help": f"of {', '.join((*CLASSIFICATION, *REGRESSION))}"}),
        ("--folds", {"type": int, "default": None, "help": "folds at most"}),
        ("--max-rows", {"type": int, "default": None, "help": "rows of a set at most"}),
        ("--no-times", {"action": "store_true", "help": "leave the timing out"}),
        ("--out", {"type": Path, "default": None, "help": "file of finished runs, to resume"}),
    )
    sets = QUICK_SETS if args.quick else (*CLASSIFICATION, *REGRESSION)
    sets = tuple(args.sets.split(",")) if args.sets else sets
    names = tuple(args.only.split(",")) if args.only else NAMES
    for value, allowed in ((sets, (*CLASSIFICATION, *REGRESSION)), (names, NAMES)):
        for wrong in set(value) - set(allowed):
            raise SystemExit(f"{wrong!r} is not one of {', '.join(allowed)}.")
    max_rows = args.max_rows or (500 if args.quick else MOST_ROWS)
    n_folds = args.folds or (1 if args.quick else N_FOLDS)

    runs, figures = Runs(args.out), {}
    rows, paired = [], []
    for set_name in sets:
        y, test = rows_of(args.data_dir, set_name)[1:]
        n = min(len(y), max_rows)
        folds = 1 if test is not None and len(y) <= max_rows else n_folds
        found: dict[str, list[dict]] = {}
        for name in (name for name in names if fits(name, set_name, n)):
            for fold in range(folds):
                key = f"{name}-{set_name}-{fold}-{n}"
                result = runs.get(key, score, args.data_dir, name, set_name, fold, max_rows)
                found.setdefault(name, []).append(result)
        losses = {name: np.concatenate([r["loss"] for r in own]) for name, own in found.items()}
        for name, own in found.items():
            mean = mean_and_error(losses[name])
            rows.append(
                {
                    "set": set_name,
                    "rows": n,
                    "who": name,
                    "loss": mean[0],
                    "+-": mean[1],
                    "error": float(np.mean([r["error"] for r in own])),
                    "s": float(np.median([r["seconds"] for r in own])),
                }
            )
            if name != "default" and "default" in found:
                mean = mean_and_error(losses["default"] - losses[name])
                paired.append(
                    {
                        "set": set_name,
                        "default minus": name,
                        "loss": mean[0],
                        "+-": mean[1],
                        "ok": "yes" if mean[0] <= 2 * mean[1] else "NO",
                    }
                )
                figures[f"{set_name}_minus_{name}"] = [rounded(v) for v in mean]
            figures[f"{set_name}_{name}"] = {k: rounded(rows[-1][k]) for k in ("loss", "error")}
    table(rows, 4)
    if paired:
        print()
        table(paired, 4)
    times = []
    for n, limit in {} if args.no_times else TIMES.items():
        if args.quick and limit > 10:
            continue
        for task in ("classification", "regression"):
            result = runs.get(f"seconds-{task}-{n}", timing, task, int(n))
            good = "yes" if result["seconds"] < limit else "NO"
            times.append({"task": task, "rows": n, **result, "limit": limit, "ok": good})
            del times[-1]["key"]
            figures[f"seconds_{task}_{n}"] = rounded(result["seconds"], 1)
    if times:
        print()
        table(times, 1)
    finish("tables", figures)


if __name__ == "__main__":
    main()
