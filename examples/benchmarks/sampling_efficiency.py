"""Effective draws per second on a network's posterior, next to NumPyro's NUTS.

The posterior is that of airfoil (1,202 rows, 5 inputs) under one tanh layer of 50 units with
N(0, 1) weights and biases and normal noise fixed at 0.3, X and y standardised; 4 chains on one
core. What counts is the network's function f at the 301 test rows, since its weights are not
identified. The score of a row is the least of the bulk ESS and the tail ESS of f, and the ESS of
the squared deviation of f from its mean (antithetic draws inflate the first and not the last); the
score of a run is the median over the rows, per second of the whole fit (starting points, warm-up,
draws and compilation), and beside it per second of the draws alone. Seconds are of the CPU: on one
core those of the clock, but for what else runs there. A method that is not exact has a bias which
no ESS shows: ``--reference`` compares means and deviations of f with those of a long exact run.

NumPyro starts from its own points and from ours (an ensemble of four networks), with 300 draws and
with 1,500; the best of these is its score, its compilation not counted. Ours are given about as
long as its longest run takes, or less.

    python examples/benchmarks/sampling_efficiency.py [--quick] [--out efficiency.jsonl]
    python examples/benchmarks/sampling_efficiency.py --methods hmc,nuts --peers none
    python examples/benchmarks/sampling_efficiency.py --make-reference hmc    # hours

A run that is stopped goes on where it was when it is started again with the same ``--out``. Lines
are kept by method and seed, not by settings: take another file when settings have changed.
"""

import json
import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import Runs, finish, installed, load, parse, table
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

N_HIDDEN, NOISE, N_CHAINS = 50, 0.3, 4
REFERENCE = Path(__file__).parent / "data" / "airfoil_reference.json"

OURS = {
    "hmc": {"n_warmup": 300, "n_draws": 2500, "trajectory_length": 6.0, "max_leapfrog": 60},
    "adjusted_mclmc": {
        "n_warmup": 300,
        "n_draws": 2500,
        "trajectory_length": 60.0,
        "max_leapfrog": 60,
    },
    "mclmc": {"n_warmup": 400, "n_draws": 10000, "n_leapfrog": 15, "energy_variance": 2e-2},
    "nuts": {"n_warmup": 150, "n_draws": 300},
    "mala": {},
    "metropolis": {},
}
QUICK = {"n_warmup": 20, "n_draws": 20}
QUICK_METHODS = {
    "nuts": {"max_tree_depth": 5},
    "hmc": {"max_leapfrog": 30},
    "adjusted_mclmc": {"max_leapfrog": 30},
    "mclmc": {"n_leapfrog": 30},
}

# name: (starting points, warm-up, draws)
PEERS = {
    "own points, 300": ("own", 300, 300),
    "our points, 300": ("ours", 300, 300),
    "own points, 1500": ("own", 300, 1500),
    "our points, 1500": ("ours", 300, 1500),
}
QUICK_PEERS = {"own points, 10": ("own", 10, 10)}
CHAIN_METHOD = "sequential"  # needs a quarter of the time per gradient of "vectorized" on one core

# settings of the long run that is taken as exact
MAKE_REFERENCE = {
    "nuts": {"n_warmup": 300, "n_draws": 1000},
    "hmc": {"n_warmup": 300, "n_draws": 1000, "trajectory_length": 6.0},
    "adjusted_mclmc": {"n_warmup": 150, "n_draws": 600, "trajectory_length": 40.0},
}


def problem(data_dir):
    """Training and test rows, all standardised by the training part."""
    data = load(data_dir, "uci_regression/airfoil.npz")
    A, B, a, b = train_test_split(data["X"], data["y"], test_size=0.2, random_state=0)
    x, y = StandardScaler().fit(A), StandardScaler().fit(a[:, None])
    return x.transform(A), x.transform(B), *(y.transform(t[:, None]).ravel() for t in (a, b))


def score_of(f: np.ndarray) -> np.ndarray:
    """Least of three effective sample sizes of f (chains, draws, rows), for each row."""
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    deviation = (f - f.mean((0, 1))) ** 2
    return np.minimum.reduce(
        [
            array_stats.ess(f, method="bulk", **axes),
            array_stats.ess(f, method="tail", prob=(0.05, 0.95), **axes),
            array_stats.ess(deviation, method="bulk", **axes),
        ]
    )


def judge(f: np.ndarray, log_prob: np.ndarray, y: np.ndarray) -> dict:
    """Figures of draws of the function at the test rows, (chains, draws, rows)."""
    from arviz_stats.base import array_stats

    f = np.asarray(f, dtype=np.float64)
    score = score_of(f)
    flat = f.reshape(-1, f.shape[-1])
    logs = -0.5 * ((y - flat) / NOISE) ** 2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)
    nll = np.log(len(flat)) - logsumexp(logs, axis=0)
    return {
        "score_median": float(np.median(score)),
        "score_5": float(np.quantile(score, 0.05)),
        "score_min": float(score.min()),
        "r_hat_max": float(array_stats.rhat(f, chain_axis=0, draw_axis=1).max()),
        "r_hat_log_prob": float(array_stats.rhat(log_prob, chain_axis=0, draw_axis=1)),
        "rmse": float(np.sqrt(np.mean((flat.mean(0) - y) ** 2))),
        "nll": float(nll.mean()),
        "mean": flat.mean(0).round(5).tolist(),
        "std": flat.std(0).round(5).tolist(),
    }


def timed(method_class, seconds: dict):
    """The same method, which adds up the CPU seconds of its draws (all groups of chains)."""

    class Timed(method_class):
        def run(self, log_posterior, theta0, streams, on_step=None, **more):
            last = time.process_time()

            def stamp(done, total, text):
                nonlocal last
                now = time.process_time()
                if text.startswith("draw"):
                    seconds["draws"] = seconds.get("draws", 0.0) + now - last
                last = now

            return super().run(log_posterior, theta0, streams, stamp, **more)

    return Timed


def estimator(method, seed: int):
    """The model of this benchmark."""
    from skbayes import BayesianMLPRegressor
    from skbayes.model.priors import NormalPrior

    return BayesianMLPRegressor(
        (N_HIDDEN,),
        activation="tanh",
        method=method,
        prior=NormalPrior(1.0),
        noise=NOISE,
        standardize=False,  # the rows are
        random_state=seed,
    )


def ours(data_dir, name: str, settings: dict, seed: int) -> dict:
    """One fit of a method of this package."""
    import torch

    from skbayes.inference import METHODS

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    A, B, a, b = problem(data_dir)
    parts: dict[str, float] = {}
    reg = estimator(timed(METHODS[name], parts)(**settings), seed)
    wall, start = time.perf_counter(), time.process_time()
    reg.fit(A, a)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    posterior = reg.posterior_
    f = reg.predict_draws(B)[0].reshape(posterior.n_chains, posterior.n_draws, -1)
    stats = posterior.stats
    more = {key: float(stats[key].mean()) for key in ("acceptance", "n_leapfrog") if key in stats}
    return {
        "seconds": seconds,
        "wall": wall,
        "draw_seconds": parts["draws"],
        "compile_seconds": 0.0,
        **judge(f, stats["log_prob"], b),
        **more,
    }


def peer(
    data_dir, points: str, n_warmup: int, n_draws: int, seed: int, chain_method: str = CHAIN_METHOD
) -> dict:
    """One run of NumPyro's NUTS; from our points, the seconds that these took are counted."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import torch
    from numpyro.infer import MCMC, NUTS

    from skbayes.inference import Ensemble

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    compile_seconds = [0.0]

    def listen(event, duration, **_):
        if event.startswith("/jax/core/compile"):
            compile_seconds[0] += duration

    A, B, a, b = problem(data_dir)
    x, x_new, y = (jnp.asarray(part, jnp.float32) for part in (A, B, a))

    def network(w, x):
        return jnp.tanh(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]

    shapes = {"w0": (x.shape[1], N_HIDDEN), "b0": (N_HIDDEN,), "w1": (N_HIDDEN,), "b1": ()}

    def model(x, y):
        w = {
            name: numpyro.sample(name, dist.Normal(jnp.zeros(shape), 1.0).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        numpyro.sample("y", dist.Normal(network(w, x), NOISE), obs=y)

    mcmc = MCMC(
        NUTS(model),
        num_warmup=n_warmup,
        num_samples=n_draws,
        num_chains=N_CHAINS,
        chain_method=chain_method,
        progress_bar=False,
    )
    fields = ("num_steps", "diverging", "potential_energy")
    jax.monitoring.register_event_duration_secs_listener(listen)
    wall, start = time.perf_counter(), time.process_time()
    first = None
    if points == "ours":
        theta = estimator(Ensemble(n_members=N_CHAINS), seed).fit(A, a).posterior_.unflatten()
        names = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
        first = {
            own: jnp.asarray(theta[name].reshape(N_CHAINS, *shape), jnp.float32)
            for (own, shape), name in zip(shapes.items(), names, strict=True)
        }
    mcmc.warmup(jax.random.PRNGKey(seed), x, y, init_params=first)
    jax.block_until_ready(mcmc.post_warmup_state)
    compile_warmup, middle = compile_seconds[0], time.process_time()
    mcmc.run(mcmc.post_warmup_state.rng_key, x, y, extra_fields=fields)
    w = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    end, wall = time.process_time(), time.perf_counter() - wall
    compile_total = compile_seconds[0]
    share = (end - start) / wall  # jax counts seconds of the clock
    f = np.asarray(jax.vmap(jax.vmap(lambda w: network(w, x_new)))(w))
    extra = mcmc.get_extra_fields(group_by_chain=True)
    return {
        "seconds": end - start,
        "wall": wall,
        "draw_seconds": end - middle - share * (compile_total - compile_warmup),
        "compile_seconds": share * compile_total,
        **judge(f, -np.asarray(extra["potential_energy"], dtype=np.float64), b),
        "n_leapfrog": float(np.mean(extra["num_steps"])),
    }


def make_reference(args) -> None:
    """A long run of an exact method; its means and deviations go into the reference file."""
    name = args.make_reference
    settings = {"n_chains": args.chains, **MAKE_REFERENCE[name]}
    if args.quick:
        settings |= {**QUICK, "thin": 1, **QUICK_METHODS.get(name, {})}
    result = ours(args.data_dir, name, settings, seed=0)
    means, stds = result.pop("mean"), result.pop("std")
    result = {k: round(v, 5) for k, v in result.items()}
    exact = result["score_min"] >= 400 and result["r_hat_max"] < 1.05
    record = {"method": name, **settings, **result, "mean": means, "std": stds}
    path = args.reference or REFERENCE
    if not exact:
        path = path.with_suffix(".rejected.json")
        print("Too short for a reference: the least ESS must be 400 and R-hat below 1.05.")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"Written to {path}.")
    table([{"method": name, **settings, **result}])
    finish("sampling_efficiency-reference", {"method": name, **settings, **result})


def compare(result: dict, reference: dict) -> dict:
    """How far a run's means and deviations of f are from the reference's."""
    ratio = np.abs(np.array(result["std"]) / np.array(reference["std"]) - 1)
    shift = np.abs(np.array(result["mean"]) - np.array(reference["mean"])) / reference["std"]
    return {
        "std off, median": float(np.median(ratio)),
        "std off, 95 %": float(np.quantile(ratio, 0.95)),
        "mean off / std": float(np.median(shift)),
        "NLL off": result["nll"] - reference["nll"],
    }


def rates(result: dict) -> dict:
    """Scores per second: of the whole fit, of it without compilation, and of the draws alone."""
    score = result["score_median"]
    return {
        "per_second": score / result["seconds"],
        "per_second_compiled": score / (result["seconds"] - result["compile_seconds"]),
        "per_draw_second": score / result["draw_seconds"],
    }


def main() -> None:
    args = parse(
        __doc__,
        ("--methods", {"default": ",".join(OURS), "help": "of our side, separated by commas"}),
        ("--peers", {"default": "all", "choices": ("none", "short", "best", "all")}),
        ("--seeds", {"type": int, "default": 3, "help": "number of seeds"}),
        ("--out", {"type": Path, "default": None, "help": "file of finished runs, to resume"}),
        (
            "--reference",
            {"type": Path, "default": None, "help": f"reference (default: {REFERENCE.name})"},
        ),
        ("--make-reference", {"choices": tuple(MAKE_REFERENCE), "default": None}),
        ("--chains", {"type": int, "default": 8, "help": "chains of the reference"}),
    )
    if args.make_reference:
        make_reference(args)
        return
    from skbayes.inference import METHODS

    path = args.reference or REFERENCE
    reference = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    seeds = range(1 if args.quick else args.seeds)
    names = [name for name in args.methods.split(",") if name in METHODS]
    peers = QUICK_PEERS if args.quick else PEERS
    if args.peers == "short":
        peers = {name: p for name, p in peers.items() if p[2] <= 300}
    if args.peers == "best":  # of the four on each seed that all of them were run on
        peers = {"our points, 1500": PEERS["our points, 1500"]}
    if args.peers == "none" or not installed("numpyro"):
        peers = {}
    runs, end = Runs(args.out), "-quick" if args.quick else ""
    found: dict[str, dict[int, dict]] = {}
    for seed in seeds:
        for name in names:
            settings = {"n_chains": N_CHAINS, **OURS[name]}
            if args.quick:
                settings |= {**QUICK, **QUICK_METHODS.get(name, {})}
            result = runs.get(f"{name}{end}-{seed}", ours, args.data_dir, name, settings, seed)
            found.setdefault(name, {})[seed] = result
        for name, settings in peers.items():
            # compilation is most of a quick run, and "vectorized" compiles once for all chains
            how = "vectorized" if args.quick else CHAIN_METHOD
            result = runs.get(f"{name}{end}-{seed}", peer, args.data_dir, *settings, seed, how)
            found.setdefault(f"NumPyro, {name}", {})[seed] = result

    rows = []
    for name, own in found.items():
        for seed, r in own.items():
            rows.append(
                {
                    "who": name,
                    "seed": seed,
                    "s": r["seconds"],
                    "compile s": r["compile_seconds"],
                    "draws s": r["draw_seconds"],
                    "score": r["score_median"],
                    "5 %": r["score_5"],
                    "least": r["score_min"],
                    "R-hat": r["r_hat_max"],
                    "R-hat log p": r["r_hat_log_prob"],
                    "score/s": rates(r)["per_second"],
                    "of draws": rates(r)["per_draw_second"],
                    "RMSE": r["rmse"],
                    "NLL": r["nll"],
                    **(compare(r, reference) if reference else {}),
                }
            )
    table(rows)
    figures: dict[str, object] = {}
    best: dict[int, dict] = {}
    for seed in seeds:
        theirs = [rates(own[seed]) for name, own in found.items() if name.startswith("NumPyro")]
        if theirs:
            best[seed] = {key: max(r[key] for r in theirs) for key in theirs[0]}
    ratios = []
    for name, own in found.items():
        numbers = [row for row in rows if row["who"] == name]
        median = {k: float(np.median([r[k] for r in numbers])) for k in numbers[0] if k != "who"}
        figures[name] = {k: round(v, 4) for k, v in median.items() if k != "seed"}
        if name in names and best:
            ours_rates = {seed: rates(r) for seed, r in own.items()}
            whole = [ours_rates[s]["per_second"] / best[s]["per_second_compiled"] for s in best]
            draws = [ours_rates[s]["per_draw_second"] / best[s]["per_draw_second"] for s in best]
            ratios.append(
                {
                    "method": name,
                    "seeds": len(best),
                    "ratio": float(np.median(whole)),
                    "least": min(whole),
                    "of the draws alone": float(np.median(draws)),
                }
            )
            figures[f"ratio_{name}"] = round(ratios[-1]["ratio"], 2)
            figures[f"ratio_draws_{name}"] = round(ratios[-1]["of the draws alone"], 2)
    if ratios:
        print("\nOur score per second over NumPyro's best (without its compilation):")
        table(ratios, digits=2)
    finish("sampling_efficiency", figures, ("numpyro", "jax") if peers else ())


if __name__ == "__main__":
    main()
