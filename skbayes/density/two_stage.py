"""A second autoencoder on the latent variables of the first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skbayes.density.latent_priors import LatentPrior, normal_log_prob
from skbayes.density.networks import Path


class TwoStageLatent(LatentPrior):
    r"""The two-stage VAE: z comes from u by a decoder of its own.

    .. math:: p(z) = \int N(z; g(u), \gamma_z I)\, N(u; 0, I)\, du

    Dai and Wipf (2019), section 4, with :math:`\gamma_z` in the loss. They train the second stage
    when the first is done; here both are trained at once on the one bound that holds for both,

    .. math:: \log p(x) \ge E[\log p(x \mid z) + \log p(z \mid u) + \log p(u)
              - \log q(z \mid x) - \log q(u \mid z)],

    so that the noise of both stages is in the same loss and the density is one number. The
    networks of the second stage have linear paths, as theirs have skip connections.
    """

    def __init__(self, n_latent: int, hidden: tuple[int, ...], activation: str, seed: int) -> None:
        super().__init__(n_latent)
        generator = torch.Generator().manual_seed(seed + 1)
        self.n_extra = n_latent
        self.encoder = Path(n_latent, 2 * n_latent, hidden, activation, True, generator)
        self.decoder = Path(n_latent, n_latent, hidden, activation, True, generator)
        self.log_gamma = nn.Parameter(torch.zeros(()))

    def _log_var(self) -> Tensor:
        # the floor of the first stage's noise, on variables of scale one
        return torch.logaddexp(self.log_gamma, self.log_gamma.new_tensor(-9.0))

    def log_prob(self, z, extra=None):
        mean, log_var = self.encoder(z).chunk(2, -1)
        log_var = log_var.clamp(-16.0, 8.0)
        assert extra is not None
        u = mean + torch.exp(0.5 * log_var) * extra
        zero = torch.zeros_like(mean[..., :1])
        log_ratio = normal_log_prob(u, zero, zero) - normal_log_prob(u, mean, log_var)
        return log_ratio + normal_log_prob(z, self.decoder(u), self._log_var())

    def sample(self, n, generator):
        like = self.log_gamma
        eps = torch.randn(2, n, self.n_latent, generator=generator, dtype=like.dtype)
        u, noise = eps.to(like.device)
        return self.decoder(u) + torch.exp(0.5 * self._log_var()) * noise

    def moments(self):
        generator = torch.Generator().manual_seed(0)
        z = self.sample(2000, generator)
        return z.mean(0), z.var(0)
