"""Means and covariances of a network's outputs when its weights are independent normals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from skbayes.model.network import MLPNetwork

ORDER = 5  # Hermite terms that are summed one by one; what is left is added as one term
TINY = 1e-12

_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "silu": silu, "gelu": gelu}


def output_moments(
    network: MLPNetwork, mean: Tensor, variance: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Moments of the outputs at a block of rows, jointly over its rows.

    Every weight is independent, normal with its own mean and variance. Layer by layer the sums

    .. math:: z_k(x) = \sum_j w_{jk} h_j(x) + b_k

    are taken as normal (there are many terms in each), and the units of a layer as independent, as
    Hernandez-Lobato and Adams (2015) do. They propagate one row at a time; here each unit has a
    covariance between the rows too, which are functions of the same weights:

    .. math:: \operatorname{Cov}(z_k, z_k') = \sum_j (m_{jk}^2 + v_{jk}) \operatorname{Cov}(h_j,
              h_j') + v_{jk} E[h_j] E[h_j'] + v_k^{\text{bias}}

    with a prime for another row. With one row this is their propagation. For a network without
    hidden layers nothing is approximate. Autograd goes through it.

    Parameters
    ----------
    network : MLPNetwork
        The network.
    mean, variance : Tensor of shape (n_chains, n_params)
        Of the network's weights, in float64.
    rows : Tensor of shape (n_chains, n, n_inputs + 1)
        Rows with a column of ones.

    Returns
    -------
    mean : Tensor of shape (n_chains, n_outputs, n)
    cov : Tensor of shape (n_chains, n_outputs, n, n)
        Outputs are taken as independent of each other.
    """
    first = network.layers[0]
    weight, spread = _joint(mean, first), _joint(variance, first)  # (chains, fan_in + 1, fan_out)
    z = weight.mT @ rows.mT
    cov = (rows[:, None] * spread.mT[:, :, None]) @ rows[:, None].mT
    for layer in network.layers[1:]:
        h, cov = activation_moments(network.activation, z, cov)
        weight, spread = _joint(mean, layer), _joint(variance, layer)
        z = weight[:, :-1].mT @ h + weight[:, -1, :, None]
        second = weight[:, :-1] ** 2 + spread[:, :-1]
        n = h.shape[2]
        by_cov = second.mT @ cov.reshape(len(h), layer.fan_in, n * n)
        by_mean = (h[:, None] * spread[:, :-1].mT[..., None]).mT @ h[:, None]
        cov = by_cov.view(len(h), layer.fan_out, n, n) + by_mean + spread[:, -1, :, None, None]
    return z, cov


def activation_moments(name: str, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance between rows of an activation of normal pre-activations.

    With z the standardised pre-activation and He_p the Hermite polynomials,

    .. math:: \operatorname{Cov}(\phi, \phi') = \sum_{p \ge 1} \frac{\rho^p}{p!} c_p c_p', \qquad
              c_p = E[\phi(\mu + \sigma z) \operatorname{He}_p(z)]

    (Mehler's formula), rho being the correlation of the two pre-activations. Mean and variance,
    p = 0 and the whole sum at rho = 1, are exact for relu and come from a fine quadrature for the
    smooth activations. Of the covariance the first five terms are summed; all that the variances
    have beyond them goes with rho to the sixth, so that equal rows stay equal and the matrix stays
    positive semi-definite.

    Parameters
    ----------
    name : str
        Activation.
    mean : Tensor of shape (..., n)
        Means of the pre-activations.
    cov : Tensor of shape (..., n, n)
        Their covariances.

    Returns
    -------
    mean : Tensor of shape (..., n)
    cov : Tensor of shape (..., n, n)
    """
    if name == "identity":
        return mean, cov
    std = cov.diagonal(dim1=-2, dim2=-1).clamp_min(TINY).sqrt()
    terms = _relu_terms(mean, std) if name == "relu" else _smooth_terms(name, mean, std)
    expected, *roots = terms
    if mean.shape[-1] == 1:  # no other row: the variance is all there is to know
        return expected, torch.stack(roots).square().sum(0)[..., None]
    rho = cov / (std[..., None] * std[..., None, :])
    out: Tensor | float = 0.0
    for root in reversed(roots):  # Horner's scheme
        out = rho * (root[..., None] * root[..., None, :] + out)
    assert isinstance(out, Tensor)
    return expected, out


def _relu_terms(mean: Tensor, std: Tensor) -> list[Tensor]:
    """Mean, c_p / sqrt(p!) up to `ORDER`, and the root of what the variance has beyond."""
    alpha = mean / std
    density = torch.exp(-0.5 * alpha * alpha) / math.sqrt(2.0 * math.pi)
    below = torch.special.ndtr(alpha)
    expected = mean * below + std * density
    variance = (mean * mean + std * std) * below + mean * std * density - expected**2
    coefficients = [std * below]
    polynomial, last = torch.ones_like(alpha), torch.zeros_like(alpha)
    for p in range(2, ORDER + 1):
        coefficients.append(std * density * polynomial)  # derivatives of the density, in turn
        polynomial, last = -(alpha * polynomial + (p - 2) * last), polynomial
    return _with_remainder(expected, variance, coefficients)


def _smooth_terms(name: str, mean: Tensor, std: Tensor) -> list[Tensor]:
    """See `_relu_terms`."""
    nodes, weights = normal_nodes(mean)
    values = _SMOOTH[name](mean[..., None] + std[..., None] * nodes)  # (..., nodes)
    expected = values @ weights
    centred = values - expected[..., None]
    variance = (centred * centred) @ weights
    numbers = np.polynomial.hermite_e.hermevander(nodes.cpu().numpy(), ORDER)[:, 1:]
    basis = torch.as_tensor(numbers, dtype=mean.dtype, device=mean.device) * weights[:, None]
    return _with_remainder(expected, variance, list((centred @ basis).unbind(-1)))


def _with_remainder(expected: Tensor, variance: Tensor, coefficients: list[Tensor]) -> list[Tensor]:
    roots = [c / math.sqrt(math.factorial(p)) for p, c in enumerate(coefficients, start=1)]
    explained = torch.stack([root * root for root in roots]).sum(0)
    return [expected, *roots, (variance - explained).clamp_min(TINY).sqrt()]


def normal_nodes(like: Tensor, n: int = 41, width: float = 5.0) -> tuple[Tensor, Tensor]:
    """Equally spaced nodes and weights for expectations under the standard normal, each (n,).

    The trapezoidal rule: as good as Gauss-Hermite quadrature for smooth functions, and better for
    those that are steps on the scale of the normal.
    """
    nodes = torch.linspace(-width, width, n, dtype=like.dtype, device=like.device)
    return nodes, torch.softmax(-0.5 * nodes * nodes, 0)


def _joint(flat: Tensor, layer) -> Tensor:
    """Weight and bias of a layer as one matrix, (chains, fan_in + 1, fan_out)."""
    return flat[:, layer.joint].view(-1, layer.fan_in + 1, layer.fan_out)
