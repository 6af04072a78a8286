"""Few labels, many spectrograms: which criterion and which classifier find the modes.

Made spectrograms, 128 x 128: noise of a coloured background, in which half of the shots have a mode
that chirps: a line whose frequency sweeps, with a random start, length, slope, width and strength.
3,000 are unlabelled, 400 labelled, 1,000 for the test, anew for every seed. The strength (STRENGTH)
was fixed first, so that 20 principal components with nearest neighbours have an AUC near 0.80.

A convolutional autoencoder (20 latent variables) is trained on the unlabelled by each criterion
("mse", "kl", which is the evidence lower bound, "mmd", "gan", "mmd+gan"), then frozen; a classifier
on the latent variables (15 nearest neighbours, or a Gaussian mixture for each class) is trained on
the 400. AUC, and the share of modes among the 50 test shots with the highest score, mean over the
seeds and its standard error.

    python examples/benchmarks/spectrograms.py [--out runs.jsonl] [--seeds 5] [--quick]
"""

from __future__ import annotations

import _one_core  # noqa: F401  isort: skip

import time
from pathlib import Path

import numpy as np
from _common import Runs, finish, mean_and_error, parse, rounded, table

SIZE, N_UNLABELLED, N_LABELLED, N_TEST = 128, 3000, 400, 1000
STRENGTH = 0.85
N_LATENT = 20
CRITERIA = {"mse": "mse", "kl": "elbo", "mmd": "mmd", "gan": "gan", "mmd+gan": "mmd+gan"}
CLASSIFIERS = ("nearest", "mixture")


def shots(rng: np.random.Generator, n: int, strength: float = STRENGTH):
    """Spectrograms (n, 128, 128) in decibels over their scale, and whether each has a mode."""
    mode = rng.random(n) < 0.5
    time_axis = np.linspace(0.0, 1.0, SIZE, dtype=np.float32)
    frequency = time_axis[:, None]
    # the periodogram of noise is exponential around its power
    out = rng.standard_exponential((n, SIZE, SIZE), dtype=np.float32)
    for image, has_mode in zip(out, mode, strict=True):
        slope, level = rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)
        drift = np.cumsum(rng.normal(size=SIZE)).astype(np.float32) / np.sqrt(SIZE)
        power = np.exp(level - slope * frequency + 0.1 * drift)
        if has_mode:
            start, length = rng.uniform(0.0, 0.5), rng.uniform(0.3, 0.5)
            place = rng.uniform(0.25, 0.75) + rng.uniform(-0.5, 0.5) * (time_axis - start)
            width = rng.uniform(0.02, 0.05)
            on = (time_axis > start) & (time_axis < start + length)
            line = np.exp(-0.5 * ((frequency - place) / width) ** 2) * on
            power = power * (1.0 + strength * rng.uniform(0.5, 2.0) * line)
        image *= power
    np.log(out + np.float32(1e-3), out=out)
    return out, mode


def make(seed: int, n_unlabelled: int = N_UNLABELLED, strength: float = STRENGTH):
    """Unlabelled shots, labelled ones with labels, test shots with labels; standardised."""
    rng = np.random.default_rng([seed, 5])
    A = shots(rng, n_unlabelled, strength)[0]
    X, y = shots(rng, N_LABELLED, strength)
    T, z = shots(rng, N_TEST, strength)
    mean, std = A.mean(), A.std()
    return (A - mean) / std, (X - mean) / std, y, (T - mean) / std, z


def classify(X, y, T, name: str) -> np.ndarray:
    """Score of test rows, high for a mode."""
    if name == "nearest":
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(15).fit(X, y).predict_proba(T)[:, 1]
    from sklearn.mixture import GaussianMixture

    def log_density(rows):
        fits = [
            GaussianMixture(k, covariance_type="diag", reg_covar=1e-4, random_state=0).fit(rows)
            for k in (1, 2, 4)
        ]
        return min(fits, key=lambda m: m.bic(rows)).score_samples(T)

    return log_density(X[y]) - log_density(X[~y])


def features(criterion: str, A, seed: int, epochs: int):
    """What maps spectrograms to 20 numbers, learned from unlabelled ones."""
    if criterion == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(N_LATENT, random_state=seed).fit(A.reshape(len(A), -1))
        return lambda rows: pca.transform(rows.reshape(len(rows), -1))
    from skbayes import VAEDensityEstimator

    vae = VAEDensityEstimator(
        (),
        latent_dim=N_LATENT,
        image_shape=(SIZE, SIZE),
        channels=(4, 8, 16, 32),
        noise="shared",
        latent_prior="normal",
        linear_path=False,
        objective=CRITERIA[criterion],
        standardize=False,
        batch_size=100,
        max_epochs=epochs,
        learning_rate=2e-3,
        validation_fraction=0.1,
        refit=False,
        n_importance=1,
        random_state=seed,
    ).fit(A)
    return vae.transform


def run(seed: int, criterion: str, n: int, epochs: int) -> dict:
    """One criterion with both classifiers."""
    import torch
    from sklearn.metrics import roc_auc_score

    torch.set_num_threads(1)
    A, X, y, T, z = make(seed, n)
    start = time.process_time()
    transform = features(criterion, A, seed, epochs)
    seconds = time.process_time() - start
    X, T = transform(X), transform(T)
    mean, std = X.mean(0), X.std(0) + 1e-9
    X, T = (X - mean) / std, (T - mean) / std
    if criterion == "pca":  # distances among components as PCA has them
        X, T = X * std, T * std
    out = {"cpu_s": seconds}
    for name in CLASSIFIERS:
        score = classify(X, y, T, name)
        out[f"{name} auc"] = float(roc_auc_score(z, score))
        out[f"{name} at 50"] = float(z[np.argsort(-score, kind="stable")[:50]].mean())
    return out


def main() -> None:
    args = parse(
        __doc__,
        ("--out", {"help": "file of results, to go on with"}),
        ("--seeds", {"type": int, "default": 5}),
        ("--epochs", {"type": int, "default": 12}),
        ("--criteria", {"nargs": "*", "choices": ["pca", *CRITERIA], "help": "default: all"}),
    )
    n, epochs, seeds = (500, 2, 1) if args.quick else (N_UNLABELLED, args.epochs, args.seeds)
    names = args.criteria or (["pca", "mse", "mmd"] if args.quick else ["pca", *CRITERIA])
    runs = Runs(Path(args.out) if args.out else None)
    results = {
        name: [runs.get(f"{seed}-{name}", run, seed, name, n, epochs) for seed in range(seeds)]
        for name in names
    }
    rows, figures = [], {}
    for name in names:
        for classifier in CLASSIFIERS:
            auc, error = mean_and_error([r[f"{classifier} auc"] for r in results[name]])
            first, _ = mean_and_error([r[f"{classifier} at 50"] for r in results[name]])
            seconds = float(np.median([r["cpu_s"] for r in results[name]]))
            rows.append(
                {
                    "criterion": name,
                    "classifier": classifier,
                    "AUC": auc,
                    "standard error": error,
                    "precision at 50": first,
                    "CPU s": seconds,
                }
            )
            figures[f"{name}, {classifier}"] = {
                k: rounded(v) for k, v in rows[-1].items() if isinstance(v, float)
            }
    table(rows)
    finish("spectrograms", {"seeds": seeds, "epochs": epochs, **figures})


if __name__ == "__main__":
    main()
