"""Stopping: when further labels are not worth their price."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import cohen_kappa_score

from skbayes.active import acquisition, moments
from skbayes.active.draws import Draws
from skbayes.counts import check_own_count


class Stopping(BaseEstimator):
    """A stopping rule: looks at every fitted model in turn.

    A rule keeps nothing on itself; what it has to remember is in the dict that it is given.
    """

    def check(self) -> None:
        """Raise a ValueError that names the parameter, its value and what is allowed."""

    def reason(self, memory: dict[str, Any], estimator, X, n_answers: int) -> str | None:
        """Why to stop, None to go on.

        Parameters
        ----------
        memory : dict
            What the rule has kept of earlier rounds; changed in place.
        estimator : object or None
            The fitted estimator.
        X : rows
            A fixed sample of the rows that had no label at first.
        n_answers : int
            Answers taught so far, without those that `fit` was given.
        """
        raise NotImplementedError("abstract")


class Rules:
    """The rules of a learner: what they have kept, and whether one applies.

    Attributes
    ----------
    reason : str or None
        What made a rule apply.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._memory: list[dict[str, Any]] = []
        self._key: list | None = None
        self._n_answers = -1

    def look(self, rules: list[Stopping], estimator, X, n_answers: int) -> None:
        """Ask the rules, where there are more answers or other rules than before.

        Parameters
        ----------
        rules : list of Stopping
            The rules.
        estimator : object or None
            The fitted estimator.
        X : callable
            Gives the rows that rules look at.
        n_answers : int
            Answers taught so far.
        """
        key = [(type(rule), repr(rule.get_params())) for rule in rules]
        if key != self._key:  # these have seen nothing yet
            self._key, self._n_answers = key, -1
            self._memory = [{} for _ in rules]
        if n_answers != self._n_answers:
            self.reason = None
        if n_answers > self._n_answers and rules:
            rows = X()
            for rule, memory in zip(rules, self._memory, strict=True):
                reason = rule.reason(memory, estimator, rows, n_answers)
                if reason is not None and self.reason is None:
                    self.reason = f"{type(rule).__name__}: {reason}"
        self._n_answers = n_answers


class Budget(Stopping):
    """Stop after a number of answers.

    Parameters
    ----------
    n_answers : int
        Answers, without the labels that `fit` was given.
    """

    def __init__(self, n_answers):
        self.n_answers = n_answers

    def check(self):
        """Check the parameter, see `Stopping.check`."""
        check_own_count(self, "n_answers")

    def reason(self, memory, estimator, X, n_answers):
        """See `Stopping.reason`."""
        if n_answers >= self.n_answers:
            return f"{n_answers} answers were given, of {self.n_answers}."
        return None


class Stability(Stopping):
    r"""Stop when the predictions at fixed rows no longer change.

    Bloodgood and Vijay-Shanker (2009): the agreement of every model with the one before, Cohen's
    kappa, is at least ``threshold`` on average over ``n_rounds`` rounds. For regressors it is Lin's
    concordance correlation, which is the kappa of squared differences.

    Parameters
    ----------
    threshold : float, default=0.99
        Agreement.
    n_rounds : int, default=3
        Rounds.
    """

    def __init__(self, threshold=0.99, n_rounds=3):
        self.threshold = threshold
        self.n_rounds = n_rounds

    def check(self):
        """Check the parameters, see `Stopping.check`."""
        check_own_count(self, "n_rounds")
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold <= 1:
            raise ValueError(
                f"Stability: threshold={self.threshold!r} is not allowed; it must be in (0, 1]."
            )

    def reason(self, memory, estimator, X, n_answers):
        """See `Stopping.reason`."""
        if estimator is None:
            return None
        predicted = np.asarray(estimator.predict(X))
        before = memory.get("predicted")
        memory["predicted"] = predicted
        if before is None:
            return None
        numeric = Draws(estimator).regression
        found = _concordance(before, predicted) if numeric else _kappa(before, predicted)
        memory["agreement"] = [*memory.get("agreement", []), found][-self.n_rounds :]
        mean = float(np.mean(memory["agreement"]))
        if len(memory["agreement"]) == self.n_rounds and mean >= self.threshold:
            return f"predictions agreed by {mean:.4f} over {self.n_rounds} rounds."
        return None


class LowInformation(Stopping):
    """Stop when a label is expected to tell little: the mean mutual information at fixed rows.

    Entropy or total variance would not do, which stay high where labels are noisy. (Models that
    are trained on from the last ones without a prior grow too sure of themselves, so that their
    information falls before anything is learned.)

    Parameters
    ----------
    threshold : float, default=0.01
        Nats per row.
    """

    def __init__(self, threshold=0.01):
        self.threshold = threshold

    def check(self):
        """Check the parameter, see `Stopping.check`."""
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold < np.inf:
            raise ValueError(
                f"LowInformation: threshold={self.threshold!r} is not allowed; it must be over 0."
            )

    def reason(self, memory, estimator, X, n_answers):
        """See `Stopping.reason`."""
        if estimator is None:
            return None
        draws = Draws(estimator)
        if not draws.several or (draws.regression and not draws.posterior):
            raise ValueError(
                "LowInformation needs draws (and for regressors their noise), which "
                f"{type(draws.final).__name__} does not give; use Stability or Budget."
            )
        found = draws(X)
        information = moments.bald(found) if draws.regression else acquisition.bald(found)
        value = memory["information"] = float(information.mean())
        if value < self.threshold:
            return f"a label is expected to tell {value:.3g} nats, under {self.threshold:.3g}."
        return None


def _kappa(a, b) -> float:
    """Cohen's kappa; one where both always say the same class."""
    return 1.0 if (a == b).all() else float(cohen_kappa_score(a, b))


def _concordance(a, b) -> float:
    """Lin's concordance correlation."""
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 1.0 if spread == 0 else float(2 * np.mean((a - a.mean()) * (b - b.mean())) / spread)
