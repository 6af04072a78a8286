"""Checks of a learner's parameters, and of what it is given."""

from __future__ import annotations

import numpy as np
from sklearn.base import is_classifier, is_regressor

from skbayes.active.batch import BATCHES, Batch
from skbayes.active.stopping import Stopping
from skbayes.active.utility import Acquisition


def check_parameters(learner) -> None:
    """Raise a ValueError where a parameter of a learner is not allowed."""
    estimator, classes = learner.estimator, learner.classes
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise ValueError(
            f"estimator={estimator!r} is not allowed; it must be a classifier or a regressor."
        )
    resolve_acquisition(learner.acquisition).check()
    resolve_batch(learner.batch).check()
    for rule in resolve_rules(learner.stopping):
        rule.check()
    if classes is None:
        return
    if is_regressor(estimator):
        raise ValueError("classes is not allowed with a regressor; leave it None.")
    if len(np.unique(np.asarray(classes))) < 2:
        raise ValueError(f"classes={classes!r} is not allowed; there must be 2 classes or more.")


def resolve_acquisition(given) -> Acquisition:
    """Turn ``acquisition=`` into an object."""
    if isinstance(given, Acquisition):
        return given
    if isinstance(given, str):
        return Acquisition(given)
    raise ValueError(
        f"acquisition={given!r} is not allowed; it must be a string or an Acquisition object."
    )


def resolve_batch(given) -> Batch:
    """Turn ``batch=`` into an object."""
    if isinstance(given, Batch):
        return given
    if isinstance(given, str) and given in BATCHES:
        return BATCHES[given]()
    raise ValueError(
        f"batch={given!r} is not allowed; it must be one of {', '.join(map(repr, BATCHES))}, or "
        "an object such as Power(beta=2.0)."
    )


def resolve_rules(given) -> list[Stopping]:
    """Turn ``stopping=`` into a list of rules."""
    rules = [] if given is None else given if isinstance(given, list | tuple) else [given]
    for rule in rules:
        if not isinstance(rule, Stopping):
            raise ValueError(
                f"stopping={given!r} is not allowed; it must be None, an object such as "
                "Stability(), or a list of such."
            )
    return list(rules)


def check_indices(name: str, indices, n: int) -> np.ndarray:
    """Row numbers as an integer array, of a number, several, or a mask of all rows."""
    out = np.atleast_1d(np.asarray(indices))
    if out.dtype.kind == "b" and out.shape == (n,):
        return np.flatnonzero(out)
    if out.ndim != 1 or (out.dtype.kind not in "iu" and len(out)):
        raise ValueError(
            f"{name} must be integers in one dimension, or a mask of {n} booleans, not of shape "
            f"{out.shape} and type {out.dtype}."
        )
    out = out.astype(np.intp)
    if len(out) and (out.min() < 0 or out.max() >= n):
        low, high = out.min(), out.max()
        raise ValueError(f"{name} must be from 0 to {n - 1}, but go from {low} to {high}.")
    return out
