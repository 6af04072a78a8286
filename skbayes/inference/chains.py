"""The loop that all Markov chain methods share: warm-up, thinning, progress, interruption."""

from __future__ import annotations

from typing import Protocol

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

    def step(self, streams: Streams, iteration: int) -> dict[str, np.ndarray]:
        """Move all chains once; return statistics, each (n_chains,), ``log_prob`` among them."""

    def adapt(self, iteration: int, n_warmup: int, stats: dict[str, np.ndarray]) -> None:
        """Tune after warm-up iteration ``iteration`` (from 0)."""

    def adapted(self) -> dict[str, np.ndarray]:
        """What was tuned."""


def run_chains(
    kernel: Kernel,
    layout,
    streams: Streams,
    *,
    n_warmup: int,
    n_draws: int,
    thin: int = 1,
    on_step: OnStep | None = None,
) -> Posterior:
    """Warm up, then draw.

    Ctrl-C ends the run early and keeps what was drawn; in the warm-up that is the current point of
    each chain, as a single draw.

    Parameters
    ----------
    kernel : Kernel
        Started at the initial points.
    layout : Layout
        Of theta.
    streams : Streams
        One random stream per chain.
    n_warmup, n_draws, thin : int
        Iterations of warm-up; draws kept per chain; iterations per draw kept.
    on_step : callable, optional
        Progress.

    Returns
    -------
    Posterior
    """
    n_chains, n_params = kernel.theta.shape
    kind = np.float64 if kernel.theta.dtype == torch.float64 else np.float32
    draws = np.empty((n_chains, n_draws, n_params), dtype=kind)
    stats: dict[str, np.ndarray] = {}
    messages: list[str] = []
    total = n_warmup + n_draws * thin
    kept = 0
    now: dict[str, np.ndarray] = {}
    try:
        for i in range(total):
            now = kernel.step(streams, i)
            if i < n_warmup:
                kernel.adapt(i, n_warmup, now)
            elif (i - n_warmup + 1) % thin == 0:
                for name, values in now.items():
                    if name not in stats:
                        stats[name] = np.empty((n_chains, n_draws), dtype=values.dtype)
                    stats[name][:, kept] = values
                draws[:, kept] = to_numpy(kernel.theta)
                kept += 1
            if on_step is not None:
                stage = "warm-up" if i < n_warmup else "draw"
                on_step(i + 1, total, stage + _said(now))
    except KeyboardInterrupt:
        messages.append(
            f"Sampling was interrupted: {kept} of {n_draws} draws per chain are kept"
            + ("." if kept else ", the chains' points in the warm-up stand for them.")
        )
        if not kept:
            draws[:, 0] = to_numpy(kernel.theta)
            stats = {name: values[:, None] for name, values in now.items()}
            kept = 1
    return Posterior(
        draws[:, :kept].copy() if kept < n_draws else draws,
        layout,
        stats={name: values[:, :kept] for name, values in stats.items()},
        adapted=kernel.adapted(),
        messages=messages,
        interrupted=bool(messages),
    )


def _said(stats: dict[str, np.ndarray]) -> str:
    """What the progress bar tells of the last iteration."""
    if "acceptance" not in stats:
        return ""
    return f", acceptance {stats['acceptance'].mean():.2f}"
