"""Priors without a finite integral: flat, and flat in the logarithm."""

from __future__ import annotations

import numpy as np
import torch

from skbayes.layers.kl import entropy_normal, kl_log_uniform
from skbayes.model.prior_base import BoundPrior, Prior, sum_of


class FlatPrior(Prior):
    r"""No preference among weights: the uniform density over all numbers.

    .. math:: \log p(w) = 0

    It is improper. The mode of the posterior is the maximum of the likelihood, and the divergence
    of a distribution q from the prior is minus the entropy of q, up to a constant that is taken as
    zero; so a bound on the evidence made from it bounds nothing. Where the likelihood says nothing
    about a weight the posterior is improper as well.
    """

    scale = 1.0
    fan_in = False

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundFlat(network, np.ones(network.n_params))


class LogUniformPrior(Prior):
    r"""Weights of any magnitude: log|w| has a flat density.

    .. math:: \log p(w) = -\sum_i \tfrac12 \log(w_i^2 + \epsilon^2)

    With epsilon = 0 it is the prior under which Gaussian dropout is variational inference (Kingma,
    Salimans and Welling, 2015, section 3.3), which it makes sparse (Molchanov, Ashukha and Vetrov,
    2017). It has no finite integral at infinity, and without an epsilon none at zero either: the
    exact posterior would be a spike at zero (Hron, Matthews and Ghahramani, 2018). So methods that
    use the density itself get an epsilon. The divergence of a normal from the prior is that of
    epsilon = 0, exactly, up to the constant of `skbayes.layers.kl.kl_log_uniform`.

    Parameters
    ----------
    floor : float, default=0.001
        The epsilon above: below it weights are as good as zero.
    """

    scale = 1.0
    fan_in = False

    def __init__(self, floor=0.001):
        self.floor = floor

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        self._check()
        return BoundLogUniform(network, np.ones(network.n_params), float(self.floor))


class _Improper(BoundPrior):
    improper = True
    name = ""

    def sample(self, streams, dtype, device):
        raise ValueError(
            f"prior={self.name} is improper: nothing can be drawn from it, and so neither prior "
            "functions nor anchors nor init='prior' exist; take a proper prior, such as "
            "NormalPrior(scale=10.0), or another method."
        )


class BoundFlat(_Improper):
    """See `FlatPrior`."""

    name = "FlatPrior()"

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        value = torch.zeros(len(net), dtype=torch.float64, device=net.device)
        return value, torch.zeros_like(net) if plus is None else plus, hyper

    def kl(self, mean, var, hyper=None):
        return -entropy_normal(var).sum(1)


class BoundLogUniform(_Improper):
    """See `LogUniformPrior`."""

    name = "LogUniformPrior()"

    def __init__(self, network, scales, floor: float):
        super().__init__(network, scales)
        self.floor = floor

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        value = -0.5 * torch.log(net.double() ** 2 + self.floor**2).sum(1)
        return value, sum_of(plus, net / (net * net + self.floor**2), -1.0), hyper

    def kl(self, mean, var, hyper=None):
        # a mean of exactly zero has the derivative zero, not zero times infinity
        return kl_log_uniform(torch.log(var) - torch.log(mean**2 + 1e-30)).sum(1)
