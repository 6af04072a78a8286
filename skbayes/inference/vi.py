"""Variational inference: the best of a family of distributions over the weights."""

from __future__ import annotations

import math

import numpy as np
import torch

from skbayes.inference.ascent import WINDOW, ascend
from skbayes.inference.base import Method, to_numpy
from skbayes.layers.closed_form import ClosedFormObjective, check_closed_form
from skbayes.layers.families import MeanField, starting_deviation
from skbayes.layers.flat_objective import BASELINES, FlatObjective
from skbayes.layers.gaussian_families import Delta, FullRank, LowRank
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import Noise
from skbayes.model.mixture_priors import BoundSpikeAndSlab
from skbayes.model.priors import BoundNormal
from skbayes.posterior import Posterior

STEPS = 10_000  # at most, where max_epochs is None
ELBO_DRAWS, ELBO_ROWS, ELBO_NUMBERS = 1_000, 2_000_000, 20_000_000
"""Most draws of theta that the bound is estimated from in the end; times rows; times parameters."""
LARGEST_FULL = 4_000  # parameters of a full covariance, whose root takes 128 MB then

N_SAMPLES = 32

FAMILIES = ("mean_field", "low_rank", "full_rank", "delta")
ESTIMATORS = {
    "mean_field": ("auto", "local", "weight", "flipout", "score", "closed_form"),
    "low_rank": ("auto", "weight", "score"),
    "full_rank": ("auto", "weight", "score"),
    "delta": ("auto",),
}
"""Estimators by family."""


class VI(Method):
    r"""Variational inference: the normal distribution that is nearest to the posterior.

    Hinton and van Camp (1993); Graves (2011); Blundell et al. (2015). In a family of distributions
    q, the one with the highest evidence lower bound is looked for,

    .. math:: \mathcal{L}(q) = \mathbb{E}_q \sum_i w_i \log p(y_i \mid x_i, \theta)
              - \text{KL}(q \,\|\, p) \;\le\; \log p(D),

    by Adam on gradients of random estimates of it, until the smoothed bound does not rise any more.
    Minus the bound, in bits, is a description length: what it costs to send the errors
    (the first term) and the weights (the second) by a code of Hinton and van Camp. The estimator
    has them as ``description_length_``, and the bound, in the units of y, as ``elbo_``.

    Families:

    - *mean_field*, independent normals :math:`\prod_j N(m_j, s_j^2)`;
    - *low_rank*, :math:`N(m, \operatorname{diag}(d^2) + U U^T)` (Ong, Nott and Smith, 2018);
    - *full_rank*, :math:`N(m, L L^T)`, for up to 4,000 parameters;
    - *delta*, a point. The bound, without the infinite entropy of a point, is the log posterior
      density: with `NormalPrior` that is L2 regularisation, with `LaplacePrior` L1, and with
      `FlatPrior` maximum likelihood (Graves, 2011, section 4).

    With independent normals, `FlatPrior` and ``learn_scale=False`` the method is training with
    weight noise (Graves, 2011, section 4).

    The divergence from the prior is exact where it has a closed form, and otherwise estimated by
    draws of the weights, so that any prior will do.

    Parameters
    ----------
    family : {"mean_field", "low_rank", "full_rank", "delta"}, default="mean_field"
        See above.
    rank : int, default=8
        Columns of U in a low-rank family, at most the number of parameters.
    estimator : {"auto", "local", "weight", "flipout", "score", "closed_form"}, default="auto"
        How the gradient is estimated. "auto" is "local" for independent normals, which draws the
        outputs of layers instead of weights (Kingma, Salimans and Welling, 2015), and else
        "weight", which draws weights for a whole minibatch. With independent normals, "flipout"
        (Wen et al., 2018) gives every row other signs of their deviations, see
        `skbayes.layers.variational.VariationalLayer`, and "closed_form" takes the exact expected
        squared error of a network with one hidden layer at most (Hinton and van Camp, 1993).
        "score" needs no gradient of the network and is very noisy (Ranganath, Gerrish and Blei,
        2014), see `skbayes.layers.flat_objective.FlatObjective`.
    n_samples : int or None, default=None
        Draws of the weights in a step of "score" (at least 2) and of the low-rank and full-rank
        families; None is 32. All others draw once and take only None.
    baseline : {"optimal", "mean", None}, default="mean"
        What "score" takes off, to lower its variance.
    n_draws : int, default=100
        Independent draws from q that are kept; of a point it is one.
    init_scale : float, default=0.1
        Starting deviation, as a share of 1 / sqrt(fan-in) for weights and of one for all else.
    learn_scale : bool, default=True
        Whether the deviations of independent normals are learned; else they stay at the start.
    straight_through : bool, default=False
        With `SpikeAndSlabPrior`: whether indicators are 0 or 1, with the derivative of the relaxed
        ones (Bengio, Leonard and Courville, 2013).
    tune_prior : {"layer", None}, default=None
        With `NormalPrior`: whether every layer's prior scale is multiplied by the factor of largest
        bound, :math:`r_l^2 = \operatorname{mean}_{j \in l} (s_j^2 + m_j^2) / \text{scale}_j^2`
        (Graves, 2011, section 4, who moves the prior's mean as well), from the 500th step on.
    learning_rate : float, default=0.01
        Of Adam, on the bound per row. Where the smoothed bound does not rise any more it falls by
        0.3, three times, before the climb ends.
    batch_size : int or None, default=None
        Rows per step; None is 256, or all rows up to 1,024 of them.
    max_epochs : int or None, default=None
        Passes over the data at most; None is as many as 10,000 steps take, at least 20.
    kl_warmup : int, default=0
        Epochs in which the weight of the divergence rises from zero to one.
    kl_weights : {"uniform", "blundell"}, default="uniform"
        How the divergence is spread over the minibatches of an epoch: evenly, or as
        :math:`2^{M - i} / (2^M - 1)` for the i-th of M (Blundell et al., 2015, section 3.4).
    """

    needs = frozenset({"network", "likelihood", "prior"})
    reads_from_disk = True

    def __init__(
        self,
        family="mean_field",
        rank=8,
        estimator="auto",
        n_samples=None,
        baseline="mean",
        n_draws=100,
        init_scale=0.1,
        learn_scale=True,
        straight_through=False,
        tune_prior=None,
        learning_rate=0.01,
        batch_size=None,
        max_epochs=None,
        kl_warmup=0,
        kl_weights="uniform",
    ):
        self.family = family
        self.rank = rank
        self.estimator = estimator
        self.n_samples = n_samples
        self.baseline = baseline
        self.n_draws = n_draws
        self.init_scale = init_scale
        self.learn_scale = learn_scale
        self.straight_through = straight_through
        self.tune_prior = tune_prior
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.kl_warmup = kl_warmup
        self.kl_weights = kl_weights

    def chain_count(self):
        """One q."""
        return 1

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("family", FAMILIES)
        self._choice("estimator", ESTIMATORS[self.family])
        self._choice("baseline", BASELINES)
        self._choice("learn_scale", (True, False))
        self._choice("straight_through", (True, False))
        self._choice("tune_prior", ("layer", None))
        self._choice("kl_weights", ("uniform", "blundell"))
        self._require("rank", "n_draws")
        if self._draws_theta:
            self._require("n_samples", low=2 if self.estimator == "score" else 1, or_in=(None,))
        else:
            self._choice("n_samples", (None,))
        if self.family != "mean_field":
            self._choice("learn_scale", (True,))
        if self.family == "delta":
            self._choice("tune_prior", (None,))
        self._positive("init_scale", "learning_rate")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._require("kl_warmup", low=0)

    @property
    def _draws_theta(self) -> bool:
        """Whether the bound is estimated from several draws of flat theta."""
        return self.family in ("low_rank", "full_rank") or self.estimator == "score"

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Climb the bound and draw from q, see `Method.run`."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        target = self._target(log_posterior)
        noise = Noise(int(streams.generators[0].integers(2**62)), target.device)
        n = target.n
        batch_size = self.batch_size or (n if n <= 1024 else 256)
        per_epoch = math.ceil(n / min(batch_size, n))
        max_epochs = self.max_epochs or max(20, math.ceil(STEPS / per_epoch))
        family = self._family(target, theta[0], noise)
        objective = self._objective(target, family, noise)
        ascent = ascend(
            objective,
            streams,
            learning_rate=self.learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            kl_warmup=self.kl_warmup,
            kl_weights=self.kl_weights,
            on_step=on_step,
            after_epoch=_Tuner(objective, per_epoch) if self.tune_prior else None,
        )
        target = objective.target  # whose prior may have been tuned
        with torch.no_grad():
            draws = family.sample(1 if self.family == "delta" else self.n_draws, noise)
            adapted = _adapted(family)
        if self.tune_prior:
            adapted["prior_scale"] = target.prior.scales
        posterior = Posterior(
            to_numpy(draws)[None],
            target.layout,
            adapted=adapted,
            last_state=to_numpy(family.mean)[None],
            loss_curve=ascent.losses[None],
            independent=True,
            messages=ascent.messages,
            interrupted=ascent.interrupted,
        )
        if self.family != "delta" and not target.prior.improper:
            with torch.no_grad():
                posterior.elbo_parts = _bound(target, family, noise)
            posterior.elbo = posterior.elbo_parts[0] - posterior.elbo_parts[1]
        return posterior

    def _target(self, log_posterior):
        """The log posterior with the prior that is asked for."""
        prior = log_posterior.prior
        if self.tune_prior and not isinstance(prior, BoundNormal):
            raise ValueError(
                f"VI: tune_prior={self.tune_prior!r} is not allowed with this prior; it needs a "
                "NormalPrior. Use tune_prior=None."
            )
        if not self.straight_through:
            return log_posterior
        if not isinstance(prior, BoundSpikeAndSlab):
            raise ValueError(
                "VI: straight_through=True is not allowed with this prior; it needs a "
                "SpikeAndSlabPrior."
            )
        return log_posterior.with_prior(prior.straight_through())

    def _family(self, target, mean, noise):
        if self.family == "delta":
            return Delta(mean)
        if self.family == "mean_field":
            family = MeanField(target, mean, self.init_scale)
            if not self.learn_scale:
                family.log_var.requires_grad_(False)
                family.leaves = [family.mean]
            return family
        std = starting_deviation(target, self.init_scale, mean)
        if self.family == "low_rank":
            return LowRank(mean, std, min(self.rank, len(mean)), noise)
        if len(mean) > LARGEST_FULL:
            raise ValueError(
                f"VI: family='full_rank' is not allowed with {len(mean)} parameters; it takes "
                f"{LARGEST_FULL} at most. Use 'low_rank' or 'mean_field'."
            )
        return FullRank(mean, std)

    def _objective(self, target, family, noise):
        by_score = self.estimator == "score"
        if self.family != "mean_field" or by_score:
            n_samples = 1 if self.family == "delta" else self.n_samples or N_SAMPLES
            return FlatObjective(target, family, noise, n_samples, by_score, self.baseline)
        if self.estimator == "closed_form":
            check_closed_form(target)
            return ClosedFormObjective(target, family, noise)
        estimator = "local" if self.estimator == "auto" else self.estimator
        return Objective(target, family, VariationalNetwork.of(target, noise, estimator))


class _Tuner:
    """Empirical Bayes: sets the scale of a normal prior in every layer, see `VI`."""

    first = 5 * WINDOW  # before that the weights have not moved to where data want them

    def __init__(self, objective, per_epoch: int) -> None:
        self.objective, self.per_epoch, self.steps, self.done = objective, per_epoch, 0, 0
        prior, layers = objective.target.prior, objective.target.network.layers
        self.start = prior
        self.spans = [slice(layer.weight.start, layer.bias.stop) for layer in layers]

    def __call__(self) -> None:
        self.steps += self.per_epoch
        if self.steps < max(self.first, self.done + WINDOW):
            return
        self.done = self.steps
        with torch.no_grad():
            mean, var = (
                to_numpy(part).astype(np.float64) for part in self.objective.family.moments()
            )
        scales = self.start.scales.copy()
        for span in self.spans:
            square = (mean[span] ** 2 + var[span]) / scales[span] ** 2
            scales[span] *= np.sqrt(square.mean())
        prior = self.start.with_scales(scales)
        self.objective.target = self.objective.target.with_prior(prior)
        self.objective.family.prior = prior


def _adapted(family) -> dict[str, np.ndarray]:
    """The variational parameters."""
    mean, var = family.moments()
    out = {"mean": mean, "std": var.sqrt()}
    if isinstance(family, LowRank):
        out.update(scale=family.log_scale.exp(), factor=family.factor)
    elif isinstance(family, FullRank):
        out["cholesky"] = family.root()
    return {name: to_numpy(values) for name, values in out.items()}


def _bound(target, family, noise) -> tuple[float, float]:
    """Expected log likelihood and divergence, from draws of the weights and all data."""
    most = min(ELBO_ROWS // target.n, ELBO_NUMBERS // target.n_params, ELBO_DRAWS)
    some = family.sample(max(most, 4), noise)
    fit = target.log_likelihood(some).mean()
    if isinstance(family, MeanField):
        mean, var = family.moments()
        kl = torch.stack([family.kl(mean, var, noise).double() for _ in range(min(len(some), 100))])
    else:
        kl = family.log_prob(some).double() - target.log_prior_and_grad(some)[0]
    return float(fit), float(kl.mean())
