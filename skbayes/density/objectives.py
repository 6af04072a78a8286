"""What is minimised: bounds of the log density, and criteria that leave no density."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from skbayes.density.model import VAE


class Objective:
    r"""The evidence lower bound, with a factor on the divergence and free bits.

    .. math:: -E_{q(z \mid x)}[\log p(x \mid z)]
              + \beta \sum_j \max(\lambda, \mathrm{mean}_x KL_j)

    beta: Higgins et al. (2017); free bits: Kingma et al. (2016), appendix C.

    Parameters
    ----------
    n_points : int
        Points of q per row.
    beta : float
        Factor on the divergence after warm-up.
    free_bits : float
        Nats of each latent variable that cost nothing.
    strength : float
        Factor on the penalty of the criteria that compare distributions.
    """

    has_density: ClassVar[bool] = True
    deterministic: ClassVar[bool] = False  # whether z is the encoder's mean

    def __init__(
        self, n_points: int = 1, beta: float = 1.0, free_bits: float = 0.0, strength: float = 1.0
    ) -> None:
        self.n_points, self.beta = n_points, beta
        self.free_bits, self.strength = free_bits, strength

    def prepare(self, model: VAE, kernel: str, seed: int, device, dtype) -> None:
        """Make what the objective trains beside the model."""

    def loss(
        self, model: VAE, v: Tensor, eps: Tensor, share: Tensor, warm: float
    ) -> tuple[Tensor, Tensor]:
        """Loss per row (mean weighted by ``share``, which sums to one), and the decoder's outputs.

        ``eps`` (n_points, n, n_noise) are standard normal numbers, ``warm`` in [0, 1] is how far
        the warm-up is.
        """
        mean, log_var = model.encode(v)
        n_latent = model.spec.n_latent
        z = mean + torch.exp(0.5 * log_var) * eps[..., :n_latent]
        out = model.decoder(z)
        log_lik = model.head.log_prob(out, v).sum(-1).mean(0)
        extra = eps[..., n_latent:] if model.prior.n_extra else None
        kl = model.prior.kl(mean, log_var, z, extra)
        if model.prior.factorises:
            per_latent = share @ kl
            if self.free_bits:
                per_latent = per_latent.clamp_min(self.free_bits)
            divergence = per_latent.sum()
        else:
            divergence = share @ kl.mean(0)
            if self.free_bits:
                divergence = divergence.clamp_min(self.free_bits * n_latent)
        return warm * self.beta * divergence - share @ log_lik, out


class ELBO(Objective):
    """The bound itself; see `Objective`."""


class IWAE(Objective):
    r"""The importance weighted bound.

    .. math:: -\log \frac{1}{K} \sum_k \frac{p(x, z_k)}{q(z_k \mid x)}

    Burda, Grosse and Salakhutdinov (2016), equation 8.
    """

    def loss(self, model, v, eps, share, warm):
        mean, log_var = model.encode(v)
        log_weight, log_lik, out = model.log_weights(v, mean, log_var, eps)
        if warm < 1.0 or self.beta != 1.0:
            fit = log_lik.sum(-1)
            log_weight = fit + warm * self.beta * (log_weight - fit)
        bound = torch.logsumexp(log_weight, 0) - math.log(len(log_weight))
        return -(share @ bound), out


OBJECTIVES: dict[str, type[Objective]] = {"elbo": ELBO, "iwae": IWAE}
