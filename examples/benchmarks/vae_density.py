"""Held-out log density of the VAE beside normals, mixtures, kernels and a spline flow.

Five sets, standardised by the training rows, 70 % to train: ring (radius 1 plus a tenth of a
Rayleigh number), two moons, wine, breast cancer, and the digits' first 20 whitened principal
components. The mean log density of the test rows in nats per row, over the seeds.

- "normal": one multivariate normal with full covariance.
- "mixture": full normals, 1 to 16 components by BIC.
- "kernel": normal kernel, bandwidth by 5-fold cross-validation.
- "spline flow": zuko's NSF (3 transforms, 2 x 64 units), Adam, the VAE's share of rows held out for
  early stopping, and as many CPU seconds as the VAE took on the same rows.
- "vae": `VAEDensityEstimator()` at its defaults.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from _common import Runs, finish, installed, mean_and_error, parse, rounded, table

SETS = ("ring", "moons", "wine", "breast_cancer", "digits")


def make(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised training and test rows."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_moons
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(seed)
    if name == "ring":
        radius, angle = 1 + rng.rayleigh(size=1000) / 10, rng.uniform(0, 2 * np.pi, 1000)
        X = np.c_[radius * np.cos(angle), radius * np.sin(angle)]
    elif name == "moons":
        X, _ = make_moons(1000, noise=0.1, random_state=seed)
    elif name == "wine":
        X = load_wine().data
    elif name == "breast_cancer":
        X = load_breast_cancer().data
    else:
        X = PCA(20, whiten=True, random_state=0).fit_transform(load_digits().data)
    order = rng.permutation(len(X))
    train, test = np.split(X[order], [int(0.7 * len(X))])
    mean, std = train.mean(0), train.std(0)
    return (train - mean) / std, (test - mean) / std


def normal(X, T, seed):
    from scipy.stats import multivariate_normal

    return multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(T)


def mixture(X, T, seed):
    from sklearn.mixture import GaussianMixture

    fits = [GaussianMixture(k, random_state=seed).fit(X) for k in range(1, 17) if k < len(X)]
    return min(fits, key=lambda m: m.bic(X)).score_samples(T)


def kernel(X, T, seed):
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    grid = {"bandwidth": np.geomspace(0.03, 1.0, 16)}
    return GridSearchCV(KernelDensity(), grid).fit(X).score_samples(T)


def vae(X, T, seed):
    from skbayes import VAEDensityEstimator

    return VAEDensityEstimator(random_state=seed).fit(X).score_samples(T)


def spline_flow(X, T, seed, budget):
    import copy

    import torch
    import zuko

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    X, T = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(T, dtype=torch.float32)
    n = len(X)
    held = round(max(0.15 * n, min(100, n / 3)))  # as many as the VAE
    order = rng.permutation(n)
    valid, train = X[order[:held]], X[order[held:]]
    flow = zuko.flows.NSF(X.shape[1], transforms=3, hidden_features=(64, 64))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    best, kept, since, start = np.inf, None, 0, time.process_time()
    while time.process_time() - start < budget and since < 30:
        for index in np.array_split(rng.permutation(len(train)), max(1, len(train) // 128)):
            loss = -flow().log_prob(train[index]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            value = float(-flow().log_prob(valid).mean())
        since += 1
        if value < best:
            best, kept, since = value, copy.deepcopy(flow.state_dict()), 0
    flow.load_state_dict(kept)
    with torch.no_grad():
        return flow().log_prob(T).double().numpy()


MODELS = {"normal": normal, "mixture": mixture, "kernel": kernel, "vae": vae}


def run(name: str, seed: int, model: str, budget: float | None) -> dict:
    """One fit in a process of its own."""
    import torch

    torch.set_num_threads(1)
    X, T = make(name, seed)
    start = time.process_time()
    if model == "spline flow":
        values = spline_flow(X, T, seed, budget)
    else:
        values = MODELS[model](X, T, seed)
    return {"log_density": float(values.mean()), "cpu_s": time.process_time() - start}


def main() -> None:
    more = [
        ("--out", {"help": "file of results, to go on with"}),
        ("--seeds", {"type": int, "default": 5}),
        ("--sets", {"nargs": "*", "choices": SETS, "help": "names, default: all"}),
    ]
    args = parse(__doc__, *more)
    seeds = range(1 if args.quick else args.seeds)
    sets = args.sets or (SETS[:3] if args.quick else SETS)
    models = [*MODELS, *(["spline flow"] if installed("zuko") else [])]
    runs = Runs(Path(args.out) if args.out else None)
    rows, figures = [], {}
    for name in sets:
        values: dict[str, list[float]] = {m: [] for m in models}
        for seed in seeds:
            budget = None
            for model in models:
                result = runs.get(f"{name}-{seed}-{model}", run, name, seed, model, budget)
                values[model].append(result["log_density"])
                if model == "vae":
                    budget = result["cpu_s"]
        means = {m: mean_and_error(v)[0] for m, v in values.items()}
        gap = np.array(values["vae"]) - np.array(values["normal"])
        mean, error = mean_and_error(gap)
        rows.append({"set": name, **means, "vae less normal": mean, "standard error": error})
        figures[name] = {
            **{m: rounded(v) for m, v in means.items()},
            "vae_less_normal": rounded(mean),
            "standard_error": rounded(error),
        }
    table(rows)
    finish("vae_density", figures, ("zuko",) if installed("zuko") else ())


if __name__ == "__main__":
    main()
