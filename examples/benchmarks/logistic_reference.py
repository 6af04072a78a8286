"""Make the reference posterior of a logistic regression by NumPyro's NUTS, for the tests.

The model is 100 rows, 4 inputs with correlated columns, a logit that is linear in them, and
N(0, 1) on every weight and on the bias. NUTS runs 4 chains, 1,000 + 25,000 iterations each, in
float64, with a target acceptance of 0.9. Written to the file are the data, the settings, and for
every parameter (weights, then bias) the mean, the mean square about that mean, and the Monte
Carlo standard error of both, from the effective sample sizes of the value and of its square.

    python examples/benchmarks/logistic_reference.py --out tests/data/logistic_reference.json
    python examples/benchmarks/logistic_reference.py --quick  # fewer draws, writes nothing

About one minute. The last line of the output is the same as one JSON object, without the data.
"""

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from numpyro.infer import MCMC, NUTS

N_ROWS, N_INPUTS, PRIOR_SCALE = 100, 4, 1.0
N_CHAINS, N_WARMUP, N_DRAWS, TARGET_ACCEPT = 4, 1000, 25_000, 0.9
DATA_SEED, SEED = 0, 1


def make_data():
    """Return X rounded to three digits, so that the file holds exactly what was fitted, and y."""
    rng = np.random.default_rng(DATA_SEED)
    X = np.round(rng.normal(size=(N_ROWS, N_INPUTS)) @ (np.eye(N_INPUTS) + 0.3), 3)
    logit = X @ rng.normal(size=N_INPUTS) + 0.5
    y = (rng.random(N_ROWS) < 1 / (1 + np.exp(-logit))).astype(int)
    return X, y


def model(X, y):
    """Weights and bias in one vector, the bias last."""
    theta = numpyro.sample("theta", dist.Normal(0, PRIOR_SCALE).expand([N_INPUTS + 1]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ theta[:-1] + theta[-1]), obs=y)


def mcse_of_mean(x):
    """Standard error of the mean of each column of draws (n_chains, n_draws, k)."""
    ess = array_stats.ess(x, chain_axis=0, draw_axis=1, method="mean")
    return x.std((0, 1), ddof=1) / np.sqrt(ess)


def main():
    """Sample, print a table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("SKBAYES_DATA"),
        help="accepted as by the other benchmarks; this one makes its own data",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    parser.add_argument("--out", type=Path, help="file to write")
    arguments = parser.parse_args()
    n_draws = N_DRAWS // 10 if arguments.quick else N_DRAWS

    numpyro.enable_x64()
    X, y = make_data()
    mcmc = MCMC(
        NUTS(model, target_accept_prob=TARGET_ACCEPT),
        num_warmup=N_WARMUP,
        num_samples=n_draws,
        num_chains=N_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(SEED), jnp.asarray(X), jnp.asarray(y))
    draws = np.asarray(mcmc.get_samples(group_by_chain=True)["theta"])
    mean = draws.mean((0, 1))
    square = (draws - mean) ** 2
    r_hat = array_stats.rhat(draws, chain_axis=0, draw_axis=1)
    if not np.all(r_hat < 1.005):
        raise SystemExit(f"The chains do not agree, R-hat {r_hat.max():.4f}")
    summary = {
        "benchmark": "logistic_reference",
        "sampler": "NumPyro NUTS",
        "n_chains": N_CHAINS,
        "n_warmup": N_WARMUP,
        "n_draws": n_draws,
        "target_accept": TARGET_ACCEPT,
        "seed": SEED,
        "prior_scale": PRIOR_SCALE,
        "r_hat_max": float(r_hat.max()),
        "mean": mean.tolist(),
        "sd": np.sqrt(square.mean((0, 1))).tolist(),
        "square": square.mean((0, 1)).tolist(),
        "mcse_mean": mcse_of_mean(draws).tolist(),
        "mcse_square": mcse_of_mean(square).tolist(),
        "versions": {
            "numpyro": numpyro.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    print("parameter       mean      mcse        sd   mcse of square")
    for i in range(N_INPUTS + 1):
        name = f"weight {i}" if i < N_INPUTS else "bias"
        print(
            f"{name:<10}  {mean[i]:>8.4f}  {summary['mcse_mean'][i]:>8.5f}"
            f"  {summary['sd'][i]:>8.4f}  {summary['mcse_square'][i]:>15.6f}"
        )
    if arguments.out is not None:
        data = {**summary, "X": X.tolist(), "y": y.tolist()}
        text = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in data.items())
        arguments.out.write_text("{\n" + text + "\n}\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
