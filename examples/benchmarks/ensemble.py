"""Deep ensemble of 20 trained as one batch, against a loop of 20 scikit-learn MLP fits.

Both sides have the same sizes, penalty, batch size, number of Adam steps and stopping rule (a
fixed number of epochs), the same data and the same single core. The figures are the ratio of the
fit times (the median over seeds) and the paired difference of the log losses of the averaged
probabilities on test rows. With ``--early`` both stop early on 10 % held-out rows instead, each by
its own score (scikit-learn's is the accuracy, ours the log likelihood, so that the numbers of
steps differ).

    python examples/benchmarks/ensemble.py [--quick] [--early]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings

import numpy as np
import torch
from _common import finish, parse, table
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from skbayes import BayesianMLPClassifier
from skbayes.inference import Ensemble
from skbayes.model.priors import NormalPrior

N_MEMBERS, HIDDEN, BATCH, RATE, EPOCHS, ALPHA = 20, (50,), 200, 1e-3, 60, 1e-4


def data(name: str, seed: int):
    if name == "digits":
        X, y = load_digits(return_X_y=True)
    else:
        X, y = make_classification(
            5000, 20, n_informative=10, n_classes=2, flip_y=0.05, random_state=123
        )
    A, B, a, b = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(A)
    return scaler.transform(A), scaler.transform(B), a, b


def ours(A, a, B, seed, early):
    # scikit-learn's alpha |w|^2 / (2 n) per row is the prior N(0, 1 / alpha)
    method = Ensemble(
        N_MEMBERS,
        learning_rate=RATE,
        batch_size=BATCH,
        max_epochs=200 if early else EPOCHS,
        validation_fraction=0.1 if early else 0.0,
        n_iter_no_change=10,
        tol=1e-4,
    )
    clf = BayesianMLPClassifier(
        HIDDEN,
        activation="relu",
        method=method,
        prior=NormalPrior(ALPHA**-0.5),
        standardize=False,
        random_state=seed,
    )
    start = time.perf_counter()
    clf.fit(A, a)
    return time.perf_counter() - start, clf.predict_proba(B)


def theirs(A, a, B, seed, early):
    start = time.perf_counter()
    members = [
        MLPClassifier(
            HIDDEN,
            batch_size=BATCH,
            alpha=ALPHA,
            learning_rate_init=RATE,
            max_iter=200 if early else EPOCHS,
            early_stopping=early,
            n_iter_no_change=10 if early else EPOCHS + 1,
            random_state=100 * seed + m,
        ).fit(A, a)
        for m in range(N_MEMBERS)
    ]
    seconds = time.perf_counter() - start
    proba = np.mean([m.predict_proba(B) for m in members], 0)
    return seconds, proba


def row_loss(proba, y):
    return -np.log(np.maximum(proba[np.arange(len(y)), y], 1e-15))


def main() -> None:
    args = parse(__doc__, ("--early", {"action": "store_true", "help": "stop early"}))
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    seeds = range(1 if args.quick else 5)
    rows, figures = [], {}
    for name in ("digits", "simulated"):
        ratios, differences = [], []
        for seed in seeds:
            A, B, a, b = data(name, seed)
            t_ours, p_ours = ours(A, a, B, seed, args.early)
            t_theirs, p_theirs = theirs(A, a, B, seed, args.early)
            ratios.append(t_theirs / t_ours)
            loss, other = row_loss(p_ours, b), row_loss(p_theirs, b)
            differences.append(loss - other)
            rows.append(
                {
                    "data": name,
                    "seed": seed,
                    "ours s": t_ours,
                    "scikit-learn s": t_theirs,
                    "ratio": ratios[-1],
                    "our log loss": float(loss.mean()),
                    "their log loss": float(other.mean()),
                }
            )
        paired = np.concatenate(differences)
        figures[name] = {
            "speed_ratio_median": round(float(np.median(ratios)), 2),
            "log_loss_difference": round(float(paired.mean()), 5),
            "paired_standard_error": round(float(paired.std(ddof=1) / np.sqrt(len(paired))), 5),
        }
    table(rows)
    finish("ensemble-early" if args.early else "ensemble", figures)


if __name__ == "__main__":
    main()
