"""Acquisition functions by name, with their options, on a pool of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from skbayes.active import acquisition, moments
from skbayes.active.draws import Draws
from skbayes.active.rows import REFERENCE, Geometry, n_rows, take
from skbayes.counts import check_own_count


class Kind(NamedTuple):
    """What an acquisition function is for, and what it needs."""

    classification: Callable | None = None
    regression: Callable | None = None
    draws: bool = False
    """Whether it needs more than one draw (a regressor's ``variance`` can do without)."""

    noise: bool = False
    """Whether regressors must tell their noise."""

    targets: bool = False
    """Whether it is about predictions at target rows."""

    corrected: bool = False
    """Whether there is a correction for few draws."""


ACQUISITIONS: dict[str, Kind] = {
    "random": Kind(),
    "margin": Kind(acquisition.margin),
    "entropy": Kind(acquisition.entropy),
    "least_confident": Kind(acquisition.least_confident),
    "variance": Kind(acquisition.variance, moments.variance, draws=True),
    "bald": Kind(acquisition.bald, moments.bald, draws=True, noise=True, corrected=True),
    "epig": Kind(
        acquisition.epig, moments.epig, draws=True, noise=True, targets=True, corrected=True
    ),
    "core_mse": Kind(acquisition.core_mse, draws=True, targets=True, corrected=True),
    "expected_error": Kind(
        acquisition.expected_error,
        moments.expected_error,
        draws=True,
        noise=True,
        targets=True,
        corrected=True,
    ),
    "qbc": Kind(acquisition.qbc, moments.variance, draws=True),
    "expected_utility": Kind(
        acquisition.expected_utility, draws=True, targets=True, corrected=True
    ),
}
"""Acquisition functions by name; "auto" is chosen among them."""


class Acquisition(BaseEstimator):
    r"""An acquisition function with its options.

    The utility of a row is

    .. math:: U(x)\ \rho(x)^{\text{density}}\ d(x)^{\text{distance}}

    with U the acquisition function, :math:`\rho` the density of the pool at the row (Settles and
    Craven, 2008), so that outliers are left alone, and d the distance to the nearest labelled row,
    so that requests spread out as a core-set does (Sener and Savarese, 2018).

    Parameters
    ----------
    name : str, default="auto"
        ``"random"``, ``"margin"``, ``"entropy"``, ``"least_confident"``, ``"variance"``,
        ``"bald"``, ``"epig"``, ``"core_mse"``, ``"expected_error"``, ``"qbc"``,
        ``"expected_utility"``, see `skbayes.active.acquisition` and `skbayes.active.moments`.
        ``"auto"`` is ``"bald"`` for classifiers with draws and two classes, and the margin for
        all other classifiers; for regressors ``"bald"`` where draws and their noise are there,
        else ``"variance"``.
    n_draws : int or None, default=None
        Draws (members of a committee) at most; None are all that there are.
    targets : array-like or None, default=None
        Rows whose predictions count, for functions of expected gains, as the estimator takes
        them. None is a sample of the unlabelled rows.
    n_targets : int, default=200
        Size of that sample.
    utility : {"log", "brier", "zero_one"} or callable, default="log"
        The convex function G of ``"expected_utility"``: it takes probabilities (..., n_classes)
        and gives (...).
    corrected : bool, default=True
        Whether the bias of few draws is corrected, where there is a correction.
    density : float, default=0.0
        Power of the density; 0 does without.
    distance : float, default=0.0
        Power of the distance to the nearest labelled row; 0 does without.
    """

    def __init__(
        self,
        name="auto",
        n_draws=None,
        targets=None,
        n_targets=200,
        utility="log",
        corrected=True,
        density=0.0,
        distance=0.0,
    ):
        self.name = name
        self.n_draws = n_draws
        self.targets = targets
        self.n_targets = n_targets
        self.utility = utility
        self.corrected = corrected
        self.density = density
        self.distance = distance

    def check(self) -> None:
        """Raise a ValueError that names the parameter, its value and what is allowed."""
        if self.name != "auto" and self.name not in ACQUISITIONS:
            raise ValueError(
                f"acquisition={self.name!r} is not known; allowed are 'auto', "
                f"{', '.join(map(repr, ACQUISITIONS))}, or an Acquisition object."
            )
        if not callable(self.utility) and self.utility not in acquisition.UTILITIES:
            raise ValueError(
                f"Acquisition: utility={self.utility!r} is not allowed; it must be a function, or "
                f"one of {', '.join(map(repr, acquisition.UTILITIES))}."
            )
        if self.n_draws is not None:
            check_own_count(self, "n_draws", 2)
        check_own_count(self, "n_targets")
        if not isinstance(self.corrected, bool | np.bool_):
            raise ValueError(
                f"Acquisition: corrected={self.corrected!r} is not allowed; it must be True or "
                "False."
            )
        if self.targets is not None and not n_rows(self.targets):
            raise ValueError("Acquisition: targets has no rows; pass some, or None.")
        for name in ("density", "distance"):
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            if not good or not 0 <= value < np.inf:
                raise ValueError(
                    f"Acquisition: {name}={value!r} is not allowed; it must be a number >= 0."
                )

    def resolve(self, draws: Draws) -> str:
        """The function's name for an estimator; raises where the two do not go together."""
        name = self.name
        if name == "auto":
            if not draws.regression:
                two = len(draws.final.classes_) <= 2
                return "bald" if draws.several and two else "margin"
            return "bald" if draws.posterior else "variance"
        kind = ACQUISITIONS[name]
        final = type(draws.final).__name__
        task = "regressors" if draws.regression else "classifiers"
        function = kind.regression if draws.regression else kind.classification
        if name != "random" and function is None:
            usable = [
                key
                for key, other in ACQUISITIONS.items()
                if key == "random" or (other.regression if draws.regression else other[0])
            ]
            raise ValueError(
                f"acquisition={name!r} is not for {task}, such as {final}; these have "
                f"{', '.join(map(repr, usable))}."
            )
        alone = draws.regression and function is moments.variance
        if kind.draws and not draws.several and not alone:
            raise ValueError(
                f"acquisition={name!r} needs draws, but {final} has neither predict_draws nor "
                f"members; use {'variance' if draws.regression else 'margin'!r}."
            )
        if kind.noise and draws.regression and not draws.posterior:
            raise ValueError(
                f"acquisition={name!r} needs the noise of the draws, which {final} does not tell; "
                "use 'variance'."
            )
        return name

    def __call__(
        self, draws: Draws, X, rows, labelled, rng: np.random.Generator, unlabelled=None
    ) -> np.ndarray:
        """Utilities of some rows of X.

        Parameters
        ----------
        draws : Draws
            The fitted estimator.
        X : rows
            The pool.
        rows : ndarray of shape (n,)
            Candidates.
        labelled : rows
            Rows that have labels, from which distances are taken.
        rng : Generator
            For what is sampled.
        unlabelled : ndarray of int, optional
            Rows of X among which targets are; the candidates if not given. What a row is worth
            does not depend on which other rows are candidates.

        Returns
        -------
        ndarray of shape (n,)
        """
        name = self.resolve(draws)
        unlabelled = rows if unlabelled is None else unlabelled
        utilities = self._plain(name, draws, X, rows, unlabelled, rng)
        if self.density or self.distance:
            n = n_rows(X)
            sample = np.sort(rng.choice(n, min(REFERENCE, n), replace=False))
            geometry = Geometry(draws.transform(take(X, sample)))
            others = draws.transform(labelled) if self.distance and n_rows(labelled) else None
            factors = []
            for part in _blocks(len(rows), 1 << 13):
                inside = draws.transform(take(X, rows[part]))
                factor = np.ones(inside.shape[0])
                if self.density:
                    factor = geometry.density(inside) ** self.density
                if others is not None:
                    factor = factor * geometry.distance(inside, others) ** self.distance
                factors.append(factor)
            utilities = np.maximum(utilities, 0.0) * np.concatenate(factors)
        return utilities

    def _plain(self, name: str, draws: Draws, X, rows, unlabelled, rng) -> np.ndarray:
        """The acquisition function alone."""
        if name == "random":
            return rng.random(n_rows(X))[rows]
        kind = ACQUISITIONS[name]
        function = kind.regression if draws.regression else kind.classification
        assert function is not None
        arguments: dict = {}
        if kind.corrected:
            arguments["corrected"] = self.corrected
        if name == "expected_utility":
            arguments["utility"] = acquisition.UTILITIES.get(self.utility, self.utility)
        if kind.targets:
            if self.targets is not None:
                arguments["targets"] = draws(self.targets)
            else:
                some = rng.choice(unlabelled, min(self.n_targets, len(unlabelled)), replace=False)
                arguments["targets"] = draws(take(X, np.sort(some)))
        n_classes = 2 if draws.regression else len(draws.final.classes_)
        size = draws.rows_of_a_block(n_classes)
        parts = []
        for part in _blocks(len(rows), size):
            found = draws(take(X, rows[part]))
            parts.append(function(found, **arguments))
        return np.concatenate(parts)


def _blocks(n: int, size: int):
    """Slices of n rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
