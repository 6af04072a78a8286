"""Inflation of ensembles: members are spread out before new rows are taken in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.model.priors import BoundHierarchical, BoundLaplace, BoundStudentT

OF_LAYER = 4.0
"""Members' worth of trust in the mean of a layer, in the variance of each of its weights."""


class Inflated(NamedTuple):
    """Inflated members, and how much of what was known they and the prior stand for."""

    theta: Tensor
    """Members, (n_members, n_params)."""

    precision: Tensor
    """One over the inflated variance of each weight, (n_params,); 0 for the likelihood's own."""

    prior_precision: Tensor
    """One over the prior's variance of each weight, (n_params,)."""

    root_share: Tensor
    """Root of the share of the prior that inflation has forgotten, (n_params,)."""


def inflate(log_posterior, theta: Tensor, streams, kind: str, scale: float) -> Inflated:
    """Inflate members, see `EnsembleFilter`.

    The variance of a weight over few members is noisy; it is averaged with that of its layer, as if
    there were four more members.

    Parameters
    ----------
    log_posterior : LogPosterior
        Tells the prior and the layers.
    theta : Tensor of shape (n_members, n_params)
        Members.
    streams : Streams
        One random stream per member.
    kind : {"additive", "multiplicative"}
        See `EnsembleFilter`.
    scale : float
        q or lambda.

    Returns
    -------
    Inflated
    """
    kw: dict[str, Any] = {"dtype": torch.float64, "device": theta.device}
    exact = theta.double()
    known, deviation = _prior_deviations(log_posterior)
    prior_variance = torch.as_tensor(deviation**2, **kw)
    mask = torch.as_tensor(known, **kw)
    n_members = len(theta)
    ratio = exact.var(0) / prior_variance
    for part in _layers(log_posterior, len(known)):
        mean = ratio[part].mean()
        ratio[part] = ((n_members - 1) * ratio[part] + OF_LAYER * mean) / (n_members - 1 + OF_LAYER)
    variance = ratio.clamp_min(1e-8) * prior_variance
    if kind == "additive":
        noise = streams.normal(theta.shape[1], dtype=torch.float64, device=theta.device)
        more = scale * prior_variance
        moved = exact + noise * (more * mask).sqrt()
        variance = variance + more
        share = more / variance
    else:
        centre = exact.mean(0)
        moved = torch.where(mask > 0, centre + scale**0.5 * (exact - centre), exact)
        variance = scale * variance
        share = torch.full_like(variance, 1.0 - 1.0 / scale)
    parts = (moved, mask / variance, mask / prior_variance, share.sqrt() * mask)
    return Inflated(*(part.to(theta.dtype) for part in parts))


def _prior_deviations(log_posterior) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of theta have a prior that counts here, and its standard deviation."""
    layout, prior = log_posterior.layout, log_posterior.prior
    n_hyper = prior.n_hyper
    scales = np.asarray(prior.scales, dtype=np.float64)
    if isinstance(prior, BoundHierarchical):
        scales = np.ones_like(scales)  # theta holds standard normal numbers
    elif isinstance(prior, BoundLaplace):
        scales = scales * 2.0**0.5
    elif isinstance(prior, BoundStudentT) and prior.df > 2:
        scales = scales * (prior.df / (prior.df - 2.0)) ** 0.5
    n_own = layout.n_params - len(scales) - n_hyper
    known = np.concatenate([np.ones(len(scales)), np.zeros(n_own), np.ones(n_hyper)])
    return known, np.concatenate([scales, np.ones(n_own + n_hyper)])


def _layers(log_posterior, n_params: int) -> list[slice]:
    """Parts of theta whose variances are alike: weights and biases by layer, and the rest."""
    parts = []
    end = 0
    for layer in log_posterior.network.layers:
        parts += [layer.weight, layer.bias]
        end = max(end, layer.weight.stop, layer.bias.stop)
    if end < n_params:
        parts.append(slice(end, n_params))
    return [part for part in parts if part.stop > part.start]
