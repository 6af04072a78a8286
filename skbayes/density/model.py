"""The variational autoencoder as a torch module."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from skbayes.density.columns import Layout, expand
from skbayes.density.decoder_weights import DecoderWeights
from skbayes.density.heads import Head
from skbayes.density.latent_priors import (
    LatentPrior,
    MixtureLatent,
    NormalLatent,
    RelevanceLatent,
    VampLatent,
    normal_log_prob,
)
from skbayes.density.networks import Path

PRIORS = ("normal", "mixture", "vamp", "relevance", "two_stage")

LOWEST_LOG_VAR, HIGHEST_LOG_VAR = -16.0, 8.0


@dataclass(frozen=True)
class Architecture:
    """All that a model is made from, in plain Python."""

    layout: Layout
    n_latent: int
    hidden: tuple[int, ...]
    activation: str = "silu"
    noise: str = "per_row"
    floor: float = 0.01
    linear: bool = False
    prior: str = "normal"
    n_components: int = 16
    image_shape: tuple[int, int, int] | None = None
    channels: tuple[int, ...] = ()
    n_weight_draws: int = 0
    """Draws of the decoder's weights that answers are averaged over; 0: these are points."""


class VAE(nn.Module):
    r"""Encoder q(z given x), decoder p(x given z) and prior p(z).

    .. math:: \log p(x) \ge E_{q(z \mid x)}[\log p(x \mid z)] - KL(q(z \mid x) \,\|\, p(z))

    Kingma and Welling (2014), equation 3.

    Parameters
    ----------
    spec : Architecture
        What to build.
    seed : int
        For the starting weights.
    """

    count_mean: Tensor
    count_scale: Tensor

    def __init__(self, spec: Architecture, seed: int = 0) -> None:
        super().__init__()
        self.spec, layout = spec, spec.layout
        generator = torch.Generator().manual_seed(seed)
        self.head = Head(layout, spec.noise, spec.floor)
        n_in, n_out = layout.n_inputs, self.head.n_outputs
        deep_in = deep_out = None
        if spec.image_shape is not None:
            from skbayes.density.convolution import ConvDecoder, ConvEncoder

            deep_in = ConvEncoder(spec.image_shape, spec.channels, 2 * spec.n_latent, generator)
            deep_out = ConvDecoder(spec.image_shape, spec.channels, spec.n_latent, n_out, generator)
        act, linear = spec.activation, spec.linear
        n_latent, hidden = spec.n_latent, spec.hidden
        self.encoder = Path(n_in, 2 * n_latent, hidden, act, linear, generator, deep_in)
        self.decoder = Path(n_latent, n_out, hidden[::-1], act, linear, generator, deep_out)
        self.decoder_weights: DecoderWeights | None = None
        if spec.n_weight_draws:
            self.decoder_weights = DecoderWeights(self.decoder, spec.n_weight_draws, seed + 2)
        self.register_buffer("count_mean", torch.zeros(layout.n_count))
        self.register_buffer("count_scale", torch.ones(layout.n_count))
        self.prior = self._make_prior(spec, seed)

    def _make_prior(self, spec: Architecture, seed: int) -> LatentPrior:
        if spec.prior == "mixture":
            return MixtureLatent(spec.n_latent, spec.n_components)
        if spec.prior == "vamp":
            n_in = spec.layout.n_inputs
            return VampLatent(spec.n_latent, spec.n_components, n_in, self.encode_inputs)
        if spec.prior == "relevance":
            return RelevanceLatent(spec.n_latent)
        if spec.prior == "two_stage":
            from skbayes.density.two_stage import TwoStageLatent

            return TwoStageLatent(spec.n_latent, spec.hidden, spec.activation, seed)
        return NormalLatent(spec.n_latent)

    def inputs(self, v: Tensor) -> Tensor:
        """What the encoder sees of values v (n, n_columns)."""
        return expand(v, self.spec.layout, self.count_mean, self.count_scale)

    def encode_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q, (n, n_latent) each, from encoder inputs."""
        mean, log_var = self.encoder(x).chunk(2, -1)
        return mean, log_var.clamp(LOWEST_LOG_VAR, HIGHEST_LOG_VAR)

    def encode(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q, (n, n_latent) each, from values."""
        return self.encode_inputs(self.inputs(v))

    def log_weights(
        self, v: Tensor, mean: Tensor, log_var: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Importance weights of points of q.

        Parameters
        ----------
        v : Tensor of shape (n, n_columns)
        mean, log_var : Tensor of shape (n, n_latent)
            Of the proposal.
        eps : Tensor of shape (n_points, 1 or n, n_latent + n_extra)
            Standard normal numbers.

        Returns
        -------
        log_weight : Tensor of shape (n_points, n)
            log p(x, z) - log q(z given x), real columns in standardised units. With a posterior
            over the decoder's weights, n_points for each of its draws, one draw after another.
        log_lik : Tensor of shape (n_points, n, n_columns)
            log p(x_j given z).
        out : Tensor
            What the decoder put out.
        """
        n_latent = self.spec.n_latent
        z = mean + torch.exp(0.5 * log_var) * eps[..., :n_latent]
        extra = eps[..., n_latent:].expand(*z.shape[:-1], -1) if self.prior.n_extra else None
        log_ratio = self.prior.log_prob(z, extra) - normal_log_prob(z, mean, log_var)
        if self.decoder_weights is None:
            out = self.decoder(z)
        else:
            out = torch.cat([self.decoder(z) for _ in self.decoder_weights.draws()])
            log_ratio = log_ratio.repeat(self.n_draws, 1)
        log_lik = self.head.log_prob(out, v)
        return log_lik.sum(-1) + log_ratio, log_lik, out

    def decode_any(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """What the decoder puts out for z (n, n_latent), with a draw of its weights for each."""
        if self.decoder_weights is None:
            return self.decoder(z)
        which = torch.randint(self.n_draws, (len(z),), generator=generator).to(z.device)
        out = z.new_empty((len(z), self.head.n_outputs))
        for number in self.decoder_weights.draws():
            rows = which == number
            out[rows] = self.decoder(z[rows])
        return out

    def weights_kl(self) -> Tensor:
        """Divergence of the decoder's weights from their prior, for the whole data set."""
        return torch.zeros(()) if self.decoder_weights is None else self.decoder_weights.kl()

    @property
    def n_draws(self) -> int:
        """Draws of the decoder's weights in an answer."""
        return max(1, self.spec.n_weight_draws)

    @property
    def n_noise(self) -> int:
        """Standard normal numbers that one point needs."""
        return self.spec.n_latent + self.prior.n_extra

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Weights and buffers by name."""
        return {k: t.detach().cpu().numpy().copy() for k, t in self.state_dict().items()}

    @classmethod
    def from_numpy(cls, spec: Architecture, weights: dict[str, np.ndarray]) -> VAE:
        """The module with the given weights."""
        out = cls(spec)
        out.load_state_dict({k: torch.as_tensor(np.array(w)) for k, w in weights.items()})
        return out
