"""Distributions of the latent variables before a row is seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

LOG_2PI = math.log(2.0 * math.pi)


def normal_log_prob(z: Tensor, mean, log_var) -> Tensor:
    """Log density of independent normals, summed over the last axis."""
    square = (z - mean) ** 2 * torch.exp(-log_var)
    return -0.5 * (LOG_2PI + log_var + square).sum(-1)


class LatentPrior(nn.Module):
    """Base of the latent priors.

    ``log_prob(z, extra)`` gives (...,); ``extra`` (..., n_extra) are standard normal numbers, for
    priors whose density is itself an estimate. ``kl`` is the exact Kullback-Leibler divergence from
    q(z given x), where there is one, and one sample of it elsewhere.
    """

    n_extra = 0

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent

    def log_prob(self, z: Tensor, extra: Tensor | None = None) -> Tensor:
        """Log density (...,) of z (..., n_latent)."""
        raise NotImplementedError("abstract")

    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, extra: Tensor | None) -> Tensor:
        """Divergence from the normal q to the prior, with z drawn from q; shape of z but the last.

        Where it is a sum over latent variables the result has that axis last, see `factorises`.
        """
        log_q = normal_log_prob(z, mean, log_var)
        return log_q - self.log_prob(z, extra)

    factorises = False

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Latent variables (n, n_latent)."""
        raise NotImplementedError("abstract")

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each latent variable, (n_latent,)."""
        raise NotImplementedError("abstract")

    def penalty(self) -> Tensor:
        """Minus the log of the hyperprior, for the whole data set."""
        return torch.zeros(())

    def start(self, z: np.ndarray, v: np.ndarray, seed: int) -> None:
        """Start at draws z (n, n_latent) from q given rows v, encoder inputs (n, n_inputs)."""


class NormalLatent(LatentPrior):
    r"""Independent standard normals: :math:`p(z) = N(0, I)`."""

    factorises = True
    zero: Tensor

    def __init__(self, n_latent: int) -> None:
        super().__init__(n_latent)
        self.register_buffer("zero", torch.zeros(n_latent))

    def log_prob(self, z, extra=None):
        return normal_log_prob(z, self.zero, self.zero)

    def kl(self, mean, log_var, z, extra):
        return 0.5 * (torch.exp(log_var) + mean**2 - 1.0 - log_var)

    def sample(self, n, generator):
        eps = torch.randn(n, self.n_latent, generator=generator, dtype=self.zero.dtype)
        return eps.to(self.zero.device)

    def moments(self):
        return self.zero, self.zero + 1.0


class RelevanceLatent(LatentPrior):
    r"""Automatic relevance determination: :math:`p(z_j) = N(0, 1 / \alpha_j)`.

    The precisions have the hyperprior Gamma(shape, rate) and are learned with the weights, MacKay's
    idea on latent variables (Karaletsos and Raetsch 2015). A variable that explains nothing has a
    large precision and no divergence.
    """

    factorises = True
    shape, rate = 1.0, 0.1

    def __init__(self, n_latent: int) -> None:
        super().__init__(n_latent)
        self.log_precision = nn.Parameter(torch.zeros(n_latent))

    def log_prob(self, z, extra=None):
        return normal_log_prob(z, torch.zeros_like(self.log_precision), -self.log_precision)

    def kl(self, mean, log_var, z, extra):
        ratio = log_var + self.log_precision
        return 0.5 * (torch.exp(ratio) + mean**2 * torch.exp(self.log_precision) - 1.0 - ratio)

    def sample(self, n, generator):
        like = self.log_precision
        eps = torch.randn(n, self.n_latent, generator=generator, dtype=like.dtype)
        return eps.to(like.device) * torch.exp(-0.5 * like)

    def moments(self):
        return torch.zeros_like(self.log_precision), torch.exp(-self.log_precision)

    def penalty(self):
        # the density of log alpha, whose Jacobian is alpha
        log_alpha = self.log_precision
        return (self.rate * torch.exp(log_alpha) - self.shape * log_alpha).sum()


class MixtureLatent(LatentPrior):
    r"""A mixture of normals with full covariances, learned with the weights.

    .. math:: p(z) = \sum_k \pi_k N(z; m_k, (L_k^{-T} L_k^{-1}))

    :math:`L_k^T` is the Cholesky factor of the precision. Started by expectation maximisation on
    draws from q, with the number of components that cross-validation prefers among powers of two
    up to ``n_components``.
    """

    def __init__(self, n_latent: int, n_components: int) -> None:
        super().__init__(n_latent)
        self.n_components = n_components
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.zeros(n_components, n_latent))
        self.log_diag = nn.Parameter(torch.zeros(n_components, n_latent))
        self.lower = nn.Parameter(torch.zeros(n_components, n_latent, n_latent))

    def _factor(self) -> Tensor:
        """Upper triangular factors P with precision P P^T, (n_components, n_latent, n_latent)."""
        return torch.triu(self.lower, 1) + torch.diag_embed(torch.exp(self.log_diag))

    def log_prob(self, z, extra=None):
        factor = self._factor()
        flat = z.reshape(-1, self.n_latent)
        shift = torch.einsum("kl,klm->km", self.means, factor)
        whitened = torch.einsum("nl,klm->nkm", flat, factor) - shift
        log_p = -0.5 * (LOG_2PI * self.n_latent + (whitened**2).sum(-1)) + self.log_diag.sum(-1)
        out = torch.logsumexp(log_p + torch.log_softmax(self.logits, 0), -1)
        return out.reshape(z.shape[:-1])

    def sample(self, n, generator):
        p = torch.softmax(self.logits, 0).cpu()
        k = torch.multinomial(p, n, True, generator=generator).to(self.means.device)
        eps = torch.randn(n, self.n_latent, 1, generator=generator, dtype=self.means.dtype)
        factor = self._factor()[k]
        z = torch.linalg.solve_triangular(factor.mT, eps.to(self.means.device), upper=False)
        return self.means[k] + z[..., 0]

    def moments(self):
        weight = torch.softmax(self.logits, 0)
        inverse = torch.linalg.inv(self._factor())
        variance = (inverse**2).sum(-2)  # of each component: the diagonal of P^-T P^-1
        mean = weight @ self.means
        return mean, weight @ (variance + self.means**2) - mean**2

    def start(self, z, v, seed):
        found = choose_mixture(z, self.n_components, seed)
        k = found.n_components
        with torch.no_grad():
            self.logits.fill_(-8.0)
            self.logits[:k] = torch.as_tensor(np.log(found.weights_))
            self.means[:k] = torch.as_tensor(found.means_)
            factor = torch.as_tensor(found.precisions_cholesky_).to(self.lower.dtype)
            self.lower[:k] = torch.triu(factor, 1)
            self.log_diag[:k] = torch.log(torch.diagonal(factor, dim1=1, dim2=2))


MOST_FOR_CHOICE = 5000
"""Rows that the number of components is chosen on."""


def choose_mixture(z: np.ndarray, most: int, seed: int):
    """A Gaussian mixture with as many components as score best on rows that it has not seen.

    The information criterion would take components that collapse onto a few rows.
    """
    from sklearn.mixture import GaussianMixture

    def fit(k: int, rows: np.ndarray) -> GaussianMixture:
        return GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(rows)

    some = z[:: -(-len(z) // MOST_FOR_CHOICE)]
    n, best, n_best, k = len(some), -np.inf, 1, 1
    fold = np.random.default_rng(seed).permutation(n) % 3
    while k <= min(most, n // 6):
        score = float(np.mean([fit(k, some[fold != f]).score(some[fold == f]) for f in range(3)]))
        if score <= best:
            break
        best, n_best, k = score, k, 2 * k
    return fit(n_best, z)


class VampLatent(LatentPrior):
    r"""The mixture of the encoder at learned pseudo-inputs (VampPrior).

    .. math:: p(z) = \frac{1}{K} \sum_{k=1}^K q(z \mid u_k)

    Tomczak and Welling (2018), equation 9. The pseudo-inputs start at rows of the data.
    """

    def __init__(self, n_latent: int, n_components: int, n_inputs: int, encode: Callable) -> None:
        super().__init__(n_latent)
        self.n_components = n_components
        self._encode = [encode]  # in a list, so that the encoder is not registered twice
        self.pseudo_inputs = nn.Parameter(torch.zeros(n_components, n_inputs))

    def log_prob(self, z, extra=None):
        mean, log_var = self._encode[0](self.pseudo_inputs)
        flat = z.reshape(-1, 1, self.n_latent)
        log_p = torch.logsumexp(normal_log_prob(flat, mean, log_var), -1)
        return (log_p - math.log(self.n_components)).reshape(z.shape[:-1])

    def sample(self, n, generator):
        mean, log_var = self._encode[0](self.pseudo_inputs)
        k = torch.randint(self.n_components, (n,), generator=generator).to(mean.device)
        eps = torch.randn(n, self.n_latent, generator=generator, dtype=mean.dtype)
        return mean[k] + torch.exp(0.5 * log_var[k]) * eps.to(mean.device)

    def moments(self):
        mean, log_var = self._encode[0](self.pseudo_inputs)
        centre = mean.mean(0)
        return centre, (torch.exp(log_var) + mean**2).mean(0) - centre**2

    def start(self, z, v, seed):
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(v), self.n_components, replace=len(v) < self.n_components)
        with torch.no_grad():
            self.pseudo_inputs.copy_(torch.as_tensor(v[rows]))
