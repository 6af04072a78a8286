"""MNIST by LeNet-5: error, NLL and calibration of each method, and notMNIST as unknown images.

LeNet-5 (two convolutions, three linear layers, 61,706 weights, ReLU and max pooling) is a plain
torch module; ``BayesianModuleClassifier`` runs the methods on it with one prior. Error, mean
negative log likelihood (NLL, in nats) and expected calibration error (15 bins) are of the
10,000 test images; ``auroc`` is how well the entropy of the predictive distribution tells 10,000
images of letters (notMNIST) from them. ``nll - map`` is paired over test images, with its
standard error. The targets: the error of ``map`` at most 0.8 %, and each NLL at most that of
``map`` plus two standard errors. Methods that this version of the package does not have are left
out.

    python examples/benchmarks/mnist_lenet.py [--quick] [--out mnist.jsonl] [--only map,ensemble]

A run that is stopped goes on with the methods that are missing when it is started again with the
same ``--out``. ``--device cuda`` computes on a GPU. ``--quick`` is 2,000 training images, one short
run of each method and 1,000 test images of both kinds.
"""

import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import Runs, finish, load, parse, rounded, table

TRAINED = {"learning_rate": 0.002, "max_epochs": 20, "batch_size": 128}
MEMBERS = {**TRAINED, "schedule": "cosine", "validation_fraction": 0.0}
METHODS = {
    "map": ("MAP", {"solver": "adam", **TRAINED}),
    "ensemble": ("Ensemble", {"n_members": 5, **MEMBERS}),
    "swag": ("SWAG", {}),
    "multiswag": ("MultiSWAG", {"n_modes": 5}),
    "laplace": ("Laplace", {"subset": "last_layer", "tune_prior": None}),
    "sghmc": ("SGHMC", {"n_chains": 4, "n_warmup": 5, "n_draws": 15,
                        "init": ("Ensemble", MEMBERS)}),
    "dropout": ("Dropout", {}),
}  # fmt: skip
"""Name, its class in skbayes.inference, and its settings."""

AFTER = {"laplace": "map"}
"""Methods that go on from the weights of another (``warm_start=True``), whose time counts."""

SHORT = {"max_epochs": 8, "n_snapshots": 5, "n_warmup": 5, "n_draws": 5}
"""Of the settings that a method has, those of the short version."""


def lenet():
    """The class of the network (made here, since only the children import torch)."""
    from torch import nn

    class LeNet5(nn.Sequential):
        def __init__(self):
            super().__init__(
                nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
            )  # fmt: skip

    return LeNet5


def images(data_dir, quick: bool):
    """Training and test digits and the letters, (n, 1, 28, 28), scaled by the training pixels."""
    mnist, letters = load(data_dir, "images/mnist.npz"), load(data_dir, "images/notmnist_test.npz")
    n_train, n_test = (2000, 1000) if quick else (60000, 10000)
    train = mnist["X_train"][:n_train]
    centre, spread = train.mean() / 255.0, train.std() / 255.0

    def scaled(X):
        return ((X[:, None] / np.float32(255.0) - centre) / spread).astype(np.float32)

    test = mnist["X_test"][:n_test], mnist["y_test"][:n_test]
    X_letters = letters["X_test"][:n_test]
    return (
        (scaled(train), mnist["y_train"][:n_train]),
        (scaled(test[0]), test[1]),
        scaled(X_letters),
    )


def one(name: str, data_dir, quick: bool, device: str, seed: int) -> dict:
    """Fit one method; its figures, and the log density of every test image."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score

    from skbayes import BayesianModuleClassifier, inference
    from skbayes.metrics import expected_calibration_error

    (X, y), (X_test, y_test), X_letters = images(data_dir, quick)

    def make(kind: str, settings: dict):
        """A method, and the one that finds its starting points."""
        method = getattr(inference, kind)(**settings)
        if isinstance(settings.get("init"), tuple):
            method.set_params(init=make(*settings["init"]))
        if quick:
            own = method.get_params(deep=False)
            method.set_params(**{k: v for k, v in SHORT.items() if k in own})
        return method

    model = BayesianModuleClassifier(lenet(), device=device, random_state=seed, warm_start=True)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        for part in (AFTER.get(name), name):
            if part is not None:
                model.set_params(method=make(*METHODS[part])).fit(X, y)
    fitted = time.perf_counter()
    log_proba = model.predict_log_proba(X_test)
    predicted = time.perf_counter()
    proba = np.exp(log_proba)
    logs = log_proba[np.arange(len(y_test)), y_test]
    entropy = model.predict_uncertainty(X_test).total
    entropy_letters = model.predict_uncertainty(X_letters).total
    known = np.repeat([0, 1], [len(entropy), len(entropy_letters)])
    return {
        "method": name,
        "n_draws": int(model.posterior_.n_chains * model.posterior_.n_draws),
        "error": float((log_proba.argmax(1) != y_test).mean()),
        "nll": float(-logs.mean()),
        "ece": float(expected_calibration_error(y_test, proba)),
        "auroc": float(roc_auc_score(known, np.concatenate([entropy, entropy_letters]))),
        "fit_seconds": fitted - start,
        "predict_seconds": predicted - fitted,
        "warnings": [str(w.message) for w in caught if w.category is ConvergenceWarning],
        "logs": np.round(logs, 6).tolist(),
    }


def main() -> None:
    args = parse(
        __doc__,
        ("--out", {"type": Path, "help": "file that keeps finished runs"}),
        ("--only", {"default": ",".join(METHODS), "help": "methods, separated by commas"}),
        ("--device", {"default": "cpu", "help": "cpu or cuda"}),
        ("--seed", {"type": int, "default": 0}),
    )
    from skbayes.inference import METHODS as KNOWN

    names = [name for name in args.only.split(",") if name in KNOWN]
    for name in sorted(set(args.only.split(",")) - set(names)):
        print(f"The method {name} is not there: its row is left out.", flush=True)
    load(args.data_dir, "images/mnist.npz")  # says what is missing before anything runs
    load(args.data_dir, "images/notmnist_test.npz")
    runs = Runs(args.out)
    results = {}
    for name in names:
        key = f"{name} {args.device} seed {args.seed}{' quick' if args.quick else ''}"
        results[name] = runs.get(key, one, name, args.data_dir, args.quick, args.device, args.seed)
    rows, figures = [], {}
    base = np.array(results["map"]["logs"]) if "map" in results else None
    for name, result in results.items():
        gap = error = np.nan
        if base is not None:
            difference = base - np.array(result["logs"])  # of the NLL
            gap = float(difference.mean())
            error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
        rows.append(
            {
                "method": name,
                "draws": result["n_draws"],
                "error %": 100 * result["error"],
                "nll": result["nll"],
                "nll - map": gap,
                "+-": error,
                "ece": result["ece"],
                "auroc": result["auroc"],
                "fit s": result["fit_seconds"],
                "predict s": result["predict_seconds"],
            }
        )
        kept = ("n_draws", "error", "nll", "ece", "auroc", "fit_seconds", "predict_seconds")
        figures[name] = {key: rounded(result[key], 5) for key in kept}
        figures[name].update(nll_minus_map=rounded(gap, 5), standard_error=rounded(error, 5))
    rows.sort(key=lambda row: row["nll"])
    table(rows, 4)
    finish("mnist_lenet", figures)


if __name__ == "__main__":
    main()
