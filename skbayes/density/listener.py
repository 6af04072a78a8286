"""skorch callbacks on the training of a variational autoencoder."""

from __future__ import annotations

import numpy as np
import torch

from skbayes.callbacks import _import_skorch, _net_class
from skbayes.density.model import VAE


class VAEListener:
    """Tells skorch callbacks of every evaluation; the net's module is the model in training.

    A callback that raises ``KeyboardInterrupt``, as ``EarlyStopping`` does, ends the training.

    Parameters
    ----------
    estimator : VAEDensityEstimator
        With ``callbacks`` and ``verbose``; gets ``history_``.
    model : VAE
        What is trained.
    X : array-like
        Rows, which callbacks are passed.
    """

    def __init__(self, estimator, model: VAE, X) -> None:
        skorch = _import_skorch()
        self.estimator, self.X = estimator, X
        self.best = {"train_loss": np.inf, "valid_loss": np.inf}
        self.net = _net_class(skorch)(
            model,
            criterion=torch.nn.MSELoss,  # never called; skorch wants one
            callbacks=list(estimator.callbacks),
            train_split=None,
            verbose=estimator.verbose,
        )
        self.net.initialize()
        self.net.module_ = model
        self.data = {"dataset_train": skorch.dataset.Dataset(X, None), "dataset_valid": None}
        self.net.notify("on_train_begin", X=X, y=None)
        self._begin()

    def _begin(self) -> None:
        self.net.notify("on_epoch_begin", **self.data)
        self.net.history.new_batch()  # Checkpoint looks for one

    def step(self, loss: float, held_out: float) -> None:
        """End an evaluation and begin the next."""
        for name, value in (("train_loss", loss), ("valid_loss", held_out)):
            self.net.history.record(name, value)
            self.net.history.record(name + "_best", bool(value < self.best[name]))
            self.best[name] = min(self.best[name], value)
        self.net.notify("on_epoch_end", **self.data)
        self._begin()

    def close(self) -> None:
        """End the training and leave ``history_`` on the estimator."""
        del self.net.history[-1:]  # begun, but not ended
        self.net.notify("on_train_end", X=self.X, y=None)
        rows = [dict(row) for row in self.net.history]
        self.estimator.history_ = [
            {key: value for key, value in row.items() if key != "batches"} for row in rows
        ]
