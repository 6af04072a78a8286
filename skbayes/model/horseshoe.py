"""The horseshoe prior: half-Cauchy scales for each weight, or unit, and for each layer."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.kl import LOG_2PI, kl_log_normal_gamma, kl_log_normal_inverse_gamma, kl_normal
from skbayes.model.prior_base import BoundPrior, Prior, layer_groups, sum_of


class HorseshoePrior(Prior):
    r"""Horseshoe: most weights next to zero, a few as large as they like.

    .. math:: w_i = s_i \tau_l \lambda_j z_i, \quad z_i \sim N(0, 1), \quad
              \tau_l, \lambda_j \sim C^+(0, 1)

    Carvalho, Polson and Scott (2010). Each half-Cauchy variable is the root of the product of a
    gamma and an inverse-gamma one,

    .. math:: \lambda = \sqrt{a b}, \quad a \sim \text{Gamma}(\tfrac12, 1), \quad
              b \sim \text{IG}(\tfrac12, 1),

    whose logarithms are in theta (Louizos, Ullrich and Welling, 2017, section 3.2): normal ones
    have closed divergences from their priors. Non-centred, theta holds z; centred, it holds w
    itself (Ingraham and Marks, 2017, and Ghosh, Yao and Doshi-Velez, 2018, compare both): then the
    density of w and its scales has a narrow funnel wherever data say little. Biases have the
    layer's tau, and no lambda.

    Parameters
    ----------
    scale : float, default=1.0
        The s above: scale of the half-Cauchy density of each layer's tau.
    per : {"weight", "unit"}, default="weight"
        What has a lambda of its own: each weight, or each input unit (channel) of a layer, with
        all weights that it sends out, so that whole units vanish.
    centred : bool, default=False
        See above.
    fan_in : bool, default=True
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    _own_checks: ClassVar = ("per",)

    def __init__(self, scale=1.0, per="weight", centred=False, fan_in=True):
        self.scale = scale
        self.per = per
        self.centred = centred
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        if self.per not in ("weight", "unit"):
            raise ValueError(
                f"HorseshoePrior: per={self.per!r} is not allowed; allowed are 'weight', 'unit'."
            )
        scales = self._scales(network, mean_squared_norm)
        return BoundHorseshoe(network, scales, self.per == "unit", bool(self.centred))


class BoundHorseshoe(BoundPrior):
    """See `HorseshoePrior`.

    Hyper-parameters are log a of all layers and of all local scales, then log b of the same.
    """

    def __init__(self, network, scales, by_unit: bool, centred: bool):
        super().__init__(network, scales)
        self.centred = centred
        _, self._layer_of = layer_groups(network)
        self.n_layers = len(network.layers)
        # number of the local scale of every parameter, counted after those of the layers
        local = np.full(len(scales), -1, dtype=np.int64)
        start = self.n_layers
        for layer in network.layers:
            size = layer.weight.stop - layer.weight.start
            units = network.units(layer) if by_unit else np.arange(size)
            if size and len(units):  # normalisation has no units
                local[layer.weight] = start + units
                start += int(units.max()) + 1
        self.n_scales = start
        self.n_hyper = 2 * start
        local[local < 0] = start  # one that is always one
        self._local_of = local

    def parameters(self):
        return [
            ("prior_scale", (self.n_layers,)),
            ("prior_local_scale", (self.n_scales - self.n_layers,)),
        ]

    def constrain(self, hyper):
        hyper = np.asarray(hyper, dtype=np.float64)
        scale = np.exp(0.5 * (hyper[..., : self.n_scales] + hyper[..., self.n_scales :]))
        names = "prior_scale", "prior_local_scale"
        return dict(zip(names, np.split(scale, [self.n_layers], -1), strict=True))

    def _log_factors(self, hyper: Tensor) -> Tensor:
        """Log of tau times lambda for every weight, (n_chains, n_params)."""
        logs = 0.5 * (hyper[:, : self.n_scales] + hyper[:, self.n_scales :])
        logs = torch.cat([logs, logs.new_zeros((len(logs), 1))], 1)
        layer = self._vector("layer", self._layer_of, hyper, torch.int64)
        local = self._vector("local", self._local_of, hyper, torch.int64)
        return logs[:, layer] + logs[:, local]

    def _factors(self, hyper: Tensor) -> Tensor:
        return self._vector("scales", self.scales, hyper) * torch.exp(self._log_factors(hyper))

    def _to_hyper(self, by_log: Tensor) -> Tensor:
        """Chain rule from the log factors (n_chains, n_params) to the hyper-parameters."""
        out = by_log.new_zeros((len(by_log), self.n_scales + 1))
        out.index_add_(1, self._vector("layer", self._layer_of, by_log, torch.int64), by_log)
        out.index_add_(1, self._vector("local", self._local_of, by_log, torch.int64), by_log)
        half = 0.5 * out[:, :-1]
        return torch.cat([half, half], 1)

    def weights(self, net, hyper):
        return net if self.centred else net * self._factors(hyper)

    def from_weights(self, weights):
        if self.centred:
            return weights
        return weights / self._scale_tensor(weights.dtype, weights.device)

    def pullback(self, net, hyper, grad):
        if self.centred:
            return super().pullback(net, hyper, grad)
        by_net = grad * self._factors(hyper)
        return by_net, self._to_hyper(by_net * net)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        a, b = hyper[:, : self.n_scales], hyper[:, self.n_scales :]
        exp_a, exp_b = torch.exp(a), torch.exp(-b)
        value = (0.5 * (a - b) - exp_a - exp_b).sum(1, dtype=torch.float64)
        value -= self.n_scales * math.log(math.pi) + 0.5 * LOG_2PI * net.shape[1]
        by_hyper = torch.cat([0.5 - exp_a, exp_b - 0.5], 1)
        if not self.centred:
            value -= 0.5 * (net.double() ** 2).sum(1)
            return value, sum_of(plus, net, -1.0), by_hyper
        logs = self._log_factors(hyper) + self._vector("logs", np.log(self.scales), hyper)
        inverse = torch.exp(-logs)
        z = net * inverse
        value -= (0.5 * z.double() ** 2 + logs).sum(1)
        return value, sum_of(plus, z * inverse, -1.0), by_hyper + self._to_hyper(z * z - 1.0)

    def sample(self, streams, dtype, device):
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        gamma = streams.gamma(0.5, self.n_hyper, dtype=torch.float64, device=device)
        logs = torch.log(gamma.clamp_min(1e-300)).to(dtype)
        # 1 / gamma is inverse-gamma
        hyper = torch.cat([logs[:, : self.n_scales], -logs[:, self.n_scales :]], 1)
        return z * self._factors(hyper) if self.centred else z, hyper

    def kl(self, mean, var, hyper=None):
        if self.centred:
            return kl_normal(mean, var, 0.0, self._factors(hyper) ** 2).sum(1)
        return kl_normal(mean, var).sum(1)

    def hyper_kl(self, mean, var):
        n = self.n_scales
        out = kl_log_normal_gamma(mean[:, :n], var[:, :n]).sum(1)
        return out + kl_log_normal_inverse_gamma(mean[:, n:], var[:, n:]).sum(1)
