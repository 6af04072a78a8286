"""What regressors share, whatever the network."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, column_or_1d

from skbayes.base import BayesianEstimator, random_generator
from skbayes.counts import check_count
from skbayes.inference.minibatches import on_disk
from skbayes.model import Normal
from skbayes.predictive import Uncertainty, mixture_quantiles, variance_parts
from skbayes.validation import Standardizer, check_noise, check_targets

AT_FLOOR = 2.0  # noise of so many times the least that is allowed says nothing of the data
FEW = 0.01  # of the rows
FAR = 20.0  # from zero, for a y that is not standardised


class BayesianRegressor(RegressorMixin, BayesianEstimator):
    """Base of the regressors: one or several outputs with normal noise."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    _n_targets: int
    _standardize_choices = (True, False, "X", "y", "arcsinh")

    # ---------------------------------------------------------------- fitting

    def _encode_y(self, y, weight, again, classes=None):
        if classes is not None:
            raise ValueError(f"classes={classes!r} is not allowed: this is a regressor.")
        y = np.asarray(y)
        if y.dtype.kind not in "fiub":
            y = y.astype(np.float64)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        columns = y.astype(np.float64).reshape(len(y), -1)
        if again and columns.shape[1] != self._n_targets:
            raise ValueError(
                f"warm_start=True: y has {columns.shape[1]} outputs, the first fit had "
                f"{self._n_targets}."
            )
        if not again:
            self._single = y.ndim == 1
            self._n_targets = columns.shape[1]
            scales = self.standardize in (True, "y", "arcsinh")
            self._y_scaler = Standardizer(scales).fit(columns, weight)
            check_noise(self.noise, self._n_targets, self._y_scaler.scale)
            if not scales:
                self._check_scale_of(columns, weight)
        return self._y_scaler.transform(columns).T, weight  # (n_targets, n)

    def _check_scale_of(self, columns: np.ndarray, weight) -> None:
        """Warn where y, as it is, is out of what networks with these priors can give."""
        found = Standardizer(True).fit(columns, weight)
        size = np.maximum(np.abs(found.mean), found.scale)
        if size.max() > FAR:
            k = int(size.argmax())
            warnings.warn(
                f"y has a mean of {found.mean[k]:.3g} and a deviation of {found.scale[k]:.3g}, but "
                "priors and steps are made for values near one: such a network may not get there. "
                "Set standardize='y' (or True).",
                UserWarning,
                stacklevel=6,
            )

    def _make_likelihood(self, targets, weight):
        if targets is None:  # before any fit: standardised units
            return Normal(1, check_noise(self.noise, 1, np.ones(1)), np.ones(1))
        spread = np.ones(self._n_targets)
        if not self._y_scaler.active:
            spread = Standardizer(True).fit(targets.T, weight).scale
        noise = check_noise(self.noise, self._n_targets, self._y_scaler.scale)
        return Normal(self._n_targets, noise, spread)

    def _n_network_outputs(self, fitted: bool) -> int:
        n = self._n_targets if fitted else 1
        return 2 * n if isinstance(self.noise, str) and self.noise == "heteroscedastic" else n

    def _hints_of_one(self, posterior, target):
        return super()._hints_of_one(posterior, target) + _no_noise_left(posterior, target)

    @property
    def noise_std_(self):
        """Posterior mean of the noise's standard deviation in the units of y.

        A number, or an array (n_outputs,); only where it is one for all rows.
        """
        check_is_fitted(self, "posterior_")
        likelihood = self._layout.likelihood
        if likelihood.heteroscedastic:
            raise AttributeError("noise_std_ is not one number where noise='heteroscedastic'.")
        if likelihood.learned:
            std = self.posterior_.unflatten()["noise_std"].mean((0, 1))
        else:
            std = likelihood.noise
        std = std * self._y_scaler.scale
        return float(std[0]) if self._single else std

    # ------------------------------------------------------------- prediction

    def predict(self, X, return_std=False):
        """Mean of the posterior predictive, and its standard deviation.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        return_std : bool, default=False
            Whether to return the total standard deviation (noise and weights) too.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the units of y.
        std : ndarray of the same shape
            Only with ``return_std=True``; in the units of y.
        """
        means, stds = [], []
        for _, theta, outputs in self._chunks(X):
            mean, std = self._moments(outputs, theta)
            means.append(mean.mean(0))
            if return_std:
                stds.append(np.sqrt(variance_parts(mean, std).total))
        mean = self._squeeze(np.concatenate(means))
        return (mean, self._squeeze(np.concatenate(stds))) if return_std else mean

    def predict_interval(self, X, coverage=0.9):
        """Central interval of the posterior predictive mixture.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Probability inside, in (0, 1); each tail holds half of the rest.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, n_outputs, 2)
            Lower and upper ends, in the units of y.
        """
        if not isinstance(coverage, (int, float)) or not 0 < coverage < 1:
            raise ValueError(
                f"coverage={coverage!r} is not allowed; it must be a number in (0, 1)."
            )
        return self.predict_quantiles(X, [(1 - coverage) / 2, (1 + coverage) / 2])

    def predict_quantiles(self, X, quantiles):
        """Quantiles of the posterior predictive mixture (not of a normal fitted to it).

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        quantiles : array-like of shape (n_quantiles,)
            Probabilities in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles) or (n_samples, n_outputs, n_quantiles)
            In the units of y.
        """
        try:
            q = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
        except (TypeError, ValueError):
            q = np.array([np.nan])
        if q.ndim != 1 or not ((q > 0) & (q < 1)).all():
            raise ValueError(f"quantiles={quantiles!r} is not allowed; they must lie in (0, 1).")
        parts = []
        for _, theta, outputs in self._chunks(X, per_output=6):
            mean, std = self._moments(outputs, theta)
            flat = mixture_quantiles(mean.reshape(len(mean), -1), std.reshape(len(std), -1), q)
            parts.append(flat.reshape(*mean.shape[1:], len(q)))
        out = np.concatenate(parts)
        return out[:, 0] if self._single else out

    def predict_uncertainty(self, X):
        """Total, aleatoric and epistemic variance.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Uncertainty
            Named tuple of arrays (n_samples,) or (n_samples, n_outputs), in the squared units of
            y: their sum, the mean noise variance, and the variance of the draws' means.
        """
        parts = [
            variance_parts(*self._moments(outputs, theta))
            for _, theta, outputs in self._chunks(X, per_output=2)
        ]
        return Uncertainty(
            *(self._squeeze(np.concatenate(part)) for part in zip(*parts, strict=True))
        )

    def log_predictive_density(self, X, y):
        """Log density of targets under the posterior predictive, in the units of y.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log of the average over draws of the joint density of all outputs.
        """
        logs = [logsumexp(part, axis=0) - np.log(len(part)) for part in self._log_densities(X, y)]
        return np.concatenate(logs)

    def _log_densities(self, X, y):
        """Log density of the targets by each draw, (draws, rows), for chunks of rows in turn."""
        n = self._check_X(X).shape[0]
        y = check_targets(y, (n,) if self._single else (n, self._n_targets))
        y = y.astype(np.float64).reshape(n, -1)
        for rows, theta, outputs in self._chunks(X, per_output=3):
            mean, std = self._moments(outputs, theta)
            z = (y[rows] - mean) / std
            yield (-0.5 * z * z - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(2)

    def predict_draws(self, X, n_draws=None):
        """Each draw's own prediction, the same weights for every row.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        n_draws : int, optional
            At most that many draws, evenly spread over chains; default all.

        Returns
        -------
        mean, std : ndarray of shape (n_draws, n_samples) or (n_draws, n_samples, n_outputs)
            Means and noise standard deviations, in the units of y.
        """
        if n_draws is not None:
            n_draws = check_count("n_draws", n_draws)
        parts = [
            self._moments(out, theta) for _, theta, out in self._chunks(X, n_draws, joint=True)
        ]
        mean, std = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
        return (mean[..., 0], std[..., 0]) if self._single else (mean, std)

    def sample_y(self, X, n_samples=1, random_state=None):
        """Draw targets from the posterior predictive, with the same weights across rows.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        n_samples : int, default=1
            Draws.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_rows, n_samples) or (n_rows, n_outputs, n_samples)
            Targets in the units of y.
        """
        rng = random_generator(random_state)
        out = []
        for theta, outputs in self._sampled_functions(X, n_samples, rng):
            mean, std = self._moments(outputs[None], theta[None])
            out.append(mean[0] + std[0] * rng.standard_normal(mean[0].shape))
        drawn = np.stack(out, -1)
        return drawn[:, 0] if self._single else drawn

    def sample_prior(self, X, n_samples=1, random_state=None):
        """Functions (means, without noise) drawn from the prior.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows. Before `fit` they are standardised by their own moments.
        n_samples : int, default=1
            Functions.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_samples, n_rows) or (n_samples, n_rows, n_outputs)
            In the units of y; before `fit` in standardised units.
        """
        layout, theta, outputs = self._prior_theta(X, n_samples, random_state)
        if hasattr(self, "posterior_"):
            mean = self._moments(outputs, theta)[0]
            return mean[..., 0] if self._single else mean
        return outputs[:, 0]

    def _moments(self, outputs: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and noise (draws, n, n_outputs) in the units of y."""
        layout = self._layout
        params = torch.as_tensor(np.asarray(layout.split(theta)[1], dtype=np.float64))
        mean, std = layout.likelihood.mean_and_std(torch.as_tensor(outputs), params)
        scale, centre = self._y_scaler.scale, self._y_scaler.mean
        mean, std = (np.moveaxis(part.numpy(), 1, 2) for part in (mean, std))
        return mean * scale + centre, std * scale

    def _log_unit(self):
        return float(np.log(self._y_scaler.scale).sum())

    def _squeeze(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._single else values

    def _diagnostic_values(self, outputs, theta):
        return outputs[:, : self._n_targets]


def _no_noise_left(posterior, target) -> list[str]:
    """Say so where a single network passes through rows, so that no noise is left.

    (A linear model does not, unless y is linear in X.)
    """
    likelihood, network = target.likelihood, target.network
    if network.is_linear or not (likelihood.learned or likelihood.heteroscedastic):
        return []
    theta = torch.as_tensor(posterior.flat, dtype=target.dtype, device=target.device)
    params = target.layout.split(theta)[1]
    least = AT_FLOOR * likelihood.floor * likelihood.scale
    if likelihood.learned:
        few = likelihood.at(params).sigma[0].cpu().numpy() < least
        if not few.any():
            return []
        where = f"in {few.sum()} of {len(few)} outputs" if len(few) > 1 else "in all rows"
    else:
        if on_disk(target):
            return []
        outputs = posterior.outputs(theta, target.inputs)
        sigma = likelihood.mean_and_std(outputs, params)[1][0].cpu().numpy()
        weight = None if target.weight is None else target.weight[0].cpu().numpy()
        share = np.average((sigma < least[:, None]).mean(0), weights=weight)
        if share < FEW:
            return []
        where = f"in {share:.0%} of the rows"
    return [
        f"The noise is next to none {where}: the network passes through them, and what it says "
        "elsewhere may be far too certain. Give noise as a number, or take a method that averages "
        "over weights."
    ]
