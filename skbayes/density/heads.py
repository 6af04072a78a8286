"""Likelihoods of a row given its latent variables, column by column."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skbayes.density.columns import Layout

NOISES = ("shared", "per_feature", "per_row")

LOG_2PI = math.log(2.0 * math.pi)


class Head(nn.Module):
    r"""Log likelihood of every column, given what the decoder puts out.

    Real columns are normal, with mean and variance in standardised units,

    .. math:: \log p(x_j \mid z) = -\tfrac12 \log 2 \pi \sigma_j^2
              - \frac{(x_j - \mu_j(z))^2}{2 \sigma_j^2},
              \qquad \sigma_j^2 = f^2 + \exp(s_j).

    s is one number ("shared"), one per column ("per_feature"), or that plus an output of the
    decoder ("per_row"); f is the floor. Integer columns have the probability of the normal between
    the middles to the neighbouring grid points. Binary columns are Bernoulli, categories softmax,
    counts negative binomial with the mean from the decoder and a dispersion per column.

    Parameters
    ----------
    layout : Layout
        Numbers of columns.
    noise : {"shared", "per_feature", "per_row"}
        Of real columns.
    floor : float
        Smallest standard deviation of real columns, in standardised units.
    """

    half_pitch: Tensor

    def __init__(self, layout: Layout, noise: str, floor: float) -> None:
        super().__init__()
        self.layout, self.noise, self.floor = layout, noise, floor
        start = math.log(max(1.0 - floor**2, 1e-6))  # the noise is one at the start
        n = 1 if noise == "shared" else layout.n_real
        self.log_noise = nn.Parameter(torch.full((n,), start))
        self.log_dispersion = nn.Parameter(torch.zeros(layout.n_count))
        self.register_buffer("half_pitch", torch.zeros(layout.n_integer))

    @property
    def n_outputs(self) -> int:
        """Outputs that the decoder must have."""
        out = self.layout.n_inputs
        return out + self.layout.n_real if self.noise == "per_row" else out

    def set_noise(self, variance: Tensor) -> None:
        """Set the noise of real columns, (1,) where they share it; outputs may add to its log."""
        inside = (variance - self.floor**2).clamp_min(1e-3 * self.floor**2)
        self.log_noise.copy_(torch.log(inside))

    def split(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """Means and log variances of real columns, logits, log means of counts, class logits."""
        lay = self.layout
        n_real = lay.n_real
        mean, at = out[..., :n_real], n_real
        logits = out[..., at : at + lay.n_binary]
        at += lay.n_binary
        log_rate = out[..., at : at + lay.n_count]
        at += lay.n_count
        classes = []
        for k in lay.n_categories:
            classes.append(out[..., at : at + k])
            at += k
        raw = self.log_noise.expand(n_real) if self.noise == "shared" else self.log_noise
        if self.noise == "per_row":
            raw = raw + out[..., at : at + n_real]
        log_var = torch.logaddexp(raw, raw.new_tensor(2.0 * math.log(self.floor)))
        return mean, log_var, logits, log_rate, classes

    def log_prob(self, out: Tensor, v: Tensor) -> Tensor:
        """Log likelihood (..., n_columns) of values v (..., n_columns)."""
        lay = self.layout
        mean, log_var, logits, log_rate, classes = self.split(out)
        n_normal, n_real = lay.n_normal, lay.n_real
        log_var = log_var.expand_as(mean)
        difference = v[..., :n_normal] - mean[..., :n_normal]
        part = log_var[..., :n_normal]
        normal = -0.5 * (LOG_2PI + part + difference * difference * torch.exp(-part))
        if n_normal == lay.n_columns:
            return normal
        terms = [normal] if n_normal else []
        if lay.n_integer:
            deviation = torch.exp(0.5 * log_var[..., n_normal:])
            difference = (v[..., n_normal:n_real] - mean[..., n_normal:]) / deviation
            terms.append(_log_interval(difference.abs(), self.half_pitch / deviation))
        at = n_real + lay.n_binary
        if lay.n_binary:
            terms.append(v[..., n_real:at] * logits - nn.functional.softplus(logits))
        if lay.n_count:
            terms.append(self._negative_binomial(v[..., at : at + lay.n_count], log_rate))
            at += lay.n_count
        for scores in classes:
            code = v[..., at : at + 1].long()
            log_p = torch.log_softmax(scores, -1)
            terms.append(log_p.gather(-1, code.expand(*log_p.shape[:-1], 1)))
            at += 1
        return terms[0] if len(terms) == 1 else torch.cat(terms, -1)

    def log_power_integral(self, out: Tensor, b: float) -> Tensor:
        r"""Log of the integral of the likelihood's power 1 + b over all rows, (...,).

        .. math:: \int N(x; \mu, \sigma^2)^{1 + b} dx = (2 \pi \sigma^2)^{-b / 2} (1 + b)^{-1/2}

        The sum over an integer column's grid is taken to be this times the b-th power of the
        distance of its points, and one at most. There is none for counts.
        """
        _, log_var, logits, _, classes = self.split(out)
        n_normal = self.layout.n_normal
        real = -0.5 * (b * (LOG_2PI + log_var) + math.log1p(b))
        real = real.expand(*out.shape[:-1], self.layout.n_real)
        total = real[..., :n_normal].sum(-1)
        if self.layout.n_integer:
            on_grid = real[..., n_normal:] + b * torch.log(2.0 * self.half_pitch)
            total = total + on_grid.clamp_max(0.0).sum(-1)
        if self.layout.n_binary:
            yes, no = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
            total = total + torch.logaddexp((1.0 + b) * yes, (1.0 + b) * no).sum(-1)
        for scores in classes:
            total = total + torch.logsumexp((1.0 + b) * torch.log_softmax(scores, -1), -1)
        return total

    def _negative_binomial(self, count: Tensor, log_rate: Tensor) -> Tensor:
        """Negative binomial with mean exp(log_rate) and r = exp(-log_dispersion) failures."""
        r = torch.exp(-self.log_dispersion)
        log_total = torch.logaddexp(log_rate, torch.log(r))
        return (
            torch.lgamma(count + r)
            - torch.lgamma(r)
            - torch.lgamma(count + 1.0)
            + r * (torch.log(r) - log_total)
            + count * (log_rate - log_total)
        )

    def mean(self, out: Tensor) -> Tensor:
        """Expected values (..., n_columns); of categories the most probable one's code."""
        mean, _, logits, log_rate, classes = self.split(out)
        codes = [scores.argmax(-1, keepdim=True).to(mean.dtype) for scores in classes]
        return torch.cat([mean, torch.sigmoid(logits), torch.exp(log_rate), *codes], -1)

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """Values drawn from the likelihood, (..., n_columns)."""
        mean, log_var, logits, log_rate, classes = self.split(out)
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        real = mean + torch.exp(0.5 * log_var) * eps.to(mean.device)
        uniform = torch.rand(logits.shape, generator=generator, dtype=mean.dtype)
        binary = (uniform.to(mean.device) < torch.sigmoid(logits)).to(mean.dtype)
        terms = [real, binary]
        if log_rate.shape[-1]:
            r = torch.exp(-self.log_dispersion)
            shape = r.expand_as(log_rate).contiguous()
            # a gamma mixture of Poissons
            rate = torch._standard_gamma(shape.cpu(), generator=generator).to(mean.device) / r
            rate = rate * torch.exp(log_rate)
            terms.append(torch.poisson(rate.cpu(), generator=generator).to(mean.device))
        for scores in classes:
            p = torch.softmax(scores, -1).reshape(-1, scores.shape[-1]).cpu()
            code = torch.multinomial(p, 1, generator=generator).to(mean.device)
            terms.append(code.reshape(*scores.shape[:-1], 1).to(mean.dtype))
        return torch.cat(terms, -1)

    def penalty(self, out: Tensor, prior_scale: float) -> Tensor:
        r"""Minus the log prior of the noise, in nats for the whole data set.

        Every variance has a prior worth one row with a residual of ``prior_scale``:
        :math:`\log p = -\tfrac12 (\log \sigma^2 + s^2 / \sigma^2)`. It keeps the likelihood
        bounded (Mattei and Frellsen 2018).
        """
        dispersion = 0.5 * (self.log_dispersion**2).sum()
        if not self.layout.n_real:
            return dispersion
        _, log_var, _, _, _ = self.split(out)
        log_var = log_var.reshape(-1, self.layout.n_real)
        value = 0.5 * (log_var + prior_scale**2 * torch.exp(-log_var)).mean(0).sum()
        return value + dispersion


def _log_interval(distance: Tensor, half: Tensor) -> Tensor:
    """Log probability of a standard normal within ``half`` of a point ``distance`` from 0.

    The upper tail is taken where both ends are above zero, so that nothing cancels.
    """
    upper = torch.special.log_ndtr(half - distance)
    lower = torch.special.log_ndtr(-half - distance)
    # log(exp(upper) - exp(lower)) with a gap that may be tiny
    gap = (upper - lower).clamp_min(1e-12)
    return upper + torch.log(-torch.expm1(-gap))
