"""Variational inference: which settings are the defaults, and what covariances are worth.

``--part defaults``: independent normals with each setting of the starting deviation, the learning
rate and the epochs of warm-up, on sets that scikit-learn ships and simulated ones (a layer of 20
tanh units, the default prior, learned noise; two thirds of the rows). All settings climb at once,
as chains do, with four draws of the weights in a step; the rate falls to 0.3 and 0.1 of its start
after 60 and 80 % of 6,000 steps. The table has the mean log density of the rows held out and the
bound, in nats, both of standardised y, after 500, 1,500 and 6,000 steps.

``--part families``: independent normals, low rank and full rank on banknote, beside HMC on the same
model (a layer of 10 tanh units, N(0, 1) weights): three splits of 300 training rows and the other
1,072 for the test.

    python examples/benchmarks/variational.py [--quick] [--part families] [--out variational.jsonl]

A run that is stopped goes on where it was when it is started again with the same ``--out``.
"""

import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import Runs, finish, load, mean_and_error, parse, rounded, table
from sklearn.datasets import load_breast_cancer, load_diabetes, make_friedman1, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skbayes import BayesianMLPClassifier
from skbayes.inference import HMC, VI

RATES, SCALES, WARM = (0.003, 0.01, 0.03), (0.01, 0.03, 0.1, 0.3, 1.0), 1000
SETTINGS = [(scale, rate, 0) for scale in SCALES for rate in RATES]
SETTINGS += [(scale, 0.01, WARM) for scale in (0.01, 0.1, 1.0)]
STEPS, MARKS, N_SAMPLES = 6000, (500, 1500, 6000), 4
FAMILIES = {
    "mean_field": VI(),
    "low_rank": VI("low_rank", rank=8),
    "full_rank": VI("full_rank"),
    "hmc": HMC(n_chains=4, n_warmup=300, n_draws=250),
}
QUICK = {
    "mean_field": VI(max_epochs=300, learning_rate=0.03),
    "full_rank": VI("full_rank", max_epochs=300, learning_rate=0.03),
}


def data(name: str):
    kw = {"return_X_y": True}
    return {
        "diabetes": lambda: load_diabetes(**kw),
        "friedman1 300": lambda: make_friedman1(300, noise=1.0, random_state=0),
        "moons 200": lambda: make_moons(200, noise=0.25, random_state=0),
        "breast cancer": lambda: load_breast_cancer(**kw),
    }[name]()


SETS = ("diabetes", "friedman1 300", "moons 200", "breast cancer")


def fit_and_score(estimator, X, y, X_test, y_test) -> dict:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    start = time.process_time()
    estimator.fit(X, y)
    seconds = time.process_time() - start
    out = {
        "log_score": float(estimator.log_predictive_density(X_test, y_test).mean()),
        "score": float(estimator.score(X_test, y_test)),
        "seconds": seconds,
        "steps": int(estimator.n_iter_),
    }
    if hasattr(estimator, "elbo_"):
        out["elbo"] = float(estimator.elbo_)
    return out


def screen(name: str, n_steps: int) -> dict:
    """Climb with all settings at once; log scores and bounds at the marks."""
    import torch

    from skbayes.inference import Streams
    from skbayes.inference.optimizers import Adam
    from skbayes.layers.families import starting_deviation

    torch.set_num_threads(1)
    X, y = data(name)
    X, X_test, y, y_test = train_test_split(X, y, test_size=1 / 3, random_state=0)
    centre, spread = X.mean(0), X.std(0)
    X, X_test = (X - centre) / spread, (X_test - centre) / spread
    regression = len(np.unique(y)) > 2
    if regression:
        centre, spread = y.mean(), y.std()
        y, y_test = (y - centre) / spread, (y_test - centre) / spread
    train, test = log_posterior(X, y, regression), log_posterior(X_test, y_test, regression)
    start = train.initial(Streams(0, 1))[0]
    scale, rate, warm = (
        torch.tensor(v, dtype=torch.float32)[:, None] for v in zip(*SETTINGS, strict=True)
    )
    mean = start.repeat(len(SETTINGS), 1)
    log_var = 2 * torch.log(scale * starting_deviation(train, 1.0, start))
    # of the weights and of the learned noise
    prior_var = torch.cat(
        [torch.as_tensor(train.prior.scales).float() ** 2, torch.full((int(regression),), 1.5**2)]
    )
    optimisers = Adam(mean), Adam(log_var)
    generator, out = torch.Generator().manual_seed(0), {}
    for t in range(1, n_steps + 1):
        std = (0.5 * log_var).exp()
        shape = len(mean), N_SAMPLES, len(start)
        epsilon = torch.randn(shape, generator=generator)
        theta = mean[:, None] + std[:, None] * epsilon
        grad = train.grad(theta.view(-1, len(start))).view(shape) + theta / prior_var
        kl_weight = torch.where(warm > 0, (t / warm.clamp_min(1)).clamp_max(1), 1.0)
        by_mean = grad.mean(1) - kl_weight * mean / prior_var
        by_log_var = 0.5 * std * (grad * epsilon).mean(1)
        by_log_var -= 0.5 * kl_weight * (std**2 / prior_var - 1)
        fall = 1.0 if t < 0.6 * n_steps else 0.3 if t < 0.8 * n_steps else 0.1
        for optimiser, values, by in zip(
            optimisers, (mean, log_var), (by_mean, by_log_var), strict=True
        ):
            before = values.clone()
            optimiser.step(values, by / -train.n, 1.0)
            values.copy_(before + fall * rate * (values - before))
        if t in MARKS or t == n_steps:
            found = []
            for m, v in zip(mean, log_var, strict=True):
                draws = m + (0.5 * v).exp() * torch.randn(200, len(m), generator=generator)
                scores = torch.logsumexp(test.pointwise(draws), 0) - np.log(200)
                kl = 0.5 * ((v.exp() + m**2) / prior_var - 1 - v + prior_var.log()).sum()
                bound = train.log_likelihood(draws).mean() - kl
                found.append((float(scores.mean()), float(bound)))
            out[str(t)] = found
    return out


def log_posterior(X, y, regression: bool):
    """The default model of an estimator with one layer of 20 units."""
    import torch

    from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior

    network = MLPNetwork(X.shape[1], (20,), 1, "tanh")
    kw = {"dtype": torch.float32, "device": torch.device("cpu")}
    return LogPosterior(
        network,
        Normal(1, "learned", np.ones(1)) if regression else Bernoulli(),
        NormalPrior(2.0, fan_in=True).build(network, float((X**2).sum(1).mean())),
        Inputs(X, scale=network.input_scale, **kw),
        torch.as_tensor(np.asarray(y, dtype=float)[None, None], **kw),
    )


def one_family(data_dir: str, name: str, split: int, quick: bool) -> dict:
    from skbayes.model import NormalPrior

    raw = load(data_dir, "classification/banknote.npz")
    parts = train_test_split(
        raw["X"], raw["y"], train_size=300, random_state=split, stratify=raw["y"]
    )
    method = (QUICK if quick else FAMILIES)[name]
    kw = {"activation": "tanh", "prior": NormalPrior(1.0), "random_state": split}
    estimator = BayesianMLPClassifier((10,), method=method, **kw)
    return fit_and_score(estimator, parts[0], parts[2], parts[1], parts[3])


def defaults(runs: Runs, quick: bool) -> dict:
    figures = {}
    n_steps = 500 if quick else STEPS
    for name in SETS[2:3] if quick else SETS:
        found = runs.get(f"{name}, {n_steps} steps", screen, name, n_steps)
        marks = [key for key in found if key != "key"]
        rows = []
        for i, (scale, rate, warm) in enumerate(SETTINGS):
            row: dict = {"init_scale": str(scale), "learning_rate": str(rate), "warm-up": warm}
            for t in marks:
                row[f"log score, {t}"], row[f"bound, {t}"] = found[t][i]
            rows.append(row)
        print(f"\n{name}")
        table(rows)
        figures[name] = {
            f"{row['init_scale']}, {row['learning_rate']}, {row['warm-up']}": [
                rounded(v) for v in list(row.values())[3:]
            ]
            for row in rows
        }
    return figures


def families(runs: Runs, data_dir: str, quick: bool) -> dict:
    rows, figures = [], {}
    n_splits = 1 if quick else 3
    for name in QUICK if quick else FAMILIES:
        found = [
            runs.get(f"banknote, {name}, {s}", one_family, data_dir, name, s, quick)
            for s in range(n_splits)
        ]
        row: dict = {"family": name}
        for key in ("log_score", "score", "elbo", "seconds"):
            if key in found[0]:
                row[key], row[f"+- {key}"] = mean_and_error([f[key] for f in found])
            else:
                row[key] = row[f"+- {key}"] = float("nan")
        rows.append(row)
        figures[name] = {k: rounded(v) for k, v in list(row.items())[1:]}
    table(rows)
    return figures


def main() -> None:
    args = parse(
        __doc__,
        ("--part", {"choices": ("defaults", "families"), "default": None, "help": "one of two"}),
        ("--out", {"default": None, "help": "file of finished runs"}),
    )
    runs = Runs(None if args.out is None else Path(args.out))
    figures = {}
    if args.part != "families":
        figures["defaults"] = defaults(runs, args.quick)
    if args.part != "defaults":
        load(args.data_dir, "classification/banknote.npz")
        figures["families"] = families(runs, args.data_dir, args.quick)
    finish("variational", figures)


if __name__ == "__main__":
    main()
