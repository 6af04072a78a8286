"""Maximum a posteriori: the mode, a network without uncertainty of its weights."""

from __future__ import annotations

import torch

from skbayes.inference.base import Method, points
from skbayes.inference.optimizers import climb


class MAP(Method):
    r"""Mode of the posterior.

    .. math:: \hat\theta = \arg\max_\theta \sum_i \log p(y_i \mid x_i, \theta) + \log p(\theta)

    With a normal prior this is training with weight decay; the posterior that the other methods
    explore has this point as its peak (or one of them).

    Parameters
    ----------
    solver : {"auto", "adam", "sgd", "lbfgs"}, default="auto"
        "sgd" is stochastic gradient descent with momentum, "adam" Kingma and Ba (2015), "lbfgs" a
        quasi-Newton method on the full data; "auto" is Adam, and L-BFGS after it up to 5,000 rows
        and 5,000 weights (for a linear model L-BFGS alone).
    learning_rate : float or None, default=None
        Step on the mean loss per row, falling to zero as a half cosine. None is 0.01 for Adam and
        0.05 for SGD; L-BFGS has none.
    momentum : float, default=0.9
        Of SGD.
    batch_size : int or None, default=None
        Rows per step of Adam and SGD; None is 256, or all rows up to 1,024 of them.
    max_epochs : int or None, default=None
        Passes over the data (iterations of L-BFGS). None is as many as 2,000 steps of Adam or SGD
        take, at least 20, and 1,000 iterations of L-BFGS.
    n_restarts : int, default=1
        Starting points; the best mode is kept.
    tol : float, default=1e-6
        L-BFGS stops when no entry of the gradient per row is larger.
    """

    is_point = True
    reads_from_disk = True

    def __init__(
        self,
        solver="auto",
        learning_rate=None,
        momentum=0.9,
        batch_size=None,
        max_epochs=None,
        n_restarts=1,
        tol=1e-6,
    ):
        self.solver = solver
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.n_restarts = n_restarts
        self.tol = tol

    def chain_count(self):
        """Number of starting points."""
        return self.n_restarts

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("solver", ("auto", "adam", "sgd", "lbfgs"))
        self._positive("learning_rate", "tol", or_in=(None,))
        self._require("momentum", kind=(int, float), low=0, high=1)
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._require("n_restarts")

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Climb to the mode, see `Method.run`."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        theta, losses, messages, interrupted = climb(
            log_posterior,
            theta,
            streams,
            solver=self.solver,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            steps=2000,
            tol=self.tol,
            on_step=on_step,
        )
        best = int(torch.argmax(log_posterior(theta)))
        keep = slice(best, best + 1)
        return points(theta[keep], log_posterior, losses[keep], messages, interrupted)
