"""The noise of a regression apart from its weights, for methods that only find modes.

Each function here gives the log density of the learned noise on the grid of `Normal.noise_grid`,
(n_outputs, k); `sample_noise` draws from such a density.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

N_FOLDS = 4


def log_prob_by_prior_functions(log_posterior, streams, n_rows: int = 1000) -> Tensor:
    r"""Log posterior of the noise under the normal process that the prior amounts to.

    The functions that the prior draws have, at the rows, a covariance K, here estimated from
    draws. A linear model's functions are normal, those of a wide network nearly so (Neal, 1996,
    chapter 2), so that

    .. math:: p(\sigma \mid y) \propto p(\sigma)\, N(y; 0, K + \sigma^2 I).

    Parameters
    ----------
    log_posterior : LogPosterior
        With normal noise that is learned.
    streams : Streams
        One random stream per chain.
    n_rows : int
        Rows used at most, chosen at random.
    """
    likelihood, layout = log_posterior.likelihood, log_posterior.layout
    rows = np.sort(streams.child(2, 1).permutation(log_posterior.n)[0][:n_rows])
    some = log_posterior.rows(rows)
    n_blocks, block = max(4, 8 * len(rows) // 1000), 500
    kernel: Tensor | float = 0.0
    for number in range(n_blocks):
        theta = log_posterior.sample_prior(streams.child(3 + number, block))
        net, _, hyper = layout.split(theta)
        outputs = log_posterior.network.forward(
            log_posterior.prior.weights(net, hyper), some.inputs
        )
        values = outputs.double().transpose(0, 1)  # (outputs, functions, rows)
        kernel = kernel + values.mT @ values / (n_blocks * block)
    assert isinstance(kernel, Tensor)
    y, repeats = some.y[0].double(), 0.0
    if some.weight is not None:
        # A row of weight w is w rows in one: its noise is smaller by the root of w, and w - 1 of
        # them add a density of their own.
        weight = some.weight[0].double()
        used = weight > 0
        root = weight[used].sqrt()
        kernel = kernel[:, used][:, :, used] * root[:, None] * root
        y = y[:, used] * root
        repeats = float(weight.sum() - used.sum())
    variances, vectors = torch.linalg.eigh(kernel)
    square = (y[:, None] @ vectors)[:, 0] ** 2
    return _log_prob(likelihood, square, variances.clamp_min(0.0), repeats)


def log_prob_by_held_out(log_posterior, theta: Tensor, held: np.ndarray) -> Tensor:
    r"""Log posterior of the noise given predictions of rows that members have not seen.

    A row that k members have not seen is predicted by their mean. Where the members' predictions
    vary by v, the squared error has the expectation

    .. math:: E[e^2] = \sigma^2 + v\,(1 + 1 / k),

    and e is taken as normal; v is averaged over the rows.

    Parameters
    ----------
    log_posterior : LogPosterior
        With normal noise that is learned.
    theta : Tensor of shape (n_chains, n_params)
        Members.
    held : ndarray of bool, shape (n_chains, n)
        True for the rows that a member has not seen.
    """
    net, _, hyper = log_posterior.layout.split(theta)
    outputs = log_posterior.network.forward(
        log_posterior.prior.weights(net, hyper), log_posterior.inputs
    ).double()
    mask = torch.as_tensor(held, dtype=torch.float64, device=theta.device)[:, None]
    count = mask.sum(0).clamp_min(1.0)  # (1, n)
    mean = (outputs * mask).sum(0) / count  # (outputs, n)
    variance = ((outputs - mean) ** 2 * mask).sum(0) / (count - 1).clamp_min(1.0)
    square = (log_posterior.y[0] - mean) ** 2
    weight = torch.ones_like(count) if log_posterior.weight is None else log_posterior.weight
    total = weight.sum()
    shared = (variance * (1 + 1 / count) * weight).sum(1, keepdim=True) / total
    # a row of weight w counts as w rows: their mean square stands for all of them
    mean_square = (square * weight).sum(1, keepdim=True) / total
    return _log_prob(log_posterior.likelihood, mean_square, shared, 0.0, float(total))


def sample_noise(log_posterior, theta: Tensor, log_prob: Tensor, streams) -> Tensor:
    """Theta with the noise of every chain drawn from a density on the grid, (n_outputs, k)."""
    raw, _, _ = log_posterior.likelihood.noise_grid(theta.device)
    uniform = streams.uniform(len(log_prob), device=theta.device).T.contiguous()
    mass = torch.softmax(log_prob, 1)
    cdf = mass.cumsum(1) - 0.5 * mass  # at the grid's points, by the trapezoidal rule
    right = torch.searchsorted(cdf, uniform).clamp(1, len(raw) - 1)  # (outputs, chains)
    low, high = cdf.gather(1, right - 1), cdf.gather(1, right)
    part = ((uniform - low) / (high - low).clamp_min(1e-300)).clamp(0.0, 1.0)
    out = theta.clone()
    log_posterior.layout.split(out)[1].copy_((raw[right - 1] + part * (raw[1] - raw[0])).T)
    return out


def folds(n: int, n_members: int, streams) -> np.ndarray:
    """Which rows each member leaves out, (n_members, n): each row is left out by a quarter."""
    fold = streams.child(1, 1).permutation(n)[0] % N_FOLDS
    return fold[None] == (np.arange(n_members) % N_FOLDS)[:, None]


def _log_prob(likelihood, square, variance, repeats: float, times: float = 1.0) -> Tensor:
    """Log prior plus the log density of independent normal errors, each counted ``times``."""
    _, log_prior, sigma = likelihood.noise_grid(square.device)
    total = variance[:, :, None] + (sigma**2)[:, None, :]  # (outputs, errors, grid)
    logs = -0.5 * (square[:, :, None] / total + total.log()).sum(1)
    return log_prior + times * logs - repeats * sigma.log()
