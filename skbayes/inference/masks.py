"""Noise on the units of a network, as factors on the rows of its weight matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.kl import kl_log_uniform_and_slope

TEMPERATURE = 0.1  # of the concrete distribution, as its authors of concrete dropout take it
LOWEST, HIGHEST = 0.001, 0.5  # rates that are learned stay between these


class Masks:
    r"""Random factors of mean one, one for each unit that is dropped.

    To multiply a unit's output by m is to multiply its row of the next weight matrix by m. So one
    draw of all factors turns theta into another theta, which is a draw from the approximate
    posterior. Of a convolution whole channels are dropped. With ``rate`` p,

    .. math:: m = b / (1 - p), \ b \sim \text{Bernoulli}(1 - p) \qquad \text{or} \qquad
              m = 1 + \sqrt{\alpha} \epsilon, \ \alpha = p / (1 - p), \ \epsilon \sim N(0, 1).

    Both have mean one and variance p / (1 - p) (Srivastava et al., 2014, section 10). Rates are
    held as eta = log(p / (1 - p)), which is log(alpha) too.

    Parameters
    ----------
    log_posterior : LogPosterior
        Tells where the rows lie in theta.
    kind : {"binary", "gaussian"}
        Left or right of the two above.
    with_inputs : bool
        Whether the inputs are dropped as well as the hidden units.

    Attributes
    ----------
    sizes : ndarray of shape (n_layers,)
        Units of each layer that is dropped: of the inputs, if they are, then of each hidden layer.
    n_units : int
        Their sum.
    """

    def __init__(self, log_posterior, kind: str, with_inputs: bool) -> None:
        self.kind, self.with_inputs = kind, with_inputs
        network = log_posterior.network
        pairs = [(layer, network.units(layer)) for layer in network.layers]
        pairs = [(layer, units) for layer, units in pairs if len(units)]
        pairs = pairs[0 if with_inputs else 1 :]
        self.sizes = np.array([units.max() + 1 for _, units in pairs], dtype=np.int64)
        self.n_units = int(self.sizes.sum())
        device = log_posterior.device
        layer_of = np.repeat(np.arange(len(pairs)), self.sizes)
        self._layer_of = torch.as_tensor(layer_of, device=device)
        unit_of = np.full(log_posterior.n_params, self.n_units)  # the last one is never dropped
        start = 0
        for (layer, units), size in zip(pairs, self.sizes, strict=True):
            unit_of[layer.weight] = start + units
            start += size
        self._unit_of = torch.as_tensor(unit_of, device=device)
        self._sizes = torch.as_tensor(self.sizes, dtype=torch.float64, device=device)

    def noise(self, streams, n_masks: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Raw noise (n_chains, n_masks, n_units): uniform numbers, or normal ones."""
        if self.kind == "gaussian":
            return streams.normal(n_masks, self.n_units, dtype=dtype, device=device)
        u = streams.uniform(n_masks, self.n_units, dtype=dtype, device=device)
        return u.clamp_(1e-6, 1.0 - 1e-6)

    def units(self, noise: Tensor, eta: Tensor, relaxed: bool = False) -> Tensor:
        r"""Factors (n_chains, n_masks, n_units) for raw noise and eta (n_chains, n_layers).

        ``relaxed`` gives binary factors as Gal, Hron and Kendall (2017, section 3) relax them, so
        that they have a derivative: with u the noise and t the temperature,

        .. math:: b = 1 - \sigma((\eta + \log u - \log(1 - u)) / t).
        """
        eta = eta[:, self._layer_of][:, None]
        if self.kind == "gaussian":
            return torch.addcmul(torch.ones_like(noise), noise, torch.exp(0.5 * eta))
        if relaxed:
            kept = torch.sigmoid((-eta - torch.logit(noise)) / TEMPERATURE)
        else:
            kept = (torch.logit(noise) < -eta).to(noise.dtype)  # u < 1 - p
        return kept * (1.0 + torch.exp(eta))  # 1 / (1 - p) = 1 + e^eta

    def slope(self, units: Tensor, eta: Tensor) -> Tensor:
        """Derivative of the factors (relaxed, if binary) by eta, given what `units` gave."""
        eta = eta[:, self._layer_of][:, None]
        if self.kind == "gaussian":
            return 0.5 * (units - 1.0)
        kept = units / (1.0 + torch.exp(eta))
        by_kept = -kept * (1.0 - kept) / TEMPERATURE
        return by_kept * (1.0 + torch.exp(eta)) + kept * torch.exp(eta)

    def spread(self, units: Tensor) -> Tensor:
        """Factors of theta's entries (..., n_params) for factors of units (..., n_units)."""
        one = units.new_ones(()).expand(*units.shape[:-1], 1)
        return torch.cat([units, one], -1).index_select(-1, self._unit_of)

    def by_layer(self, by_theta: Tensor, slope: Tensor) -> Tensor:
        """Chain rule from theta's entries (..., n_params) to eta, (..., n_layers)."""
        sums = by_theta.new_zeros((*by_theta.shape[:-1], self.n_units + 1))
        sums.index_add_(-1, self._unit_of, by_theta)
        by_unit = sums[..., :-1] * slope
        out = by_unit.new_zeros((*by_unit.shape[:-1], len(self.sizes)))
        return out.index_add_(-1, self._layer_of, by_unit)

    def bonus_and_grad(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        r"""What the rates themselves add to the bound (n_chains,), and its derivative by eta.

        Binary: the entropy of the factors (Gal, Hron and Kendall, 2017, section 3),

        .. math:: \sum_l K_l H(p_l), \qquad H(p) = -p \log p - (1 - p) \log(1 - p).

        Gaussian: minus the divergence from the log-uniform prior (Kingma, Salimans and Welling,
        2015, section 3), see `skbayes.layers.kl.kl_log_uniform`; eta is log alpha.
        """
        exact = eta.double()
        if self.kind == "binary":
            p = torch.sigmoid(exact)
            value = torch.nn.functional.softplus(exact) - p * exact
            grad = -exact * p * (1.0 - p)
        else:
            kl, slope = kl_log_uniform_and_slope(exact)
            value, grad = -kl, -slope
        return (value * self._sizes).sum(1), (grad * self._sizes).to(eta.dtype)


def to_eta(rate: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with the rate zero at -40, where nothing is ever dropped."""
    rate = np.asarray(rate, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(rate) - np.log1p(-rate), -40.0)


def to_rate(eta: Tensor) -> np.ndarray:
    """The rate, of which eta is the log odds."""
    rate = torch.sigmoid(eta.double()).cpu().numpy()
    return np.where(rate < 1e-12, 0.0, rate)
