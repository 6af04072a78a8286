"""Draws of the weights as functions: what every draw gives on rows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import Dataset

from skbayes.counts import check_count
from skbayes.inference import Streams
from skbayes.model import Layout
from skbayes.validation import check_finite, draw_seed, resolve_device, resolve_prior

MEMORY = 1 << 26
"""Bytes that predictions of one chunk of rows may take, times a small factor."""


class FunctionsMixin:
    """Outputs of an estimator's draws, from the posterior and from the prior, on checked rows."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Stand for what `BayesianEstimator` has."""

    def _forward(self, theta: np.ndarray, inside, joint: bool = True) -> np.ndarray:
        """Outputs (draws, n_outputs, n) in float64 for theta and standardised rows.

        ``joint`` as in `Posterior.outputs`.
        """
        layout = self._layout
        device = self._prediction_device()
        # a copy, since torch must not share a memory-mapped posterior
        flat = torch.as_tensor(np.array(theta, dtype=np.float64), device=device)
        inputs = self._make_inputs(inside, layout.network, dtype=torch.float64, device=device)
        with torch.no_grad():
            return self.posterior_.outputs(flat, inputs, joint).cpu().numpy()

    def _prediction_device(self) -> torch.device:
        if self.device != "cpu" and not torch.cuda.is_available():
            if self.device == "cuda":
                warnings.warn(
                    "device='cuda', but torch finds no CUDA device: predicting on the CPU.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return torch.device("cpu")
        return resolve_device(self.device)

    def _check_X(self, X):
        check_is_fitted(self, "posterior_")
        if isinstance(X, Dataset):
            raise ValueError(
                f"X={type(X).__name__} is not allowed here, only in fit; pass an array of rows, "
                "part by part where they are many."
            )
        X = validate_data(self, X, **self._x_checks, dtype=[np.float64, np.float32], reset=False)
        self._check_row_shape(X)
        return X

    def _check_row_shape(self, X) -> None:
        """Raise unless rows have the shape of those of the fit, where there are more dimensions."""
        if X.shape[1:] != self._row_shape:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was fitted on rows "
                f"of shape {self._row_shape}."
            )

    def _chunks(self, X, n_draws: int | None = None, per_output: int = 1, joint: bool = False):
        """Rows of X in chunks of bounded memory: slices, theta, outputs of all draws.

        ``joint`` as in `Posterior.outputs`. Yields
        ``rows, theta (draws, n_params), outputs (draws, n_outputs, rows)``.
        """
        X = self._check_X(X)
        theta = self.posterior_.thinned(n_draws)
        width = 8 * len(theta) * self._layout.network.n_outputs * per_output
        size = max(16, MEMORY // width)
        for start in range(0, X.shape[0], size):
            rows = slice(start, min(start + size, X.shape[0]))
            inside = self._scaler.transform(X[rows])
            check_finite(inside)
            yield rows, theta, self._forward(theta, inside, joint)

    def _sampled_functions(self, X, n_samples, rng: np.random.Generator):
        """Outputs (n_outputs, n) at all rows for draws from the posterior, with their theta."""
        X = self._check_X(X)
        inside = self._scaler.transform(X)
        check_finite(inside)
        theta = self.posterior_.sample(check_count("n_samples", n_samples), rng)
        size = max(1, MEMORY // (8 * inside.shape[0] * self._layout.network.n_outputs))
        for start in range(0, len(theta), size):
            block = theta[start : start + size]
            yield from zip(block, self._forward(block, inside), strict=True)

    def sample_posterior(self, n_samples=1, random_state=None):
        """Draw weights from the posterior.

        Parameters
        ----------
        n_samples : int, default=1
            Number of draws; up to the number that `fit` made they do not repeat.
        random_state : int, RandomState instance or None, default=None
            Chooses among the draws.

        Returns
        -------
        ndarray of shape (n_samples, n_params)
            Unconstrained theta; ``posterior_.unflatten`` names its parts.
        """
        check_is_fitted(self, "posterior_")
        n_samples = check_count("n_samples", n_samples)
        return self.posterior_.sample(n_samples, np.random.default_rng(draw_seed(random_state)))

    def _prior_theta(self, X, n_samples: int, random_state):
        """Draws from the prior, and the rows as the network sees them."""
        n_samples = check_count("n_samples", n_samples)
        streams = Streams(draw_seed(random_state), n_samples)
        if hasattr(self, "posterior_"):
            X = self._check_X(X)
            layout, inside = self._layout, self._scaler.transform(X)
        else:
            self._check_model()
            X = check_array(X, **self._x_checks, dtype=[np.float64, np.float32])
            inside = self._make_scaler().fit(X).transform(X)
            network = self._make_network(inside, streams.seed, fitted=False)
            likelihood = self._make_likelihood(None, None)
            bound = self._bind_prior(resolve_prior(self.prior), network, inside, None)
            layout = Layout(network, likelihood, bound)
        kw: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
        net, hyper = layout.prior.sample(streams, **kw)
        params = layout.likelihood.sample_prior(streams, **kw)
        theta = torch.cat([net, params, hyper], 1)
        with torch.no_grad():
            outputs = layout.network.forward(
                layout.prior.weights(net, hyper), self._make_inputs(inside, layout.network, **kw)
            )
        return layout, theta.numpy(), outputs.numpy()
