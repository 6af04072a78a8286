"""Anchored ensembles: every member fits perturbed data around its own draw from the prior."""

from __future__ import annotations

import numpy as np

from skbayes.inference.base import Method, points
from skbayes.inference.map import budget
from skbayes.inference.optimizers import descend, lbfgs


class Anchored(Method):
    r"""Anchored ensemble (randomised maximum a posteriori).

    Member m draws an anchor from the prior and noise for the data, and climbs

    .. math:: \theta_m = \arg\max_\theta \log p(y + \epsilon_m \mid \theta)
              + \log p(\theta - \theta^{\text{anchor}}_m), \qquad
              \epsilon_m \sim N(0, \sigma^2), \ \theta^{\text{anchor}}_m \sim p(\theta)

    (the prior being centred at zero). On a model that is linear in its weights, with normal prior
    and noise, every member is an exact, independent draw from the posterior (Papandreou and
    Yuille, 2010; for networks Pearce, Leibfried and Brintrup, 2020, equation 9, who leave the
    data as they are: their members are then too close to each other, since the posterior
    covariance S becomes S P^-1 S with P the prior's). On networks it is an approximation that
    finds many modes. There is no early stopping, which would move the members off their targets.

    Where the likelihood is not normal with one noise for all rows, the rows are given independent
    exponential weights instead (the weighted likelihood bootstrap, Newton and Raftery, 1994).
    Learned noise is drawn given each member's residuals, and the members are fitted anew with it,
    until it settles: Gibbs sampling whose other half is the perturbed fit.

    Parameters
    ----------
    n_members : int, default=16
        Networks.
    solver : {"auto", "adam", "lbfgs"}, default="auto"
        L-BFGS on all rows, or Adam; "auto" takes the first up to 5,000 rows and 5,000 weights.
    learning_rate : float, default=0.01
        Of Adam, falling to zero as a half cosine.
    batch_size : int or None, default=None
        Rows per step of Adam; None is 256, or all rows up to 1,024 of them.
    max_epochs : int or None, default=None
        Passes over the data in the last round (iterations of L-BFGS); None is as many as 3,000
        steps of Adam take, at least 20, and 500 iterations of L-BFGS.
    max_rounds : int, default=8
        Rounds of fitting at most where the noise is learned. Rounds before the last take a third
        of the epochs, and end when the noise has settled.
    """

    needs = frozenset({"perturbed"})

    def __init__(
        self,
        n_members=16,
        solver="auto",
        learning_rate=0.01,
        batch_size=None,
        max_epochs=None,
        max_rounds=8,
    ):
        self.n_members = n_members
        self.solver = solver
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.max_rounds = max_rounds

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("solver", ("auto", "adam", "lbfgs"))
        self._require("n_members", "max_rounds")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._positive("learning_rate")

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Fit all members, see `Method.run`."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        likelihood = log_posterior.likelihood
        learned = getattr(likelihood, "learned", False)
        losses = []
        n_rounds = self.max_rounds if learned else 1
        centre = None  # mean of the members' log noise
        last = not learned
        for number in range(n_rounds):
            last = last or number == n_rounds - 1
            noise = None
            if learned:
                raw = log_posterior.layout.split(theta)[1]
                noise = likelihood.noise_std(raw, 1)
            target = log_posterior.perturbed(streams, noise)
            text = f"round {number + 1}" if learned else "fit"
            theta, loss, converged = self._fit(target, theta, streams, last, on_step, text)
            losses.append(loss)
            if not learned:
                break
            theta = log_posterior.sample_params(theta, streams)
            if last:
                break
            log_noise = likelihood.noise_std(log_posterior.layout.split(theta)[1], 1).log()
            now = log_noise.mean(0).cpu().numpy()
            # the mean over members is known to a fraction of their spread
            slack = 0.05 + log_noise.double().std(0, unbiased=False).cpu().numpy() / np.sqrt(
                len(log_noise)
            )
            last = centre is not None and bool(np.all(np.abs(now - centre) < slack))
            centre = now
        messages = []
        if not converged.all():
            messages.append(
                f"{int((~converged).sum())} of {self.n_members} members stopped before their "
                "gradient vanished; raise max_epochs, or standardise X."
            )
        return points(theta, log_posterior, np.concatenate(losses, 1), messages)

    def _fit(self, target, theta, streams, last, on_step, text):
        solver, n = self.solver, target.n
        if solver == "auto":
            solver = "lbfgs" if n <= 5000 and target.n_params <= 5000 else "adam"
        if solver == "lbfgs":
            max_iter = 500 if self.max_epochs is None else self.max_epochs
            if not last:
                max_iter = -(-max_iter // 3)
            return lbfgs(target, theta, max_iter=max_iter, tol=1e-5, on_step=on_step, text=text)
        batch_size, max_epochs = budget(n, self.batch_size, self.max_epochs, steps=3000)
        if not last:
            max_epochs = -(-max_epochs // 3)
        theta, losses = descend(
            target,
            theta,
            streams,
            solver="adam",
            learning_rate=self.learning_rate,
            momentum=0.0,
            batch_size=batch_size,
            max_epochs=max_epochs,
            on_step=on_step,
            text=text,
        )
        return theta, losses, np.ones(len(theta), dtype=bool)
