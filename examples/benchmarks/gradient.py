"""Cost of one gradient of the log posterior on one core, next to JAX's compiled gradient.

The model is a Bayesian neural network of an ordinary size: 1202 rows, 5 inputs, one hidden layer
of 50 units, a normal likelihood with noise 0.3 and N(0, 1) weights, in float32. Both sides run
the same 20 leapfrog steps, theta += eps p, p += eps grad(theta), which is how a sampler uses a
gradient; the two updates are counted on both sides. JAX compiles the whole loop into one
``lax.scan``; several chains go through ``vmap`` and through ``lax.map``, and the faster of the two
is taken. JAX's time to compile is reported apart. Before anything is timed, the gradients of the
two sides are compared.

All candidates of a row take turns, and a figure is the median over the turns, in microseconds per
gradient and chain. The process pins itself to one core and uses one thread.

    python examples/benchmarks/gradient.py          # about three minutes
    python examples/benchmarks/gradient.py --quick  # about half a minute

The last line of the output is one JSON object with all figures.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # before the imports, so that their threads inherit it
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import datetime
import json
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from skbayes.model import Inputs, LogPosterior, MLPNetwork, Normal, NormalPrior

torch.set_num_threads(1)

N_ROWS, N_INPUTS, N_HIDDEN = 1202, 5, 50
NOISE = 0.3
N_LEAPFROG = 20
STEP_SIZE = 1e-4
LARGEST_ERROR = 1e-3  # of a gradient in float32, a sum over all rows
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


def torch_log_posterior(x, y, activation):
    """Return the log posterior of this package."""
    network = MLPNetwork(N_INPUTS, (N_HIDDEN,), 1, activation)
    kw = {"dtype": torch.float32, "device": torch.device("cpu")}
    inputs = Inputs(x, scale=network.input_scale, **kw)
    likelihood = Normal(1, np.array([NOISE]), np.ones(1))
    targets = torch.as_tensor(y.T[None], **kw)
    return LogPosterior(network, likelihood, NormalPrior().build(network), inputs, targets)


def jax_log_posterior(x, y, activation):
    """Return the same function of one chain's theta, as JAX sees it."""
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    shapes = [(N_INPUTS, N_HIDDEN), (N_HIDDEN,), (N_HIDDEN, 1), (1,)]
    edges = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def log_posterior(theta):
        parts = zip(jnp.split(theta, edges), shapes, strict=True)
        w0, b0, w1, b1 = (part.reshape(shape) for part, shape in parts)
        mean = ACTIVATIONS[activation](x @ w0 + b0) @ w1 + b1
        return -0.5 * jnp.sum(((y - mean) / NOISE) ** 2) - 0.5 * jnp.sum(theta**2)

    return log_posterior


def torch_trajectory(log_posterior, theta, momentum):
    """Return a function that runs the leapfrog steps with this package's gradient."""
    theta, momentum = torch.as_tensor(theta), torch.as_tensor(momentum)

    def run():
        q, p = theta.clone(), momentum.clone()
        for _ in range(N_LEAPFROG):
            q.add_(p, alpha=STEP_SIZE)
            p.add_(log_posterior.grad(q), alpha=STEP_SIZE)

    return run


def jax_trajectories(log_posterior, theta, momentum):
    """Return compiled functions that run the leapfrog steps, and the seconds each took to compile.

    One chain is compiled without a batch axis; several in both ways that JAX has.
    """
    grad = jax.grad(log_posterior)

    def step(state, _):
        q, p = state
        q = q + STEP_SIZE * p
        return (q, p + STEP_SIZE * grad(q)), None

    def trajectory(q, p):
        return jax.lax.scan(step, (q, p), None, length=N_LEAPFROG)[0]

    if len(theta) == 1:
        ways = {"plain": trajectory}
        arguments = jnp.asarray(theta[0]), jnp.asarray(momentum[0])
    else:
        ways = {
            "vmap": jax.vmap(trajectory),
            "map": lambda q, p: jax.lax.map(lambda one: trajectory(*one), (q, p)),
        }
        arguments = jnp.asarray(theta), jnp.asarray(momentum)
    runs, seconds = {}, {}
    for way, function in ways.items():
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*arguments).compile()
        seconds[way] = time.perf_counter() - start
        runs[way] = lambda compiled=compiled: jax.block_until_ready(compiled(*arguments))
    return runs, seconds


def relative_error(ours, theirs, theta):
    """Largest difference of the two gradients over their largest entry."""
    first = ours.grad(torch.as_tensor(theta)).numpy()
    second = np.asarray(jax.vmap(jax.grad(theirs))(jnp.asarray(theta)))
    return float(np.abs(first - second).max() / np.abs(second).max())


def time_in_turns(runs, n_turns):
    """Median seconds of each function, called in turn so that all see the same machine."""
    for run in runs.values():
        for _ in range(3):
            run()
    seconds = {name: [] for name in runs}
    for _ in range(n_turns):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def compare(rng, x, y, activation, n_chains, n_turns):
    """Measure one row of the table."""
    n_params = (N_INPUTS + 1) * N_HIDDEN + N_HIDDEN + 1
    theta, momentum = rng.normal(size=(2, n_chains, n_params)).astype(np.float32)
    theta *= 0.3
    ours = torch_log_posterior(x, y, activation)
    theirs = jax_log_posterior(x, y, activation)
    error = relative_error(ours, theirs, theta)
    if not error < LARGEST_ERROR:
        raise SystemExit(f"{activation}, {n_chains} chains: the gradients differ by {error:.1e}")
    runs, compile_seconds = jax_trajectories(theirs, theta, momentum)
    runs["ours"] = torch_trajectory(ours, theta, momentum)
    median = time_in_turns(runs, n_turns)
    per_gradient = {name: 1e6 * s / N_LEAPFROG / n_chains for name, s in median.items()}
    ours_us = per_gradient.pop("ours")
    best = min(per_gradient, key=per_gradient.__getitem__)
    return {
        "activation": activation,
        "n_chains": n_chains,
        "ours_us": round(ours_us, 2),
        "jax_us": round(per_gradient[best], 2),
        "jax_way": best,
        "jax_all_us": {way: round(us, 2) for way, us in per_gradient.items()},
        "ratio": round(ours_us / per_gradient[best], 3),
        "jax_compile_s": round(compile_seconds[best], 3),
        "relative_error": error,
    }


def main():
    """Print the table, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("SKBAYES_DATA"),
        help="accepted as by the other benchmarks; this one makes its own data",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_ROWS, N_INPUTS))
    y = np.sin(x[:, :1]) + NOISE * rng.normal(size=(N_ROWS, 1))
    print("Microseconds per gradient and chain, one core, leapfrog updates included.\n")
    header = "activation  chains     ours      jax  (way)    ratio  jax compiles in  rel. error"
    print(header + "\n" + "-" * len(header))
    rows = []
    for n_chains in (1, 16):
        for activation in ACTIVATIONS:
            n_turns = (200 if arguments.quick else 1600) // n_chains**0.5
            row = compare(rng, x, y, activation, n_chains, int(n_turns))
            rows.append(row)
            print(
                f"{activation:<10}  {n_chains:>6}  {row['ours_us']:>7.1f}  {row['jax_us']:>7.1f}"
                f"  {'(' + row['jax_way'] + ')':<7}  {row['ratio']:>5.2f}"
                f"  {row['jax_compile_s']:>13.2f} s  {row['relative_error']:>10.1e}",
                flush=True,
            )
    summary = {
        "benchmark": "gradient",
        "n_rows": N_ROWS,
        "n_inputs": N_INPUTS,
        "n_hidden": N_HIDDEN,
        "n_leapfrog": N_LEAPFROG,
        "quick": arguments.quick,
        "results": rows,
        "versions": {
            "torch": torch.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    print()
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
