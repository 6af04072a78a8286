"""The deep ensemble filter: members that are inflated and moved on when new rows come."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Interrupted, Method, points
from skbayes.inference.ensemble_kalman import kalman_update
from skbayes.inference.inflation import Inflated, inflate
from skbayes.inference.lbfgs import lbfgs
from skbayes.inference.noise import log_prob_by_prior_functions, sample_noise
from skbayes.inference.optimizers import Adam, epoch_of
from skbayes.model.improper_priors import BoundFlat

CUTS = 2
"""Times that the learning rate is divided by three where the loss no longer falls."""

UPDATE_CUTS, UPDATE_RATE = 1, 2.0
"""Cuts in an update, and its first rate in units of ``learning_rate``: members are near already."""


class EnsembleFilter(Method):
    r"""Deep ensemble filter, Ulrych and Smidl (2020).

    An ensemble stands for the posterior, and is moved on when rows come in, as an ensemble Kalman
    filter moves on states: the members, *inflated* so that they do not grow too sure, are the
    prior of the next *update*. Here after Sahan, Smidl and Marik (2021), who train every member
    on from its own weights plus noise, and Evensen (1994).

    The first fit draws a prior sample :math:`a_i` for every member and trains it as in `Anchored`.
    ``partial_fit`` then sees the new rows and those seen before, and goes from members
    :math:`\theta_i` to

    .. math:: \tilde\theta_i = \theta_i + \sqrt q\, s\, z_i, \quad z_i \sim N(0, I)
              \qquad \text{or} \qquad
              \tilde\theta_i = \bar\theta + \sqrt\lambda\, (\theta_i - \bar\theta)

    (additive or multiplicative inflation, s the prior's deviation of each weight), and, with
    ``update="gradient"``, to

    .. math:: \theta_i' = \arg\max_\theta \log p(D + \epsilon_i \mid \theta)
              - \tfrac12 \sum_j \rho_j (\theta_j - \tilde\theta_{ij})^2
              - \tfrac12 \sum_j \frac{(\sqrt{w_j} \theta_j - a_{ij})^2}{s_j^2}

    from :math:`\tilde\theta_i` on, with :math:`\epsilon_i` the noise of `Anchored` on the data;
    learned noise is drawn anew for every member, given all rows that are remembered, and then
    stays. No weight sees another's covariance: this is localization in full. With
    ``update="kalman"`` all members are moved at once by the ensemble's covariances, see
    `skbayes.inference.ensemble_kalman`.

    Inflation forgets a part of what was known, and the rows seen before and the prior make up for
    it. Let :math:`\tilde v` be the inflated variance of a weight. Multiplied by :math:`\lambda`, a
    covariance keeps :math:`1 / \lambda` of the information: :math:`\rho = 1 / \tilde v`, and old
    rows and the prior weigh :math:`w = 1 - 1 / \lambda`, so that on a linear model nothing is
    counted twice or lost. With additive inflation old rows weigh 1, as in the paper. So does the
    prior, around each member's own sample from it, and members are held by what inflation left of
    the data alone, :math:`\rho_j = \max(1 / \tilde v_j - 1 / s_j^2, 0)`: where nothing new comes,
    their means stay those of a fit anew to all rows. If the pull were all of :math:`1 / \tilde v`,
    the prior's centre would follow the members from update to update, and old rows count again
    each time. The price is inertia: on weights that the data tell well, members follow new rows
    as if :math:`(1 / q - 1) / s_j^2` more were known at most. The Kalman update cannot part them:
    it takes in the members as they are, and the share :math:`q s_j^2 / \tilde v_j` of the prior,
    so with additive inflation it grows too sure.

    Where practice departs from the paper: its members have neither a prior nor noise on the data,
    and were found overconfident; its noise has the same variance for all weights, here q is in
    units of the prior's variances. The authors' report is about the filter in general; calling the
    gradient update a localization is our reading.

    Parameters
    ----------
    n_members : int, default=10
        Networks, at least 2.
    update : {"gradient", "kalman"}, default="gradient"
        How members are moved on.
    inflation : {"additive", "multiplicative"}, default="additive"
        See above.
    inflation_scale : float, default=0.03
        q, or lambda (at least 1; 1 is none).
    taper : float, default=0.5
        Of ``"kalman"`` (without effect on ``"gradient"``): factor on the covariances of weights and
        outputs for each layer between them; 1 is none.
    n_replay : int or None, default=None
        Rows seen before that an update sees at most, a sample of them; None are all that are
        remembered.
    learning_rate : float, default=0.01
        First step of Adam on the mean loss per row; a linear model is fitted by L-BFGS.
    batch_size : int or None, default=None
        Rows per step; None is 256, or all rows up to 1,024 of them.
    max_epochs : int, default=1000
        Passes over the data at most.
    tol : float, default=1e-4
        Training stops where the loss per row, averaged over the members, has not fallen by this
        much in ``n_iter_no_change`` epochs, three times over, the learning rate being divided by
        three each time. Updates, whose members are near already, begin with twice the learning
        rate, which is divided once only.
    n_iter_no_change : int, default=10
        See above.
    n_kalman_steps : int, default=4
        Of ``"kalman"`` (without effect on ``"gradient"``): parts that the data are taken in.
    """

    needs = frozenset({"perturbed"})
    remembered = None  # of an update, see `move`
    can_stream = True
    filters = True
    _cuts, _rate = CUTS, 1.0

    def __init__(
        self,
        n_members=10,
        update="gradient",
        inflation="additive",
        inflation_scale=0.03,
        taper=0.5,
        n_replay=None,
        learning_rate=0.01,
        batch_size=None,
        max_epochs=1000,
        tol=1e-4,
        n_iter_no_change=10,
        n_kalman_steps=4,
    ):
        self.n_members = n_members
        self.update = update
        self.inflation = inflation
        self.inflation_scale = inflation_scale
        self.taper = taper
        self.n_replay = n_replay
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.n_kalman_steps = n_kalman_steps

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._require("n_members", low=2)
        self._choice("update", ("gradient", "kalman"))
        self._choice("inflation", ("additive", "multiplicative"))
        least = 1 if self.inflation == "multiplicative" else 0
        self._require("inflation_scale", kind=(int, float), low=least)
        self._require("taper", kind=(int, float), low=0, high=1)
        self._require("n_replay", "batch_size", or_in=(None,))
        self._positive("learning_rate", "tol")
        self._require("max_epochs", "n_iter_no_change", "n_kalman_steps")

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Train all members on all rows, see `Method.run`; from ``theta0``, if given."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0.clone()
        theta = self._with_noise(log_posterior, theta, streams)
        target = self._perturbed(log_posterior, theta, streams)
        return self._train(log_posterior, target, theta, streams, on_step)

    def old_weight(self) -> float:
        """What a row seen before weighs in an update, where a new one weighs 1."""
        return 1.0 if self.inflation == "additive" else 1.0 - 1.0 / self.inflation_scale

    def move(self, remembered) -> Method:
        """The method whose `run` moves members ``theta0`` on, given new and old rows.

        ``remembered`` is the log posterior of all rows that are known, at a weight of one each,
        from which learned noise is drawn: old rows may weigh nothing in the update itself.
        """
        out = _Update(**self.get_params())
        out.remembered = remembered
        return out

    def _with_noise(self, log_posterior, theta: Tensor, streams) -> Tensor:
        """Members with a noise of their own, drawn given the rows, where it is learned."""
        if not getattr(log_posterior.likelihood, "learned", False):
            return theta
        by_prior = log_prob_by_prior_functions(log_posterior, streams)
        return sample_noise(log_posterior, theta, by_prior, streams)

    def _perturbed(self, log_posterior, theta: Tensor, streams):
        """Every member's target."""
        likelihood, noise = log_posterior.likelihood, None
        if getattr(likelihood, "learned", False):
            noise = likelihood.noise_std(log_posterior.layout.split(theta)[1], 1)
        return log_posterior.perturbed(streams, noise)

    def _train(self, log_posterior, target, theta: Tensor, streams, on_step):
        """Climb ``target``; the posterior is that of ``log_posterior``."""
        messages: list[str] = []
        interrupted = False
        try:
            if log_posterior.network.is_linear:
                theta, losses, converged = lbfgs(
                    target, theta, max_iter=self.max_epochs, tol=1e-7, on_step=on_step, text="fit"
                )
                done = bool(converged.all())
            else:
                theta, losses, done = self._descend(target, theta, streams, on_step)
        except Interrupted as stop:
            theta, losses, interrupted, done = stop.theta, stop.losses, True, True
            messages.append(
                f"The fit was interrupted after {losses.shape[1]} epochs; it stays as it is."
            )
        if not done:
            messages.append(
                f"The members were still gaining after {self.max_epochs} epochs; raise max_epochs "
                "or tol."
            )
        return points(theta, log_posterior, losses, messages, interrupted)

    def _descend(self, target, theta: Tensor, streams, on_step):
        """Adam until the loss no longer falls; members, losses, whether it was reached."""
        n, total_weight = target.n, target.total_weight
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = n if n <= 1024 else 256
        batch_size = min(batch_size, n)
        n_steps = math.ceil(n / batch_size)
        optimiser, rate, cuts = Adam(theta), self._rate * self.learning_rate, 0
        least, waited = math.inf, 0
        losses: list[np.ndarray] = []
        loss = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
        try:
            for epoch in range(self.max_epochs):
                loss.zero_()
                for part in epoch_of(target, streams, batch_size, None, 0, n_steps):
                    value, grad = part.value_and_grad(theta)
                    optimiser.step(theta, grad.mul(-1.0 / total_weight), rate)
                    loss -= value
                losses.append(loss.cpu().numpy() / (n_steps * total_weight))
                mean = float(losses[-1].mean())
                if on_step is not None:
                    on_step(epoch + 1, self.max_epochs, f"loss {mean:.4g}")
                waited = 0 if mean < least - self.tol else waited + 1
                least = min(least, mean)
                if waited >= self.n_iter_no_change:
                    if cuts == self._cuts:
                        return theta, np.stack(losses, 1), True
                    rate, cuts, waited = rate / 3.0, cuts + 1, 0
        except KeyboardInterrupt:
            if not losses:
                raise  # nothing was gained yet
            raise Interrupted(theta, np.stack(losses, 1)) from None
        return theta, np.stack(losses, 1), False


class _Update(EnsembleFilter):
    """An update of the filter: `run` moves members on."""

    _cuts, _rate = UPDATE_CUTS, UPDATE_RATE

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Inflate ``theta0`` and move it on; old rows have the weights of `old_weight`."""
        members = inflate(
            log_posterior, theta0, streams.child(7), self.inflation, self.inflation_scale
        )
        theta = self._with_noise(self.remembered or log_posterior, members.theta, streams)
        members = members._replace(theta=theta)
        if self.update == "kalman":
            theta = kalman_update(
                log_posterior, members, streams, self.taper, self.n_kalman_steps, on_step
            )
            return points(theta, log_posterior)
        target = self._perturbed(log_posterior, theta, streams)
        target = _Moved(target, members, self.inflation == "additive")
        return self._train(log_posterior, target, theta.clone(), streams, on_step)


class _Moved:
    """The perturbed log likelihood, with inflated members and a part of the prior around it.

    With ``prior_stays`` that part is all of it, and the members hold what is beyond it.
    """

    def __init__(self, target, members: Inflated, prior_stays: bool) -> None:
        self.target, self.n, self.total_weight = target, target.n, target.total_weight
        held, root = members.precision, members.root_share
        if prior_stays:
            held, root = (held - members.prior_precision).clamp_min(0.0), torch.sign(root)
        # the members' and the prior's squares in one, about their common centre
        share = root * members.prior_precision
        self.precision = held + root * share
        pull = held * members.theta + share * target.anchor
        self.centre = pull / self.precision.clamp_min(torch.finfo(pull.dtype).tiny)
        # the target's own prior is taken off, or, where nothing else needs it, never put on
        self.has_prior = target.prior.n_hyper > 0
        if not self.has_prior:
            self.target = target.given(BoundFlat(None, target.prior.scales))

    def minibatch(self, index) -> _Moved:
        """The same with an unbiased estimate of the log likelihood."""
        out = copy.copy(self)
        out.target = self.target.minibatch(index)
        return out

    def __call__(self, theta: Tensor) -> Tensor:
        """Value (n_members,)."""
        return self.value_and_grad(theta)[0]

    def grad(self, theta: Tensor) -> Tensor:
        """Gradient (n_members, n_params)."""
        return self.value_and_grad(theta)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value (n_members,) in float64, up to a constant, and gradient (n_members, n_params)."""
        value, grad = self.target.value_and_grad(theta)
        if self.has_prior:
            prior_value, prior_grad = self.target.log_prior_and_grad(theta)
            value, grad = value - prior_value, grad - prior_grad
        away = theta - self.centre
        pull = self.precision * away
        return value - 0.5 * (pull * away).sum(1, dtype=torch.float64), grad.sub_(pull)
