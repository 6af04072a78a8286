"""Defaults of SWAG and of subspaces: held-out log scores on training folds.

Three folds in turn are predicted by a network of 50 units fitted on the other two, with SWAG at
several learning rates (factors on (1 - momentum) / curvature, five modes, ten draws each) and with
subspaces of each kind at T = n / K and T = 1. The score is the mean log predictive density per row
in nats, y in its own deviations; an ensemble of five is there to compare with. The data are those
of ``default_prior.py``.

    python examples/benchmarks/weight_averaging.py [--quick] [--only swag]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings

import numpy as np
import torch
from _common import finish, parse, table
from default_prior import data
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import Ensemble, MultiSWAG, Subspace, sgd_path


def score(kind, X, y, method) -> float:
    classify = kind == "classification"
    splitter = StratifiedKFold if classify else KFold
    estimator = BayesianMLPClassifier if classify else BayesianMLPRegressor
    scores = []
    for a, b in splitter(3, shuffle=True, random_state=0).split(X, y):
        model = estimator((50,), method=method, random_state=0).fit(X[a], y[a])
        scores.append(model.log_predictive_density(X[b], y[b]))
    return float(np.concatenate(scores).mean() + (0.0 if classify else np.log(y.std())))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    parts = ("swag", "subspace")
    args = parse(__doc__, ("--only", {"choices": parts, "default": None, "help": "one of the two"}))
    factors = (0.1, 1.0) if args.quick else (0.03, 0.1, 0.3, 1.0, 2.0, 4.0)
    rows = []
    for name, one in data(args.quick).items():
        row = {"data": name, "ensemble": score(*one, Ensemble(5))}
        if args.only != "subspace":
            default = sgd_path.RATE
            for factor in factors:
                sgd_path.RATE = factor
                row[f"swag {factor:g}"] = score(*one, MultiSWAG(n_modes=5, n_draws=10))
            sgd_path.RATE = default
        if args.only != "swag":
            for kind in ("pca",) if args.quick else ("pca", "random", "curve"):
                for temperature in ("n_dims", 1.0):
                    method = Subspace(kind, temperature=temperature, n_warmup=50, n_draws=50)
                    row[f"{kind}, T={temperature}"] = score(*one, method)
        table([row])
        rows.append(row)
    finish(
        "weight_averaging", {r.pop("data"): {k: round(v, 3) for k, v in r.items()} for r in rows}
    )


if __name__ == "__main__":
    main()
