"""Find 20 of 500 correlated columns that matter, through a signal that is not linear.

1,000 rows; columns are standard normal with correlation 0.5 between any two; y is a sum of two
saturating functions of ten columns each, all of the same weight and of either sign, plus noise that
leaves R2 = 0.7 for the truth. A column is found if any of its weights in the first layer of
``VariationalDropoutRegressor`` is kept, at the default threshold; the lasso (``LassoCV``) finds
those with a coefficient that is not zero. Precision is the share of the found that matter, recall
the share of those that matter that are found. The settings, the default threshold of groups among
them, were chosen on seeds 100 to 102. Seed 0 has been looked at before, so that the figures in the
documentation are those of ``--first-seed 5``.

    python examples/benchmarks/feature_selection.py [--out FILE] [--quick]
"""

import _one_core  # noqa: F401  isort: skip

import time
from pathlib import Path

import numpy as np
from _common import Runs, finish, mean_and_error, parse, table
from sklearn.linear_model import LassoCV

from skbayes import VariationalDropoutRegressor

N_ROWS, N_COLUMNS, N_INFORMATIVE = 1_000, 500, 20
CORRELATION, R2 = 0.5, 0.7

NETWORK = {"hidden_layer_sizes": (4,), "activation": "tanh"}
WAYS = {
    "group, horseshoe": {"kind": "group", "group_prior": "horseshoe", **NETWORK},
    "group, Jeffreys": {"kind": "group", **NETWORK},
    "sparse": {"kind": "sparse", **NETWORK},
    "lasso": None,
}


def simulate(seed: int):
    """X, y and the columns that matter."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N_ROWS, 1))
    X = np.sqrt(CORRELATION) * shared
    X = X + np.sqrt(1 - CORRELATION) * rng.normal(size=(N_ROWS, N_COLUMNS))
    columns = rng.choice(N_COLUMNS, N_INFORMATIVE, replace=False)
    signal = 0.0
    for part in np.split(columns, 2):
        signs = rng.permutation(np.repeat([-1.0, 1.0], len(part) // 2))
        signal = signal + np.tanh(0.7 * X[:, part] @ signs)
    y = signal / signal.std() + np.sqrt((1 - R2) / R2) * rng.normal(size=N_ROWS)
    return X, y, columns


def one(way: str, seed: int) -> dict:
    """Precision, recall and time of one fit."""
    X, y, columns = simulate(seed)
    start = time.process_time()
    if way == "lasso":
        found = np.flatnonzero(LassoCV(cv=5).fit(X, y).coef_)
    else:
        model = VariationalDropoutRegressor(**WAYS[way], random_state=seed).fit(X, y)
        found = np.flatnonzero(model.masks_["0.weight"].any(0))
    hits = len(set(found) & set(columns))
    return {
        "precision": hits / max(len(found), 1),
        "recall": hits / len(columns),
        "found": len(found),
        "cpu": time.process_time() - start,
    }


def main() -> None:
    args = parse(
        __doc__,
        ("--out", {"type": Path, "default": None, "help": "JSON lines of finished fits"}),
        ("--first-seed", {"type": int, "default": 0, "help": "100: those that settings saw"}),
    )
    runs = Runs(args.out)
    seeds = range(args.first_seed, args.first_seed + (1 if args.quick else 5))
    rows, figures = [], {}
    for way in WAYS:
        done = [runs.get(f"{way} {seed} {WAYS[way]}", one, way, seed) for seed in seeds]
        row = {"way": way}
        for name in ("precision", "recall", "found", "cpu"):
            row[name] = mean_and_error([run[name] for run in done])[0]
        rows.append(row)
        figures[way] = {n: round(v, 3) for n, v in row.items() if n != "way"}
    table(rows)
    finish("feature_selection", figures)


if __name__ == "__main__":
    main()
