"""Anchored ensembles: every member fits perturbed data around its own draw from the prior."""

from __future__ import annotations

from skbayes.inference.base import Interrupted, Method, points
from skbayes.inference.likelihood_power import POWER, check_power, run_with_power
from skbayes.inference.noise import (
    N_FOLDS,
    folds,
    log_prob_by_held_out,
    log_prob_by_prior_functions,
    sample_noise,
)
from skbayes.inference.optimizers import Climb, climb

WARM = 5
"""By how much fewer steps a warm start takes, where their number is not given."""


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
    exponential weights instead (the weighted likelihood bootstrap, Newton and Raftery, 1994), or,
    with ``bootstrap=False``, left as they are. For classes, networks of the latter kind predict
    better on nearly all tables tried, with members that are too close in what the rows tell well;
    linear models need the weights for the width of their posterior.

    For classes the posterior may be a generalised one, the likelihood to the power
    ``likelihood_power``: rows of clean labels say more than the softmax likelihood grants them.
    Whether they are clean, rows that some members are not given can tell ("held_out";
    `skbayes.inference.likelihood_power`). ``posterior_.adapted`` has the power.

    Learned noise is drawn for each member before it is fitted. At the mode of weights and noise
    together the noise is too small, even zero once a network passes through all points; two
    estimates that do not have this fault are pooled: the posterior of the noise under the normal
    process that the prior's functions amount to, and its likelihood given the errors on rows that
    the members of a first fit left out, with the weight n / (n + 50) in the logarithm
    (`skbayes.inference.noise`). For linear models, where it is exact, and with fewer than eight
    members the first stands alone.

    Parameters
    ----------
    n_members : int, default=16
        Networks.
    solver : {"auto", "adam", "lbfgs"}, default="auto"
        Adam, or L-BFGS on all rows; "auto" is Adam, and L-BFGS after it up to 5,000 rows and 5,000
        weights (for a linear model L-BFGS alone).
    learning_rate : float, default=0.01
        Of Adam, falling to zero as a half cosine.
    batch_size : int or None, default=None
        Rows per step of Adam; None is 256, or all rows up to 1,024 of them.
    max_epochs : int or None, default=None
        Passes over the data (iterations of L-BFGS); None is as many as 1,500 steps of Adam take,
        at least 20, and 1,000 iterations of L-BFGS (100 where it follows Adam); a fifth of these
        steps with a warm start, whose members are near already. The first fit that learned noise
        needs takes a third of it.
    bootstrap : bool, default=True
        See above (without effect on normal noise that is the same for all rows).
    likelihood_power : float or "held_out", default=1.0
        How many times every row counts; for classes only. "held_out" goes from 1 to 4, 16 and 64 as
        long as rows left out gain, or to 1/4 and 1/16 where the frequencies of the classes would
        predict them better, by short fits of up to eight members before the fit itself, which take
        from a quarter of its time to once as long (after a warm start, which does not make them
        shorter, several times as long as the fit). ``loss_curve_`` is per row of those that count.
    """

    needs = frozenset({"perturbed"})

    def __init__(
        self,
        n_members=16,
        solver="auto",
        learning_rate=0.01,
        batch_size=None,
        max_epochs=None,
        bootstrap=True,
        likelihood_power=1.0,
    ):
        self.n_members = n_members
        self.solver = solver
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.bootstrap = bootstrap
        self.likelihood_power = likelihood_power

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("solver", ("auto", "adam", "lbfgs"))
        self._require("n_members")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._positive("learning_rate")
        self._choice("bootstrap", (True, False))
        self._require("likelihood_power", **POWER)

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Fit all members, see `Method.run`."""
        check_power(self, log_posterior)
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        likelihood = log_posterior.likelihood
        noise, warm = None, theta0 is not None
        if getattr(likelihood, "learned", False):
            by_prior = log_prob_by_prior_functions(log_posterior, streams)
            theta = sample_noise(log_posterior, theta, by_prior, streams)
            linear = log_posterior.network.is_linear
            if self.n_members >= 2 * N_FOLDS and not linear:
                # a first fit whose members leave rows out; fewer could not tell their own spread
                held = folds(log_posterior.n, self.n_members, streams)
                noise = likelihood.noise_std(log_posterior.layout.split(theta)[1], 1)
                target = log_posterior.perturbed(streams, noise, self.bootstrap).without(held)
                first = self._fit(target, theta, streams, 3, warm, on_step, "noise")
                theta = first.theta
                if first.interrupted:
                    return points(theta, log_posterior, first.losses, first.messages, True)
                by_held = log_prob_by_held_out(log_posterior, theta, held)
                share = log_posterior.total_weight / (log_posterior.total_weight + 50.0)
                pooled = (1.0 - share) * by_prior + share * by_held
                theta = sample_noise(log_posterior, theta, pooled, streams)
            noise = likelihood.noise_std(log_posterior.layout.split(theta)[1], 1)

        def run(power):
            target = log_posterior.perturbed(streams, noise, self.bootstrap).with_power(power)
            fit = self._fit(target, theta, streams, 1, warm, on_step)
            return points(fit.theta, log_posterior, fit.losses, fit.messages, fit.interrupted)

        return run_with_power(self, log_posterior, streams, self._trial, run)

    def _trial(self, target, held, streams):
        """Members of a short fit that leave rows out, see `choose_power`."""
        max_epochs = None if self.max_epochs is None else min(-(-self.max_epochs // 4), 100)
        perturbed = target.perturbed(streams, None, self.bootstrap).without(held)
        found = self._climb(perturbed, target.initial(streams), streams, max_epochs, 375, 25)
        if found.interrupted:
            raise Interrupted(found.theta, found.losses)
        return found.theta

    def _fit(self, target, theta, streams, part, warm, on_step, text="fit"):
        """Climb with a part (1 / part) of the epochs."""
        faster, max_epochs = WARM if warm else 1, self.max_epochs
        epochs = None if max_epochs is None else -(-max_epochs // part)
        polish = 100 // faster if max_epochs is None else None
        steps = 1500 // faster // part
        return self._climb(target, theta, streams, epochs, steps, polish, on_step, text)

    def _climb(
        self, target, theta, streams, max_epochs, steps, polish, on_step=None, text="fit"
    ) -> Climb:
        """Climb to the modes of a perturbed target."""
        return climb(
            target,
            theta,
            streams,
            solver=self.solver,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_epochs=max_epochs,
            steps=steps,
            tol=1e-7,
            gain=0.05,
            polish=polish,
            on_step=on_step,
            text=text,
        )
