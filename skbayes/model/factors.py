"""Likelihoods of a block of rows integrated over normal outputs, and the derivatives of that."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from skbayes.layers.kl import LOG_2PI
from skbayes.model.likelihoods import Bernoulli, Categorical, Likelihood, Normal
from skbayes.model.moments import normal_nodes

# Over the rows' own sites: from none, and from those of the block's last visit.
MAX_SWEEPS, MORE_SWEEPS = 10, 3
SWEEP_TOL = 1e-3

# Of cavities: means and variances (chains, n_outputs, n), targets, weights (chains, 1, n). Gives
# the log normaliser of each row, summed over its outputs, and the moments of cavity times row.
Tilt = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Factor(NamedTuple):
    r"""The logarithm of Z, and what moment matching needs of it.

    .. math:: Z = \int \prod_i p(y_i \mid z_i, r)^{w_i}\, N(z; \mu, S)\, N(r; m_r, v_r)\, dz\, dr
    """

    log_z: Tensor
    """(n_chains,)."""

    by_mean: Tensor
    """Derivative of log Z by the outputs' means, (n_chains, n_outputs, n)."""

    by_cov: Tensor
    """Derivative of log Z by their covariances, (n_chains, n_outputs, n, n)."""

    params_mean: Tensor
    """Mean of r given the block, (n_chains, n_params)."""

    params_variance: Tensor
    """Variance of r given the block."""

    sites: Tensor | None
    """Sites of the block's rows, where they have some, (2, n_chains, n_outputs, n)."""


def block_factor(
    likelihood: Likelihood,
    mean: Tensor,
    cov: Tensor,
    y: Tensor,
    weight: Tensor,
    params_mean: Tensor,
    params_variance: Tensor,
    sites: Tensor | None = None,
) -> Factor:
    """Integrate a block of rows over normal outputs and the likelihood's own parameters.

    With one noise for all rows the integral over the outputs has a closed form, that over the
    noise is a sum over a fine grid. With any other likelihood the rows of the block get normal
    sites of their own (expectation propagation as in Gaussian process classification, Rasmussen
    and Williams, 2006, section 3.6), which is exact for a block of one row whose outputs are
    independent; the integrals over each row's outputs are one-dimensional quadratures.

    Parameters
    ----------
    likelihood : Likelihood
        Normal, Bernoulli or Categorical.
    mean, cov : Tensor of shape (n_chains, n_outputs, n) and (n_chains, n_outputs, n, n)
        Of the outputs, independent of each other.
    y : Tensor of shape (n_chains, n_targets, n)
        Targets.
    weight : Tensor of shape (n_chains, 1, n)
        A row of weight w enters as its density to the power of w.
    params_mean, params_variance : Tensor of shape (n_chains, n_params)
        Normal density of the likelihood's own parameters.
    sites : Tensor, optional
        Those of an earlier visit, to go on from.

    Returns
    -------
    Factor
    """
    if isinstance(likelihood, Normal) and not likelihood.heteroscedastic:
        return _one_noise(likelihood, mean, cov, y, weight, params_mean, params_variance)
    tilts: dict[type, Tilt] = {Bernoulli: _bernoulli, Categorical: _categorical}
    tilt = _heteroscedastic(likelihood) if isinstance(likelihood, Normal) else None
    tilt = tilt or tilts[type(likelihood)]
    log_z, by_mean, by_cov, sites = _sites(tilt, mean, cov, y, weight, sites)
    return Factor(log_z, by_mean, by_cov, params_mean, params_variance, sites)


# ------------------------------------------------------------- one noise for all rows


def _one_noise(likelihood, mean, cov, y, weight, params_mean, params_variance) -> Factor:
    root = weight.sqrt()
    values, vectors = torch.linalg.eigh(root[..., None] * cov * root[..., None, :])
    values = values.clamp_min(0.0)
    residual = (vectors.mT @ (root * (y - mean))[..., None])[..., 0]
    total = weight.sum(2, keepdim=True)  # (chains, 1, 1)

    def log_density(sigma: Tensor) -> Tensor:
        """Log density of the block for noise (chains, n_outputs, k)."""
        square = (sigma**2)[:, :, None]
        logs = torch.log1p(values[..., None] / square)
        logs = logs + residual[..., None] ** 2 / (square + values[..., None])
        return -0.5 * logs.sum(2) - total * (sigma.log() + 0.5 * LOG_2PI)

    if likelihood.learned:
        spread = params_variance.sqrt()
        raw, log_mass = _grid(params_mean, spread, params_mean, 8.0 * spread)
        for _ in range(2):  # the block may know the noise much better than is known before it
            log_mass = log_mass + log_density(likelihood.noise_std(raw, 1))
            centre, variance = _grid_moments(raw, log_mass)
            step = raw[..., 1] - raw[..., 0]
            half = 8.0 * torch.maximum(variance.sqrt(), 0.5 * step)
            raw, log_mass = _grid(params_mean, spread, centre, half)
        sigma = likelihood.noise_std(raw, 1)
        log_mass = log_mass + log_density(sigma)
        params_mean, params_variance = _grid_moments(raw, log_mass)
    else:
        sigma = torch.as_tensor(likelihood.noise, dtype=mean.dtype, device=mean.device)
        sigma = sigma.view(1, -1, 1).expand(*mean.shape[:2], 1)
        log_mass = log_density(sigma)
    mass = torch.softmax(log_mass, 2)[:, :, None]  # (chains, n_outputs, 1, k)
    inverse = 1.0 / ((sigma**2)[:, :, None] + values[..., None])  # (chains, n_outputs, n, k)
    pull = residual[..., None] * inverse
    middle = (pull * mass) @ pull.mT - torch.diag_embed((inverse * mass).sum(3))
    side = root[..., None] * vectors
    by_mean = (side @ (pull * mass).sum(3, keepdim=True))[..., 0]
    by_cov = 0.5 * side @ middle @ side.mT
    log_z = torch.logsumexp(log_mass, 2).sum(1)
    return Factor(log_z, by_mean, by_cov, params_mean, params_variance, None)


def _grid(mean, spread, centre, half) -> tuple[Tensor, Tensor]:
    """Points (..., k) around a centre and the logarithms of their masses under a normal."""
    unit = torch.linspace(-1.0, 1.0, 161, dtype=mean.dtype, device=mean.device)
    points = centre[..., None] + half[..., None] * unit
    z = (points - mean[..., None]) / spread[..., None]
    log_step = (half * (unit[1] - unit[0])).log()[..., None]
    return points, -0.5 * z * z - spread.log()[..., None] - 0.5 * LOG_2PI + log_step


def _grid_moments(points: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    mass = torch.softmax(log_mass, -1)
    mean = (mass * points).sum(-1)
    return mean, (mass * (points - mean[..., None]) ** 2).sum(-1)


# ------------------------------------------------------------- all other likelihoods


def _sites(tilt: Tilt, mean, cov, y, weight, start) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log Z, its derivatives by mean and covariance, and one normal site per row and output.

    At the fixed point log Z is stationary in the sites, so its derivatives are those of the
    normal model with the sites in the rows' place.
    """
    tau, nu = torch.zeros((2, *mean.shape), dtype=mean.dtype, device=mean.device)
    if start is not None:
        tau, nu = start
    eye = torch.eye(mean.shape[2], dtype=mean.dtype, device=mean.device)
    alone = mean.shape[2] == 1
    for _ in range(MAX_SWEEPS if start is None else MORE_SWEEPS):
        root = tau.sqrt()
        chol = torch.linalg.cholesky_ex(eye + root[..., None] * cov * root[..., None, :])[0]
        half = torch.linalg.solve_triangular(chol, torch.diag_embed(root), upper=False)
        precision = half.mT @ half  # of the normal model, (cov + 1 / tau)^-1
        after = cov - cov @ precision @ cov
        shift = nu - tau * mean
        centre = mean + (after @ shift[..., None])[..., 0]
        variance = after.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12)
        # leave the row's own site out, look at the row, and see what it adds
        left = (1.0 / variance - tau).clamp_min(1e-12)
        before, spread = (centre / variance - nu) / left, 1.0 / left
        log_rows, seen_mean, seen_variance = tilt(before, spread, y, weight)
        new_tau = 1.0 / seen_variance - left
        grows = new_tau <= 0.0  # a row may not take knowledge away
        new_tau = torch.where(grows, 0.0, new_tau)
        new_nu = torch.where(
            grows, (seen_mean - before) * left, seen_mean / seen_variance - before * left
        )
        known = tau, nu
        rate = 1.0 if alone else 0.8
        tau, nu = tau + rate * (new_tau - tau), nu + rate * (new_nu - nu)
        scale = (tau * variance).abs().max() + 1.0
        change = max(
            float(((tau - known[0]) * variance).abs().max()),
            float(((nu - known[1]) * variance.sqrt()).abs().max()),
        )
        if change < SWEEP_TOL * float(scale):
            break
    # log Z of the normal model with the sites, and what each row has beyond its site
    own = -0.5 * torch.log1p(known[0] * spread)
    own = own + 0.5 * ((before * left + known[1]) ** 2 / (left + known[0]) - before**2 * left)
    log_z = (log_rows - own.sum(1)).sum(1)
    of_model = -chol.diagonal(dim1=-2, dim2=-1).log().sum(2)
    of_model = of_model + (known[1] * mean - 0.5 * known[0] * mean**2).sum(2)
    of_model = of_model + 0.5 * (shift * (centre - mean)).sum(2)
    log_z = log_z + of_model.sum(1)
    by_mean = known[1] - known[0] * centre
    by_cov = 0.5 * (by_mean[..., None] * by_mean[..., None, :] - precision)
    return log_z, by_mean, by_cov, torch.stack([tau, nu])


def _bernoulli(mean, variance, y, weight):
    nodes, masses = normal_nodes(mean)
    z = mean[..., None] + variance.sqrt()[..., None] * nodes
    logs = weight[..., None] * logsigmoid((2.0 * y - 1.0)[..., None] * z) + masses.log()
    after, variance = _grid_moments(z, logs)
    return torch.logsumexp(logs, 3).sum(1), after, variance


def _heteroscedastic(likelihood: Normal) -> Tilt:
    """Integrate the mean in closed form, the raw noise by quadrature."""

    def tilt(mean, variance, y, weight):
        k = likelihood.n_outputs
        nodes, masses = normal_nodes(mean)
        raw = mean[:, k:, :, None] + variance[:, k:, :, None].sqrt() * nodes
        square = likelihood.noise_std(raw, 1) ** 2  # (chains, targets, n, nodes)
        w, v = weight[..., None], variance[:, :k, :, None]
        residual, total = (y - mean[:, :k])[..., None], square + w * v
        logs = -0.5 * (w * residual**2 / total + torch.log1p(w * v / square))
        logs = logs - 0.5 * w * (square.log() + LOG_2PI) + masses.log()
        mass = torch.softmax(logs, 3)
        given, within = w * v * residual / total, v * square / total  # mean and variance of f
        shift = (mass * given).sum(3)
        spread = (mass * (within + (given - shift[..., None]) ** 2)).sum(3)
        raw_mean, raw_variance = _grid_moments(raw, logs)
        means = torch.cat([mean[:, :k] + shift, raw_mean], 1)
        return torch.logsumexp(logs, 3).sum(1), means, torch.cat([spread, raw_variance], 1)

    return tilt


def _categorical(mean, variance, y, weight):
    r"""One-dimensional integrals for the softmax, which are exact.

    .. math:: \Big(\frac{e^{z_y}}{\sum_k e^{z_k}}\Big)^w = \frac{1}{\Gamma(w)} \int e^{w (z_y - t)}
              \prod_k \exp(-e^{z_k - t})\, dt

    Given t the classes are independent.
    """
    nodes, masses = normal_nodes(mean, 25, 4.8)
    basis = torch.stack([masses, masses * nodes, masses * nodes**2], 1)  # (nodes, 3)
    std = variance.sqrt()
    w = weight.clamp_min(1e-3)
    # t is log(sum(exp(z))) less the logarithm of a gamma variable: where its mass is
    low = (mean - 4.0 * std).amax(1, keepdim=True) - torch.log(w + 6.0 * w.sqrt() + 6.0)
    high = (mean + 4.0 * std).amax(1, keepdim=True) + math.log(mean.shape[1])
    high = high + ((10.0 - torch.lgamma(w + 1.0)) / w).clamp_min(0.0)
    unit = torch.linspace(0.0, 1.0, 48, dtype=mean.dtype, device=mean.device)
    t = low[..., None] + (high - low)[..., None] * unit  # (chains, 1, n, points)
    u = (mean[..., None] - t)[..., None] + std[..., None, None] * nodes
    # the largest value of w u - exp(u) is w log(w) - w: divided out, nothing overflows
    top = (w * w.log() - w)[..., None, None]
    logs = y[..., None, None] * (w[..., None, None] * u - top) - u.exp()
    sums = logs.exp() @ basis  # (chains, classes, n, points, 3)
    of_class = sums[..., 0].clamp_min(1e-300)
    log_mass = of_class.log().sum(1)  # (chains, n, points)
    mass = torch.softmax(log_mass, 2)[:, None]
    first = (mass * sums[..., 1] / of_class).sum(3)
    second = (mass * sums[..., 2] / of_class).sum(3)
    step = (high - low)[:, 0] / (len(unit) - 1)
    log_z = torch.logsumexp(log_mass, 2) + step.log() + top[:, 0, :, 0, 0]
    log_z = log_z - torch.lgamma(w[:, 0])
    used = weight > 0
    log_z = torch.where(used[:, 0], log_z, 0.0)
    after = torch.where(used, mean + std * first, mean)
    spread = variance * (second - first**2).clamp_min(1e-9)
    return log_z, after, torch.where(used, spread, variance)
