"""skorch callbacks on the training of a variational autoencoder."""

from __future__ import annotations

from skbayes.callbacks import Notifier
from skbayes.density.model import VAE


class VAEListener(Notifier):
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
        super().__init__(estimator, model, X, None)
        self.net.initialize()
        self.net.module_ = model
        self.begin()

    def step(self, loss: float, held_out: float) -> None:
        """End an evaluation and begin the next."""
        self.record("train_loss", loss)
        self.record("valid_loss", held_out)
        self.next_epoch()
