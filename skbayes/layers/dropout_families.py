"""Variational dropout: noise that multiplies weights, with rates that are fixed or learned."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.families import Family
from skbayes.layers.groups import Groups
from skbayes.layers.kl import (
    MOLCHANOV,
    kl_log_uniform,
    kl_log_uniform_molchanov,
)
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import Noise

LIMIT = 8.0
"""Log alpha is clipped to plus and minus this."""

CHUNK = 1 << 17
"""Weights that the divergence is computed for at once: their arrays stay in the cache."""

TINY = 1e-8
"""Added to a squared mean under a logarithm."""

KLS = {"molchanov": kl_log_uniform_molchanov, "exact": kl_log_uniform}
"""Ways to compute the divergence from the log-uniform prior."""


class DropoutFamily(Family):
    """What the kinds of variational dropout share.

    Weights of linear and convolution layers carry noise. Biases and the parameters of other parts
    are points without a prior; the parameters of the likelihood are normal.

    Parameters
    ----------
    log_posterior : LogPosterior
        Says what theta is.
    mean : Tensor of shape (n_params,)
        Where to start.
    network : VariationalNetwork
        Says what a weight is.
    kl : {"molchanov", "exact"}
        How the divergence from the log-uniform prior is computed.

    Attributes
    ----------
    mean : Tensor of shape (n_params,)
        Means of theta (of the group kinds: before the factors of units).
    """

    draws_others = False

    def __init__(
        self, log_posterior, mean: Tensor, network: VariationalNetwork, kl: str = "molchanov"
    ) -> None:
        self.layout, self.likelihood = log_posterior.layout, log_posterior.likelihood
        self.network, self.kl_log_uniform = network, KLS[kl]
        self.mean = mean.detach().clone().requires_grad_()
        self.leaves = [self.mean]
        self.n_network = self.layout.n_network
        n_rest = len(mean) - self.n_network
        self._rest = mean.new_full((n_rest,), -4.0).requires_grad_()  # of the likelihood
        if n_rest:
            self.leaves.append(self._rest)
        self.names = [f"{name}.weight".lstrip(".") for name in network.layers]
        self.is_weight = torch.zeros(self.n_network, dtype=mean.dtype, device=mean.device)
        for name in self.names:
            self.is_weight[network.slices[name]] = 1.0

    def moments(self):
        """See `Family.moments`."""
        var = self._variances()
        if len(self._rest):
            var = torch.cat([var, self._rest.exp()])
        return self.mean, var

    def _variances(self) -> Tensor:
        """Variances (n_network,), given the factors of units; zero for what is a point."""
        raise NotImplementedError("abstract")

    def kl(self, mean, var, noise):
        """See `Family.kl`."""
        out = self._kl(mean[: self.n_network], var[: self.n_network])
        if len(self._rest):
            rest = [part[None, self.n_network :] for part in (mean, var)]
            out = out + self.likelihood.kl(*rest).sum()
        return out

    def _kl(self, mean: Tensor, var: Tensor) -> Tensor:
        """That of the network's part."""
        raise NotImplementedError("abstract")

    def centre(self):
        """See `Family.centre`."""
        return self.mean.detach() * self._mean_factors()

    def _mean_factors(self) -> Tensor | float:
        """Means of the factors of units, as factors of theta (n_params,)."""
        return 1.0

    def _factors(self, n: int, noise: Noise) -> Tensor | float:
        """Draws of the factors of units, as factors of theta (n, n_params)."""
        return 1.0

    def sample(self, n, noise):
        """See `Family.sample`."""
        mean, var = (part.detach() for part in self.moments())
        theta = torch.addcmul(mean, var.sqrt(), noise.normal(n, len(mean), like=mean))
        return theta * self._factors(n, noise)

    # ------------------------------------------------------------------ afterwards

    def weight_moments(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Means and variances of the weights, in the shapes of the module, by their names."""
        with torch.no_grad():
            mean, var = self._marginal()
        return self._arrays(mean), self._arrays(var)

    def _marginal(self) -> tuple[Tensor, Tensor]:
        """Moments of the network's part (n_network,) with the factors of units."""
        mean, var = self.moments()
        return mean[: self.n_network], var[: self.n_network]

    def log_alpha(self) -> dict[str, np.ndarray]:
        """Log of the variance over the squared mean, by the weights' names.

        A number of each weight, in its shape, of each group, or of each layer.
        """
        raise NotImplementedError("abstract")

    def sides_of_rates(self) -> list[str]:
        """What a rate of each layer belongs to: "weight", "in", "out" (a unit) or "layer"."""
        return ["weight"] * len(self.names)

    def _arrays(self, flat: Tensor) -> dict[str, np.ndarray]:
        cut = self.network.cut(flat)
        return {name: cut[name].detach().cpu().numpy().copy() for name in self.names}


class UnitDropout(DropoutFamily):
    r"""Gaussian dropout, Kingma, Salimans and Welling (2015), with a rate for units or layers.

    .. math:: w_{ij} = \theta_{ij} (1 + \sqrt{\alpha_i}\, \epsilon_{ij}), \qquad
              p(\log |w_{ij}|) = \text{const}

    with i an input unit (channel) of the layer. ``correlated`` gives all weights of an input unit
    the same noise, epsilon_i (their section 3.2; without, section 3.1), and then the divergence
    counts units, not weights.

    Parameters
    ----------
    log_posterior, mean, network, kl
        See `DropoutFamily`.
    log_alpha : float
        Log alpha, or where it starts.
    learned : bool
        Whether alpha is trained; it stays below one, as in the paper, for above it the bound is
        flat and has poor optima.
    per : {"layer", "unit"}
        What has an alpha of its own.
    correlated : bool
        See above.
    """

    def __init__(
        self,
        log_posterior,
        mean,
        network,
        kl="molchanov",
        *,
        log_alpha: float,
        learned: bool,
        per: str = "layer",
        correlated: bool = False,
    ) -> None:
        super().__init__(log_posterior, mean, network, kl)
        self.learned, self.per, self.correlated = learned, per, correlated
        self.groups = Groups(network, dict.fromkeys(network.layers, "in"))
        n = self.groups.n if per == "unit" else len(self.groups.sizes)
        self.alpha = mean.new_full((n,), log_alpha)
        if learned:
            self.leaves.append(self.alpha.requires_grad_())

    def project(self):
        """See `Family.project`."""
        if self.learned:
            self.alpha.detach().clamp_(-LIMIT, 0.0)

    def _by_layer(self) -> list[Tensor]:
        """Log alpha of every layer, (n_units,) or (1,)."""
        sizes = self.groups.sizes if self.per == "unit" else [1] * len(self.groups.sizes)
        return list(self.alpha.split(sizes))

    def _variances(self):
        if self.correlated:
            return torch.zeros_like(self.mean[: self.n_network])
        factors = {
            name: self.groups.spread(name, log_alpha.exp())
            for name, log_alpha in zip(self.network.layers, self._by_layer(), strict=True)
        }
        return self.network.scaled_squares(self.mean[: self.n_network], factors)

    def units(self, n, noise):
        """See `Family.units`."""
        if not self.correlated:
            return None
        out = {}
        for (name, layer), log_alpha in zip(
            self.network.layers.items(), self._by_layer(), strict=True
        ):
            epsilon = noise.normal(n, layer.n_in, like=self.mean)
            out[name] = (1.0 + (0.5 * log_alpha).exp() * epsilon, None)
        return out

    def _kl(self, mean, var):
        parts = self._by_layer()
        out = mean.new_zeros(())
        for layer, log_alpha in zip(self.network.layers.values(), parts, strict=True):
            total = layer.n_in if self.correlated else layer.n_weights
            out = out + self.kl_log_uniform(log_alpha).sum() * (total / len(log_alpha))
        return out

    def _factors(self, n, noise):
        if not self.correlated:
            return 1.0
        log_alpha = torch.cat(
            [
                part.detach().expand(size)
                for part, size in zip(self._by_layer(), self.groups.sizes, strict=True)
            ]
        )
        z = 1.0 + (0.5 * log_alpha).exp() * noise.normal(n, self.groups.n, like=self.mean)
        return self.groups.factors(z, len(self.mean))

    def log_alpha(self):
        """See `DropoutFamily.log_alpha`."""
        parts = (part.detach().cpu().numpy().copy() for part in self._by_layer())
        return dict(zip(self.names, parts, strict=True))

    def sides_of_rates(self):
        """See `DropoutFamily.sides_of_rates`."""
        return ["in" if self.per == "unit" else "layer"] * len(self.names)

    def _marginal(self):
        if not self.correlated:
            return super()._marginal()
        factors = {
            name: self.groups.spread(name, log_alpha.exp())
            for name, log_alpha in zip(self.network.layers, self._by_layer(), strict=True)
        }
        mean = self.mean[: self.n_network]
        return mean, self.network.scaled_squares(mean, factors)


class SparseDropout(DropoutFamily):
    r"""Sparse variational dropout, Molchanov, Ashukha and Vetrov (2017): a rate for each weight.

    .. math:: q(w) = N(\mu, \sigma^2), \qquad \alpha = \sigma^2 / \mu^2, \qquad
              p(\log |w|) = \text{const}

    trained in mu and log sigma^2, in which the gradient does not have the noise times the weight
    (their section 4.1). Log alpha, as `log_alpha` gives it and the exact divergence takes it, is
    clipped to +-8.

    Parameters
    ----------
    log_posterior, mean, network, kl
        See `DropoutFamily`.
    init_log_var : float
        Where log sigma^2 starts.
    """

    def __init__(
        self, log_posterior, mean, network, kl="molchanov", *, init_log_var: float = -10.0
    ) -> None:
        super().__init__(log_posterior, mean, network, kl)
        # points have the variance exp(-inf) = 0, to which nothing adds
        start = torch.where(self.is_weight > 0, init_log_var, -math.inf)
        self.log_var = start.to(mean.dtype).requires_grad_()
        self.leaves.append(self.log_var)
        whole = [network.slices[name] for name in self.names]
        self.slices = [
            slice(first, min(first + CHUNK, part.stop))
            for part in whole
            for first in range(part.start, part.stop, CHUNK)
        ]

    def _variances(self):
        return self.log_var.exp()

    def _log_alpha(self, mean: Tensor) -> Tensor:
        log_alpha = self.log_var - torch.log(mean * mean + TINY)
        return log_alpha.clamp(-LIMIT, LIMIT)

    def _kl(self, mean, var):
        if self.kl_log_uniform is kl_log_uniform_molchanov:
            return _MolchanovSum.apply(mean, self.log_var, var.detach(), self.slices)
        log_alpha = self._log_alpha(mean)
        return sum(self.kl_log_uniform(log_alpha[part]).sum() for part in self.slices)

    def log_alpha(self):
        """See `DropoutFamily.log_alpha`."""
        with torch.no_grad():
            return self._arrays(self._log_alpha(self.mean[: self.n_network]))


class _MolchanovSum(torch.autograd.Function):
    """Sum of `kl_log_uniform_molchanov` over weights, in few passes over memory.

    It is stable for any alpha, and so needs no clipping.
    """

    @staticmethod
    def forward(ctx, mean, log_var, var, slices):
        k1, k2, k3 = MOLCHANOV
        total = mean.new_zeros(())
        by_mean, by_log_var = torch.zeros_like(mean), torch.zeros_like(mean)
        for part in slices:
            m, out = mean[part], by_log_var[part]
            square = (m * m).add_(TINY)
            log_alpha = torch.log(square).neg_().add_(log_var[part])
            s = log_alpha.mul_(-k3).sub_(k2).sigmoid_()  # one minus that of the formula
            both = square + var[part]
            # log(1 + 1 / alpha) is log(both) - log(var), sigmoid(-log alpha) is square / both
            half = torch.log(both).sub_(log_var[part]).sum()
            total = total + k1 * s.sum() + 0.5 * half
            torch.div(square, both, out=out)
            out.mul_(-0.5).addcmul_(s, s - 1.0, value=k1 * k3)
            torch.mul(out, m, out=by_mean[part])
            by_mean[part].div_(square).mul_(-2.0)
        ctx.save_for_backward(by_mean, by_log_var)
        return total

    @staticmethod
    def backward(ctx, grad):
        by_mean, by_log_var = ctx.saved_tensors
        return grad * by_mean, grad * by_log_var, None, None
