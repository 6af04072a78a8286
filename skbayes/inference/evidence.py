"""The normal posterior around a mode, its evidence, and the steps that raise it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.kl import LOG_2PI
from skbayes.model.covariance import Covariance, block_rows
from skbayes.model.curvature import Curvature
from skbayes.model.priors import BoundNormal
from skbayes.model.tangent import in_blocks, tangent

LARGEST_FACTOR = 1e4  # of a prior precision in one round, and its inverse the smallest
INNER_STEPS = 10  # of the prior's precision between two computations of the curvature


@dataclass
class Local:
    """The normal posterior around one mode, given the prior's scales and the noise."""

    log_posterior: Any
    """With learned noise in it."""
    target: Any
    """The same of the weights alone, given noise and prior."""
    theta: Tensor
    """The mode, (1, n_params)."""
    precision: Tensor
    """The prior's, of the weights that move, (d,)."""
    curvature: Curvature
    covariance: Covariance
    noise_precision: Tensor
    """Of the parameters of learned noise, (n_outputs,) or (0,)."""
    log_evidence: float

    @property
    def mode(self) -> Tensor:
        """The moving weights at the mode, (d,) in float64."""
        return self.theta[0, self.curvature.moving].double()

    def determined(self) -> Tensor:
        """1 - P S of every moving weight, whose sum is how many the data determine, (d,)."""
        variances = torch.as_tensor(self.covariance.variances, device=self.theta.device)
        return 1.0 - self.precision * variances


def around(log_posterior, theta: Tensor, prior, hessian: str) -> Local:
    """The normal posterior around theta, (1, n_params), and its log evidence.

    Raises
    ------
    torch.linalg.LinAlgError
        If the curvature is not finite.
    """
    target = log_posterior if prior is None else log_posterior.given(prior)
    curvature = target.gauss_newton(theta[0], hessian)
    device = theta.device
    value = float(target(theta)[0])
    if prior is None:
        precision = torch.zeros(curvature.n_params, dtype=torch.float64, device=device)
    else:
        scales = torch.as_tensor(prior.scales, dtype=torch.float64, device=device)
        precision = scales**-2.0
    covariance = curvature.covariance(precision)
    value += 0.5 * curvature.n_params * LOG_2PI - 0.5 * covariance.log_det
    none = torch.zeros(0, dtype=torch.float64, device=device)
    out = Local(log_posterior, target, theta, precision, curvature, covariance, none, value)
    if getattr(log_posterior.likelihood, "learned", False):
        raw = log_posterior.layout.split(theta)[1]
        likelihood, exact = log_posterior.likelihood, raw.double()
        slope = likelihood.noise_slope(exact, 1) / likelihood.noise_std(exact, 1)
        # minus the second derivative of what `tuned_noise` raises, where its first is zero
        freedom = _freedom(out)
        out.noise_precision = 2.0 * freedom * slope[0] ** 2 + likelihood.prior_scale**-2.0
        out.log_evidence += float(likelihood.log_prior_and_grad(raw)[0])
        out.log_evidence += float((0.5 * (LOG_2PI - out.noise_precision.log())).sum())
    return out


def tuned_prior(local: Local, groups: list[slice]) -> BoundNormal:
    """The prior whose precisions, times a factor for each group, have the largest evidence.

    The mode and the curvature of the likelihood stay where they are. ``groups`` are slices of the
    moving weights.
    """
    precision, mode = local.precision.clone(), local.mode
    covariance = local.covariance
    low, high = local.precision / LARGEST_FACTOR, local.precision * LARGEST_FACTOR
    for step in range(INNER_STEPS):
        if step:
            covariance = local.curvature.covariance(precision)
        variances = torch.as_tensor(covariance.variances, device=mode.device)
        change = 0.0
        for group in groups:
            own = precision[group]
            gamma = (1.0 - own * variances[group]).sum().clamp_min(1e-3)
            factor = gamma / (own * mode[group] ** 2).sum().clamp_min(1e-12)
            precision[group] = (own * factor).clamp(low[group], high[group])
            change = max(change, abs(math.log(float(precision[group][0] / own[0]))))
        if change < 0.01:
            break
    scales = np.array(local.target.prior.scales)
    scales[local.curvature.moving] = precision.rsqrt().cpu().numpy()
    return local.target.prior.with_scales(scales)


def tuned_noise(local: Local) -> Tensor:
    """Theta with the noise of largest evidence, the mode and the residuals being what they are."""
    likelihood, theta = local.log_posterior.likelihood, local.theta.clone()
    squares = local.log_posterior.factor * local.log_posterior.statistic(theta)[0]  # (n_outputs,)
    raw, log_prior, sigma = likelihood.noise_grid(theta.device)
    freedom = _freedom(local)[:, None]
    value = log_prior - 0.5 * squares[:, None] * sigma**-2 - freedom * sigma.log()
    local.log_posterior.layout.split(theta)[1].copy_(raw[value.argmax(1)])
    return theta


def _freedom(local: Local) -> Tensor:
    """Rows less the weights that they determine, for every output, (n_outputs,)."""
    likelihood, total = local.log_posterior.likelihood, local.log_posterior.total_weight
    gamma = local.determined().sum()[None]
    if likelihood.n_outputs > 1:
        gamma = gamma * _shares(local)
    return (total - gamma).clamp_min(0.01 * total)


def _shares(local: Local) -> Tensor:
    r"""Share of each output in the weights that the data determine, (n_outputs,).

    That of output k is the sum over rows of the variance of its function over that of its noise:
    the trace of S times the part of H that it makes.
    """
    posterior = local.log_posterior
    weights, params, _ = posterior.layout.split(local.theta[0].double())
    sums = torch.zeros(posterior.likelihood.n_outputs, dtype=torch.float64, device=weights.device)
    size = block_rows(posterior.network, True, False)
    for rows, part in in_blocks(posterior.inputs, size):
        linear = tangent(posterior.network, weights, part)
        variance = local.covariance.of_functions(linear).diagonal(dim1=0, dim2=1)  # (n, k)
        if posterior.weight is not None:
            variance = variance * posterior.weight[0, rows].double()[:, None]
        sums = sums + variance.sum(0)
    sums = sums / posterior.likelihood.noise_std(params[None], 1)[0] ** 2
    return sums / sums.sum()
