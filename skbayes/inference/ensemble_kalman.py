r"""The ensemble Kalman update of a network's weights.

.. math:: \theta_i' = \theta_i + (\rho \circ C_{\theta f})\, (C_{ff} + R)^{-1}
          \big(y + \epsilon_i - f(\theta_i)\big), \qquad \epsilon_i \sim N(0, R)

Evensen (1994), with perturbed observations (Burgers, van Leeuwen and Evensen, 1998). C are
covariances over the ensemble of weights and predictions f, of rank below the number of members:
spurious covariances of weights far from the outputs are tapered by a Schur product with
:math:`\rho`, which falls by a factor for each layer between them (Houtekamer and Mitchell, 2001,
taper by distance in space). A nonlinear f is taken in by several steps with noise :math:`\alpha R`,
the :math:`1 / \alpha` adding up to one (Emerick and Reynolds, 2013); on linear models this changes
nothing. For two classes f is a probability, y zero or one, and R the mean of p (1 - p). For more,
the noise of a row's zeros and ones has the covariance diag(p) - p p^T, which is singular since they
sum to one; R = diag(p) does the same to differences that sum to zero, as all of them do here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skbayes.inference.inflation import Inflated
from skbayes.model.likelihoods import Bernoulli, Categorical, Normal

LEAST = 1e-3  # of variances


def kalman_update(
    log_posterior, members: Inflated, streams, taper: float, n_steps: int, on_step=None
) -> Tensor:
    """Move inflated members by the rows of a log posterior.

    The part of the prior that inflation has forgotten is an observation of the weights themselves;
    where there are no more members than weights, it sees their variances only.

    Parameters
    ----------
    log_posterior : LogPosterior
        Rows and their weights.
    members : Inflated
        The members.
    streams : Streams
        One random stream per member.
    taper : float
        Factor for each layer between weights and outputs.
    n_steps : int
        Parts that the data are taken in.
    on_step : callable, optional
        Progress.

    Returns
    -------
    Tensor of shape (n_members, n_params)
        In the dtype of the members.

    Raises
    ------
    ValueError
        If the noise varies from row to row.
    """
    likelihood = log_posterior.likelihood
    if isinstance(likelihood, Normal) and likelihood.heteroscedastic:
        raise ValueError(
            "EnsembleFilter: update='kalman' is not allowed with noise='heteroscedastic', which it "
            "cannot learn; take noise='learned', a number, or update='gradient'."
        )
    theta = members.theta.double()
    theta = _see_prior(theta, members, streams.child(8))
    factor = _factors(log_posterior, theta, taper)
    for step in range(n_steps):
        y, predicted, spread = _observations(log_posterior, theta.to(members.theta.dtype))
        spread = spread * n_steps
        epsilon = streams.normal(y.numel(), dtype=torch.float64, device=theta.device)
        epsilon = epsilon.view(-1, *y.shape) * spread.sqrt()
        if isinstance(likelihood, Categorical):
            # sqrt(p) z - p sum(sqrt(p) z) has the covariance diag(p) - p p^T
            epsilon = epsilon - epsilon.sum(1, keepdim=True) * spread / spread.sum(0)
        innovation = (y + epsilon - predicted).flatten(1)
        predicted, spread = predicted.flatten(1), spread.flatten()
        theta = theta + factor * _gain(theta, predicted, spread, innovation)
        if on_step is not None:
            on_step(step + 1, n_steps, "kalman step")
    return theta.to(members.theta.dtype)


def _gain(theta: Tensor, predicted: Tensor, noise: Tensor, innovation: Tensor) -> Tensor:
    """Moves (n_members, n_params), by the smaller of two systems (Woodbury's identity)."""
    size = len(theta) - 1
    weights = theta - theta.mean(0)
    f = (predicted - predicted.mean(0)) / size**0.5  # (N, m)
    scaled = f / noise
    if f.shape[1] < f.shape[0]:
        inside = f.T @ f + torch.diag(noise)
        share = f @ torch.linalg.solve(inside, innovation.T)
    else:
        # F (F'F + R)^-1 d = (I + F R^-1 F')^-1 F R^-1 d, one column for each member
        inside = torch.eye(len(f), dtype=f.dtype, device=f.device) + scaled @ f.T
        share = torch.linalg.solve(inside, scaled @ innovation.T)
    return share.T @ weights / size**0.5


def _see_prior(theta: Tensor, members: Inflated, streams) -> Tensor:
    """Take in the share of the prior that inflation has forgotten."""
    # the likelihood's own parameters stay, which few members vary with weights by chance only
    root = members.root_share.double()
    used = root > 0
    moving = members.precision > 0
    if not bool(used.any()):
        return theta
    known = theta[:, used]
    variance = 1.0 / (members.prior_precision.double()[used] * root[used] ** 2)
    z = streams.normal(theta.shape[1], dtype=torch.float64, device=theta.device)[:, used]
    innovation = z * variance.sqrt() - known
    theta = theta.clone()
    if len(theta) > theta.shape[1]:
        theta = theta + moving * _gain(theta, known, variance, innovation)
    else:
        own = 1.0 / members.precision.double()[used]
        theta[:, used] = known + own / (own + variance) * innovation
    return theta


def _observations(log_posterior, theta: Tensor):
    """Targets (k, n), each member's predictions (n_members, k, n), and noise variances (k, n)."""
    layout, likelihood = log_posterior.layout, log_posterior.likelihood
    outputs = log_posterior.network.forward(layout.for_forward(theta), log_posterior.inputs)
    outputs = outputs.double()  # (N, n_outputs, n)
    if isinstance(likelihood, Normal):
        predicted, std = likelihood.mean_and_std(outputs, layout.split(theta)[1].double())
        variance = std.double() ** 2
    elif isinstance(likelihood, Bernoulli | Categorical):
        if isinstance(likelihood, Bernoulli):
            predicted = torch.sigmoid(outputs)
            variance = (predicted * (1.0 - predicted)).clamp_min(LEAST)
        else:
            predicted = torch.softmax(outputs, 1)
            variance = predicted.clamp_min(LEAST)
            variance = variance / variance.sum(1, keepdim=True)
    else:
        raise ValueError(f"update='kalman' does not know {type(likelihood).__name__}.")
    variance = variance.expand_as(predicted).mean(0)
    if log_posterior.weight is not None:
        weight = log_posterior.weight[0].double()
        # a row of weight w is w rows in one: its noise is smaller by the root of w
        variance = variance / weight.clamp_min(1e-12)
    return log_posterior.y[0].double(), predicted, variance


def _factors(log_posterior, theta: Tensor, taper: float) -> Tensor:
    """The taper of each weight, (n_params,); the likelihood's own parameters stay."""
    layout = log_posterior.layout
    out = torch.ones(theta.shape[1], dtype=theta.dtype, device=theta.device)
    layers = log_posterior.network.layers
    for number, layer in enumerate(layers):
        for part in (layer.weight, layer.bias):
            out[part] = float(taper) ** (len(layers) - 1 - number)
    start = layout.n_network
    out[start : start + log_posterior.likelihood.n_params] = 0.0
    return out
