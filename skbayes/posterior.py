"""Draws from a posterior, with names, statistics and what is needed to go on from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Posterior:
    """Draws of theta, as numpy arrays.

    Parameters
    ----------
    draws : ndarray of shape (n_chains, n_draws, n_params)
        Unconstrained theta: [network | likelihood | hyper-parameters].
    layout : object
        Says what theta's parts are: ``constrain(theta)``, ``weights(theta)``, ``network``.
    stats : dict of str to ndarray, optional
        Statistics of every draw, each (n_chains, n_draws): ``log_prob``, ``acceptance``, ...
    adapted : dict of str to ndarray, optional
        What the method tuned: step sizes, masses, ...
    last_state : ndarray of shape (n_chains, n_params), optional
        Where each chain stopped; the last draw if not given.
    loss_curve : ndarray of shape (n_chains, n_iter), optional
        Negative log posterior per row over the epochs of an optimiser.
    independent : bool, default=False
        Whether every chain is one independent draw (an ensemble), so that R-hat has no meaning.
    messages : list of str, optional
        What the method has to say of its own convergence.
    interrupted : bool, default=False
        Whether Ctrl-C ended the run early.
    state : dict, optional
        What Markov chains need to go on as if they had never stopped, in numpy arrays and plain
        Python: ``groups``, one dict for each batch of chains, with the arrays of the sampler
        (``kernel``), the states of the random ``generators`` and the ``iteration``.

    Attributes
    ----------
    n_chains, n_draws, n_params : int
        Shape of ``draws``.
    """

    def __init__(
        self,
        draws: np.ndarray,
        layout: Any,
        stats: dict[str, np.ndarray] | None = None,
        adapted: dict[str, np.ndarray] | None = None,
        last_state: np.ndarray | None = None,
        loss_curve: np.ndarray | None = None,
        independent: bool = False,
        messages: list[str] | None = None,
        interrupted: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.draws = draws
        self.layout = layout
        self.stats = stats or {}
        self.adapted = adapted or {}
        self.last_state = draws[:, -1].copy() if last_state is None else last_state
        self.loss_curve = loss_curve
        self.independent = independent
        self.messages = messages or []
        self.interrupted = interrupted
        self.state = state

    n_chains = property(lambda self: self.draws.shape[0], doc="Number of chains or members.")
    n_draws = property(lambda self: self.draws.shape[1], doc="Draws per chain.")
    n_params = property(lambda self: self.draws.shape[2], doc="Length of theta.")

    def __repr__(self) -> str:
        return (
            f"Posterior(n_chains={self.n_chains}, n_draws={self.n_draws}, n_params={self.n_params})"
        )

    @property
    def flat(self) -> np.ndarray:
        """All draws in one axis, chain by chain, (n_chains * n_draws, n_params)."""
        return self.draws.reshape(-1, self.n_params)

    def unflatten(self, theta: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Named, constrained values of every draw.

        Parameters
        ----------
        theta : ndarray of shape (..., n_params), optional
            Default: all draws.

        Returns
        -------
        dict of str to ndarray
            Each ``(n_chains, n_draws, *shape)``: ``layers.0.weight`` (fan_in, fan_out),
            ``layers.0.bias``, ..., then ``noise_std`` (in the units that the network sees) and
            ``prior_scale``, where the model has them.
        """
        return self.layout.constrain(self.draws if theta is None else theta)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n values of theta, (n, n_params).

        Up to the number of draws they are taken without repetition.
        """
        flat = self.flat
        if n <= len(flat):
            return flat[rng.choice(len(flat), size=n, replace=False)]
        return flat[rng.integers(len(flat), size=n)]

    def thinned(self, n: int | None) -> np.ndarray:
        """At most n values of theta, evenly spread over chains and draws, (<= n, n_params)."""
        if n is None or n >= self.n_chains * self.n_draws:
            return self.flat
        return self.flat[np.linspace(0, len(self.flat) - 1, n).round().astype(int)]

    def to_modules(self, n: int | None = None) -> list:
        """Plain torch modules, one per draw (at most n, evenly spread).

        They map what the network sees (standardised X) to its outputs (logits, or standardised
        means).
        """
        weights = self.layout.weights(self.thinned(n))
        return [self.layout.network.to_module(w) for w in weights]

    def functions(
        self,
        forward: Callable[[np.ndarray, Any], np.ndarray],
        X: Any,
        n_draws: int | None = None,
        block: int = 64,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each draw's function at the rows of X, in blocks of draws.

        Parameters
        ----------
        forward : callable
            ``forward(theta, X)`` gives (draws, n_outputs, n) for theta (draws, n_params).
        X : object
            Rows, as ``forward`` takes them.
        n_draws : int, optional
            At most that many draws, evenly spread; default all.
        block : int
            Draws per block.

        Yields
        ------
        theta : ndarray of shape (draws, n_params)
        outputs : ndarray of shape (draws, n_outputs, n)
        """
        flat = self.thinned(n_draws)
        for start in range(0, len(flat), block):
            theta = flat[start : start + block]
            yield theta, forward(theta, X)
