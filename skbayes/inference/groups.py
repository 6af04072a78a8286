"""Chains in groups of fixed size, which may run in processes of their own, and their merging."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs

from skbayes.inference.ascent_store import AscentStore
from skbayes.inference.base import Method, OnStep
from skbayes.inference.checkpoint import Checkpoint
from skbayes.inference.kernel import ChainMethod
from skbayes.inference.streams import Streams
from skbayes.posterior import Posterior

STEP = "step_size"  # what methods adapt for each chain


def run_method(
    method: Method,
    log_posterior,
    theta0: torch.Tensor | None,
    seed: int,
    on_step: OnStep | None = None,
    *,
    n_jobs: int | None = None,
    state: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Posterior:
    """Run a method; Markov chains in groups, each of which is a run of its own.

    A group has the same random streams and the same number of threads wherever it runs, so that
    the draws do not depend on ``n_jobs``.

    Parameters
    ----------
    method : Method
        What to run.
    log_posterior : LogPosterior
        The target.
    theta0 : Tensor of shape (n_chains, n_params) or None
        Where to start; None lets the method choose.
    seed : int
        Seed of the whole run; that of ``state`` comes first.
    on_step : callable, optional
        Progress.
    n_jobs : int or None, default=None
        Processes that groups of chains are spread over, as joblib has it.
    state : dict, optional
        ``Posterior.state`` of an earlier run of the same method, from where chains go on.
    checkpoint : Checkpoint, optional
        Keeps the chains on disk.

    Returns
    -------
    Posterior
    """
    if not isinstance(method, ChainMethod):
        streams = Streams(seed, method.chain_count())
        if checkpoint is None:
            return method.run(log_posterior, theta0, streams, on_step)
        climb = AscentStore(checkpoint.folder, checkpoint.fingerprint)
        posterior = method.run(log_posterior, theta0, streams, on_step, store=climb)  # type: ignore[call-arg]
        posterior.messages.extend(climb.problems)
        return posterior
    if state is not None:
        seed = state["seed"]  # a longer run would have kept it
    n_chains, size = method.chain_count(), method.group_size
    firsts = range(0, n_chains, size)
    # of all groups, whether or not they run at once: rounding depends on the number of threads
    before = torch.get_num_threads()
    threads = max(1, before // len(firsts))
    jobs = [
        {
            "method": method,
            "log_posterior": log_posterior,
            "theta0": None if theta0 is None else theta0[first : first + size],
            "streams": Streams(seed, min(size, n_chains - first), first=first),
            "state": None if state is None else state["groups"][g],
            "store": None if checkpoint is None else checkpoint.group(g),
            "threads": threads,
        }
        for g, first in enumerate(firsts)
    ]
    try:
        if len(jobs) == 1 or effective_n_jobs(n_jobs) == 1:
            parts = _one_after_another(jobs, on_step)
        else:
            parts = _side_by_side(jobs, on_step, n_jobs)
    finally:
        torch.set_num_threads(before)
    posterior = merge(parts, n_chains)
    posterior.layout = log_posterior.layout  # not a copy from another process
    if posterior.state is not None:
        posterior.state.update(method=name_of(method), group_size=size, seed=seed)
    return posterior


def resumable(state: dict[str, Any] | None, method: Method, data: str | None) -> bool:
    """Whether chains can go on from a ``Posterior.state`` as if they had never stopped.

    Parameters
    ----------
    state : dict or None
        Of the last run.
    method : Method
        Of the next.
    data : str or None
        Fingerprint of the data of the next; ``state["data"]`` is that of the last.

    Returns
    -------
    bool
        False also where the last run was interrupted in its warm-up.
    """
    return (
        state is not None
        and isinstance(method, ChainMethod)
        and state["method"] == name_of(method)
        and state["data"] == data
        and state["group_size"] == method.group_size
        and all(group["iteration"] >= group["n_warmup"] for group in state["groups"])
    )


def name_of(method: Method) -> str:
    """The class of a method, as a string."""
    return f"{type(method).__module__}.{type(method).__qualname__}"


def _run_group(*, method, log_posterior, theta0, streams, state, store, threads, on_step=None):
    """Run one group, maybe in another process; return its posterior and the store's warnings."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        posterior = method.run(log_posterior, theta0, streams, on_step, state=state, store=store)
    return posterior, [] if store is None else store.problems


def _run_beside_others(*, log_posterior, **job):
    """`_run_group` in a thread that may not be alone: a network's buffers must be its own."""
    own = copy.copy(log_posterior)
    own.network = copy.copy(log_posterior.network)
    return _run_group(log_posterior=own, **job)


def _one_after_another(jobs: list[dict], on_step: OnStep | None) -> list[Posterior]:
    """All groups in this process; after Ctrl-C those that were finished, else what there is."""
    parts: list[Posterior] = []
    for g, job in enumerate(jobs):
        part, problems = _run_group(**job, on_step=_of_group(on_step, g, len(jobs)))
        _warn(problems)
        if part.interrupted:
            return parts or [part]
        parts.append(part)
    return parts


def _side_by_side(jobs: list[dict], on_step: OnStep | None, n_jobs: int | None) -> list[Posterior]:
    """Groups in processes, or wherever joblib's backend has its workers."""
    parallel = Parallel(n_jobs, return_as="generator", max_nbytes=None)
    parts: list[Posterior] = []
    for part, problems in parallel(delayed(_run_beside_others)(**job) for job in jobs):
        _warn(problems)
        parts.append(part)
        if on_step is not None:
            on_step(len(parts), len(jobs), "groups of chains")
    return parts


def _of_group(on_step: OnStep | None, g: int, n_groups: int) -> OnStep | None:
    """Progress of one group among several."""
    if on_step is None or n_groups == 1:
        return on_step
    shown = on_step

    def step(done: int, total: int, text: str) -> None:
        shown(g * total + done, n_groups * total, text)

    return step


def _warn(problems: list[str]) -> None:
    for problem in problems:
        warnings.warn(problem, RuntimeWarning, stacklevel=5)


def merge(parts: list[Posterior], n_chains: int) -> Posterior:
    """Put the posteriors of groups together, in order.

    What is adapted by the chain (``step_size``) is put together by chains; all else has the groups
    as its first axis.

    Parameters
    ----------
    parts : list of Posterior
        Those of the groups; with Ctrl-C not of all.
    n_chains : int
        Chains that were asked for.

    Returns
    -------
    Posterior
    """
    whole = parts[0]
    if len(parts) > 1:
        adapted = {k: np.stack([p.adapted[k] for p in parts]) for k in whole.adapted if k != STEP}
        if STEP in whole.adapted:
            own = [np.broadcast_to(p.adapted[STEP], p.n_chains) for p in parts]
            adapted[STEP] = np.concatenate(own)
        whole = Posterior(
            np.concatenate([p.draws for p in parts]),
            whole.layout,
            stats={k: np.concatenate([p.stats[k] for p in parts]) for k in whole.stats},
            adapted=adapted,
            messages=list(dict.fromkeys(m for p in parts for m in p.messages)),
            state={"groups": [group for p in parts for group in (p.state or {})["groups"]]},
        )
    if whole.n_chains < n_chains:
        whole.interrupted = True
        whole.messages.append(
            f"Sampling was interrupted: {whole.n_chains} of {n_chains} chains are kept."
        )
    return whole
