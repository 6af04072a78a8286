"""Families of Bayesian compression: one factor for each unit, whose prior removes whole groups."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skbayes.layers.dropout_families import TINY, DropoutFamily
from skbayes.layers.groups import Groups
from skbayes.layers.kl import (
    kl_log_normal_gamma,
    kl_log_normal_inverse_gamma,
)
from skbayes.layers.variational import Noise


class GroupDropout(DropoutFamily):
    r"""Bayesian compression, Louizos, Ullrich and Welling (2017), with Jeffreys prior on groups.

    The weights of a group i (an input unit of a linear layer, an output channel of a convolution,
    with its bias) have a common factor,

    .. math:: w_{ij} = z_i v_{ij}, \quad q(z_i) = N(\mu_i, \sigma_i^2), \quad
              q(v_{ij}) = N(m_{ij}, s_{ij}^2), \quad p(z_i) \propto 1 / |z_i|, \quad
              p(v_{ij}) = N(0, 1)

    and the divergence is that of `kl_log_uniform` with alpha = sigma^2 / mu^2 plus that of two
    normals (their section 4.1). Factors are drawn anew for every row.

    `log_alpha` is that of the factor, :math:`\log \sigma_i^2 / \mu_i^2`, as in the paper. The noise
    of the weights does not count: those that lead to units which are not needed go back to their
    prior, and there are many of these in a wide layer.

    Parameters
    ----------
    log_posterior, mean, network, kl
        See `DropoutFamily`.
    init_log_var : float
        Where the logs of the variances start.
    most_first : float
        Largest s^2 of the first layer; without it the noise of the layer that sees the data may
        hide them from all others.
    """

    def __init__(
        self,
        log_posterior,
        mean,
        network,
        kl="molchanov",
        *,
        init_log_var: float = -9.0,
        most_first: float = 0.04,
    ) -> None:
        super().__init__(log_posterior, mean, network, kl)
        sides = {name: "in" if layer.is_linear else "out" for name, layer in network.layers.items()}
        self.groups = Groups(network, sides)
        self.sides = sides
        self.is_random = torch.as_tensor(network.is_noisy, device=mean.device).to(mean.dtype)
        self.log_var = torch.full_like(self.is_random, init_log_var).requires_grad_()
        self.leaves.append(self.log_var)
        self._first = network.slices[self.names[0]]
        self._most_first = math.log(most_first)
        self._make_factors(init_log_var)

    def _make_factors(self, init_log_var: float) -> None:
        self.z_mean = self.mean.new_ones(self.groups.n).requires_grad_()
        self.z_log_var = self.mean.new_full((self.groups.n,), init_log_var).requires_grad_()
        self.leaves += [self.z_mean, self.z_log_var]

    def project(self):
        """See `Family.project`."""
        self.log_var.detach()[self._first].clamp_(max=self._most_first)

    def _variances(self):
        return self.log_var.exp() * self.is_random

    def _draw_z(self, n: int, noise: Noise) -> list[Tensor]:
        """Factors of every layer's groups, (n, n_groups) each."""
        std = (0.5 * self.z_log_var).exp()
        z = torch.addcmul(self.z_mean, std, noise.normal(n, self.groups.n, like=self.mean))
        return list(z.split(self.groups.sizes, 1))

    def _z_moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the factors, (n_groups,)."""
        return self.z_mean, self.z_log_var.exp()

    def _z_log_alpha(self) -> Tensor:
        """Log of the variance over the squared mean of every factor, (n_groups,)."""
        return self.z_log_var - torch.log(self.z_mean**2 + TINY)

    def _z_kl(self) -> Tensor:
        return self.kl_log_uniform(self._z_log_alpha()).sum()

    def sides_of_rates(self):
        """See `DropoutFamily.sides_of_rates`."""
        return list(self.sides.values())

    def units(self, n, noise):
        """See `Family.units`."""
        return {
            name: (z, None) if self.sides[name] == "in" else (None, z)
            for name, z in zip(self.network.layers, self._draw_z(n, noise), strict=True)
        }

    def _kl(self, mean, var):
        of_weights = 0.5 * ((var + mean * mean - 1.0 - self.log_var) * self.is_random).sum()
        return of_weights + self._z_kl()

    def _mean_factors(self):
        with torch.no_grad():
            return self.groups.factors(self._z_moments()[0][None], len(self.mean))[0]

    def _factors(self, n, noise):
        with torch.no_grad():
            return self.groups.factors(torch.cat(self._draw_z(n, noise), 1), len(self.mean))

    def _marginal(self):
        mean, var = super()._marginal()
        z_mean, z_var = (
            self.groups.factors(part[None], len(self.mean), other)[0][: self.n_network]
            for part, other in zip(self._z_moments(), (1.0, 0.0), strict=True)
        )
        return z_mean * mean, z_mean**2 * var + z_var * (mean**2 + var)

    def log_alpha(self):
        """See `DropoutFamily.log_alpha`."""
        with torch.no_grad():
            parts = self._z_log_alpha().split(self.groups.sizes)
        return {n: p.cpu().numpy().copy() for n, p in zip(self.names, parts, strict=True)}


class HorseshoeDropout(GroupDropout):
    r"""Bayesian compression with the horseshoe prior on groups (Louizos et al., 2017, section 4.2).

    The factor of group i is :math:`z_i = \sqrt{s_a s_b a_i b_i}`, the product of two half-Cauchy
    variables, one of the layer with the scale tau, one of the group with scale one, each as the
    root of a gamma and an inverse-gamma variable,

    .. math:: s_a \sim \Gamma(\tfrac12, \tau^2), \ s_b \sim \text{I}\Gamma(\tfrac12, 1), \
              a_i \sim \Gamma(\tfrac12, 1), \ b_i \sim \text{I}\Gamma(\tfrac12, 1).

    All four are log-normal under q, and so is z. See `GroupDropout` for the rest.

    Parameters
    ----------
    log_posterior, mean, network, kl, init_log_var, most_first
        See `GroupDropout`.
    scale : float
        The tau above.
    """

    def __init__(
        self, log_posterior, mean, network, kl="molchanov", *, scale: float = 1e-5, **kwargs
    ) -> None:
        self.scale = scale
        super().__init__(log_posterior, mean, network, kl, **kwargs)

    def _make_factors(self, init_log_var):
        n, n_layers = self.groups.n, len(self.groups.sizes)
        new = self.mean.new_full
        # the two halves of the layer's variable begin so that it is one
        start = 2.0 * math.log(self.scale)
        halves = [new((n_layers,), start), new((n_layers,), -start), new((n,), 0.0), new((n,), 0.0)]
        self.log_mean = [part.requires_grad_() for part in halves]
        self.log_log_var = [torch.full_like(p, init_log_var).requires_grad_() for p in halves]
        self.leaves += self.log_mean + self.log_log_var

    def _logs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means and variances of log z: of what layers share, and of groups."""
        means, variances = self.log_mean, [part.exp() for part in self.log_log_var]
        return (
            0.5 * (means[0] + means[1]),
            0.25 * (variances[0] + variances[1]),
            0.5 * (means[2] + means[3]),
            0.25 * (variances[2] + variances[3]),
        )

    def _draw_z(self, n, noise):
        m0, v0, m, v = self._logs()
        shared = m0 + v0.sqrt() * noise.normal(n, len(m0), like=m)
        own = m + v.sqrt() * noise.normal(n, len(m), like=m)
        parts = own.split(self.groups.sizes, 1)
        return [torch.exp(part + shared[:, i : i + 1]) for i, part in enumerate(parts)]

    def _log_moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of log z, (n_groups,)."""
        m0, v0, m, v = self._logs()
        layer = torch.repeat_interleave(
            torch.arange(len(m0), device=m.device),
            torch.as_tensor(self.groups.sizes, device=m.device),
        )
        return m + m0[layer], v + v0[layer]

    def _z_moments(self):
        mean, var = self._log_moments()
        first = torch.exp(mean + 0.5 * var)
        return first, first**2 * torch.expm1(var)

    def _z_log_alpha(self):
        return torch.log(torch.expm1(self._log_moments()[1]))

    def _z_kl(self):
        variances = [part.exp() for part in self.log_log_var]
        sa, sb, a, b = zip(self.log_mean, variances, strict=True)
        return (
            kl_log_normal_gamma(*sa, scale=self.scale**2).sum()
            + kl_log_normal_inverse_gamma(*sb).sum()
            + kl_log_normal_gamma(*a).sum()
            + kl_log_normal_inverse_gamma(*b).sum()
        )
