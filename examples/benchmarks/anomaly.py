"""Outlier detection on the ADBench tables: AUC and average precision beside other detectors.

70/30 stratified split, columns scaled to [0, 1] by the training rows, at most 10,000 rows.
Protocols: "contaminated" trains on all training rows, "clean" on their normal ones. Small sets are
not repeated to 1,000 rows (the published code does so before it splits, so that test rows are in
training).

Peers at their defaults: isolation forest, k nearest neighbours (mean distance to 5), kernel
density (Scott, standardised), one-class SVM, Gaussian mixture (BIC, standardised), and, where pyod
is installed, its VAE, its autoencoder, and its VAE with a capacity so large that the divergence
counts.

`VAEAnomalyDetector` is at its default on all sets. Eight sets are for choosing settings (CHOOSE),
the others for the comparison.
"""

from __future__ import annotations

import _one_core  # noqa: F401  isort: skip

import time
from pathlib import Path

import numpy as np
from _common import Runs, finish, installed, load, mean_and_error, parse, rounded, table

PROTOCOLS = ("contaminated", "clean")
CHOOSE = ("annthyroid", "breastw", "optdigits", "Pima", "thyroid", "WBC", "WDBC", "wine")
OTHERS = (
    "ALOI", "celeba", "cover", "donors", "fault", "Hepatitis", "http", "InternetAds", "letter",
    "Lymphography", "magic.gamma", "mnist", "musk", "shuttle", "skin", "smtp", "SpamBase",
    "vertebral", "Wilt", "WPBC", "yeast",
)  # fmt: skip


def split(data_dir: str, name: str, seed: int, clean: bool):
    """Training rows, test rows and test labels (1: outlier)."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import MinMaxScaler

    with load(data_dir, f"anomaly/{name}.npz") as data:
        X, y = data["X"].astype(np.float64), data["y"].astype(int).ravel()
    if len(X) > 10_000:
        keep, _ = train_test_split(
            np.arange(len(X)), train_size=10_000, stratify=y, random_state=seed
        )
        X, y = X[keep], y[keep]
    X, T, y, truth = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    if clean:
        X = X[y == 0]
    scaler = MinMaxScaler().fit(X)
    return scaler.transform(X), scaler.transform(T), truth


def standardise(X, T):
    mean, std = X.mean(0), X.std(0)
    std[std == 0] = 1.0
    return (X - mean) / std, (T - mean) / std


def skbayes_vae(X, seed):
    from skbayes import VAEAnomalyDetector

    detector = VAEAnomalyDetector(random_state=seed).fit(X)
    return lambda T: -detector.score_samples(T)


def isolation_forest(X, seed):
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(X)
    return lambda T: -forest.score_samples(T)


def nearest(X, seed):
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=5).fit(X)
    return lambda T: search.kneighbors(T)[0].mean(1)


def kernel(X, seed):
    from sklearn.neighbors import KernelDensity

    density = KernelDensity(bandwidth="scott").fit(standardise(X, X)[0])
    return lambda T: -density.score_samples(standardise(X, T)[1])


def one_class(X, seed):
    from sklearn.svm import OneClassSVM

    machine = OneClassSVM().fit(X)
    return lambda T: -machine.score_samples(T)


def mixture(X, seed):
    from sklearn.mixture import GaussianMixture

    inside = standardise(X, X)[0]
    fits = [
        GaussianMixture(k, reg_covar=1e-4, random_state=seed).fit(inside)
        for k in (1, 2, 3, 5, 8)
        if k < len(X)
    ]
    best = min(fits, key=lambda m: m.bic(inside))
    return lambda T: -best.score_samples(standardise(X, T)[1])


def pyod_vae(X, seed, **more):
    from pyod.models.vae import VAE

    model = VAE(random_state=seed, batch_size=min(32, len(X)), verbose=0, **more).fit(X)
    return model.decision_function


def pyod_real_kl(X, seed):
    return pyod_vae(X, seed, capacity=1e9)


def pyod_autoencoder(X, seed):
    from pyod.models.auto_encoder import AutoEncoder

    model = AutoEncoder(random_state=seed, batch_size=min(32, len(X)), verbose=0).fit(X)
    return model.decision_function


MODELS = {
    "skbayes": skbayes_vae,
    "isolation forest": isolation_forest,
    "nearest": nearest,
    "kernel": kernel,
    "one-class SVM": one_class,
    "mixture": mixture,
    "pyod VAE": pyod_vae,
    "pyod VAE, real KL": pyod_real_kl,
    "pyod autoencoder": pyod_autoencoder,
}

APART = ("skbayes", "pyod VAE", "pyod VAE, real KL", "pyod autoencoder")
"""Models that run in processes of their own, because they bring torch."""


def run(data_dir: str, name: str, seed: int, clean: bool, model: str) -> dict:
    """One fit."""
    import warnings

    from sklearn.metrics import average_precision_score, roc_auc_score

    warnings.simplefilter("ignore")
    if model in APART:
        import torch

        torch.set_num_threads(1)
    X, T, truth = split(data_dir, name, seed, clean)
    start = time.process_time()
    score = MODELS[model](X, seed)
    seconds = time.process_time() - start
    values = np.nan_to_num(score(T), nan=0.0, posinf=1e300, neginf=-1e300)
    return {
        "auc": float(roc_auc_score(truth, values)),
        "ap": float(average_precision_score(truth, values)),
        "cpu_s": seconds,
        "n": len(X),
    }


def main() -> None:
    more = [
        ("--out", {"help": "file of results, to go on with"}),
        ("--seeds", {"type": int, "default": 3}),
        ("--sets", {"nargs": "*", "help": "names, default: all that are not for choosing"}),
        ("--protocols", {"nargs": "*", "default": PROTOCOLS, "choices": PROTOCOLS}),
        ("--models", {"nargs": "*", "help": "names, default: all"}),
    ]
    args = parse(__doc__, *more)
    sets = args.sets or (OTHERS[-4:] if args.quick else OTHERS)
    models = args.models or [m for m in MODELS if not m.startswith("pyod") or installed("pyod")]
    runs = Runs(Path(args.out) if args.out else None)
    figures = {}
    for protocol in args.protocols:
        clean = protocol == "clean"
        results = {
            (name, model): [
                runs.get(f"{protocol}-{name}-{seed}-{model}", run, args.data_dir, name, seed,
                         clean, model, apart=model in APART)
                for seed in range(1 if args.quick else args.seeds)
            ]
            for name in sets
            for model in models
        }  # fmt: skip
        auc = np.array([[np.mean([r["auc"] for r in results[s, m]]) for m in models] for s in sets])
        ap = np.array([[np.mean([r["ap"] for r in results[s, m]]) for m in models] for s in sets])
        easy = auc.min(1) > 0.98
        rank = (-auc[~easy]).argsort(1).argsort(1).mean(0) + 1 if (~easy).any() else auc[0]
        rows = [
            {
                "protocol": protocol,
                "model": m,
                "AUC": auc[:, j].mean(),
                "AUC, hard sets": auc[~easy, j].mean(),
                "average precision": ap[:, j].mean(),
                "mean rank": rank[j],
                "CPU s": mean_and_error([r["cpu_s"] for s in sets for r in results[s, m]])[0],
            }
            for j, m in enumerate(models)
        ]
        table(rows)
        figures[protocol] = {
            r["model"]: {k: rounded(v) for k, v in r.items() if isinstance(v, float)} for r in rows
        }
        figures[protocol]["sets"] = len(sets)
        if "skbayes" in models and "pyod VAE" in models:
            ratios = [
                np.median([r["cpu_s"] for r in results[s, "skbayes"]])
                / np.median([r["cpu_s"] for r in results[s, "pyod VAE"]])
                for s in sets
                if results[s, "skbayes"][0]["n"] >= 2000
            ]
            if ratios:
                print(
                    f"fit time over that of pyod's VAE, {len(ratios)} sets of 2,000 rows and more: "
                    f"median {np.median(ratios):.2f}, largest {max(ratios):.2f}"
                )
                figures[protocol]["time_over_pyod_vae"] = [
                    rounded(np.median(ratios)),
                    rounded(max(ratios)),
                ]
    finish("anomaly", figures, ("pyod",) if installed("pyod") else ())


if __name__ == "__main__":
    main()
