"""Kullback-Leibler divergences KL(q || p) in nats: elementwise torch functions, differentiable.

Every argument is a tensor (or a number where a default is one); they broadcast, and nothing is
summed. q is what was fitted and p the prior: the expectation is over q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_2PI = math.log(2.0 * math.pi)
KINGMA = 1.16145124, -1.50204118, 0.58629921
MOLCHANOV = 0.63576, 1.87320, 1.48695
KINGMA_CONSTANT = 0.6522
"""Brings Kingma's polynomial, known up to a constant, into line with the exact divergence."""

_SPACING = 0.3  # of the sum for Dawson's integral: its error is about exp(-(pi / 0.6)^2) = 1e-12
_FAR = 6.0  # from here on an asymptotic series
_FAR_TERMS = 14
# half of gamma + 2 log 2: minus psi(1/2) / 2
_CONSTANT = 0.5 * (0.57721566490153286 + 2.0 * math.log(2.0))


def kl_normal(
    mean: Tensor, var: Tensor, prior_mean: Tensor | float = 0.0, prior_var: Tensor | float = 1.0
) -> Tensor:
    r"""Divergence of a normal from a normal.

    .. math:: \text{KL} = \tfrac12 \left( \frac{v + (m - m_0)^2}{v_0} - 1
              - \log \frac{v}{v_0} \right)

    Parameters
    ----------
    mean, var : Tensor
        Mean and variance of q.
    prior_mean, prior_var : Tensor or float
        Mean and variance of p.

    Returns
    -------
    Tensor
    """
    ratio = var / prior_var
    return 0.5 * (ratio + (mean - prior_mean) ** 2 / prior_var - 1.0 - torch.log(ratio))


def kl_normal_laplace(mean: Tensor, var: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    r"""Divergence of a normal from a Laplace density around zero.

    .. math:: \text{KL} = \frac{\mathbb{E}|w|}{b} + \log 2b - \tfrac12 \log 2 \pi e v, \qquad
              \mathbb{E}|w| = \sqrt{\tfrac{2v}{\pi}}\, e^{-m^2 / 2v}
              + m \operatorname{erf}\!\left(\tfrac{m}{\sqrt{2v}}\right)

    The second is the mean of the folded normal distribution (Leone, Nelson and Nottingham, 1961).

    Parameters
    ----------
    mean, var : Tensor
        Mean and variance of q.
    scale : Tensor or float
        The b above.

    Returns
    -------
    Tensor
    """
    z = mean * torch.rsqrt(2.0 * var)
    size = torch.sqrt(var) * (2.0 / math.pi) ** 0.5 * torch.exp(-z * z) + mean * torch.erf(z)
    scale = torch.as_tensor(scale, dtype=mean.dtype, device=mean.device)
    return size / scale + torch.log(2.0 * scale) - entropy_normal(var)


def kl_log_uniform(log_alpha: Tensor) -> Tensor:
    r"""Divergence of N(mu, alpha mu^2) from the log-uniform prior p(log|w|) = const, exactly.

    The prior is improper; the constant is chosen so that the divergence is zero at infinite alpha.
    With J a Poisson number of mean :math:`1 / 2 \alpha`, psi the digamma function and D Dawson's
    integral,

    .. math:: \text{KL} = \tfrac12 \left( \mathbb{E}\,\psi(\tfrac12 + J) - \psi(\tfrac12) \right)
              = 2 \int_0^{x} D(t)\, dt, \quad x = (2 \alpha)^{-1/2}, \qquad
              \frac{d\,\text{KL}}{d \log \alpha} = -x D(x).

    It is the divergence that Kingma, Salimans and Welling (2015, section 3.3 and appendix C) and
    Molchanov, Ashukha and Vetrov (2017, section 4) approximate. Error below 1e-11 in float64.

    Parameters
    ----------
    log_alpha : Tensor
        log(v / m^2) of q's variance and mean.

    Returns
    -------
    Tensor
    """
    return _LogUniform.apply(log_alpha)


def kl_log_uniform_and_slope(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    r"""`kl_log_uniform` and its derivative by log alpha, both in float64.

    Rybicki's (1989) sum for Dawson's integral, over odd n,

    .. math:: D(x) \approx \pi^{-1/2} \sum_{n > 0} \frac{e^{-(x - nh)^2} - e^{-(x + nh)^2}}{n},
              \qquad 2 \int_0^x D \approx \sum_{n > 0}
              \frac{\operatorname{erf}(x - nh) - \operatorname{erf}(x + nh)
              + 2 \operatorname{erf}(nh)}{n},

    and for large x the asymptotic series of both.
    """
    exact = log_alpha.double()
    x = torch.exp(-0.5 * exact) * 0.5**0.5
    near = x.clamp_max(_FAR)
    dawson, kl = torch.zeros_like(x), torch.zeros_like(x)
    for n in range(1, int((_FAR + 6.0) / _SPACING), 2):
        low, high = near - n * _SPACING, near + n * _SPACING
        dawson += (torch.exp(-low * low) - torch.exp(-high * high)) / (n * math.pi**0.5)
        kl += (torch.erf(low) - torch.erf(high) + 2.0 * math.erf(n * _SPACING)) / n
    # tiny x, where the sums above lose their relative precision: D = x - 2/3 x^3 + 4/15 x^5
    square = x * x
    tiny = x < 0.02
    kl = torch.where(tiny, square * (1.0 - square * (1.0 / 3.0 - square * (4.0 / 45.0))), kl)
    slope = torch.where(
        tiny, square * (1.0 - square * (2.0 / 3.0 - square * (4.0 / 15.0))), near * dawson
    )
    # 2 D(x) = sum_k (2k - 1)!! / (2^k x^(2k + 1)), integrated term by term
    inverse = 0.5 / x.clamp_min(_FAR) ** 2
    far_kl = -0.5 * exact - 0.5 * math.log(2.0) + _CONSTANT
    far_slope, term = torch.full_like(x, 0.5), torch.ones_like(x)
    for k in range(1, _FAR_TERMS):
        term = term * inverse * (2 * k - 1)
        far_kl = far_kl - term / (2 * k)
        far_slope = far_slope + 0.5 * term
    far = x > _FAR
    return torch.where(far, far_kl, kl), -torch.where(far, far_slope, slope)


class _LogUniform(torch.autograd.Function):
    """`kl_log_uniform` with its exact derivative."""

    @staticmethod
    def forward(ctx, log_alpha):
        value, slope = kl_log_uniform_and_slope(log_alpha)
        ctx.save_for_backward(slope.to(log_alpha.dtype))
        return value.to(log_alpha.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def kl_log_uniform_molchanov(log_alpha: Tensor) -> Tensor:
    r"""Molchanov, Ashukha and Vetrov's (2017) approximation of `kl_log_uniform`.

    .. math:: -\text{KL} \approx k_1 \sigma(k_2 + k_3 \log \alpha)
              - \tfrac12 \log(1 + \alpha^{-1}) - k_1,

    with k = 0.63576, 1.87320, 1.48695 (their section 4). It is good for all alpha: the
    error is at most 0.0095.
    """
    k1, k2, k3 = MOLCHANOV
    # 1 - sigmoid(x) = sigmoid(-x)
    return k1 * torch.sigmoid(-k2 - k3 * log_alpha) + 0.5 * softplus(-log_alpha)


def kl_log_uniform_kingma(log_alpha: Tensor) -> Tensor:
    r"""Kingma, Salimans and Welling's (2015) approximation of `kl_log_uniform`.

    .. math:: -\text{KL} \approx \tfrac12 \log \alpha + c_1 \alpha + c_2 \alpha^2 + c_3 \alpha^3
              + \text{const}, \qquad \alpha \le 1,

    with c = 1.16145124, -1.50204118, 0.58629921 (their section 3.3). The paper leaves the
    constant open; here it makes the values agree with the exact ones, to 0.023. Above one it
    falls without bound.

    Raises
    ------
    ValueError
        If some alpha is larger than one.
    """
    if bool((log_alpha > 1e-6).any()):
        raise ValueError(
            "Kingma's approximation of the log-uniform divergence holds for alpha <= 1 only, but "
            f"log alpha reaches {float(log_alpha.max()):.3g}; bound it, or take Molchanov's."
        )
    c1, c2, c3 = KINGMA
    alpha = torch.exp(log_alpha)
    return KINGMA_CONSTANT - 0.5 * log_alpha - alpha * (c1 + alpha * (c2 + alpha * c3))


def kl_log_normal_gamma(
    mean: Tensor, var: Tensor, shape: float = 0.5, scale: Tensor | float = 1.0
) -> Tensor:
    r"""Divergence of a log-normal from a gamma density.

    .. math:: \log x \sim N(m, v) \text{ under } q, \quad p(x) \propto x^{a - 1} e^{-x / b}: \quad
              \text{KL} = \frac{e^{m + v/2}}{b} + a (\log b - m) + \log \Gamma(a)
              - \tfrac12 \log 2 \pi e v

    With a = 1/2 and b = k^2 it is the first half of a half-Cauchy variable of scale k, see
    `kl_log_normal_inverse_gamma` (Louizos, Ullrich and Welling, 2017, section 3.2).

    Parameters
    ----------
    mean, var : Tensor
        Mean and variance of log x under q.
    shape : float
        The a above.
    scale : Tensor or float
        The b above.

    Returns
    -------
    Tensor
    """
    scale = torch.as_tensor(scale, dtype=mean.dtype, device=mean.device)
    size = torch.exp(mean + 0.5 * var) / scale
    return size + shape * (torch.log(scale) - mean) + math.lgamma(shape) - entropy_normal(var)


def kl_log_normal_inverse_gamma(
    mean: Tensor, var: Tensor, shape: float = 0.5, scale: Tensor | float = 1.0
) -> Tensor:
    r"""Divergence of a log-normal from an inverse-gamma density.

    .. math:: \log x \sim N(m, v) \text{ under } q, \quad p(x) \propto x^{-a - 1} e^{-b / x}: \quad
              \text{KL} = b\, e^{-m + v/2} + a (m - \log b) + \log \Gamma(a)
              - \tfrac12 \log 2 \pi e v

    If x has the gamma density of shape 1/2 and scale k^2, and x' the inverse-gamma density of shape
    1/2 and scale 1, then the root of x x' has the half-Cauchy density of scale k. 1 / x' being a
    gamma variable, this is `kl_log_normal_gamma` of -m.

    Parameters
    ----------
    mean, var : Tensor
        Mean and variance of log x under q.
    shape, scale : float
        The a and b above.

    Returns
    -------
    Tensor
    """
    scale = torch.as_tensor(scale, dtype=mean.dtype, device=mean.device)
    return kl_log_normal_gamma(-mean, var, shape, 1.0 / scale)


def entropy_normal(var: Tensor) -> Tensor:
    """Entropy of a normal density."""
    return 0.5 * (torch.log(var) + (1.0 + LOG_2PI))
