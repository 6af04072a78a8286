"""Small regression tables: posteriors and ensembles of this package beside bde and NumPyro.

Training and test rows are the usual splits of energy, yacht, red wine and kin8nm. RMSE and mean
log predictive density are in the original units of y. ``default`` is ``BayesianMLPRegressor()``;
``nuts``, ``hmc``, ``mclmc`` and ``ensemble`` are methods on one model, a tanh layer of 50 units
with N(0, 1) weights and learned noise; the first three integrate its output layer out. ``numpyro``
is NumPyro's NUTS on that same model, prior of the noise included, ``numpyro_ours`` the same from
points like those that our chains start at, the members of a short ensemble, and ``nuts_weights``
our NUTS on all weights, as those two move: such runs are not long enough to forget where they
began, and what is to be equal are the last two. ``bde`` is
``BdeRegressor`` of sklearn-contrib-bde as its README sets it up, with the density of the normal
that has its mean and deviation. Differences are paired over splits; seconds are of the CPU.

    python examples/benchmarks/small_tables.py [--quick] [--out tables.jsonl]
    python examples/benchmarks/small_tables.py --only default,bde --sets yacht,energy

A run that is stopped goes on where it was when it is started again with the same ``--out``. Lines
are kept by name, set and split, not by settings: take another file when settings have changed.
``--quick`` is one split of two sets, short runs, without the peers.
"""

import math
import os
import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import (
    Runs,
    difference,
    finish,
    installed,
    mean_and_error,
    parse,
    regression_rows,
    rounded,
    scores,
    table,
)
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

os.environ["TQDM_DISABLE"] = "1"

SETS = {"energy": 5, "yacht": 5, "wine-quality-red": 5, "kin8nm": 2}  # splits of each
QUICK_SETS = {"yacht": 1, "energy": 1}

N_HIDDEN = 50
SHORT = {"n_warmup": 100, "n_draws": 100}
OURS = {
    "nuts": ("nuts", {**SHORT, "max_tree_depth": 7}),
    "hmc": ("hmc", {**SHORT, "max_leapfrog": 50}),
    "mclmc": ("mclmc", {"n_chains": 8, "n_warmup": 50, "n_draws": 50, "n_leapfrog": 50,
                        "energy_variance": 0.01}),
    "ensemble": ("ensemble", {}),
    "nuts_weights": ("nuts", {"n_warmup": 300, "n_draws": 300, "marginalize": False}),
}  # fmt: skip
QUICK = {
    "nuts": {"n_warmup": 20, "n_draws": 20, "max_tree_depth": 6},
    "hmc": {"n_warmup": 50, "n_draws": 50, "max_leapfrog": 50},
    "mclmc": {"n_warmup": 50, "n_draws": 50, "n_leapfrog": 20},
    "ensemble": {"max_epochs": 200},
    "nuts_weights": {"n_warmup": 20, "n_draws": 20, "max_tree_depth": 6},
}
BDE = {
    "hidden_layers": [16, 16],
    "n_members": 8,
    "epochs": 200,
    "patience": 10,
    "validation_split": 0.15,
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "warmup_steps": 5000,
    "n_samples": 2000,
    "n_thinning": 2,
}
NUMPYRO = {"num_warmup": 300, "num_samples": 300, "num_chains": 4}
NAMES = ("default", *OURS, "numpyro", "numpyro_ours", "bde")
PEERS = {"numpyro": "numpyro", "numpyro_ours": "numpyro", "bde": "bde"}  # and what they need

# the learned noise of skbayes.model.Normal, of standardised y
NOISE_FLOOR, NOISE_SHIFT, NOISE_SCALE = 0.003, math.log(math.expm1(0.3)), 1.5


def standardised(A, B, a):
    """Rows and targets by the training part's moments, and the moments of the targets."""
    x = StandardScaler().fit(A)
    return x.transform(A), x.transform(B), (a - a.mean()) / a.std(), a.mean(), a.std()


def model(method, seed: int):
    """The network of all methods by name, with a method."""
    from skbayes import BayesianMLPRegressor
    from skbayes.model.priors import NormalPrior

    return BayesianMLPRegressor(
        (N_HIDDEN,),
        activation="tanh",
        method=method,
        prior=NormalPrior(1.0),
        noise="learned",
        random_state=seed,
    )


def ours(data_dir, name: str, set_name: str, split: int, quick: bool) -> dict:
    import torch

    from skbayes import BayesianMLPRegressor
    from skbayes.inference import METHODS

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    A, B, a, b = regression_rows(data_dir, set_name, split)
    reg = BayesianMLPRegressor(random_state=split)
    if name != "default":
        method, settings = OURS[name]
        reg = model(METHODS[method](**{**settings, **(QUICK[name] if quick else {})}), split)
    start = time.process_time()
    reg.fit(A, a)
    seconds = time.process_time() - start
    chains = {k: reg.diagnostics_[k] for k in ("r_hat_max", "ess_bulk_median") if reg.diagnostics_}
    return {**scores(reg.predict(B), reg.log_predictive_density(B, b), b, seconds), **chains}


def bde(data_dir, set_name: str, split: int) -> dict:
    import jax.numpy as jnp
    from bde import BdeRegressor
    from bde.loss.loss import GaussianNLL

    A, B, a, b = regression_rows(data_dir, set_name, split)
    A, B, z, centre, scale = standardised(A, B, a)
    reg = BdeRegressor(**BDE, loss=GaussianNLL(), seed=split)
    start = time.process_time()
    reg.fit(jnp.array(A), jnp.array(z))
    seconds = time.process_time() - start
    mean, std = (np.array(p, float).ravel() for p in reg.predict(jnp.array(B), mean_and_std=True))
    mean, std = centre + scale * mean, scale * std
    log_density = -0.5 * ((b - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return scores(mean, log_density, b, seconds)


def starts(A, a, shapes: dict, seed: int) -> dict:
    """Points like those that our chains start from, for NumPyro."""
    import torch

    from skbayes.inference import Ensemble

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_chains = NUMPYRO["num_chains"]
    fit = model(Ensemble(n_members=n_chains, batch_size=200), seed).fit(A, a)
    theta = fit.posterior_.unflatten()
    names = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
    first = {
        own: theta[name].reshape(n_chains, *shape).astype("float32")
        for (own, shape), name in zip(shapes.items(), names, strict=True)
    }
    noise = theta["noise_std"].reshape(n_chains)
    first["raw"] = (np.log(np.expm1(noise - NOISE_FLOOR)) - NOISE_SHIFT).astype("float32")
    return first


def numpyro(data_dir, set_name: str, split: int, from_ours: bool = False) -> dict:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    A, B, a, b = regression_rows(data_dir, set_name, split)
    raw = A, a
    A, B, z, centre, scale = standardised(A, B, a)
    x, x_new, y = (jnp.asarray(part, jnp.float32) for part in (A, B, z))
    shapes = {"w0": (x.shape[1], N_HIDDEN), "b0": (N_HIDDEN,), "w1": (N_HIDDEN,), "b1": ()}

    def network(w, x):
        return jnp.tanh(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]

    def noise(raw):
        return NOISE_FLOOR + jax.nn.softplus(raw + NOISE_SHIFT)

    def density(x, y):
        w = {
            name: numpyro.sample(name, dist.Normal(jnp.zeros(shape), 1.0).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        raw = numpyro.sample("raw", dist.Normal(0.0, NOISE_SCALE))
        numpyro.sample("y", dist.Normal(network(w, x), noise(raw)), obs=y)

    mcmc = MCMC(NUTS(density), **NUMPYRO, chain_method="vectorized", progress_bar=False)
    start = time.process_time()
    first = starts(*raw, shapes, split) if from_ours else None
    mcmc.run(jax.random.PRNGKey(split), x, y, init_params=first)
    w = jax.block_until_ready(mcmc.get_samples())
    seconds = time.process_time() - start
    f = np.asarray(jax.vmap(lambda w: network(w, x_new))(w), dtype=float)
    mean, std = centre + scale * f, scale * np.asarray(noise(w["raw"]), dtype=float)[:, None]
    logs = -0.5 * ((b - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return scores(mean.mean(0), logsumexp(logs, axis=0) - np.log(len(logs)), b, seconds)


def main() -> None:
    args = parse(
        __doc__,
        ("--only", {"default": None, "help": f"of {', '.join(NAMES)}"}),
        ("--sets", {"default": None, "help": f"of {', '.join(SETS)}"}),
        ("--out", {"type": Path, "default": None, "help": "file of finished runs, to resume"}),
    )
    sets = QUICK_SETS if args.quick else SETS
    if args.sets:
        sets = {name: sets.get(name, 1) for name in args.sets.split(",")}
    if args.only:
        names = args.only.split(",")
    else:
        names = [name for name in NAMES if not (args.quick and name in PEERS)]
    for name in set(names) - set(NAMES):
        raise SystemExit(f"{name!r} is not one of {', '.join(NAMES)}.")
    names = [n for n in names if n not in PEERS or installed(PEERS[n])]

    runs, end = Runs(args.out), "-quick" if args.quick else ""
    figures: dict[str, object] = {}
    rows, paired = [], []
    for set_name, n_splits in sets.items():
        found: dict[str, list[dict]] = {}
        for name in names:
            for split in range(n_splits):
                key = f"{name}{end}-{set_name}-{split}"
                if name in PEERS:
                    peer = bde if name == "bde" else numpyro
                    more = (True,) if name == "numpyro_ours" else ()
                    result = runs.get(key, peer, args.data_dir, set_name, split, *more)
                else:
                    result = runs.get(key, ours, args.data_dir, name, set_name, split, args.quick)
                found.setdefault(name, []).append(result)
        for name, own in found.items():
            rmse, lpd = (mean_and_error([r[score] for r in own]) for score in ("rmse", "lpd"))
            rows.append(
                {
                    "set": set_name,
                    "splits": n_splits,
                    "who": name,
                    "RMSE": rmse[0],
                    "+- R": rmse[1],
                    "log density": lpd[0],
                    "+- l": lpd[1],
                    "CPU s": float(np.median([r["seconds"] for r in own])),
                }
            )
            figures[f"{set_name}_{name}"] = {
                "rmse": [rounded(v) for v in rmse],
                "lpd": [rounded(v) for v in lpd],
                "seconds": rounded(rows[-1]["CPU s"], 1),
            }
        # every method of ours against each peer and against the default
        for name in (n for n in names if n not in PEERS):
            for other in (n for n in ("default", *PEERS) if n in found and n != name):
                rmse, lpd = (difference(found[name], found[other], s) for s in ("rmse", "lpd"))
                paired.append(
                    {
                        "set": set_name,
                        "who": name,
                        "minus": other,
                        "RMSE": rmse[0],
                        "+- R": rmse[1],
                        "log density": lpd[0],
                        "+- l": lpd[1],
                    }
                )
                figures[f"{set_name}_{name}_minus_{other}"] = {
                    "rmse": [rounded(v) for v in rmse],
                    "lpd": [rounded(v) for v in lpd],
                }
    table(rows)
    if paired:
        print("\nPaired differences over splits:")
        table(paired)
    jax = ("numpyro", "jax")
    peers = {"numpyro": jax, "numpyro_ours": jax, "bde": ("sklearn-contrib-bde",)}
    packages = dict.fromkeys(p for name in names if name in peers for p in peers[name])
    finish("small_tables", figures, tuple(packages))


if __name__ == "__main__":
    main()
