"""UCI regression on its usual splits: the default and every method, beside published rows.

Each split has a tenth of the rows for testing (20 splits, 5 of protein). RMSE and mean log
predictive density are in the original units of y; coverage is the share of test rows inside
``predict_interval(X, 0.9)``; seconds are of the CPU for the fit, on one core.

- ``default`` is ``BayesianMLPRegressor()``: one tanh layer of 50 units (100 for protein, by its
  rule for many rows), heteroscedastic noise, ``method="auto"``.
- All other rows are methods by name on one model: a tanh layer of 50 units (100 for protein) with
  N(0, 1) weights and learned noise. Settings are in this file, the same for all sets.

No noise may be less than 0.02 of y's deviation, for any row. The package's own floor is 0.003
(``--floor 0.003``), with which densities on sets with nearly no noise (yacht) are higher. The
default and ``mclmc``, ``hmc`` and ``adjusted_mclmc``, the best on the first splits of yacht and
energy, are run on all splits, the others on the first 5; samplers that pass over all rows at each
step are left out on protein.

The published rows are one layer of 50 units (100 for protein) too, but for PBP-MV, which has two.
``less the best published`` has the standard errors of both sides where the paper gives one.
Concrete, naval and power of the usual nine are not among the files.

    python examples/benchmarks/uci.py --data-dir DIR [--quick] [--out uci.jsonl]
    python examples/benchmarks/uci.py --only default,ensemble --sets yacht,energy --splits 3

A run that is stopped goes on where it was when it is started again with the same ``--out``;
``--report`` prints what is in that file and runs nothing. Lines are kept by name, set, split and
floor, not by other settings: take another file when those have changed. ``--quick`` is one split
of two sets and four methods.
"""

import math
import time
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _common import Runs, finish, mean_and_error, parse, regression_rows, rounded, scores, table
from sklearn.exceptions import ConvergenceWarning

PROTEIN = "protein-tertiary-structure"
SETS = ("bostonHousing", "energy", "kin8nm", PROTEIN, "wine-quality-red", "yacht")
NOISE_FLOOR = 0.02  # of the deviation of y
COVERAGE = 0.9

BEST = ("mclmc", "hmc", "adjusted_mclmc")
SHORT = {"n_warmup": 100, "n_draws": 100}
SETTINGS = {
    "mclmc": {"n_chains": 8, "n_warmup": 50, "n_draws": 50, "n_leapfrog": 50,
              "energy_variance": 0.01},
    "hmc": {**SHORT, "max_leapfrog": 50},
    "ensemble": {},
    "map": {},
    "anchored": {},
    "laplace": {"hessian": "kron"},
    "vi": {},
    "dropout": {},
    "ep": {},
    "swag": {},
    "multiswag": {},
    "subspace": {"n_warmup": 100, "n_draws": 100},
    "sgld": {},
    "psgld": {},
    "sglmc": {},
    "sghmc": {},
    "sgnht": {},
    "csgmcmc": {},
    "constant_sgd": {},
    "metropolis": {"n_warmup": 2000, "n_draws": 200, "thin": 20},
    "mala": {"n_warmup": 1000, "n_draws": 200, "thin": 10},
    "nuts": {"n_warmup": 50, "n_draws": 50, "max_tree_depth": 7},
    "adjusted_mclmc": {"n_warmup": 50, "n_draws": 50, "max_leapfrog": 100},
}  # fmt: skip
"""Every method of the package, with the settings of this benchmark."""

EP_ROWS = 3200 * 64
"""Rows that ``ep`` takes in at most, each pass counted: 3,200 blocks, as on the small tables."""

FULL_BATCH = frozenset(("mclmc", "hmc", "metropolis", "mala", "nuts", "adjusted_mclmc", "subspace"))
QUICK_SETS, QUICK = ("yacht", "energy"), ("default", "ensemble", "map", "laplace")

PUBLISHED = {
    "PBP": {
        "bostonHousing": (3.01, -2.57, 0.09),
        "energy": (1.80, -2.04, 0.02),
        "kin8nm": (0.10, 0.90, 0.01),
        PROTEIN: (4.73, -2.97, None),
        "wine-quality-red": (0.64, -0.97, 0.01),
        "yacht": (1.02, -1.63, 0.02),
    },
    "MC dropout": {
        "bostonHousing": (2.97, -2.46, 0.25 / 20**0.5),
        "energy": (1.66, -1.99, 0.09 / 20**0.5),
        "kin8nm": (0.10, 0.95, 0.03 / 20**0.5),
        PROTEIN: (4.36, -2.89, 0.01 / 5**0.5),
        "wine-quality-red": (0.62, -0.93, 0.06 / 20**0.5),
        "yacht": (1.11, -1.55, 0.12 / 20**0.5),
    },
    "deep ensembles": {
        "bostonHousing": (3.28, -2.41, 0.25 / 20**0.5),
        "energy": (2.09, -1.38, 0.22 / 20**0.5),
        "kin8nm": (0.09, 1.20, 0.02 / 20**0.5),
        PROTEIN: (4.71, -2.83, 0.02 / 5**0.5),
        "wine-quality-red": (0.64, -0.94, 0.12 / 20**0.5),
        "yacht": (1.58, -1.18, 0.21 / 20**0.5),
    },
    "MC dropout, tuned": {
        "bostonHousing": (2.90, -2.40, 0.04),
        "energy": (0.54, -1.21, 0.01),
        "kin8nm": (0.08, 1.14, 0.01),
        PROTEIN: (4.27, -2.87, None),
        "wine-quality-red": (0.62, -0.93, 0.01),
        "yacht": (0.67, -1.25, 0.01),
    },
    "PBP-MV (two layers)": {
        "bostonHousing": (None, -2.54, None),
        "energy": (None, -1.01, None),
        "kin8nm": (None, 1.28, None),
        PROTEIN: (None, -2.77, None),
        "wine-quality-red": (None, -0.97, None),
        "yacht": (None, -1.64, None),
    },
}
"""RMSE, mean log density and its standard error over splits, None where it is not given.

The first three rows are table 1 of Lakshminarayanan, Pritzel and Blundell (2017, deep ensembles),
who quote Hernandez-Lobato and Adams (2015, PBP) and Gal and Ghahramani (2016, MC dropout). What
they print after +- is a standard error for PBP, and for the other two a standard deviation over
splits, divided here by the root of their number. Tuned dropout is from the readme of Gal's
repository (yaringal/DropoutUncertaintyExps); PBP-MV is Sun, Chen and Carin (2017), as the readme
of google/uncertainty-baselines has it.
"""


def fit(data_dir, name: str, set_name: str, split: int, floor: float) -> dict:
    """One fit on one split: RMSE, log density, coverage, CPU seconds."""
    import torch

    from skbayes import BayesianMLPRegressor
    from skbayes.inference import METHODS
    from skbayes.model.likelihoods import Normal
    from skbayes.model.priors import NormalPrior

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    Normal.floor = floor  # this process is for this fit only
    A, B, a, b = regression_rows(data_dir, set_name, split)
    reg = BayesianMLPRegressor(random_state=split)
    if name != "default":
        settings = SETTINGS[name]
        if name == "ep":
            settings = {"max_epochs": min(100, math.ceil(EP_ROWS / len(a)))}
        reg.set_params(
            hidden_layer_sizes=(100 if set_name == PROTEIN else 50,),
            method=METHODS[name](**settings),
            prior=NormalPrior(1.0),
            noise="learned",
        )
    start = time.process_time()
    reg.fit(A, a)
    seconds = time.process_time() - start
    low, high = reg.predict_interval(B, COVERAGE).T
    return {
        **scores(reg.predict(B), reg.log_predictive_density(B, b), b, seconds),
        "coverage": float(((b >= low) & (b <= high)).mean()),
    }


def n_splits(name: str, set_name: str) -> int:
    """Splits that a row is asked for on."""
    if set_name == PROTEIN:
        return 0 if name in FULL_BATCH else 5
    return 20 if name == "default" or name in BEST else 5


def best_published(set_name: str) -> tuple[str, float, float]:
    """Name, log density and standard error (0 if not given) of the best published row."""
    rows = {name: row[set_name] for name, row in PUBLISHED.items()}
    name = max(rows, key=lambda name: rows[name][1])
    return name, rows[name][1], rows[name][2] or 0.0


def show(found: dict[tuple[str, str], list[dict]]) -> dict:
    """Print the tables of finished runs by set and name; their figures."""
    rows, paired, figures, covered = [], [], {}, []
    for (set_name, name), own in found.items():
        if not own:
            continue
        rmse, lpd, coverage = (
            mean_and_error([r[key] for r in own]) for key in ("rmse", "lpd", "coverage")
        )
        seconds = float(np.median([r["seconds"] for r in own]))
        rows.append(
            {
                "set": set_name,
                "who": name,
                "splits": len(own),
                "RMSE": rmse[0],
                "+- R": rmse[1],
                "log density": lpd[0],
                "+- l": lpd[1],
                "coverage": coverage[0],
                "CPU s": seconds,
            }
        )
        figures[f"{set_name}_{name}"] = {
            "splits": len(own),
            "rmse": [rounded(v) for v in rmse],
            "lpd": [rounded(v) for v in lpd],
            "coverage": rounded(coverage[0]),
            "seconds": rounded(seconds, 1),
        }
        if name == "default":
            covered.append(coverage[0])
            other, value, error = best_published(set_name)
            gap, error = lpd[0] - value, float(np.hypot(lpd[1], error))
            paired.append(
                {
                    "set": set_name,
                    "best published": other,
                    "its log density": value,
                    "default less it": gap,
                    "+-": error,
                }
            )
            figures[f"{set_name}_default_less_published"] = [rounded(gap), rounded(error)]
    if rows:
        table(rows)
    if paired:
        print("\nless the best published")
        table(paired)
        print(f"\nmean coverage of the default over {len(covered)} sets: {np.mean(covered):.3f}")
        figures["default_coverage"] = rounded(float(np.mean(covered)))
    return figures


def show_published(sets) -> None:
    """Print the published rows."""
    empty = float("nan")
    print("\npublished")
    table(
        [
            {
                "set": set_name,
                "who": name,
                "RMSE": empty if row[set_name][0] is None else row[set_name][0],
                "log density": row[set_name][1],
                "+- l": empty if row[set_name][2] is None else row[set_name][2],
            }
            for set_name in sets
            for name, row in PUBLISHED.items()
        ]
    )


def main() -> None:
    args = parse(
        __doc__,
        ("--only", {"default": None, "help": f"of default, {', '.join(SETTINGS)}"}),
        ("--sets", {"default": None, "help": f"of {', '.join(SETS)}"}),
        ("--splits", {"type": int, "default": 20, "help": "splits of each set at most"}),
        ("--floor", {"type": float, "default": NOISE_FLOOR, "help": "of the noise, in deviations"}),
        ("--out", {"type": Path, "default": None, "help": "file of finished runs, to resume"}),
        ("--report", {"action": "store_true", "help": "print what --out has, run nothing"}),
    )
    sets = tuple(args.sets.split(",")) if args.sets else QUICK_SETS if args.quick else SETS
    every = ("default", *SETTINGS)
    names = tuple(args.only.split(",")) if args.only else QUICK if args.quick else every
    for values, allowed in ((sets, SETS), (names, every)):
        for wrong in set(values) - set(allowed):
            raise SystemExit(f"{wrong!r} is not one of {', '.join(allowed)}.")
    most = 1 if args.quick else args.splits
    runs = Runs(args.out)
    found: dict[tuple[str, str], list[dict]] = {(s, n): [] for s in sets for n in names}
    for name in names:
        for set_name in sets:
            for split in range(min(most, n_splits(name, set_name))):
                key = f"{name}-{set_name}-{split}"
                if args.floor != NOISE_FLOOR:
                    key += f"-floor-{args.floor:g}"
                if key in runs.done or not args.report:
                    result = runs.get(key, fit, args.data_dir, name, set_name, split, args.floor)
                    found[set_name, name].append(result)
    figures = show(found)
    show_published(sets)
    finish("uci", figures)


if __name__ == "__main__":
    main()
