"""Simulation-based calibration of HMC and NUTS on a small network with learned noise.

Talts, Betancourt, Simpson, Vehtari and Gelman (2018): draw theta from the prior and y from the
likelihood, sample the posterior given y, and rank a quantity at the true theta among its
posterior draws. If the sampler is right, the ranks are uniform whatever the model. Parameters
alone would pass a sampler that returns the prior, so the ranked quantities are the log likelihood
of y, the function at a new x, and the noise.

The network has 1 input, one layer of 2 tanh units, N(0, 1) on every weight and the package's
prior on the noise; 8 rows. There is no standardiser, since one that looks at y would change the
prior. Each replicate runs 64 chains from prior draws, 150 + 16 iterations; every 8th iteration is
kept, 128 near-independent draws in all, so a rank is one of 0 to 128. Many short chains cost
little more than few here, as all move in one batch. The output layer is integrated out, unless the
sampler's name ends in ``-whole``.

Uniformity is tested by chi-squared in ten bins, and by the largest distance of the ranks'
empirical distribution function from the uniform one, whose distribution is simulated.

    python examples/benchmarks/sbc.py --out sbc.jsonl  # 200 replicates, five to ten minutes
    python examples/benchmarks/sbc.py --quick          # 24 replicates, half a minute
    python examples/benchmarks/sbc.py --sampler nuts

With --out, each replicate's ranks are appended to the file as they come, and a run that was
stopped goes on from them. The last line of the output is one JSON object with all figures.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices this small gain nothing by threads

import numpy as np
import scipy
import torch
from scipy import stats
from sklearn.base import clone

import skbayes
from skbayes.inference import HMC, NUTS, Streams
from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior

N_ROWS, N_INPUTS, HIDDEN = 8, 1, (2,)
N_CHAINS, KEPT_PER_CHAIN = 64, 2
N_RANKS = N_CHAINS * KEPT_PER_CHAIN + 1
QUANTITIES = ("log_likelihood", "function", "noise")
N_BINS = 10
SAMPLERS = {
    "hmc": HMC(trajectory_length=2.0, max_leapfrog=60, target_accept=0.7),
    "hmc-whole": HMC(trajectory_length=2.0, max_leapfrog=60, target_accept=0.7, marginalize=False),
    "nuts": NUTS(max_tree_depth=6),
}


def simulate(seed):
    """Return a log posterior on simulated data, the theta that made them (1, d), and a new x."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    network = MLPNetwork(N_INPUTS, HIDDEN, 1, "tanh")
    kw = {"dtype": torch.float64, "device": torch.device("cpu")}
    rows = rng.normal(size=(N_ROWS + 1, N_INPUTS))
    inputs, new = (Inputs(x, scale=network.input_scale, **kw) for x in (rows[:-1], rows[-1:]))
    likelihood, prior = Normal(1, "learned", np.ones(1)), NormalPrior(scale=1.0).build(network)
    y = torch.zeros((1, 1, N_ROWS), **kw)
    target = LogPosterior(network, likelihood, prior, inputs, y)
    theta = target.sample_prior(Streams(seed, 1, key=(2,)))
    mean = network.forward(theta[:, : network.n_params], inputs)
    sigma = likelihood.noise_std(target.layout.split(theta)[1], 1)[:, :, None]
    target.y = mean + sigma * torch.as_tensor(rng.normal(size=(1, 1, N_ROWS)))
    return target, theta, new


def quantities(target, theta, new):
    """Return the ranked quantities at each theta, (n_draws, 3)."""
    network = target.network
    parts = (
        target.log_likelihood(theta),
        network.forward(theta[:, : network.n_params], new)[:, 0, 0],
        target.layout.split(theta)[1][:, 0],
    )
    return torch.stack(parts, 1).numpy()


def replicate(seed, n_warmup=150, thin=8, sampler="hmc"):
    """Return the ranks of the true quantities among those of the posterior draws.

    ``sampler`` is one of SAMPLERS, or a function: ``sampler(target, streams)`` returns draws
    (n_chains, n_draws, d).
    """
    target, true, new = simulate(seed)
    streams = Streams(seed, N_CHAINS, key=(3,))
    if isinstance(sampler, str):
        # chains must not start at the truth; prior draws know nothing of it
        method = clone(SAMPLERS[sampler]).set_params(
            n_chains=N_CHAINS, n_warmup=n_warmup, n_draws=KEPT_PER_CHAIN, thin=thin, init="prior"
        )
        draws = method.run(target, None, streams).draws
    else:
        draws = sampler(target, streams)
    found = quantities(target, torch.as_tensor(draws.reshape(-1, draws.shape[-1])), new)
    ranks = (found < quantities(target, true, new)).sum(0)
    return dict(zip(QUANTITIES, ranks.tolist(), strict=True))


def chi_squared_p(ranks, n_ranks=N_RANKS):
    """P-value of the counts in bins; the bins hold nearly, not exactly, as many ranks each."""
    edges = np.linspace(0, n_ranks, N_BINS + 1).round().astype(int)
    counts = np.histogram(ranks, edges - 0.5)[0]
    expected = len(ranks) * np.diff(edges) / n_ranks
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), N_BINS - 1))


def ecdf_p(ranks, n_ranks=N_RANKS, n_simulations=4000):
    """P-value of the largest distance of the empirical distribution function, by simulation."""

    def distance(values):
        counts = np.apply_along_axis(np.bincount, 1, values, minlength=n_ranks)
        uniform = np.arange(1, n_ranks + 1) / n_ranks
        return np.abs(counts.cumsum(1) / values.shape[1] - uniform).max(1)

    found = distance(np.asarray(ranks)[None])[0]
    rng = np.random.default_rng(0)
    null = distance(rng.integers(n_ranks, size=(n_simulations, len(ranks))))
    return float((1 + (null >= found - 1e-12).sum()) / (1 + n_simulations))


def read(path, settings):
    """Ranks that a former run has written with the same settings, by seed."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {line["seed"]: line["ranks"] for line in lines if line["settings"] == settings}


def main():
    """Run the replicates that are missing, print the table, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("SKBAYES_DATA"),
        help="accepted as by the other benchmarks; this one makes its own data",
    )
    parser.add_argument("--quick", action="store_true", help="24 replicates of shorter chains")
    parser.add_argument("--n-replicates", type=int, help="default 200, or 24 with --quick")
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default="hmc")
    parser.add_argument("--out", type=Path, help="file of ranks to append to and to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"n_warmup": 150, "thin": 8, "sampler": arguments.sampler}
    if arguments.quick:
        settings |= {"n_warmup": 100, "thin": 5}
    n_replicates = arguments.n_replicates or (24 if arguments.quick else 200)

    known = read(arguments.out, settings)
    n_known = len([seed for seed in known if seed < n_replicates])
    start = time.perf_counter()
    for seed in range(n_replicates):
        if seed in known:
            continue
        known[seed] = replicate(seed, **settings)
        if arguments.out is not None:
            line = {"seed": seed, "settings": settings, "ranks": known[seed]}
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    seconds = time.perf_counter() - start

    print(f"{n_replicates} replicates, ranks 0 to {N_RANKS - 1} (mean {(N_RANKS - 1) / 2:g})\n")
    header = "quantity        mean rank    sd / uniform's   p (chi-squared)   p (ECDF)"
    print(header + "\n" + "-" * len(header))
    results = {}
    for name in QUANTITIES:
        ranks = np.array([known[seed][name] for seed in range(n_replicates)])
        row = {
            "mean_rank": float(ranks.mean()),
            "sd_ratio": float(ranks.std() / np.sqrt((N_RANKS**2 - 1) / 12)),
            "p_chi_squared": chi_squared_p(ranks),
            "p_ecdf": ecdf_p(ranks),
        }
        results[name] = row
        print(
            f"{name:<14}  {row['mean_rank']:>9.1f}  {row['sd_ratio']:>16.3f}"
            f"  {row['p_chi_squared']:>16.3f}  {row['p_ecdf']:>9.3f}"
        )
    summary = {
        "benchmark": "sbc",
        "n_replicates": n_replicates,
        "n_ranks": N_RANKS,
        "settings": {**settings, "n_chains": N_CHAINS, "kept_per_chain": KEPT_PER_CHAIN},
        "quick": arguments.quick,
        "results": results,
        "seconds_of_this_run": round(seconds, 1),
        "replicates_of_this_run": n_replicates - n_known,
        "versions": {
            "skbayes": skbayes.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    print()
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
