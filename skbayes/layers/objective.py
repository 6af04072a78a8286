"""The evidence lower bound, from minibatches: the one objective of all that is variational here."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from skbayes.layers.families import Family
from skbayes.layers.passes import VariationalNetwork, plain_rows


class Bound(NamedTuple):
    """An estimate of the bound's parts, differentiable numbers."""

    log_likelihood: Tensor
    """Expected log likelihood of all data, a sum."""

    kl: Tensor
    """KL(q || prior)."""


class Objective:
    r"""The evidence lower bound of a family on a log posterior.

    .. math:: \mathcal{L}(q) = \mathbb{E}_q \sum_i w_i \log p(y_i \mid x_i, \theta)
              - \text{KL}(q \,\|\, p)

    (Jordan et al., 1999; for networks Hinton and van Camp, 1993, and Graves, 2011). The sum is
    estimated by n / batch times that over a minibatch, with one draw of the noise.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of all data.
    family : Family
        q.
    network : VariationalNetwork
        Of the log posterior's network; has the random numbers and the estimator.
    """

    def __init__(self, log_posterior, family: Family, network: VariationalNetwork) -> None:
        self.target, self.family, self.network = log_posterior, family, network
        self.noise = network.noise
        self.layout = log_posterior.layout

    def __call__(self, part) -> Bound:
        """Estimate the bound from a minibatch, as `LogPosterior.minibatch` gives it."""
        mean, var = self.family.moments()
        kl = self.family.kl(mean, var, self.noise)
        return Bound(self.log_likelihood(part, mean, var), kl)

    def log_likelihood(self, part, mean: Tensor, var: Tensor) -> Tensor:
        """Estimate the expected log likelihood of all data from a minibatch, a number."""
        x = plain_rows(part.inputs)
        net, params, hyper = self.layout.split(mean)
        net_var, params_var, hyper_var = self.layout.split(var)
        if self.network.estimator != "mean":
            params = self.noise.draw(params, params_var) if len(params) else params
            hyper = self.noise.draw(hyper, hyper_var) if len(hyper) else hyper
        weights, variances = self.family.given(net, net_var, hyper)
        units = self.family.units(len(x), self.noise)
        others = self.family.draws_others
        outputs = self.network.forward(weights, variances, x, units, draws_others=others)
        logs = part.likelihood.pointwise(outputs, params[None], part.y)
        if part.weight is not None:
            logs = logs * part.weight
        return part.factor * logs.sum()
