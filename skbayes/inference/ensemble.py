"""Deep ensembles: several networks, each trained from its own start, with early stopping."""

from __future__ import annotations

import math

import numpy as np
import torch

from skbayes.inference.base import Interrupted, Method, points
from skbayes.inference.likelihood_power import POWER, check_power, run_with_power
from skbayes.inference.optimizers import batches, first_order


class Ensemble(Method):
    r"""Deep ensemble, Lakshminarayanan, Pritzel and Blundell (2017).

    Every member climbs the log posterior from its own random start on its own shuffled
    minibatches, and stops when its own held-out rows no longer gain. The predictive distribution
    is the equal mixture of the members (their section 2.4). All members train at once as one
    batch; a member that has stopped leaves it.

    The paper trains on all rows without early stopping and adds adversarial examples; here every
    member holds out rows of its own instead.

    Parameters
    ----------
    n_members : int, default=10
        Networks.
    solver : {"adam", "sgd"}, default="adam"
        Optimiser.
    learning_rate : float, default=0.003
        Step on the mean loss per row.
    schedule : {"constant", "cosine"}, default="constant"
        "cosine" lets the learning rate fall to zero as a half cosine over ``max_epochs``. Members
        then end closer to their modes, which gains where rows are many and costs where they are
        few: there the noise of a constant rate keeps members from overfitting.
    momentum : float, default=0.9
        Of SGD.
    batch_size : int or None, default=None
        Rows per step; None is an eighth of them, at least 32 and at most 200, so that epochs, by
        which members stop, have several steps on small tables too.
    max_epochs : int or None, default=500
        Largest number of passes over the data. None is 500, and 200 where no rows are held out
        (50 with a warm start, whose members are near already).
    validation_fraction : float, default=0.1
        Share of the rows that each member holds out; 0 trains on all rows for ``max_epochs``.
    n_iter_no_change : int, default=20
        A member stops when its held-out log likelihood has not risen by ``tol`` for that many
        epochs; the best weights are kept.
    tol : float, default=1e-4
        See above, per row.
    likelihood_power : float or "held_out", default=1.0
        How many times every row counts against the prior; for classes only. "held_out" goes from 1
        to 4, 16 and 64 as long as rows that members leave out gain, or to 1/4 and 1/16 where the
        frequencies of the classes would predict them better
        (`skbayes.inference.likelihood_power`), which takes two to four times as long again.
        ``loss_curve_`` is per row of those that count.
    """

    def __init__(
        self,
        n_members=10,
        solver="adam",
        learning_rate=0.003,
        schedule="constant",
        momentum=0.9,
        batch_size=None,
        max_epochs=500,
        validation_fraction=0.1,
        n_iter_no_change=20,
        tol=1e-4,
        likelihood_power=1.0,
    ):
        self.n_members = n_members
        self.solver = solver
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.momentum = momentum
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.likelihood_power = likelihood_power

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("solver", ("adam", "sgd"))
        self._choice("schedule", ("constant", "cosine"))
        self._require("n_members", "n_iter_no_change")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._positive("learning_rate")
        self._require("momentum", "validation_fraction", kind=(int, float), low=0, high=0.999)
        self._require("tol", kind=(int, float), low=0)
        self._require("likelihood_power", **POWER)

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Train all members, see `Method.run`."""
        check_power(self, log_posterior)
        theta = log_posterior.initial(streams) if theta0 is None else theta0.clone()

        def run(power):
            target, order = log_posterior.with_power(power), streams.permutation(log_posterior.n)
            found = self._train(target, theta, streams, order, theta0 is not None, on_step)
            members, losses, messages, interrupted = found
            return points(members, log_posterior, losses, messages, interrupted)

        return run_with_power(self, log_posterior, streams, self._trial, run)

    def _trial(self, target, held, streams):
        """Members that leave rows out, see `choose_power`."""
        theta, order = target.initial(streams), streams.permutation(target.n)
        least = int((~held).sum(1).min())
        out = np.take_along_axis(held, order, 1)
        order = np.stack([own[~leave][:least] for own, leave in zip(order, out, strict=True)])
        trained, losses, _, interrupted = self._train(target, theta, streams, order, False)
        if interrupted:
            raise Interrupted(trained, losses)
        return trained

    def _train(self, log_posterior, theta, streams, order, warm: bool, on_step=None):
        """Train members on rows in the given order, (n_members, n_rows), the first of them held."""
        total_weight = log_posterior.total_weight
        n = order.shape[1]
        n_held = int(np.ceil(self.validation_fraction * n)) if self.validation_fraction else 0
        n_held = n_held if n - n_held >= 1 else 0
        held, rows = order[:, :n_held], order[:, n_held:]
        n_rows = n - n_held
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = int(np.clip(n_rows // 8, 32, 200))
        batch_size = min(batch_size, n_rows)

        max_epochs = self.max_epochs
        if max_epochs is None:
            max_epochs = 500 if n_held else 50 if warm else 200

        best, best_score = theta.clone(), np.full(len(theta), -np.inf)
        hurdle = best_score.copy()  # what a member must pass for its patience to start anew
        patience = np.zeros(len(theta), dtype=int)
        losses = np.full((len(theta), max_epochs), np.nan)
        active = np.arange(len(theta))  # members still training, in the order of theta's rows
        optimiser = first_order(self.solver, theta, self.momentum)
        check = log_posterior.rows(held) if n_held else None
        chosen = streams
        try:
            for epoch in range(max_epochs):
                for step, index in enumerate(batches(chosen, rows[active], batch_size)):
                    target = log_posterior.minibatch(index)
                    grad = target.grad(theta)
                    rate = self.learning_rate
                    if self.schedule == "cosine":
                        done = (epoch + step * batch_size / n_rows) / max_epochs
                        rate *= 0.5 * (1.0 + math.cos(math.pi * done))
                    optimiser.step(theta, grad.mul_(-1.0 / total_weight), rate)
                # of the epoch's last minibatch, since a value at every step would cost time
                losses[active, epoch] = target(theta).cpu().numpy() / -total_weight
                if check is None:
                    best[active] = theta
                else:
                    score = check.log_likelihood(theta).cpu().numpy() / (n_held * check.factor)
                    gain = score > hurdle[active] + self.tol
                    patience[active] = np.where(gain, 0, patience[active] + 1)
                    hurdle[active[gain]] = score[gain]
                    better = score > best_score[active]
                    best_score[active[better]] = score[better]
                    best[active[better]] = theta[torch.as_tensor(better, device=theta.device)]
                if on_step is not None:
                    on_step(epoch + 1, max_epochs, f"{len(active)} members training")
                stays = patience[active] < self.n_iter_no_change
                if not stays.any():
                    break
                if not stays.all():
                    active = active[stays]
                    keep = torch.as_tensor(stays, device=theta.device)
                    theta = theta[keep]
                    optimiser.keep(keep)
                    chosen = streams.select(active)
                    check = log_posterior.rows(held[active])
        except KeyboardInterrupt:
            message = (
                f"Training was interrupted in epoch {epoch + 1}; the members stay as they are."
            )
            return best, losses[:, : epoch + 1], [message], True
        messages = []
        if n_held and (patience < self.n_iter_no_change).any():
            late = int((patience < self.n_iter_no_change).sum())
            messages.append(
                f"{late} of {self.n_members} members were still gaining after {max_epochs} "
                "epochs; raise max_epochs or learning_rate."
            )
        return best, losses[:, : epoch + 1], messages, False
