"""What Markov chains tune while they warm up: step sizes and masses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class StepTuner:
    """Step sizes, one per chain, that follow what the steps bring; a subclass says how.

    Attributes
    ----------
    step_size : ndarray of shape (n_chains,)
        What to use now.
    """

    names: tuple[str, ...] = ("step_size", "log_mean", "t")
    """The attributes that make up its state."""

    step_size: np.ndarray
    log_mean: np.ndarray
    t: int

    def restart(self, step_size: np.ndarray) -> None:
        """Forget the past."""
        raise NotImplementedError("abstract")

    def next_window(self) -> None:
        """Forget the past but for the step sizes, as after a change of the metric."""
        raise NotImplementedError("abstract")

    def update(self, seen: np.ndarray) -> None:
        """Take in what one iteration's steps brought, (n_chains,)."""
        raise NotImplementedError("abstract")

    def finish(self) -> np.ndarray:
        """The averaged step sizes, to be kept from here on."""
        self.step_size = np.exp(self.log_mean)
        return self.step_size

    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays."""
        return {name: np.array(getattr(self, name)) for name in self.names}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name in self.names:
            setattr(self, name, np.array(state[name]))
        self.t = int(self.t)

    def _use(self, log_step: np.ndarray) -> None:
        """Go on with these steps, and take them into the average, late ones with more weight."""
        share = self.t**-0.75
        self.log_mean = share * log_step + (1.0 - share) * self.log_mean
        self.step_size = np.exp(log_step)


class DualAveraging(StepTuner):
    r"""Step sizes that reach a mean acceptance, one per chain.

    Hoffman and Gelman (2014), section 3.2.1, equation 6:

    .. math:: \log \epsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma (t + t_0)}
              \sum_{i \le t} (\delta - \alpha_i), \qquad
              \log \bar\epsilon_{t+1} = t^{-\kappa} \log \epsilon_{t+1}
              + (1 - t^{-\kappa}) \log \bar\epsilon_t

    with mu = log(3 epsilon_1), gamma = 0.15, t_0 = 10, kappa = 0.75. (The paper has gamma = 0.05
    and mu = log(10 epsilon_1). The steps then swing so far that the acceptance at their mean is
    not their mean acceptance: 0.90 where 0.80 is asked for, at more gradients than needed.)

    Parameters
    ----------
    step_size : ndarray of shape (n_chains,)
        Where to start.
    target : float
        The acceptance delta.
    """

    names = (*StepTuner.names, "mu", "error")

    def __init__(self, step_size: np.ndarray, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: np.ndarray) -> None:
        """See `StepTuner.restart`."""
        self.mu = np.log(3.0 * step_size)
        self.log_mean = np.log(step_size)
        self.error = np.zeros_like(step_size)
        self.t = 0
        self.step_size = np.array(step_size)

    def next_window(self) -> None:
        """See `StepTuner.next_window`."""
        self.restart(self.finish())

    def update(self, acceptance: np.ndarray) -> None:
        """Take in the acceptance probabilities of one iteration, (n_chains,)."""
        self.t += 1
        weight = 1.0 / (self.t + 10.0)
        self.error = (1.0 - weight) * self.error + weight * (self.target - acceptance)
        self._use(self.mu - np.sqrt(self.t) / 0.15 * self.error)


class EnergyVariance(StepTuner):
    """Step sizes that reach a variance of the energy error of a step, per dimension.

    Parameters
    ----------
    step_size : ndarray of shape (n_chains,)
        Where to start.
    target : float
        The variance.
    longest : float
        No step is longer.
    """

    def __init__(self, step_size: np.ndarray, target: float, longest: float) -> None:
        self.target, self.longest = target, longest
        self.restart(step_size)

    def restart(self, step_size: np.ndarray) -> None:
        """See `StepTuner.restart`."""
        self.step_size = np.minimum(np.array(step_size, dtype=float), self.longest)
        self.log_mean = np.log(self.step_size)
        self.t = 0

    def next_window(self) -> None:
        """See `StepTuner.next_window`."""
        self.restart(self.step_size)

    def update(self, variance: np.ndarray) -> None:
        """Take in the variances of one iteration, (n_chains,); infinite counts as far too much."""
        self.t += 1
        ratio = self.target / np.clip(np.nan_to_num(variance, nan=np.inf), 1e-12, 1e6)
        # the variance goes with the sixth power of the step; at most halved or doubled at once
        change = np.clip(np.log(ratio) / 6.0, -np.log(2.0), np.log(2.0))
        log_step = np.log(self.step_size) + change * self.t**-0.5
        self._use(np.minimum(log_step, np.log(self.longest)))


class RunningVariance:
    """Variance of every parameter within chains, pooled over them (Welford's recursion).

    Chains may sit in different modes, so that what lies between them is left out.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all draws."""
        self.count = 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def add(self, theta: Tensor) -> None:
        """Take in one draw of every chain, (n_chains, n_params)."""
        x = theta.double()
        self.count += 1
        if self.mean is None or self.square is None:
            self.mean, self.square = x.clone(), torch.zeros_like(x)
            return
        delta = x - self.mean
        self.mean += delta / self.count
        self.square += delta * (x - self.mean)

    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays."""
        if self.mean is None or self.square is None:
            return {}
        return {
            "count": np.array(self.count),
            "mean": self.mean.cpu().numpy().copy(),
            "square": self.square.cpu().numpy().copy(),
        }

    def restore(self, state: dict[str, np.ndarray], device: torch.device) -> None:
        """Go on from what `state` gave."""
        self.reset()
        if "count" in state:
            self.count = int(state["count"])
            self.mean = torch.as_tensor(state["mean"].copy(), device=device)
            self.square = torch.as_tensor(state["square"].copy(), device=device)

    def variance(self) -> Tensor:
        """Shrunken variance (n_params,), as Stan does it: towards 1e-3 while draws are few."""
        assert self.square is not None
        pooled = self.square.mean(0) / max(1, self.count - 1)
        n = self.count * self.square.shape[0]
        return n / (n + 5.0) * pooled + 1e-3 * 5.0 / (n + 5.0)


def windows(n_warmup: int) -> tuple[int, list[int], int]:
    """Stan's schedule: when the masses are estimated and replaced.

    Returns
    -------
    first : int
        Iterations before draws are collected.
    ends : list of int
        Iterations after which the masses are replaced; windows double in length.
    last : int
        Iterations at the end that only tune the step sizes.
    """
    if n_warmup < 20:
        return n_warmup, [], 0
    first, last, base = 75, 50, 25
    if first + last + base > n_warmup:
        first, last = int(0.15 * n_warmup), int(0.1 * n_warmup)
        base = n_warmup - first - last
    ends, start = [], first
    while start < n_warmup - last:
        stop = start + base
        if stop + 2 * base > n_warmup - last:
            stop = n_warmup - last  # the last window takes what is left
        ends.append(stop)
        start, base = stop, 2 * base
    return first, ends, last
