r"""How much rows count against the prior, and around what, chosen by rows that were left out.

The generalised posterior of power eta is

.. math:: p_\eta(\theta \mid D) \propto p(\theta) \prod_i p(y_i \mid x_i, \theta)^\eta

(Gruenwald and van Ommen, 2017, section 2, who choose eta by predictions of rows not yet seen; there
it is at most one). One is Bayes' rule. More than one is right where labels are cleaner than the
likelihood allows for, as curated ones are (Aitchison, 2021, who so explains the cold posteriors of
Wenzel et al., 2020): under a modest prior a network's softmax expects labels to be noisy, and
where they are not its predictions are too cautious until there are very many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.noise import N_FOLDS, folds
from skbayes.model.likelihoods import Normal

POWERS = (1.0, 4.0, 16.0, 64.0)
"""Powers that are tried; each doubles the width of a normal prior against the rows. Less than one
is not: where few rows tell little it ends in networks that are constant."""

N_TRIAL_MEMBERS, N_TRIAL_ROWS = 8, 5000
FEWEST_ROWS = 2 * N_FOLDS  # with fewer nothing is tried


class Chosen(NamedTuple):
    """What rows that were left out speak for."""

    power: float
    """Of the likelihood."""

    anchored: bool
    """Whether members are anchored to draws from the prior, or all to zero."""


def check_for_classes(method, likelihood, **usual) -> None:
    """Raise where a method has other than the usual values of parameters in a regression."""
    for name, value in usual.items():
        given = getattr(method, name)
        if given != value and isinstance(likelihood, Normal):
            raise ValueError(
                f"{type(method).__name__}: {name}={given!r} is not allowed in a regression; it "
                f"must be {value!r}, since there the noise says how much the rows count."
            )


def choose(
    log_posterior,
    streams,
    n_members: int,
    fit: Callable[..., Tensor],
    power: float | None = None,
    anchored: Sequence[bool] = (True,),
) -> Chosen:
    """What gives the largest log predictive density of rows that members were not given.

    Members leave out a quarter of the rows each; the mean prediction of those that left a row out
    is judged. From one on, a larger power is taken as long as it is better than the one before by
    more than a standard error of the difference over rows, so that a few rows do not decide; then
    anchors at zero, likewise, where that is to be chosen too. All trials have the same random
    numbers. Of more than 5,000 rows that many, at random, are used; with fewer than eight nothing
    is tried: the power is one.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of all rows.
    streams : Streams
        Of the method that asks; its numbers are not used up.
    n_members : int
        Members of the method; at most eight are tried.
    fit : callable
        ``fit(target, held, streams, anchored)`` gives theta (n_members, n_params) climbed to a
        target without the rows that ``held`` (n_members, n) is true for.
    power : float, optional
        Of the likelihood, where it is not to be chosen.
    anchored : sequence of bool
        Either or both, what is usual first.

    Returns
    -------
    Chosen
    """
    best = Chosen(1.0 if power is None else power, anchored[0])
    if log_posterior.n < FEWEST_ROWS:
        return best
    n_members = min(n_members, N_TRIAL_MEMBERS)
    few, one = streams.child(100, n_members), streams.child(101, 1)
    begin, n = few.state(), log_posterior.n
    if n > N_TRIAL_ROWS:
        log_posterior = log_posterior.subset(np.sort(one.permutation(n)[0][:N_TRIAL_ROWS]))
    held = folds(log_posterior.n, n_members, streams)

    def judge(trial: Chosen) -> tuple[np.ndarray, np.ndarray]:
        few.restore(begin)
        theta = fit(log_posterior.with_power(trial.power), held, few, trial.anchored)
        return _held_out(log_posterior, theta, held)

    best_logs = judge(best)[0]

    def gains(trial: Chosen) -> bool:
        nonlocal best, best_logs
        logs, weight = judge(trial)
        better = _is_better(logs - best_logs, weight)
        if better:
            best, best_logs = trial, logs
        return better

    for kind in anchored:
        if kind is not best.anchored and not gains(best._replace(anchored=kind)):
            continue
        for larger in [p for p in POWERS if p > best.power] if power is None else ():
            if not gains(best._replace(power=larger)):
                break
    return best


def _is_better(gain: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the mean of differences is larger than its standard error."""
    mean = np.average(gain, weights=weight)
    return bool(mean > np.sqrt(np.average((gain - mean) ** 2, weights=weight) / weight.sum()))


def _held_out(log_posterior, theta: Tensor, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of each row under the members that left it out, and the rows' weights."""
    logs = log_posterior.pointwise(theta, weighted=False).double()
    mask = torch.as_tensor(held, device=theta.device)
    count = mask.sum(0, dtype=torch.float64)
    logs = logs.masked_fill(~mask, -torch.inf).logsumexp(0) - count.log()
    weight = log_posterior.weight
    weight = torch.ones_like(logs) if weight is None else weight[0].double()
    used = (count > 0) & (weight > 0)
    return logs[used].cpu().numpy(), weight[used].cpu().numpy()
