"""skorch callbacks on the methods of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.model import LogPosterior
from skbayes.model.out_of_core import OutOfCoreLogPosterior

N_ROWS = 1000
"""Rows at most on which ``train_loss`` is computed."""

NOT_HERE = ("LRScheduler", "GradientNormClipping", "ParamMapper", "InputShapeSetter")
"""Callbacks, with all derived from them, that steer skorch's own training loop."""


def check_callbacks(callbacks, losses: tuple[str, ...] = ("train_loss",)) -> None:
    """Raise unless all are skorch callbacks that can do here what they are for.

    ``losses`` are what the fit records of every epoch.
    """
    skorch = _import_skorch()
    if not isinstance(callbacks, list | tuple):
        raise ValueError(
            f"callbacks={callbacks!r} is not allowed; it must be a list of skorch callbacks."
        )
    for entry in callbacks:
        callback = entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else entry
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, skorch.callbacks.Callback):
            raise ValueError(
                f"callbacks: {entry!r} is not allowed; it must be a skorch callback, its class, or "
                "a pair of a name and one of these."
            )
        for name in NOT_HERE:
            if issubclass(kind, getattr(skorch.callbacks, name)):
                raise ValueError(
                    f"callbacks: {kind.__name__} is not allowed; it steers the optimiser or the "
                    "weights of skorch, which are not used here (the method has its own)."
                )
        if issubclass(kind, skorch.callbacks.EpochScoring):
            raise ValueError(
                f"callbacks: {kind.__name__} is not allowed; skorch's scoring of held-out rows is "
                f"not used here. Score the fitted estimator, or watch {_named(losses)}."
            )
        watched = getattr(callback, "monitor", "valid_loss")
        stops = issubclass(kind, skorch.callbacks.EarlyStopping)
        if stops and watched == "valid_loss" and "valid_loss" not in losses:
            raise ValueError(
                f"callbacks: {kind.__name__} with monitor='valid_loss' is not allowed, since there "
                f"is no such loss here; it may watch {_named(losses)}."
            )


def _named(losses: tuple[str, ...]) -> str:
    return " or ".join(map(repr, losses))


class WatchedLogPosterior(LogPosterior):
    """A log posterior that remembers the last weights that it was asked about."""

    last_theta: list[Tensor | None]

    @classmethod
    def of(cls, target: LogPosterior) -> WatchedLogPosterior:
        """The same posterior, watched; copies of it share what is remembered."""
        on_disk = isinstance(target, OutOfCoreLogPosterior)
        kind = WatchedOutOfCoreLogPosterior if on_disk else cls
        out = kind.__new__(kind)
        out.__dict__.update(target.__dict__)
        out.last_theta = [None]
        return out

    def seen(self, theta):
        """Remember theta, see `LogPosterior.seen`."""
        self.last_theta[0] = theta

    def _evaluate(self, theta, with_value):
        self.last_theta[0] = theta
        return super()._evaluate(theta, with_value)


class WatchedOutOfCoreLogPosterior(WatchedLogPosterior, OutOfCoreLogPosterior):
    """The same for rows that are not in memory."""


class Notifier:
    """A skorch net that holds the history and a module, and tells its callbacks of epochs.

    Parameters
    ----------
    estimator : BaseEstimator
        With ``callbacks`` and ``verbose``; gets ``history_``.
    module : nn.Module
        What callbacks see as the net's.
    X, y : array-like
        Training data, which callbacks are passed.
    """

    def __init__(self, estimator, module: torch.nn.Module, X, y) -> None:
        skorch = _import_skorch()
        self.estimator, self.X, self.y = estimator, X, y
        self._best: dict[str, float] = {}
        self.net = _net_class(skorch)(
            module,
            criterion=torch.nn.MSELoss,  # never called; skorch wants one
            callbacks=list(estimator.callbacks),
            train_split=None,
            verbose=estimator.verbose,
        )
        self.data = {"dataset_train": skorch.dataset.Dataset(X, y), "dataset_valid": None}

    def begin(self) -> None:
        """Start the training and its first epoch."""
        self.begun = False
        self.net.notify("on_train_begin", X=self.X, y=self.y)
        self._begin()

    def _begin(self) -> None:
        self.begun = True
        self.net.notify("on_epoch_begin", **self.data)
        self.net.history.new_batch()  # Checkpoint looks for one

    def record(self, name: str, value: float) -> None:
        """Write a loss into the history, and whether it is the best so far."""
        best = self._best.get(name, np.inf)
        self.net.history.record(name, value)
        self.net.history.record(name + "_best", bool(value < best))
        self._best[name] = min(best, value)

    def next_epoch(self) -> None:
        """End an epoch and begin the next."""
        self.begun = False  # also where a callback raises, which ends the training
        self.net.notify("on_epoch_end", **self.data)
        self._begin()

    def end(self) -> None:
        """End the training and leave ``history_`` on the estimator."""
        if self.begun:
            del self.net.history[-1:]  # begun, but not ended
        self.net.notify("on_train_end", X=self.X, y=self.y)
        rows = [dict(row) for row in self.net.history]
        self.estimator.history_ = [
            {key: value for key, value in row.items() if key != "batches"} for row in rows
        ]


class Listener(Notifier):
    """Turns the steps of a method into what skorch tells its callbacks.

    A context manager that gives the log posterior to run on and its ``on_step``.

    Parameters
    ----------
    estimator : BayesianEstimator
        With ``callbacks`` and ``verbose``; gets ``history_``.
    target : LogPosterior
        What is run on.
    on_step : callable
        Called at every step as before.
    X, y : ndarray
        Training data as the user gave them, which callbacks are passed.
    """

    def __init__(self, estimator, target: LogPosterior, on_step, X, y) -> None:
        self.target, self.on_step = target, on_step
        self.watched = WatchedLogPosterior.of(target)
        index = np.linspace(0, target.n - 1, min(target.n, N_ROWS)).round().astype(int)
        # the target itself, since asking it must not look like a step
        self._some = target if target.n <= N_ROWS else target.minibatch(index)
        module = target.network.to_module(np.zeros(target.network.n_params, dtype=np.float32))
        module.requires_grad_(True)
        super().__init__(estimator, module, X, y)

    def __enter__(self):
        with torch.enable_grad():
            self.net.initialize()
        self.begin()
        return self.watched, self.step

    def __exit__(self, *error) -> None:
        self.end()

    def step(self, done: int, total: int, text: str) -> None:
        """End an epoch and begin the next."""
        self.on_step(done, total, text)
        theta = self.watched.last_theta[0]
        if theta is not None:
            self._record(theta)
        self.next_epoch()

    def _record(self, theta: Tensor) -> None:
        """Write the loss into the history and the weights into the net's module."""
        layout, network = self.target.layout, self.target.network
        with torch.no_grad():
            loss = -float(self._some(theta).mean()) / self.target.total_weight
            network.load_into(self.net.module_, layout.for_forward(theta[:1])[0].cpu())
        self.record("train_loss", loss)


def _net_class(skorch) -> Any:
    class Net(skorch.NeuralNet):
        """Holds the history and the module; does not train."""

        def get_default_callbacks(self):
            return []

    return Net


def _import_skorch():
    import skorch
    import skorch.callbacks
    import skorch.dataset

    return skorch
