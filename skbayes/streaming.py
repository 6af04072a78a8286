"""Learning from rows that come in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from skbayes.inference import METHODS, Method
from skbayes.inference.stochastic import StochasticKernel, slower
from skbayes.posterior import Posterior
from skbayes.validation import check_n_jobs, draw_seed, resolve_method, unchanged_on_error

MOST_KEPT = 100_000
"""Rows at most that are remembered."""


class Reservoir(NamedTuple):
    """A uniform sample of the rows seen so far, all of them while there are few."""

    X: Any
    y: np.ndarray
    keys: np.ndarray  # random numbers; the rows with the largest stay
    n_seen: int
    seed: int

    def add(self, X, y) -> Reservoir:
        """The sample with new rows, which may take the places of others."""
        rng = np.random.default_rng([self.seed, self.n_seen])
        X, y = _stack(self.X, X), np.concatenate([self.y, y])
        keys = np.concatenate([self.keys, rng.random(len(y) - len(self.y))])
        n_seen = self.n_seen + len(y) - len(self.y)
        if len(keys) > MOST_KEPT:
            stay = np.sort(np.argpartition(keys, -MOST_KEPT)[-MOST_KEPT:])
            X = (X.tocsr() if sp.issparse(X) else X)[stay]
            y, keys = y[stay], keys[stay]
        return Reservoir(X, y, keys, n_seen, self.seed)


def _streams(estimator) -> bool:
    """Whether the method can go on with new rows."""
    method = estimator.method
    kind = METHODS.get(method) if isinstance(method, str) else type(method)
    if isinstance(kind, type) and issubclass(kind, Method) and kind.can_stream:
        return True
    names = ", ".join(repr(name) for name, cls in METHODS.items() if cls.can_stream)
    raise AttributeError(
        f"partial_fit is not there with method={method!r}; methods that stream are {names}."
    )


class StreamingMixin(BaseEstimator):
    """Adds ``partial_fit`` to estimators whose method streams."""

    _reservoir: Reservoir | None
    _weight_seen: float

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Stand for what `BayesianEstimator` has."""

    @available_if(_streams)
    def partial_fit(self, X, y, classes=None):
        """Go on with more rows.

        The first call is `fit` on its rows, and fixes scalers and starting points: give it some
        hundred rows at least. Each later call adds its rows to those seen before and moves the
        chains on minibatches of old and new ones, for at least as many steps as a pass over the
        new rows or an iteration (100, where ``n_steps`` is None) has. Up to 100,000 rows are
        remembered; of more a uniform sample is, and the posterior is that given the sample. The
        last ``n_draws`` draws of each chain are kept. (``"ensemble_filter"`` moves its members on
        instead, see there.)

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            New rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        classes : array-like of shape (n_classes,), optional
            All classes, for classifiers, in the first call; those of its y if not given.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed. The estimator is then as it was.
        """
        with unchanged_on_error(self):
            self._partial_fit(X, y, classes)
        self._warn()
        return self

    def _partial_fit(self, X, y, classes) -> None:
        check_n_jobs(self.n_jobs)
        method: Any = resolve_method(self.method)
        again = hasattr(self, "posterior_")
        self._check_streaming(method, again)
        seed = draw_seed(self.random_state)
        X, y = validate_data(
            self,
            X,
            y,
            **self._x_checks,
            dtype=[np.float64, np.float32],
            multi_output=True,
            reset=not again,
        )
        n_new = X.shape[0]
        kept = getattr(self, "_reservoir", None)
        if kept is None or not again:
            kept = Reservoir(X[:0], y[:0], np.empty(0), 0, seed)
        before = kept
        if again and y.shape[1:] != kept.y.shape[1:]:
            raise ValueError(
                f"y has the shape {y.shape}, but a row's target of the first call had "
                f"{kept.y.shape[1:]}."
            )
        kept = kept.add(X, y)
        if method.filters:
            self._filter(method, before, kept, X, y, seed, again, classes)
            self._reservoir = kept
            return
        n_draws = method.n_draws
        data = self._prepare(kept.X, kept.y, None, again, seed, classes)
        state = None
        if again:
            more = data.target.total_weight / self._weight_seen
            factor = 1.0 / more
            factor *= method.share_for_noise(len(kept.y)) / method.share_for_noise(len(before.y))
            state = {**self.posterior_.state}
            state["groups"] = [_with_rates(group, factor, more) for group in state["groups"]]
            steps = max(
                method.steps_of_a_pass(n_new), method.n_steps or StochasticKernel.fewest_steps
            )
            few = min(n_draws, steps)
            method = clone(method).set_params(n_draws=few, n_steps=-(-steps // few))
        posterior = self._run(method, data, None, seed, state=state)
        if again:
            _put_before(self.posterior_, posterior, n_draws)
        if posterior.state is not None:
            posterior.state["data"] = None
        self._reservoir, self._weight_seen = kept, data.target.total_weight
        self._store(posterior, data.inside, seed)

    def _filter(self, method, before, kept: Reservoir, X, y, seed: int, again, classes) -> None:
        """Move members on by new rows and some of those before, or train them at first."""
        theta0 = weight = None
        if again:
            # inflation must not repeat itself from call to call
            seed = int(np.random.SeedSequence([seed, before.n_seen]).generate_state(1)[0] >> 1)
            chosen = np.arange(len(before.y))
            if method.n_replay is not None and len(chosen) > method.n_replay:
                rng = np.random.default_rng(seed)
                chosen = np.sort(rng.choice(chosen, method.n_replay, replace=False))
            share = method.old_weight() * before.n_seen / max(1, len(chosen))
            if share == 0:
                chosen = chosen[:0]
            weight = np.concatenate([np.full(len(chosen), share), np.ones(len(y))])
            X, y = _stack(before.X[chosen], X), np.concatenate([before.y[chosen], y])
        data = self._prepare(X, y, weight, again, seed, classes)
        if again:
            theta0 = self._warm_theta(method, data.target.dtype, data.target.device)
            remembered = None
            if getattr(data.target.likelihood, "learned", False):
                remembered = self._prepare(kept.X, kept.y, None, True, seed, classes).target
            method = method.move(remembered)
        posterior = self._run(method, data, theta0, seed)
        self._store(posterior, data.inside, seed)

    def _check_streaming(self, method, again: bool) -> None:
        """Raise unless the model can be gone on with."""
        if isinstance(getattr(self, "class_weight", None), str):
            raise ValueError(
                f"class_weight={self.class_weight!r} is not allowed in partial_fit, which does not "
                "know how frequent classes will be; pass a dict."
            )
        if not again:
            return
        if getattr(self, "_reservoir", None) is None:
            raise ValueError(
                "partial_fit goes on with the rows that it was given itself, but this model was "
                "fitted by fit; begin with partial_fit on a clone."
            )
        if self.posterior_.state is None and not method.filters:
            raise ValueError(
                "partial_fit cannot go on, since the first call was interrupted before its chains "
                "began; begin with a clone."
            )
        n_chains = self.posterior_.n_chains
        if n_chains != method.chain_count():
            raise ValueError(
                f"partial_fit goes on with {n_chains} chains, but method now asks for "
                f"{method.chain_count()}; keep their number, or begin with a clone."
            )


def _stack(old, new):
    """Rows of two chunks in one."""
    return sp.vstack([old, new]) if sp.issparse(new) else np.concatenate([old, new])


def _with_rates(group: dict, factor: float, more: float) -> dict:
    """Chains with steps multiplied by ``factor``, on data of ``more`` times the weight."""
    kernel = slower(group["kernel"], factor)
    if "variance" in kernel:  # of the gradient of a minibatch, which stands for more rows
        variance = kernel["variance"]
        kernel["variance"] = (variance * more**2).astype(variance.dtype)
    return {**group, "kernel": kernel}


def _put_before(old: Posterior, new: Posterior, n_draws: int) -> None:
    """Put the draws of an earlier run before those of a later one, and keep the last."""
    new.draws = np.concatenate([old.draws, new.draws], 1)[:, -n_draws:]
    new.stats = {
        name: np.concatenate([old.stats[name], values], 1)[:, -n_draws:]
        for name, values in new.stats.items()
        if name in old.stats
    }
