"""What every inference method has in common."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skbayes.inference.streams import Streams
from skbayes.posterior import Posterior

# Called as on_step(done, total, text) after each step of a method.
OnStep = Callable[[int, int, str], None]


class Method(BaseEstimator):
    """An inference method: hyper-parameters, and `run`.

    A method knows only theta, gradients, and the parts of the log posterior that it names in
    ``needs``. It writes nothing on itself; what it adapted goes into the `Posterior`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Parts of the log posterior used beyond value and gradient, such as ``perturbed``."""

    can_stream: ClassVar[bool] = False
    """Whether the method can go on with new data (``partial_fit``)."""

    filters: ClassVar[bool] = False
    """Whether ``partial_fit`` moves its members on by new rows: it has ``move`` (what moves them),
    ``old_weight`` and ``n_replay`` (what it sees of rows seen before)."""

    reads_from_disk: ClassVar[bool] = False
    """Whether it takes rows by minibatches only, so that they need not be in memory."""

    keeps_on_disk: ClassVar[bool] = False
    """Whether a run can be kept on disk and goes on from there; `run` then takes ``store``."""

    is_point: ClassVar[bool] = False
    """Whether the answer is a single point, without uncertainty of the weights."""

    def chain_count(self) -> int:
        """Number of chains, members or points that `run` works on at once."""
        raise NotImplementedError("abstract")

    def run(
        self,
        log_posterior,
        theta0: Tensor | None,
        streams: Streams,
        on_step: OnStep | None = None,
    ) -> Posterior:
        """Draw from the posterior.

        Parameters
        ----------
        log_posterior : LogPosterior
            The target.
        theta0 : Tensor of shape (n_chains, n_params) or None
            Where to start; None lets the method choose.
        streams : Streams
            One random stream per chain.
        on_step : callable, optional
            ``on_step(done, total, text)``, called after each step.

        Returns
        -------
        Posterior
        """
        raise NotImplementedError("abstract")

    def check(self) -> None:
        """Raise a ValueError that names the parameter, its value and what is allowed."""
        raise NotImplementedError("abstract")

    def _require(self, *names: str, kind=Integral, low=1, high=None, or_in=(), above=False) -> None:
        """Check that parameters are numbers of a kind within [low, high], or one of ``or_in``.

        With ``above``, low itself is not allowed.
        """
        for name in names:
            value = getattr(self, name)
            if any(
                value is other or (isinstance(other, str) and value == other) for other in or_in
            ):
                continue
            good = isinstance(value, kind) and not isinstance(value, bool | np.bool_)
            good = good and np.isfinite(value) and (value > low if above else value >= low)
            if good and (high is None or value <= high):
                continue
            what = "an integer" if kind is Integral else "a finite number"
            span = f"{'over' if above else '>='} {low}"
            if high is not None:
                span = f"over {low}, at most {high}" if above else f"between {low} and {high}"
            extra = "".join(f", or {other!r}" for other in or_in)
            raise ValueError(
                f"{type(self).__name__}: {name}={value!r} is not allowed; "
                f"it must be {what} {span}{extra}."
            )

    def _positive(self, *names: str, or_in=()) -> None:
        self._require(*names, kind=Real, low=0, above=True, or_in=or_in)

    def _check_init(self, *words: str) -> None:
        """Check that ``init`` is a method with good parameters, one of ``words``, or None."""
        init = self.init  # type: ignore[attr-defined]
        if init is None or (isinstance(init, str) and init in words):
            return
        if not isinstance(init, Method):
            also = "".join(f", {word!r}" for word in words)
            raise ValueError(
                f"{type(self).__name__}: init={init!r} is not allowed; it must be a method object "
                f"such as Ensemble() or MAP(){also}, or None."
            )
        init.check()

    def _choice(self, name: str, allowed: tuple) -> None:
        value = getattr(self, name)
        if not any(
            value is other or (isinstance(value, str) and value == other) for other in allowed
        ):
            raise ValueError(
                f"{type(self).__name__}: {name}={value!r} is not allowed; "
                f"allowed are {', '.join(map(repr, allowed))}."
            )


class Interrupted(Exception):
    """Ctrl-C during an optimisation; carries theta and the losses so far."""

    def __init__(self, theta: Tensor, losses: np.ndarray) -> None:
        super().__init__()
        self.theta, self.losses = theta, losses


def to_numpy(theta: Tensor) -> np.ndarray:
    """Copy a tensor to a numpy array of its own."""
    return theta.detach().cpu().numpy().copy()


def points(
    theta: Tensor,
    log_posterior,
    loss_curve: np.ndarray | None = None,
    messages: list[str] | None = None,
    interrupted: bool = False,
) -> Posterior:
    """A posterior of one draw per chain, from an optimiser."""
    with torch.no_grad():
        log_prob = to_numpy(log_posterior(theta))
    return Posterior(
        to_numpy(theta)[:, None],
        log_posterior.layout,
        stats={"log_prob": log_prob[:, None]},
        loss_curve=loss_curve,
        independent=True,
        messages=messages,
        interrupted=interrupted,
    )
