"""The method of the default classifier: anchored members with and without weights, or modes.

    python examples/benchmarks/classifier_default.py --data-dir DIR [--quick] [--seeds 2]
        [--out runs.jsonl]

Mean negative log likelihood of up to 2,000 other rows, default prior and network, on tables with
few rows: parts of spambase, letter and magic04 (their training sets), of MNIST's training images
(averaged to 7 x 7 pixels), of fault, Pima and Wilt, scikit-learn's digits and wine, two noisy moons
and two simulated tables. Without ``--data-dir`` only the latter are run. Methods: ``Anchored()``,
whose rows get exponential weights, ``Anchored(bootstrap=False)``, an `Ensemble` of modes
trained on all rows, and the default: the second, or the third with columns over a fifth of the
rows, with the power of the likelihood chosen by rows that members leave out, and columns with
heavy tails bent (the others only standardise). ``unbent`` is the default without that. ``less
weighted`` is the difference to the first, paired by table and seed; ``power`` is that of the
default, the geometric mean over seeds.
"""

import _one_core  # noqa: F401  isort: skip

import time
import warnings
from pathlib import Path

import numpy as np
from _common import Runs, finish, mean_and_error, parse, rounded, table
from sklearn.datasets import load_digits, load_wine, make_classification, make_moons

from skbayes import BayesianMLPClassifier
from skbayes.inference import Anchored, Ensemble

FILES = {
    "spambase": ("classification/spambase.npz", 570),
    "letter": ("classification/letter.npz", 1000),
    "magic04": ("classification/magic04.npz", 300),
    "mnist 7 x 7": ("images/mnist.npz", 490),
    "fault": ("anomaly/fault.npz", 270),
    "pima": ("anomaly/Pima.npz", 80),
    "wilt": ("anomaly/Wilt.npz", 80),
}
MADE = {"digits": 200, "wine": 60, "noisy moons": 200, "24 columns": 480, "6 columns": 100}
METHODS = {
    "weighted": Anchored(),
    "anchored": Anchored(bootstrap=False),
    "modes": Ensemble(validation_fraction=0.0, max_epochs=None, batch_size=200),
    "unbent": "auto",
    "default": "auto",
}


def rows(data_dir: str | None, name: str, seed: int):
    """Training rows and classes, and others."""
    if name in FILES:
        path, n = FILES[name]
        with np.load(Path(data_dir or ".") / path, allow_pickle=True) as data:
            first = "X_train" if "X_train" in data.files else "X"
            X, y = data[first], data["y" + first[1:]]
        if X.ndim == 3:
            X = X.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(len(X), -1)
    else:
        n = MADE[name]
        if name == "digits":
            X, y = load_digits(return_X_y=True)
        elif name == "wine":
            X, y = load_wine(return_X_y=True)
        elif name == "noisy moons":
            X, y = make_moons(n + 2000, noise=0.35, random_state=seed)
        else:
            d = int(name.split()[0])
            noise = 0.15 if d == 24 else 0.0
            X, y = make_classification(
                n + 2000, d, n_informative=d // 2 + 1, flip_y=noise, random_state=seed
            )
    order = np.random.default_rng(seed).permutation(len(y))[: n + 2000]
    X, y = np.asarray(X[order], dtype=float), np.unique(y[order], return_inverse=True)[1]
    return X[:n], y[:n], X[n:], y[n:]


def run(data_dir: str | None, name: str, method: str, seed: int) -> dict:
    """One fit and its figures."""
    warnings.simplefilter("ignore")
    X, y, X_new, y_new = rows(data_dir, name, seed)
    begin = time.process_time()
    clf = BayesianMLPClassifier(method=METHODS[method], random_state=seed)
    if method != "default":
        clf.set_params(standardize=True)
    clf.fit(X, y)
    seconds = time.process_time() - begin
    nll = -float(clf.log_predictive_density(X_new, y_new).mean())
    out = {"nll": nll, "accuracy": clf.score(X_new, y_new), "seconds": seconds}
    if METHODS[method] == "auto":
        out["power"] = float(clf.posterior_.adapted["likelihood_power"])
    return out


def main() -> None:
    """Run all and print the figures."""
    args = parse(
        __doc__,
        ("--seeds", {"type": int, "default": 2}),
        ("--out", {"type": Path, "help": "file that keeps finished runs"}),
    )
    names = [*(FILES if args.data_dir else ()), *MADE]
    n_seeds = args.seeds
    if args.quick:
        names, n_seeds = ["wine", "noisy moons"], 1
    runs, lines, gains = Runs(args.out), [], {method: [] for method in METHODS}
    for name in names:
        line: dict = {"table": name}
        for method in METHODS:
            found = [
                runs.get(f"{name} {method} {seed}", run, args.data_dir, name, method, seed)
                for seed in range(n_seeds)
            ]
            line[method] = float(np.mean([r["nll"] for r in found]))
            line[f"{method}, accuracy"] = float(np.mean([r["accuracy"] for r in found]))
            line[f"{method}, s"] = float(np.mean([r["seconds"] for r in found]))
            gains[method].append(line[method] - line["weighted"])
            if method == "default":
                line["power"] = float(np.exp(np.mean([np.log(r["power"]) for r in found])))
        lines.append(line)
    table(lines, 3)
    figures = {}
    for method in ("anchored", "modes", "unbent", "default"):
        mean, error = mean_and_error(gains[method])
        better = sum(gain < 0 for gain in gains[method])
        print(f"{method} less weighted: {mean:.4f} +- {error:.4f}; below on {better}/{len(names)}")
        figures[method] = [rounded(mean), rounded(error), better, len(names)]
    finish("classifier_default", figures)


if __name__ == "__main__":
    main()
