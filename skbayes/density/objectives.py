"""What is minimised: bounds of the log density, and criteria that leave no density."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from skbayes.density.importance import log_density
from skbayes.density.model import VAE
from skbayes.density.networks import MLP, flatten
from skbayes.inference.optimizers import Adam

HELD_OUT_PAIRS = 500


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
    robustness : float
        Of `BetaDivergence`.
    """

    has_density: ClassVar[bool] = True

    def __init__(
        self,
        n_points: int = 1,
        beta: float = 1.0,
        free_bits: float = 0.0,
        strength: float = 1.0,
        robustness: float = 0.0,
    ) -> None:
        self.n_points, self.beta, self.robustness = n_points, beta, robustness
        self.free_bits, self.strength = free_bits, strength

    def prepare(self, model: VAE, kernel: str, seed: int, device, dtype) -> None:
        """Make what the objective trains beside the model."""

    @property
    def by_density(self) -> bool:
        """Whether models are stopped by and compared on the density: it is what is trained for."""
        return self.has_density and self.beta == 1.0 and not self.free_bits

    def held_out(self, model: VAE, v: Tensor, eps: Tensor, share: Tensor) -> Tensor:
        """What early stopping looks at: minus the mean log density, by importance weights.

        With another factor on the divergence, or free bits, it is the loss itself, at the means of
        normal weights.
        """
        if self.by_density:
            return -(share @ log_density(model, v, eps))
        model.eval()
        loss, _ = self.loss(model, v, eps, share, 1.0)
        model.train()
        return loss

    def after_step(self, model: VAE, v: Tensor, rate: float) -> None:
        """Train what the objective has beside the model."""

    def loss(
        self, model: VAE, v: Tensor, eps: Tensor, share: Tensor, warm: float
    ) -> tuple[Tensor, Tensor]:
        """Loss per row, summed with ``share`` (which sums to one in expectation), and outputs.

        ``eps`` (n_points, n, n_noise) are standard normal numbers, ``warm`` in [0, 1] is how far
        the warm-up is.
        """
        mean, log_var = model.encode(v)
        n_latent = model.spec.n_latent
        z = mean + torch.exp(0.5 * log_var) * eps[..., :n_latent]
        out = model.decoder(z)
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
        return warm * self.beta * divergence + self._misfit(model, out, v, share), out

    def _misfit(self, model: VAE, out: Tensor, v: Tensor, share: Tensor) -> Tensor:
        """Minus the mean log likelihood of the rows given points of q."""
        return -(share @ model.head.log_prob(out, v).sum(-1).mean(0))


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


class BetaDivergence(Objective):
    r"""The bound with a beta divergence in place of the log likelihood: unlikely rows weigh less.

    .. math:: \frac{1}{c} E_{q(z \mid x)} \Big[ -\frac{1 + b}{b} \big(p(x \mid z)^b - 1\big)
              + \int p(x' \mid z)^{1 + b} dx' \Big] + KL

    Akrami, Joshi, Li, Aydore and Leahy (2019), after the density power divergence of Basu et al.
    (1998). A row has the weight :math:`(1 + b)\, p(x \mid z)^b` in the gradient, and none as its
    likelihood goes to zero. Different here: the exponent b is ``robustness`` over the number of
    columns; the integral is kept, since the noise is learned; and c is the batch's mean of
    :math:`(1 + b)\, p(x \mid z)^b`, so that the divergence weighs as it does in the bound. Early
    stopping looks at the mean log density without the tenth of the held-out rows that are least
    likely.
    """

    def _misfit(self, model, out, v, share):
        b = self.robustness / v.shape[1]
        power = torch.exp(b * model.head.log_prob(out, v).sum(-1))  # (n_points, n)
        integral = torch.exp(model.head.log_power_integral(out, b))
        mean = share @ power.detach().mean(0) / share.sum().clamp_min(1e-12)
        scale = (1.0 + b) * mean.clamp_min(1e-30)
        cost = integral - (1.0 + b) / b * (power - 1.0)
        return share @ cost.mean(0) / scale

    def held_out(self, model, v, eps, share):
        if not self.by_density:
            return super().held_out(model, v, eps, share)
        values, order = torch.sort(log_density(model, v, eps))
        kept = share[order] * (torch.cumsum(share[order], 0) > LEAST_LIKELY)
        return -(kept @ values) / kept.sum().clamp_min(1e-12)


LEAST_LIKELY = 0.1

OBJECTIVES: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "beta-divergence": BetaDivergence,
}


class Autoencoder(Objective):
    r"""A plain autoencoder: squared error in standardised units, or minus the log likelihood.

    .. math:: \tfrac12 \sum_j (x_j - \mu_j(m(x)))^2

    with m(x) the encoder's mean, over real columns; other columns have their log likelihood.
    """

    has_density = False

    def loss(self, model, v, eps, share, warm):
        z, _ = model.encode(v)
        return self._fit(model, v, z, share) + warm * self._penalty(model, v, z, eps), self._out

    def _fit(self, model: VAE, v: Tensor, z: Tensor, share: Tensor) -> Tensor:
        self._out = model.decoder(z)
        n_real = model.spec.layout.n_real
        mean = self._out[..., :n_real]
        cost = 0.5 * ((v[..., :n_real] - mean) ** 2).sum(-1)
        if n_real < model.spec.layout.n_columns:
            cost = cost - model.head.log_prob(self._out, v)[..., n_real:].sum(-1)
        return share @ cost

    def _penalty(self, model: VAE, v: Tensor, z: Tensor, eps: Tensor) -> Tensor:
        """What is added to the squared error."""
        return z.new_zeros(())

    def held_out(self, model: VAE, v: Tensor, eps: Tensor, share: Tensor) -> Tensor:
        """What early stopping looks at; ``eps`` (1, n, n_noise)."""
        z, _ = model.encode(v)
        few = slice(0, HELD_OUT_PAIRS)  # all pairs of rows are compared
        return self._fit(model, v, z, share) + self._compare(model, v[few], z[few], eps[:, few])

    def _compare(self, model: VAE, v: Tensor, z: Tensor, eps: Tensor) -> Tensor:
        return self._penalty(model, v, z, eps)


class MMD(Autoencoder):
    r"""The Wasserstein autoencoder with maximum mean discrepancy.

    .. math:: \lambda \Big[ \frac{\sum_{i \ne j} k(z_i, z_j) + k(z'_i, z'_j)}{n (n - 1)}
              - \frac{2}{n^2} \sum_{ij} k(z_i, z'_j) \Big]

    with z' from the prior; Tolstikhin et al. (2018), algorithm 2. The kernel is a sum of inverse
    multiquadrics C / (C + d^2), C = 2 n_latent s for s in 0.1 to 10, or a normal whose width is
    that of the median distance.
    """

    def prepare(self, model, kernel, seed, device, dtype):
        self.kernel = kernel

    def _penalty(self, model, v, z, eps):
        n = len(z)
        if n < 2:
            return z.new_zeros(())
        other = _prior_points(model, eps)
        zz, oo, zo = _distances(z, z), _distances(other, other), _distances(z, other)
        if self.kernel == "rbf":
            width = torch.cat([zz.detach().flatten(), zo.detach().flatten()]).median()

            def k(d: Tensor) -> Tensor:
                return torch.exp(-d / width.clamp_min(1e-6))
        else:
            base = 2.0 * z.shape[1]

            def k(d: Tensor) -> Tensor:
                scales = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
                return sum((base * s / (base * s + d) for s in scales), torch.zeros_like(d))

        def off(d: Tensor) -> Tensor:
            return (k(d).sum() - k(d).diagonal().sum()) / (n * (n - 1))

        return self.strength * (off(zz) + off(oo) - 2.0 * k(zo).mean())


class Stein(Autoencoder):
    r"""Kernelised Stein discrepancy between the encodings and the prior.

    .. math:: \frac{\lambda}{n (n - 1)} \sum_{i \ne j} u(z_i, z_j), \quad
              u = s^T s' k + s^T \nabla' k + s'^T \nabla k + \mathrm{tr} \nabla \nabla' k

    with the score s of the prior and an inverse multiquadric k = (c + d^2)^{-1/2}; Liu, Lee and
    Jordan (2016), section 3, with the kernel of Gorham and Mackey (2017). It needs no draws from
    the prior, only the gradient of its log density.
    """

    def _penalty(self, model, v, z, eps):
        n, q = z.shape
        if n < 2:
            return z.new_zeros(())
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_(True)
            score = torch.autograd.grad(model.prior.log_prob(at).sum(), at, create_graph=True)[0]
        difference = z[:, None] - z[None]
        base = q + (difference**2).sum(-1)
        k, k3, k5 = base**-0.5, base**-1.5, base**-2.5
        cross = (difference * (score[:, None] - score[None])).sum(-1)
        trace = q * k3 - 3.0 * (difference**2).sum(-1) * k5
        # gradients of k by z_i are -difference k3, by z_j the opposite
        u = (score @ score.T) * k + cross * k3 + trace
        return self.strength * (u.sum() - u.diagonal().sum()) / (n * (n - 1))


class LatentGAN(Autoencoder):
    r"""Adversarial autoencoder: a discriminator of encodings and draws from the prior.

    The encoder gets :math:`-\lambda \log D(z)` (non-saturating; Makhzani et al. 2016), the
    discriminator :math:`-\log D(z') - \log(1 - D(z))` and an optimiser of its own.
    """

    width = 64

    def prepare(self, model, kernel, seed, device, dtype):
        self.kernel = kernel
        generator = torch.Generator().manual_seed(seed % (1 << 62) + 7)
        n_in = self._n_in(model)
        net = MLP([n_in, self.width, self.width, 1], "silu", generator)
        self.net = net.to(device=device, dtype=dtype)
        self._flat, self._grad = flatten(self.net)
        self._optimiser = Adam(self._flat, beta1=0.5)

    def _n_in(self, model: VAE) -> int:
        return model.spec.n_latent

    def _compare(self, model, v, z, eps):
        """A discrepancy that does not move with the discriminator."""
        mmd = MMD(strength=self.strength)
        mmd.kernel = self.kernel
        return mmd._penalty(model, v, z, eps)

    def _penalty(self, model, v, z, eps):
        self._real, self._fake = _prior_points(model, eps).detach(), z.detach()
        for p in self.net.parameters():
            p.requires_grad_(False)  # the model's step is not the discriminator's
        return self.strength * _softplus(-self.net(z)).mean()

    def after_step(self, model, v, rate):
        for p in self.net.parameters():
            p.requires_grad_(True)
        with torch.enable_grad():
            loss = _softplus(-self.net(self._real)).mean() + _softplus(self.net(self._fake)).mean()
            self._grad.zero_()
            loss.backward()
        self._optimiser.step(self._flat, self._grad, rate)


class MMDAndGAN(LatentGAN):
    """The sum of `MMD` and `LatentGAN`."""

    def _penalty(self, model, v, z, eps):
        return super()._penalty(model, v, z, eps) + self._compare(model, v, z, eps)


class VAEGAN(LatentGAN):
    r"""VAE-GAN: squared error in the features of a discriminator of rows.

    .. math:: \tfrac12 \| h(x) - h(\mu(z)) \|^2 + KL(q(z \mid x) \,\|\, p(z))
              - \lambda \log D(\mu(z'))

    Larsen et al. (2016), algorithm 1, with h the hidden layer before the last; the discriminator's
    verdict goes into the decoder and not into the encoder. The squared error of the rows themselves
    is kept with a factor of 0.1, so that the decoder has a scale. Since the discriminator moves,
    early stopping looks at that of `LatentGAN`: the squared error and a discrepancy of encodings.
    """

    def _n_in(self, model):
        return model.spec.layout.n_inputs

    def _row(self, model: VAE, out: Tensor) -> Tensor:
        """What the discriminator sees of an output: means, and probabilities of classes."""
        mean, _, logits, log_rate, classes = model.head.split(out)
        counts = (torch.log1p(torch.exp(log_rate)) - model.count_mean) / model.count_scale
        shares = [torch.softmax(scores, -1) for scores in classes]
        return torch.cat([mean, 2.0 * torch.sigmoid(logits) - 1.0, counts, *shares], -1)

    def _hidden(self, x: Tensor) -> Tensor:
        for layer in self.net.layers[:-1]:
            x = self.net.activation(layer(x))
        return x

    def loss(self, model, v, eps, share, warm):
        for p in self.net.parameters():
            p.requires_grad_(False)
        mean, log_var = model.encode(v)
        n_latent = model.spec.n_latent
        z = mean + torch.exp(0.5 * log_var) * eps[0, :, :n_latent]
        kl = model.prior.kl(mean, log_var, z, eps[0, :, n_latent:])
        kl = kl.sum(-1) if model.prior.factorises else kl
        pixel = 0.1 * self._fit(model, v, z, share)
        x, out = model.inputs(v), self._out
        again = self._row(model, out)
        drawn = self._row(model, model.decoder(_prior_points(model, eps)))
        error = 0.5 * ((self._hidden(x) - self._hidden(again)) ** 2).sum(-1)
        decoded = self._row(model, model.decoder(z.detach()))
        fool = _softplus(-self.net(drawn)).mean() + _softplus(-self.net(decoded)).mean()
        self._real, self._fake = x.detach(), torch.cat([drawn, again]).detach()
        total = share @ error + pixel + warm * self.beta * (share @ kl) + self.strength * fool
        return total, out


OBJECTIVES.update(
    {
        "mse": Autoencoder,
        "mmd": MMD,
        "gan": LatentGAN,
        "mmd+gan": MMDAndGAN,
        "vae-gan": VAEGAN,
        "stein": Stein,
    }
)


def _softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (n, m) of rows."""
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def _prior_points(model: VAE, eps: Tensor) -> Tensor:
    """Draws from the prior: exact by the given numbers where it is normal, else from a generator.

    ``eps`` (n_points, n, n_noise); the first point of every row is used.
    """
    first = eps[0]
    if model.prior.factorises:
        mean, variance = model.prior.moments()
        return mean + torch.sqrt(variance) * first[:, : model.spec.n_latent]
    # the seed comes from the points, so that the same step draws the same rows
    seed = int(first.abs().sum().item() * 1e6) % (1 << 62)
    return model.prior.sample(len(first), torch.Generator().manual_seed(seed))
