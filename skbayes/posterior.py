"""Draws from a posterior, with names, statistics and what is needed to go on from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from skbayes.counts import check_count

ARVIZ_NAMES = {"log_prob": "lp", "acceptance": "acceptance_rate", "n_leapfrog": "n_steps"}
"""What ArviZ calls statistics that have another name here."""


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
    log_evidence : float or None
        Log evidence in the units that the network sees, where the method gives one.
    elbo : float or None
        Lower bound of it, where the method gives one.
    elbo_parts : tuple of float or None
        Expected log likelihood and divergence from the prior, whose difference the bound is.
    """

    log_evidence: float | None = None
    elbo: float | None = None
    elbo_parts: tuple[float, float] | None = None

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
        if n is None or check_count("n", n) >= self.n_chains * self.n_draws:
            return self.flat
        return self.flat[np.linspace(0, len(self.flat) - 1, n).round().astype(int)]

    def to_modules(self, n: int | None = None) -> list:
        """Plain torch modules, one per draw (at most n, evenly spread).

        They map what the network sees (standardised X) to its outputs (logits, or standardised
        means).
        """
        weights = self.layout.weights(self.thinned(n))
        return [self.layout.network.to_module(w) for w in weights]

    def outputs(self, theta: Any, inputs: Any, joint: bool = True) -> Any:
        """Outputs of the network for draws: where weights become functions.

        Parameters
        ----------
        theta : Tensor of shape (draws, n_params)
            Draws.
        inputs : Inputs
            Rows as the network sees them.
        joint : bool
            Whether a draw's outputs must belong to the same weights in all rows. Where not, a
            posterior may know better points of every row's own distribution.

        Returns
        -------
        Tensor of shape (draws, n_outputs, n)
        """
        return self.layout.network.forward(self.layout.for_forward(theta), inputs)

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

    def to_arviz(self, log_likelihood: np.ndarray | None = None) -> Any:
        """Draws and statistics as ArviZ takes them.

        Needs arviz-base (``pip install "skbayes[arviz]"``).

        Parameters
        ----------
        log_likelihood : ndarray of shape (n_chains, n_draws, n_rows), optional
            Log density of each row by each draw, see `skbayes.metrics.log_density_draws`; what
            ``arviz_stats.loo`` works on.

        Returns
        -------
        DataTree
            ``posterior``: the values of `unflatten`, with dimensions chain and draw first, then
            ``layers.0.in``, ``layers.0.out``, ..., ``output``. ``sample_stats``: ``lp``,
            ``acceptance_rate``, ``n_steps``, ``step_size`` and what else there is, by ArviZ's
            names. ``log_likelihood``, if given. Independent members are draws of one chain.

        Raises
        ------
        ImportError
            If arviz-base is not installed.
        ValueError
            If ``log_likelihood`` is not of these draws.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from skbayes import BayesianMLPRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> reg = BayesianMLPRegressor((5,), method="ensemble", noise="learned").fit(X, y)
        >>> data = reg.posterior_.to_arviz()  # doctest: +SKIP
        """
        try:
            from arviz_base import from_dict
        except ImportError as error:
            raise ImportError(
                'to_arviz needs arviz-base. Install it with: pip install "skbayes[arviz]"'
            ) from error
        from skbayes import __version__

        shape = (self.n_chains, self.n_draws)
        # ArviZ compares chains, and chains of one draw each cannot be compared
        lead = (1, -1) if self.independent else shape
        groups = {"posterior": self.unflatten()}
        stats = {ARVIZ_NAMES.get(name, name): values for name, values in self.stats.items()}
        if "step_size" in self.adapted:
            step_size = np.asarray(self.adapted["step_size"])
            stats.setdefault("step_size", np.broadcast_to(step_size.reshape(-1, 1), shape))
        if stats:
            groups["sample_stats"] = stats
        if log_likelihood is not None:
            rows = np.asarray(log_likelihood)
            if rows.ndim != 3 or rows.shape[:2] != shape:
                raise ValueError(
                    f"log_likelihood has the shape {rows.shape}; it must be (n_chains, n_draws, "
                    f"n_rows), with {shape[0]} chains and {shape[1]} draws."
                )
            groups["log_likelihood"] = {"y": rows}
        data = {
            group: {
                name: values.reshape(*lead, *values.shape[2:]) for name, values in named.items()
            }
            for group, named in groups.items()
        }
        dims = {
            name: found
            for name, values in data["posterior"].items()
            if len(found := _dimensions(name)) == values.ndim - 2
        }
        made_by = {"inference_library": "skbayes", "inference_library_version": __version__}
        return from_dict(
            data,
            dims={**dims, "y": ["row"]},
            attrs={"/": made_by, **dict.fromkeys(data, made_by)},
        )


def _dimensions(name: str) -> list[str]:
    """Dimensions that follow chain and draw, of a parameter by its name."""
    layer, _, part = name.rpartition(".")
    known = {
        "weight": [f"{layer}.in", f"{layer}.out"],
        "bias": [f"{layer}.out"],
        "noise_std": ["output"],
        "prior_scale": ["prior_group"],
    }
    return known.get(part, [])
