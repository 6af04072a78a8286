r"""How much rows count against the prior, chosen by rows that were left out.

The generalised posterior of power eta is

.. math:: p_\eta(\theta \mid D) \propto p(\theta) \prod_i p(y_i \mid x_i, \theta)^\eta

(Gruenwald and van Ommen, 2017, section 2, who choose eta by predictions of rows not yet seen; there
it is at most one). One is Bayes' rule. More than one is right where labels are cleaner than the
likelihood allows for, as curated ones are (Aitchison, 2021, who so explains the cold posteriors of
Wenzel et al., 2020): under a modest prior a network's softmax expects labels to be noisy, and
where they are not its predictions are too cautious until there are very many of them.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Interrupted, points
from skbayes.inference.noise import folds
from skbayes.model.likelihoods import Bernoulli, Normal
from skbayes.posterior import Posterior

POWERS = (1.0, 4.0, 16.0, 64.0)
"""Powers that are tried; each doubles the width of a normal prior against the rows."""

LESS = (0.25, 0.0625)
"""Powers that are tried where one predicts other rows worse than the frequencies of the classes do.
Elsewhere they are not: where few rows tell little they end in networks that are constant."""

POWER: dict[str, Any] = {
    "kind": Real,
    "low": 0,
    "above": True,
    "high": 1e6,
    "or_in": ("held_out",),
}
"""What ``likelihood_power`` may be, see `Method._require`."""

N_TRIAL_MEMBERS, N_TRIAL_ROWS = 8, 5000
FEWEST_ROWS = 16  # that are judged; with fewer the power is one


def check_power(method, log_posterior) -> None:
    """Raise where a method's ``likelihood_power`` is not one in a regression."""
    power = method.likelihood_power
    if power != 1 and isinstance(log_posterior.likelihood, Normal):
        raise ValueError(
            f"{type(method).__name__}: likelihood_power={power!r} is not allowed in a regression; "
            "it must be 1, since there the noise says how much the rows count."
        )


def choose_power(log_posterior, streams, n_members: int, fit: Callable[..., Tensor]) -> float:
    """The power with the largest log predictive density of rows that members were not given.

    Members leave out a quarter of the rows each; the mean prediction of those that left a row out
    is judged. From one on, a larger power is taken as long as it is better than the one before by
    more than a standard error of the difference over rows, so that a few rows do not decide. All
    trials have the same random numbers. Where the power is one, and how frequent the classes are
    would predict the rows better, the network has taken chance for knowledge, as it does with rare
    levels of one-hot columns: then 1/4 and 1/16 are tried, by the same rule. Of more than
    5,000 rows that many, at random, are used; where fewer than 16 can be judged the power is one.
    Rows that are copies of each other, or nearly so, are in the parts that members are given and in
    those they are judged by: they make the power too large. Weights of rows do not.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of all rows.
    streams : Streams
        Of the method that asks; its numbers are not used up.
    n_members : int
        Members of the method; at most eight are tried.
    fit : callable
        ``fit(target, held, streams)`` gives theta (n_members, n_params) climbed to a target without
        the rows that ``held`` (n_members, n) is true for.

    Returns
    -------
    float
        One of `POWERS` or `LESS`.

    Raises
    ------
    Interrupted
        By ``fit``, after Ctrl-C; see `run_with_power`.
    """
    n_members = min(n_members, N_TRIAL_MEMBERS)
    few, one = streams.child(100, n_members), streams.child(101, 1)
    begin, n = few.state(), log_posterior.n
    if n > N_TRIAL_ROWS:
        log_posterior = log_posterior.subset(np.sort(one.permutation(n)[0][:N_TRIAL_ROWS]))
    held = folds(log_posterior.n, n_members, streams)
    if _judged(log_posterior, held).sum() < FEWEST_ROWS:
        return 1.0

    def trial(power: float) -> tuple[np.ndarray, np.ndarray]:
        few.restore(begin)
        theta = fit(log_posterior.with_power(power), held, few)
        return _held_out(log_posterior, theta, held)

    def climb(powers: tuple[float, ...], before: np.ndarray) -> float | None:
        """The last power before one that gains nothing, None where the first does not."""
        last = None
        for power in powers:
            logs, weight = trial(power)
            if not _is_better(logs - before, weight):
                break
            last, before = power, logs
        return last

    logs, weight = trial(POWERS[0])
    best = climb(POWERS[1:], logs)
    if best is None and weight @ (_of_frequencies(log_posterior, held) - logs) > 0.0:
        best = climb(LESS, logs)
    return best or POWERS[0]


def run_with_power(
    method, log_posterior, streams, trial: Callable[..., Tensor], run: Callable[[float], Posterior]
) -> Posterior:
    """What ``run`` gives for a method's power, which is chosen first where it is "held_out".

    ``trial`` is ``fit`` of `choose_power`. After Ctrl-C in a trial its members are what there is,
    some of them more than once.
    """
    power = method.likelihood_power
    if power == "held_out":
        try:
            power = choose_power(log_posterior, streams, method.n_members, trial)
        except Interrupted as stop:
            which = np.arange(method.n_members) % len(stop.theta)
            message = (
                "The fit was interrupted while the power of the likelihood was being chosen; it "
                f"stays as it is: {len(stop.theta)} members, each without a quarter of the rows."
            )
            theta = stop.theta[torch.as_tensor(which)]
            return points(theta, log_posterior, stop.losses[which], [message], True)
    posterior = run(float(power))
    posterior.adapted["likelihood_power"] = np.asarray(float(power))
    return posterior


def _is_better(gain: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the weighted mean of differences is larger than its standard error.

    It depends on the ratios of weights alone: a row of weight two is one observation.
    """
    mean = np.average(gain, weights=weight)
    n = weight.sum() ** 2 / (weight**2).sum()  # as many of equal weight
    square = np.average((gain - mean) ** 2, weights=weight**2) / max(n - 1.0, 1e-300)
    return bool(mean > np.sqrt(square))


def _judged(log_posterior, held: np.ndarray) -> np.ndarray:
    """Which rows have a weight and a member that left them out, (n,)."""
    judged = np.asarray(held.any(0))
    if log_posterior.weight is not None:
        judged &= (log_posterior.weight[0] > 0).cpu().numpy()
    return judged


def _of_frequencies(log_posterior, held: np.ndarray) -> np.ndarray:
    """Log density of each judged row by the frequencies of its classes alone."""
    y = log_posterior.y.double()  # (1, classes or labels, n)
    weight = 1.0 if log_posterior.weight is None else log_posterior.weight[:1].double()
    share = (y * weight).sum(2, keepdim=True) / (torch.ones_like(y) * weight).sum(2, keepdim=True)
    odds = share.logit() if isinstance(log_posterior.likelihood, Bernoulli) else share.log()
    outputs = odds.clamp(-30.0, 30.0).expand_as(y)
    logs = log_posterior.likelihood.pointwise(outputs, outputs[:, :0, 0], y)[0].cpu().numpy()
    return logs[_judged(log_posterior, held)]


def _held_out(log_posterior, theta: Tensor, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of each judged row under the members that left it out, and the rows' weights."""
    logs = log_posterior.pointwise(theta, weighted=False).double()
    mask = torch.as_tensor(held, device=theta.device)
    logs = logs.masked_fill(~mask, -torch.inf).logsumexp(0).cpu().numpy()
    logs = logs - np.log(np.maximum(held.sum(0), 1))
    weight, judged = np.ones(len(logs)), _judged(log_posterior, held)
    if log_posterior.weight is not None:
        weight = log_posterior.weight[0].double().cpu().numpy()
    return logs[judged], weight[judged]
