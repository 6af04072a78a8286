"""The loop that all Markov chain methods share: warm-up, thinning, progress, interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import OnStep, to_numpy
from skbayes.inference.streams import Streams
from skbayes.posterior import Posterior


class Kernel(Protocol):
    """One transition of all chains; holds their state while a run lasts."""

    theta: Tensor
    """Current points, (n_chains, n_params); replaced, never written into."""

    value: Tensor
    """Their log posterior, (n_chains,)."""

    messages: list[str]
    """What to tell the user in the end."""

    def step(self, streams: Streams, iteration: int) -> dict[str, np.ndarray]:
        """Move all chains once; return statistics, each (n_chains,), ``log_prob`` among them."""

    def adapt(self, iteration: int, n_warmup: int, stats: dict[str, np.ndarray]) -> None:
        """Tune after warm-up iteration ``iteration`` (from 0)."""

    def adapted(self) -> dict[str, np.ndarray]:
        """What was tuned."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, besides the random streams."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""


Complete = Callable[[Tensor, Tensor | None, Streams], tuple[Tensor, Tensor]]


class Past(NamedTuple):
    """What an earlier process has done of a run."""

    state: dict[str, Any]  # see `Posterior.state`
    draws: np.ndarray  # (n_chains, kept, n_params)
    stats: dict[str, np.ndarray]  # each (n_chains, kept)


class Store(Protocol):
    """Keeps a run where it outlives the process, see `skbayes.inference.checkpoint`."""

    def load(self, first: int) -> Past | None:
        """What there is of the run that begins at iteration ``first``."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def save(self, past: Past) -> None:
        """Keep all that is not kept yet."""


def run_chains(
    kernel: Kernel,
    layout,
    streams: Streams,
    *,
    n_warmup: int,
    n_draws: int,
    thin: int = 1,
    on_step: OnStep | None = None,
    first: int = 0,
    past: Past | None = None,
    store: Store | None = None,
    complete: Complete | None = None,
) -> Posterior:
    """Warm up, then draw.

    Ctrl-C ends the run early and keeps what was drawn; in the warm-up that is the current point of
    each chain, as a single draw.

    Parameters
    ----------
    kernel : Kernel
        Started at the initial points, or restored.
    layout : Layout
        Of theta.
    streams : Streams
        One random stream per chain.
    n_warmup, n_draws, thin : int
        Iterations before the first draw, counted from where the chains once started; draws kept
        per chain; iterations per draw kept.
    on_step : callable, optional
        Progress.
    first : int, default=0
        Number of the first iteration, where the chains go on from an earlier run.
    past : Past, optional
        What has been done of this run already, where it was cut off at ``first``.
    store : Store, optional
        Keeps the run on disk.
    complete : callable, optional
        Draws what the kernel's theta lacks: ``complete(theta, log_prob, streams)`` returns theta
        of the whole and its log posterior; see `CollapsedLogPosterior.complete`.

    Returns
    -------
    Posterior
    """
    n_chains, n_params = len(kernel.theta), layout.n_params
    kind = np.float64 if kernel.theta.dtype == torch.float64 else np.float32
    draws = np.empty((n_chains, n_draws, n_params), dtype=kind)
    stats: dict[str, np.ndarray] = {}
    interrupted = False
    messages: list[str] = []
    total = n_warmup + n_draws * thin
    kept = 0

    def keep(values: np.ndarray, statistics: dict[str, np.ndarray]) -> None:
        """Add draws (n_chains, k, n_params), and statistics (n_chains, k)."""
        nonlocal kept
        k = values.shape[1]
        for name, column in statistics.items():
            if name not in stats:
                stats[name] = np.empty((n_chains, n_draws), dtype=column.dtype)
            stats[name][:, kept : kept + k] = column
        draws[:, kept : kept + k] = values
        kept += k

    def draw(
        now: dict[str, np.ndarray], log_prob: Tensor | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The current points, (n_chains, 1, n_params), and their statistics."""
        theta = kernel.theta
        if complete is not None:
            theta, log_prob = complete(theta, log_prob, streams)
            now = {**now, "log_prob": to_numpy(log_prob)}
        columns = {name: values[:, None] for name, values in now.items()}
        return to_numpy(theta)[:, None], columns

    def so_far(iteration: int) -> Past:
        state = {
            "kernel": kernel.state(),
            "generators": streams.state(),
            "iteration": iteration,
            "n_warmup": n_warmup,
        }
        return Past(state, draws[:, :kept], {name: v[:, :kept] for name, v in stats.items()})

    if past is not None and past.draws.shape[1]:
        keep(past.draws, past.stats)
    now: dict[str, np.ndarray] = {}
    done = first
    try:
        for i in range(first, total):
            now = kernel.step(streams, i)
            if i < n_warmup:
                kernel.adapt(i, n_warmup, now)
            elif (i - n_warmup + 1) % thin == 0:
                keep(*draw(now, kernel.value))
            done = i + 1
            if store is not None and (done == total or store.due()):
                store.save(so_far(done))
            if on_step is not None:
                stage = "warm-up" if i < n_warmup else "draw"
                on_step(i + 1, total, stage + _said(now))
    except KeyboardInterrupt:
        interrupted = True
        messages.append(
            f"Sampling was interrupted: {kept} of {n_draws} draws per chain are kept"
            + ("." if kept else ", the chains' points in the warm-up stand for them.")
        )
        state = so_far(done).state
        # a step may have been cut in two: what belongs to theta is computed anew
        state["kernel"] = {k: v for k, v in state["kernel"].items() if k not in ("value", "grad")}
        if not kept:
            # the step may have been cut in two, and the value be that of other points
            draws[:, :1], stats = draw(now, None)
            kept = 1
    else:
        state = so_far(done).state
    return Posterior(
        draws[:, :kept].copy() if kept < n_draws else draws,
        layout,
        stats={name: values[:, :kept] for name, values in stats.items()},
        adapted=kernel.adapted(),
        messages=messages + kernel.messages,
        interrupted=interrupted,
        state={"groups": [state]},
    )


def _said(stats: dict[str, np.ndarray]) -> str:
    """What the progress bar tells of the last iteration."""
    if "acceptance" not in stats:
        return ""
    return f", acceptance {stats['acceptance'].mean():.2f}"
