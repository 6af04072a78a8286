"""The climb of an evidence lower bound by Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from skbayes.inference.ascent_store import AscentStore
from skbayes.inference.base import OnStep, to_numpy
from skbayes.inference.minibatches import Minibatches, on_disk
from skbayes.inference.streams import Streams
from skbayes.layers.objective import Objective
from skbayes.layers.variational import Noise

WINDOW = 100
"""Steps between looks at whether the bound still rises."""

FALL = 0.3
"""Factor of the learning rate where it does not."""

N_FALLS = 3
"""How often the learning rate falls before the climb ends."""


class Ascent(NamedTuple):
    """What a climb reached; the family has changed in place."""

    losses: np.ndarray
    """Negative bound per row of every epoch, (n_epochs,)."""

    messages: list[str]
    """What to tell the user."""

    interrupted: bool
    """Whether Ctrl-C ended it."""

    records: list[Any]
    """What ``after_epoch`` gave for every epoch."""


def ascend(
    objective: Objective,
    streams: Streams,
    *,
    learning_rate: float,
    batch_size: int,
    max_epochs: int,
    kl_warmup: int = 0,
    kl_weights: str = "uniform",
    schedule: str = "plateau",
    on_step: OnStep | None = None,
    after_epoch: Callable[[], Any] | None = None,
    store: AscentStore | None = None,
) -> Ascent:
    """Climb a bound by Adam on minibatches.

    Parameters
    ----------
    objective : Objective
        The bound; the leaves of its family are changed in place.
    streams : Streams
        Random order of the rows; a single stream.
    learning_rate : float
        On the bound per row.
    batch_size : int
        Rows of a step.
    max_epochs : int
        Passes over the data at most.
    kl_warmup : int
        Epochs in which the weight of the divergence rises from zero to one (Sonderby et al., 2016,
        section 2.3), so that weights are not given up before they have learned anything.
    kl_weights : {"uniform", "blundell"}
        Share of the divergence that each of an epoch's M steps has: 1 / M, or, for step i from 1
        on, Blundell et al.'s (2015, section 3.4) 2^(M - i) / (2^M - 1): the prior first, then the
        data.
    schedule : {"plateau", "linear"}
        "plateau" lets the rate fall by 0.3 where the smoothed bound does not rise any more, three
        times, and then stops; "linear" lets it fall to zero over ``max_epochs``.
    on_step : callable, optional
        Progress, after every epoch.
    after_epoch : callable, optional
        Called after every epoch; what it gives (numbers, or None) is kept.
    store : AscentStore, optional
        Keeps the climb on disk: the same climb goes on from there.

    Returns
    -------
    Ascent
    """
    target, family = objective.target, objective.family
    batch_size = min(batch_size, target.n)
    per_epoch = math.ceil(target.n / batch_size)
    feed = Minibatches(target, batch_size) if on_disk(target) else None
    optimiser = FusedAdam([leaf.detach() for leaf in family.leaves])
    total, n_warm = per_epoch * max_epochs, per_epoch * kl_warmup
    watch = _Plateau()
    losses: list[float] = []
    records: list[Any] = []
    rate, n_falls, ended = learning_rate, 0, False
    scale = -1.0 / target.total_weight
    t = 0
    past = None if store is None else store.load()
    if past is not None:
        numbers_of, arrays = past
        t, rate, n_falls, ended = (numbers_of[n] for n in ("t", "rate", "n_falls", "ended"))
        losses, records = numbers_of["losses"], numbers_of["records"]
        watch.__dict__.update(numbers_of["watch"])
        streams.restore(numbers_of["streams"])
        _restore(arrays, optimiser, objective.noise)
    try:
        for epoch in range(len(losses), max_epochs):
            if ended:
                break
            values: list[Tensor] = []
            for part in _epoch(target, streams, batch_size, feed, t, per_epoch):
                kl_weight = min(1.0, (t + 1) / n_warm) if n_warm else 1.0
                if kl_weights == "blundell":
                    kl_weight *= per_epoch * blundell_weight(len(values) + 1, per_epoch)
                if schedule == "linear":
                    rate = learning_rate * (1.0 - t / total)
                with torch.enable_grad():
                    bound = objective(part)
                    loss = scale * (bound.log_likelihood - kl_weight * bound.kl)
                    grads = torch.autograd.grad(loss, family.leaves)
                optimiser.step(grads, rate)
                family.project()
                values.append((bound.log_likelihood - bound.kl).detach())
                t += 1
            numbers = torch.stack(values).double().mul_(scale).cpu().numpy()
            target.seen(family.centre()[None])
            if after_epoch is not None:
                records.append(after_epoch())
            losses.append(float(numbers.mean()))
            if on_step is not None:
                on_step(epoch + 1, max_epochs, f"bound per row {-losses[-1]:.4g}")
            if not np.isfinite(losses[-1]):
                message = (
                    f"The bound became infinite in epoch {epoch + 1}; lower learning_rate, or "
                    "standardise X."
                )
                return Ascent(np.array(losses), [message], False, records)
            if schedule == "plateau" and t > n_warm and watch.is_flat(numbers):
                n_falls += 1
                ended = n_falls > N_FALLS
                rate *= FALL
            if store is not None and (ended or epoch + 1 == max_epochs or store.due()):
                state: dict[str, Any] = {"t": t, "rate": rate, "n_falls": n_falls, "ended": ended}
                state |= {"losses": losses, "records": records, "watch": watch.__dict__}
                state["streams"] = streams.state()
                store.save(state, _arrays(optimiser, objective.noise))
    except KeyboardInterrupt:
        if not losses:
            raise  # nothing was gained yet
        message = f"The fit was interrupted after {len(losses)} epochs; it stays as it is."
        return Ascent(np.array(losses), [message], True, records)
    messages = []
    if schedule == "plateau" and not ended:
        messages.append(
            f"The bound was still rising after {max_epochs} epochs; raise max_epochs or "
            "learning_rate."
        )
    return Ascent(np.array(losses), messages, False, records)


def _arrays(optimiser: FusedAdam, noise: Noise) -> dict[str, np.ndarray]:
    """What the next step depends on, besides numbers: leaves, their moments, and the noise."""
    out = {"noise": noise.generator.get_state().numpy(), "steps": np.array(optimiser.t)}
    for name, tensors in optimiser.state().items():
        out.update({f"{name}-{i}": to_numpy(tensor) for i, tensor in enumerate(tensors)})
    return out


def _restore(arrays: dict[str, np.ndarray], optimiser: FusedAdam, noise: Noise) -> None:
    """Go on from what `_arrays` gave."""
    noise.generator.set_state(torch.as_tensor(arrays["noise"]))
    for step in optimiser.steps:
        step.fill_(float(arrays["steps"]))
    for name, tensors in optimiser.state().items():
        for i, tensor in enumerate(tensors):
            tensor.copy_(torch.as_tensor(arrays[f"{name}-{i}"]))


def blundell_weight(i: int, n_steps: int) -> float:
    """Share of the divergence in step i, from 1 on, of an epoch; see `ascend`."""
    return 2.0**-i / (1.0 - 2.0**-n_steps)  # 2^M itself may be too large a number


class FusedAdam:
    """Adam as in `skbayes.inference.optimizers.Adam`, for several tensors, in one pass over memory.

    By the function behind `torch.optim.Adam`: the class itself imports a compiler at its first
    step, which takes more than a second.

    Parameters
    ----------
    tensors : list of Tensor
        Changed in place.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.m = [torch.zeros_like(tensor) for tensor in tensors]
        self.v = [torch.zeros_like(tensor) for tensor in tensors]
        self.steps = [torch.zeros((), dtype=torch.float32, device=t.device) for t in tensors]

    @property
    def t(self) -> int:
        """Steps so far."""
        return int(self.steps[0])

    def state(self) -> dict[str, list[Tensor]]:
        """The tensors and their moments."""
        return {"leaf": self.tensors, "m": self.m, "v": self.v}

    def step(self, grads: Sequence[Tensor], rate: float) -> None:
        """Move the tensors in place, down the gradients."""
        # torch._fused_adam_, which it calls, saves about 20 microseconds a step, but is private
        adam(
            self.tensors,
            list(grads),
            self.m,
            self.v,
            [],
            self.steps,
            fused=True,
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class _Plateau:
    """Whether a noisy sequence of losses still falls.

    The last quarter of the steps since the last answer "flat" is compared with the quarter before
    it. Both grow, so that ever slower falls are seen; flat is what looks so twice running.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._seen, self._flat = 0, 0

    def is_flat(self, losses: np.ndarray) -> bool:
        """Take the losses of further steps, and say whether the rate should fall."""
        self._losses.extend(losses.tolist())
        n = len(self._losses)
        if n - self._seen < WINDOW or n < 4 * WINDOW:
            return False
        self._seen = n
        quarter = n // 4
        before = np.array(self._losses[-2 * quarter : -quarter])
        last = np.array(self._losses[-quarter:])
        error = math.sqrt((before.var() + last.var()) / quarter)
        self._flat = self._flat + 1 if before.mean() - last.mean() < error else 0
        if self._flat < 2:
            return False
        self._losses, self._seen, self._flat = [], 0, 0
        return True


def _epoch(target, streams: Streams, batch_size: int, feed, t: int, per_epoch: int):
    """The log posteriors of one epoch's steps, from step t on."""
    if feed is None and batch_size >= target.n:
        yield target
        return
    if feed is not None:
        for k in range(per_epoch):
            window, rows = feed.draw(streams, t + k)
            yield window if rows is None else window.minibatch(rows[0])
        return
    order = streams.permutation(target.n)[0]
    for start in range(0, target.n, batch_size):
        yield target.minibatch(order[start : start + batch_size])
