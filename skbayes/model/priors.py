"""Priors over the weights of a network.

A prior object holds hyper-parameters only; `Prior.build` ties it to a network and gives a
`BoundPrior`, which is what `LogPosterior` works with.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from skbayes.layers.kl import LOG_2PI, kl_normal, kl_normal_laplace
from skbayes.model.horseshoe import HorseshoePrior
from skbayes.model.improper_priors import FlatPrior, LogUniformPrior
from skbayes.model.mixture_priors import LearnedMixturePrior, ScaleMixturePrior, SpikeAndSlabPrior
from skbayes.model.prior_base import BoundPrior, Prior, layer_groups, sum_of

__all__ = [
    "PRIORS",
    "BoundPrior",
    "FlatPrior",
    "HierarchicalPrior",
    "HorseshoePrior",
    "LaplacePrior",
    "LearnedMixturePrior",
    "LogUniformPrior",
    "NormalPrior",
    "Prior",
    "ScaleMixturePrior",
    "SpikeAndSlabPrior",
    "StudentTPrior",
]


class NormalPrior(Prior):
    r"""Independent normal weights.

    .. math:: \log p(w) = \sum_i -\tfrac12 (w_i / s_i)^2 - \log s_i - \tfrac12 \log 2 \pi

    Parameters
    ----------
    scale : float, default=1.0
        Standard deviation of every weight and bias (with ``fan_in``, times 1 / sqrt(fan-in) for
        weights).
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, fan_in=False):
        self.scale = scale
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundNormal(network, self._scales(network, mean_squared_norm))


class LaplacePrior(Prior):
    r"""Independent Laplace (double exponential) weights; their mode is L1 regularisation.

    .. math:: \log p(w) = \sum_i -|w_i| / b_i - \log 2 b_i

    Parameters
    ----------
    scale : float, default=1.0
        The b above (the standard deviation is b times the root of two).
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, fan_in=False):
        self.scale = scale
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundLaplace(network, self._scales(network, mean_squared_norm))


class StudentTPrior(Prior):
    r"""Independent Student-t weights: heavy tails let single weights be large.

    .. math:: \log p(w) = \sum_i -\tfrac{\nu + 1}{2} \log(1 + (w_i / s_i)^2 / \nu)
              - \log s_i + \log \Gamma(\tfrac{\nu + 1}{2}) - \log \Gamma(\tfrac{\nu}{2})
              - \tfrac12 \log \nu \pi

    Parameters
    ----------
    scale : float, default=1.0
        The s above.
    df : float, default=4.0
        Degrees of freedom, the nu above.
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, df=4.0, fan_in=False):
        self.scale = scale
        self.df = df
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundStudentT(network, self._scales(network, mean_squared_norm), float(self.df))


class HierarchicalPrior(Prior):
    r"""Normal weights whose scale per layer, log-normal, is inferred with them (non-centred).

    .. math:: w_i = s_i \tau_l z_i, \quad z_i \sim N(0, 1), \quad
              \log \tau_l \sim N(0, \text{spread}^2)

    theta holds z and log(tau) / spread, so that it is standard normal a priori and the geometry
    stays benign where data say little (Papaspiliopoulos, Roberts and Skold, 2007). Every layer's
    weights and biases share one tau.

    Parameters
    ----------
    scale : float, default=1.0
        Median of the prior's scale.
    spread : float, default=1.0
        Standard deviation of the logarithm of tau.
    fan_in : bool, default=True
        Whether the median scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, spread=1.0, fan_in=True):
        self.scale = scale
        self.spread = spread
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundHierarchical(
            network, self._scales(network, mean_squared_norm), float(self.spread)
        )


PRIORS: dict[str, type[Prior]] = {
    "normal": NormalPrior,
    "laplace": LaplacePrior,
    "student_t": StudentTPrior,
    "hierarchical": HierarchicalPrior,
    "scale_mixture": ScaleMixturePrior,
    "spike_and_slab": SpikeAndSlabPrior,
    "learned_mixture": LearnedMixturePrior,
    "horseshoe": HorseshoePrior,
    "log_uniform": LogUniformPrior,
    "flat": FlatPrior,
}
"""Priors by the names that ``prior=`` takes."""


class BoundNormal(BoundPrior):
    """See `NormalPrior`."""

    def __init__(self, network, scales):
        super().__init__(network, scales)
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(scales)
        self._shared = float(scales[0]) ** -2.0 if np.all(scales == scales[0]) else None

    def with_scales(self, scales: np.ndarray) -> BoundNormal:
        """The same kind of prior with other scales, (n_params,)."""
        return BoundNormal(None, scales)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        if self._shared is not None and not with_value:
            return hyper, sum_of(plus, net, -self._shared), hyper
        exact = net.double()
        if self._shared is not None:
            value = torch.linalg.vecdot(exact, exact).mul_(-0.5 * self._shared)
            grad = sum_of(plus, net, -self._shared)
        else:
            precision = self._vector("precision", -0.5 * self.scales**-2.0, net, torch.float64)
            value = torch.mv(exact * exact, precision)
            grad = sum_of(plus, net * self._vector("grad", -(self.scales**-2.0), net))
        return value.add_(self._constant), grad, hyper

    def sample(self, streams, dtype, device):
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        return z * self._scale_tensor(dtype, device), self._no_hyper(len(z), dtype, device)

    def kl(self, mean, var, hyper=None):
        return kl_normal(mean, var, 0.0, self._vector("var", self.scales**2, mean)).sum(1)


class BoundLaplace(BoundPrior):
    """See `LaplacePrior`."""

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        rate = self._vector("rate", 1.0 / self.scales, net)
        exact = self._vector("rate", 1.0 / self.scales, net, torch.float64)
        value = -(net.double().abs() @ exact) - float(np.log(2.0 * self.scales).sum())
        return value, sum_of(plus, net.sign() * rate, -1.0), hyper

    def sample(self, streams, dtype, device):
        u = streams.uniform(len(self.scales), dtype=torch.float64, device=device) - 0.5
        z = -u.sign() * torch.log1p(-2.0 * u.abs())
        z = z.to(dtype) * self._scale_tensor(dtype, device)
        return z, self._no_hyper(len(z), dtype, device)

    def kl(self, mean, var, hyper=None):
        return kl_normal_laplace(mean, var, self._vector("scale", self.scales, mean)).sum(1)


class BoundStudentT(BoundPrior):
    """See `StudentTPrior`."""

    def __init__(self, network, scales, df: float):
        super().__init__(network, scales)
        self.df = df
        one = math.lgamma(0.5 * (df + 1)) - math.lgamma(0.5 * df) - 0.5 * math.log(df * math.pi)
        self._constant = one * len(scales) - float(np.log(scales).sum())

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        inverse = self._vector("inverse", 1.0 / self.scales, net)
        exact = self._vector("inverse", 1.0 / self.scales, net, torch.float64)
        square = (net.double() * exact) ** 2
        value = -0.5 * (self.df + 1) * torch.log1p(square / self.df).sum(1) + self._constant
        z = net * inverse
        return value, sum_of(plus, z * inverse / (self.df + z * z), -(self.df + 1)), hyper

    def sample(self, streams, dtype, device):
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        gamma = streams.gamma(0.5 * self.df, len(self.scales), dtype=dtype, device=device)
        z *= torch.rsqrt(2.0 * gamma / self.df)  # chi-squared over its degrees of freedom
        return z * self._scale_tensor(dtype, device), self._no_hyper(len(z), dtype, device)


class BoundHierarchical(BoundPrior):
    """See `HierarchicalPrior`."""

    def __init__(self, network, scales, spread: float):
        super().__init__(network, scales)
        self.spread = spread
        self.n_hyper = len(network.layers)
        self._spans, self._group = layer_groups(network)

    def parameters(self):
        return [("prior_scale", (self.n_hyper,))]

    def constrain(self, hyper):
        return {"prior_scale": np.exp(self.spread * np.asarray(hyper, dtype=np.float64))}

    def _factors(self, hyper: torch.Tensor) -> torch.Tensor:
        group = self._vector("group", self._group, hyper, torch.int64)
        return self._vector("scales", self.scales, hyper) * torch.exp(self.spread * hyper)[:, group]

    def weights(self, net, hyper):
        return net * self._factors(hyper)

    def from_weights(self, weights):
        return weights / self._scale_tensor(weights.dtype, weights.device)

    def pullback(self, net, hyper, grad):
        grad = grad * self._factors(hyper)
        by_scale = grad * net  # d / d log(tau) of every weight
        sums = [by_scale[:, start:stop].sum(1) for start, stop in self._spans]
        return grad, self.spread * torch.stack(sums, 1)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        value = -0.5 * (net.double() ** 2).sum(1) - 0.5 * (hyper.double() ** 2).sum(1)
        value -= 0.5 * LOG_2PI * (net.shape[1] + hyper.shape[1])
        return value, sum_of(plus, net, -1.0), -hyper

    def sample(self, streams, dtype, device):
        net = streams.normal(len(self.scales), dtype=dtype, device=device)
        return net, streams.normal(self.n_hyper, dtype=dtype, device=device)

    def kl(self, mean, var, hyper=None):
        return kl_normal(mean, var).sum(1)
