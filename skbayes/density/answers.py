"""What a trained variational autoencoder answers."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted

from skbayes.counts import check_count
from skbayes.density.columns import Columns
from skbayes.density.importance import chunks, normal_points, weigh
from skbayes.density.model import VAE, Architecture
from skbayes.density.objectives import OBJECTIVES
from skbayes.density.options import number
from skbayes.density.rows import CheckedRows, check_rows, in_parts
from skbayes.validation import draw_seed

ELBO_POINTS = 64


class Explanation(NamedTuple):
    """Parts of -log p(x) in nats, which add up to it."""

    features: np.ndarray
    """Of each column, (n_samples, n_features); zero for constant columns."""

    latent: np.ndarray
    """Divergence of the row's latent variables from their prior, (n_samples,)."""


def _has_density(estimator) -> bool:
    objective = getattr(estimator, "_objective", estimator.objective)  # that of the fit
    kind = OBJECTIVES.get(objective)
    if kind is None or kind.has_density:
        return True
    raise AttributeError(f"objective={objective!r} leaves no density; use 'elbo' or 'iwae'.")


class AnswersMixin(TransformerMixin):
    """Everything after `fit`; for classes with the fitted attributes of `VAEDensityEstimator`."""

    _columns: Columns
    _spec: Architecture
    _latent_order: np.ndarray
    _point_seed: int
    n_importance: int
    importance_inflation: float
    _objective: str

    def _model(self) -> VAE:
        raise NotImplementedError("abstract")

    def _values(self, X) -> np.ndarray:
        check_is_fitted(self, "_weights")
        X = check_rows(self, X, reset=False)
        if isinstance(X, np.ndarray):
            return self._columns.transform(X)
        return np.concatenate([self._columns.transform(X[rows]) for rows in X.parts()])

    def _parts(self, X, n_points: int, by_column: bool = False):
        """Values of X, and their importance weighting."""
        number(self, "n_importance", numbers.Integral, 1)
        number(self, "importance_inflation", numbers.Real, 0, above=True)
        V = self._values(X)
        model = self._model()
        points = normal_points(n_points, model.n_noise, self._point_seed)
        device = next(model.parameters()).device
        inflation = self.importance_inflation
        return V, weigh(model, V, points, inflation=inflation, by_column=by_column, device=device)

    @available_if(_has_density)
    def score_samples(self, X, return_ess=False):
        r"""Log density of each row, in the units of X, by importance weighting.

        .. math:: \log p(x) \approx \log \frac{1}{K} \sum_k
                  \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}

        with ``n_importance`` quasi-random points, the same for every row, so that a row's answer
        depends on no other row. In expectation it is a lower bound that rises with K. Columns with
        a probability (binary, categories, counts) enter with its log, columns of whole numbers with
        the log of probability over the distance of the numbers, constant columns not at all.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        return_ess : bool, default=False
            Whether the effective number of points is returned too. Where it is near one, a single
            point carries the answer, and the log density can be too low by nats.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats.
        ess : ndarray of shape (n_samples,)
            Between 1 and ``n_importance`` (times ``n_weight_draws`` with normal weights); only with
            ``return_ess``.
        """
        V, parts = self._parts(X, self.n_importance)
        out, ess = np.empty(len(V)), np.empty(len(V))
        for part in parts:
            out[part.rows], ess[part.rows] = part.log_density, part.ess
        out -= self._columns.log_volume.sum()
        return (out, ess) if return_ess else out

    @available_if(_has_density)
    def score(self, X, y=None):
        """Mean log density of the rows, see `score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.

        Returns
        -------
        float
        """
        return float(self.score_samples(X).mean())

    @available_if(_has_density)
    def elbo(self, X):
        """Evidence lower bound of each row, in the units of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Lower than `score_samples` by the divergence of q from the posterior.
        """
        return self._bound(X)[0]

    def _bound(self, X) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The bound, its reconstruction part (both in units of X) and its divergence, (n,) each."""
        V = self._values(X)
        model = self._model()
        device = next(model.parameters()).device
        points = normal_points(ELBO_POINTS, model.n_noise, self._point_seed)
        eps = torch.as_tensor(points, device=device)[:, None]
        fit, total = np.empty(len(V)), np.empty(len(V))
        with torch.no_grad():
            for rows in chunks(model, len(V), ELBO_POINTS):
                v = torch.as_tensor(V[rows], device=device)
                mean, log_var = model.encode(v)
                log_weight, log_lik, _ = model.log_weights(v, mean, log_var, eps)
                fit[rows] = log_lik.sum(-1).mean(0).cpu().numpy()
                total[rows] = log_weight.mean(0).cpu().numpy()
        volume = self._columns.log_volume.sum()
        return total - volume, fit - volume, fit - total

    def transform(self, X):
        """Posterior means of the latent variables, the most relevant first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, `n_latent_`)
        """
        return self._encode(X)[0]

    def _encode(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q, in the order of `transform`."""
        V = self._values(X)
        model = self._model()
        device = next(model.parameters()).device
        mean = np.empty((len(V), self._spec.n_latent))
        std = np.empty_like(mean)
        with torch.no_grad():
            for rows in chunks(model, len(V), 1):
                m, log_var = model.encode(torch.as_tensor(V[rows], device=device))
                mean[rows] = m.cpu().numpy()
                std[rows] = torch.exp(0.5 * log_var).cpu().numpy()
        return mean[:, self._latent_order], std[:, self._latent_order]

    def _decode(self, Z: np.ndarray) -> np.ndarray:
        """Expected values of the model at latent variables in the order of `transform`."""
        model = self._model()
        device = next(model.parameters()).device
        z = np.empty_like(Z)
        z[:, self._latent_order] = Z
        out = np.empty((len(Z), self._columns.layout.n_columns))
        with torch.no_grad():
            for rows in chunks(model, len(Z), 1):
                part = model.decoder(torch.as_tensor(z[rows], device=device))
                out[rows] = model.head.mean(part).cpu().numpy()
        return out

    def inverse_transform(self, Z):
        """Expected rows, given latent variables.

        Parameters
        ----------
        Z : array-like of shape (n_samples, `n_latent_`)
            Latent variables in the order of `transform`.

        Returns
        -------
        ndarray of shape (n_samples, `n_features_in_`)
            Means; of categories the most probable.
        """
        check_is_fitted(self, "_weights")
        Z = check_array(Z, dtype=np.float64)
        if Z.shape[1] != self._spec.n_latent:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but there are {self._spec.n_latent} latent variables."
            )
        return self._columns.inverse_transform(self._decode(Z), round_integers=False)

    def reconstruct(self, X):
        """Rows as the decoder has them at their posterior means.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, `n_features_in_`)
        """
        return self.inverse_transform(self._encode(X)[0])

    def sample(self, n_samples=1, random_state=None):
        """Rows drawn from the model, noise included.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_samples, `n_features_in_`)
            In the units of X; constant columns have their value.
        """
        check_is_fitted(self, "_weights")
        check_count("n_samples", n_samples)
        model = self._model()
        generator = torch.Generator().manual_seed(draw_seed(random_state))
        out = []
        with torch.no_grad():
            for rows in chunks(model, n_samples, 1):
                z = model.prior.sample(rows.stop - rows.start, generator)
                out.append(
                    model.head.sample(model.decode_any(z, generator), generator).cpu().numpy()
                )
        return self._columns.inverse_transform(np.concatenate(out))

    @available_if(_has_density)
    def sample_posterior(self, X, n_samples=1, random_state=None):
        """Latent variables drawn from q given each row.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows.
        n_samples : int, default=1
            Draws per row.
        random_state : int, RandomState or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_samples, n_samples_X, `n_latent_`)
            In the order of `transform`.
        """
        check_count("n_samples", n_samples)
        mean, std = self._encode(X)
        rng = np.random.default_rng(draw_seed(random_state))
        return mean + std * rng.standard_normal((n_samples, *mean.shape))

    @available_if(_has_density)
    def explain(self, X):
        r"""Each column's share of -log p(x), and that of the latent variables.

        .. math:: -\log p(x) = \sum_j E_{p(z \mid x)}[-\log p(x_j \mid z)]
                  + KL(p(z \mid x) \,\|\, p(z))

        with expectations by the importance weights of `score_samples`, whose negative the parts add
        up to.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Explanation
            Named tuple ``features`` (n_samples, n_features) and ``latent`` (n_samples,), in nats.
        """
        V, parts = self._parts(X, self.n_importance, by_column=True)
        columns = self._columns
        features = np.zeros((len(V), columns.n_features))
        latent = np.empty(len(V))
        for part in parts:
            assert part.log_lik is not None
            features[part.rows, columns.order] = columns.log_volume - part.log_lik
            latent[part.rows] = part.log_lik.sum(1) - part.log_density
        return Explanation(features, latent)

    def constant_violations(self, X):
        """Number of columns of each row that were constant in `fit` and have another value.

        The density has no part for constant columns, so that these are counted apart.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self, "_weights")
        X = check_rows(self, X, reset=False)
        return in_parts(lambda part: self._columns.constant_violations(part[:]), CheckedRows(X))

    def _relevance(self, model: VAE, V: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Mean divergence of each latent variable from its moments under the prior, in nats."""
        device = next(model.parameters()).device
        with torch.no_grad():
            mean, log_var = model.encode(torch.as_tensor(V, device=device))
            if not OBJECTIVES[self._objective].has_density:
                log_var = torch.zeros_like(mean)  # no q was trained
            center, variance = model.prior.moments()
            square = (torch.exp(log_var) + (mean - center) ** 2) / variance
            kl = 0.5 * (square - 1.0 - log_var + torch.log(variance))
            return np.average(kl.cpu().numpy(), axis=0, weights=weight)

    def _noise_std(self, model: VAE) -> np.ndarray:
        """Standard deviation of the noise in the units of X."""
        columns = self._columns
        out = np.full(columns.n_features, np.nan)
        if not columns.layout.n_real:
            return out
        with torch.no_grad():
            z: Any = model.prior.moments()[0][None]
            _, log_var, *_ = model.head.split(model.decoder(z))
            log_var = log_var.reshape(-1, columns.layout.n_real)[0]
        out[columns.real] = np.exp(0.5 * log_var.cpu().numpy()) * columns.scale
        return out
