"""Priors that are mixtures of normals: given, with indicators that are inferred, or learned."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from skbayes.layers.kl import LOG_2PI, kl_normal
from skbayes.model.prior_base import BoundPrior, Prior, layer_groups, sum_of


class ScaleMixturePrior(Prior):
    r"""Each weight from one of two normals around zero, a wide one and a narrow one.

    .. math:: p(w) = \prod_i \pi N(w_i \mid 0, s_i^2) + (1 - \pi) N(w_i \mid 0, (\kappa s_i)^2)

    Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), equation 7; they try pi of 1/4, 1/2, 3/4,
    wide deviations of 1, 1 / e, 1 / e^2 and narrow ones of e^-6, e^-7, e^-8. The narrow one pulls
    weights that the data do not need to zero.

    Parameters
    ----------
    scale : float, default=1.0
        Deviation s of the wide normal.
    narrow : float, default=0.0025
        Deviation of the narrow normal, as a part kappa of the wide one's, below one.
    weight : float, default=0.5
        Probability pi of the wide normal.
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    _own_checks: ClassVar = ("narrow", "weight")

    def __init__(self, scale=1.0, narrow=0.0025, weight=0.5, fan_in=False):
        self.scale = scale
        self.narrow = narrow
        self.weight = weight
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        check_fractions(self, "narrow", "weight")
        scales = self._scales(network, mean_squared_norm)
        return BoundScaleMixture(network, scales, float(self.narrow), float(self.weight))


class SpikeAndSlabPrior(Prior):
    r"""Spike and slab: an indicator for each weight says whether it counts (relaxed).

    .. math:: w_i = s_i (\kappa + (1 - \kappa) \gamma_i) z_i, \quad z_i \sim N(0, 1), \qquad
              \gamma_i = \sigma(x_i / t), \quad x_i \sim N(\Phi^{-1}(\pi), 1)

    Both spike and slab are normal (George and McCulloch, 1993). At the temperature t = 0 the
    indicator gamma is 1 with probability pi and 0 otherwise, and w has the density of
    `ScaleMixturePrior`; at t > 0 it has a derivative, so that it can be inferred with the weights.
    This is the idea of the concrete distribution (Maddison, Mnih and Teh, 2017), with normal noise
    in the place of logistic, since then all of theta is normal a priori. theta holds z and, as
    hyper-parameters, x - 1, so that an optimiser starts with all weights counting.
    `skbayes.inference.VI` can take the indicators at t = 0 and their derivative at t
    (``straight_through=True``).

    Parameters
    ----------
    scale : float, default=1.0
        Deviation s of the slab.
    narrow : float, default=0.01
        Deviation of the spike, as a part kappa of the slab's, below one.
    weight : float, default=0.5
        Probability pi of the slab.
    temperature : float, default=0.3
        The t above.
    fan_in : bool, default=True
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    _own_checks: ClassVar = ("narrow", "weight")

    def __init__(self, scale=1.0, narrow=0.01, weight=0.5, temperature=0.3, fan_in=True):
        self.scale = scale
        self.narrow = narrow
        self.weight = weight
        self.temperature = temperature
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        check_fractions(self, "narrow", "weight")
        scales = self._scales(network, mean_squared_norm)
        shape = float(self.narrow), float(self.weight), float(self.temperature)
        return BoundSpikeAndSlab(network, scales, *shape)


class LearnedMixturePrior(Prior):
    r"""Each layer's weights from a mixture of normals that is learned with them.

    .. math:: p(w \mid \mu, \rho, \pi) = \prod_i \frac{1}{s_i} \sum_k \pi_{lk}
              N(w_i / s_i \mid \mu_{lk}, \rho_{lk}^2)

    Soft weight sharing: weights gather around the means, and are then cheap to code (Nowlan and
    Hinton, 1992). The paper maximises over means, widths and weights of the mixture;
    here these have priors of their own, normal for :math:`\mu_{lk}` around centres that are
    spread over (-1, 1) with deviation 1/2, for :math:`\log \rho_{lk}` around log(1/2), and for the
    logits of :math:`\pi_{lk}` around zero with deviation one. theta holds them as standard normal
    hyper-parameters. A layer's biases share the mixture of its weights.

    Parameters
    ----------
    scale : float, default=1.0
        Unit s of the mixture.
    n_components : int, default=5
        Normals in each mixture.
    spread : float, default=1.0
        Deviation of the logarithms of the widths.
    fan_in : bool, default=True
        Whether the unit of a layer's weights falls with the root of its fan-in.
    """

    _own_checks: ClassVar = ("n_components",)

    def __init__(self, scale=1.0, n_components=5, spread=1.0, fan_in=True):
        self.scale = scale
        self.n_components = n_components
        self.spread = spread
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        k = self.n_components
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
            raise ValueError(
                f"LearnedMixturePrior: n_components={k!r} is not allowed; it must be an "
                "integer >= 1."
            )
        scales = self._scales(network, mean_squared_norm)
        return BoundLearnedMixture(network, scales, int(k), float(self.spread))


def check_fractions(prior: Prior, *names: str) -> None:
    """Raise unless parameters lie between zero and one."""
    for name in names:
        value = getattr(prior, name)
        good = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
        if not good or not 0.0 < value < 1.0:
            raise ValueError(
                f"{type(prior).__name__}: {name}={value!r} is not allowed; it must lie between 0 "
                "and 1."
            )


class BoundScaleMixture(BoundPrior):
    """See `ScaleMixturePrior`."""

    def __init__(self, network, scales, narrow: float, weight: float):
        super().__init__(network, scales)
        self.narrow, self.weight = narrow, weight
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(scales)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        inverse = self._vector("inverse", 1.0 / self.scales, net)
        exact = self._vector("inverse", 1.0 / self.scales, net, torch.float64)
        wide, narrow = self._logs(net.double() * exact)
        value = torch.logaddexp(wide, narrow).sum(1) + self._constant
        of_wide = torch.sigmoid(wide - narrow).to(net.dtype)
        precision = of_wide + (1.0 - of_wide) * self.narrow**-2.0
        return value, sum_of(plus, net * inverse**2 * precision, -1.0), hyper

    def _logs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logs of both terms without the constant, for weights in units of their scales."""
        square = -0.5 * z * z
        narrow = math.log1p(-self.weight) - math.log(self.narrow)
        return square + math.log(self.weight), square * self.narrow**-2.0 + narrow

    def sample(self, streams, dtype, device):
        is_wide = streams.uniform(len(self.scales), device=device) < self.weight
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        z = torch.where(is_wide, z, z * self.narrow) * self._scale_tensor(dtype, device)
        return z, self._no_hyper(len(z), dtype, device)


class BoundSpikeAndSlab(BoundPrior):
    """See `SpikeAndSlabPrior`.

    Attributes
    ----------
    is_hard : bool
        Whether the indicators are 0 or 1, with the derivative of the relaxed ones (Bengio,
        Leonard and Courville, 2013, call that straight-through).
    """

    is_hard = False
    start = 1.0  # x where hyper-parameters are zero

    def __init__(self, network, scales, narrow: float, weight: float, temperature: float):
        super().__init__(network, scales)
        self.narrow, self.weight, self.temperature = narrow, weight, temperature
        self.n_hyper = len(scales)
        self._prior_mean = float(ndtri(weight)) - self.start  # of the hyper-parameters

    def straight_through(self) -> BoundSpikeAndSlab:
        """The same prior with indicators of 0 or 1."""
        out = copy.copy(self)
        out.is_hard, out._cache = True, {}
        return out

    def parameters(self):
        return [("prior_inclusion", (self.n_hyper,))]

    def constrain(self, hyper):
        gamma = self._gamma(torch.as_tensor(np.array(hyper, dtype=np.float64)))
        return {"prior_inclusion": gamma.numpy()}

    def _relaxed(self, hyper: Tensor) -> Tensor:
        return torch.sigmoid((self.start + hyper) / self.temperature)

    def _gamma(self, hyper: Tensor) -> Tensor:
        gamma = self._relaxed(hyper)
        if self.is_hard:
            gamma = gamma + ((hyper > -self.start).to(gamma.dtype) - gamma).detach()
        return gamma

    def _factors(self, hyper: Tensor) -> Tensor:
        scales = self._vector("scales", self.scales, hyper)
        return scales * (self.narrow + (1.0 - self.narrow) * self._gamma(hyper))

    def weights(self, net, hyper):
        return net * self._factors(hyper)

    def from_weights(self, weights):
        return weights / self._factors(torch.zeros_like(weights))

    def pullback(self, net, hyper, grad):
        gamma = self._relaxed(hyper)
        slope = (1.0 - self.narrow) / self.temperature * gamma * (1.0 - gamma)
        by_hyper = grad * net * slope * self._vector("scales", self.scales, hyper)
        return grad * self._factors(hyper), by_hyper

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        away = hyper - self._prior_mean
        value = -0.5 * (net.double() ** 2).sum(1) - 0.5 * (away.double() ** 2).sum(1)
        value -= LOG_2PI * net.shape[1]
        return value, sum_of(plus, net, -1.0), -away

    def sample(self, streams, dtype, device):
        net = streams.normal(len(self.scales), dtype=dtype, device=device)
        hyper = streams.normal(self.n_hyper, dtype=dtype, device=device)
        return net, hyper + self._prior_mean

    def kl(self, mean, var, hyper=None):
        return kl_normal(mean, var).sum(1)

    def hyper_kl(self, mean, var):
        return kl_normal(mean, var, self._prior_mean).sum(1)


class BoundLearnedMixture(BoundPrior):
    """See `LearnedMixturePrior`."""

    centre_spread = 0.5
    first_width = 0.5

    def __init__(self, network, scales, n_components: int, spread: float):
        super().__init__(network, scales)
        self.n_components, self.spread = n_components, spread
        self._spans, _ = layer_groups(network)
        self.n_layers = len(self._spans)
        self.n_hyper = 3 * n_components * self.n_layers
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(scales)
        self._centres = np.linspace(-1.0, 1.0, n_components) if n_components > 1 else np.zeros(1)

    def parameters(self):
        shape = self.n_layers, self.n_components
        return [("prior_mean", shape), ("prior_width", shape), ("prior_weight", shape)]

    def constrain(self, hyper):
        flat = torch.as_tensor(np.array(hyper, dtype=np.float64))
        mean, log_width, log_weight = self._mixture(flat.reshape(-1, self.n_hyper))
        shape = *hyper.shape[:-1], self.n_layers, self.n_components
        return {
            "prior_mean": mean.reshape(shape).numpy(),
            "prior_width": log_width.exp().reshape(shape).numpy(),
            "prior_weight": log_weight.exp().reshape(shape).numpy(),
        }

    def _mixture(self, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log widths and log weights, each (n_chains, n_layers, n_components)."""
        parts = hyper.view(-1, self.n_layers, 3, self.n_components)
        mean = self._vector("centres", self._centres, hyper) + self.centre_spread * parts[:, :, 0]
        log_width = math.log(self.first_width) + self.spread * parts[:, :, 1]
        return mean, log_width, torch.log_softmax(parts[:, :, 2], -1)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        inverse = self._vector("inverse", 1.0 / self.scales, net)
        mean, log_width, log_weight = self._mixture(hyper)
        z = net * inverse
        value = self._constant - 0.5 * (hyper.double() ** 2).sum(1)
        value -= 0.5 * LOG_2PI * self.n_hyper
        by_net = torch.empty_like(net)
        by_hyper = hyper.new_empty((len(hyper), self.n_layers, 3, self.n_components))
        for i, (start, stop) in enumerate(self._spans):
            precision = torch.exp(-log_width[:, i])[:, None]  # its root, (chains, 1, components)
            t = (z[:, start:stop, None] - mean[:, i][:, None]) * precision
            logs = (log_weight[:, i] - log_width[:, i])[:, None] - 0.5 * t * t
            value += torch.logsumexp(logs, 2).sum(1, dtype=torch.float64)
            share = torch.softmax(logs, 2)  # (chains, weights, components)
            pull = share * t * precision
            by_net[:, start:stop] = -pull.sum(2)
            by_hyper[:, i, 0] = self.centre_spread * pull.sum(1)
            by_hyper[:, i, 1] = self.spread * (share * (t * t - 1.0)).sum(1)
            by_hyper[:, i, 2] = share.sum(1) - (stop - start) * torch.exp(log_weight[:, i])
        by_hyper = by_hyper.reshape(hyper.shape) - hyper
        return value, sum_of(plus, by_net * inverse), by_hyper

    def sample(self, streams, dtype, device):
        hyper = streams.normal(self.n_hyper, dtype=dtype, device=device)
        mean, log_width, log_weight = self._mixture(hyper)
        u = streams.uniform(len(self.scales), device=device)
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        below = log_weight.double().exp().cumsum(2)
        for i, (start, stop) in enumerate(self._spans):
            k = torch.searchsorted(below[:, i].contiguous(), u[:, start:stop].contiguous())
            k = k.clamp_max(self.n_components - 1)  # rounding of the last sum
            part = z[:, start:stop] * log_width[:, i].exp().gather(1, k)
            z[:, start:stop] = part + mean[:, i].gather(1, k)
        return z * self._scale_tensor(dtype, device), hyper
