"""The linear VAE in closed form: probabilistic PCA and factor analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd

from skbayes.density.columns import shares
from skbayes.density.model import VAE, Architecture

MOST_LINEAR = 32


class LinearFit(NamedTuple):
    """A linear Gaussian model with diagonal posterior."""

    loadings: np.ndarray
    """W, (d, n_latent), such that W^T diag(variance)^-1 W is diagonal."""

    variance: np.ndarray
    """Of the noise, (d,)."""


class Covariance:
    """Weighted covariance of rows, without its matrix where there are fewer rows than columns.

    Parameters
    ----------
    V : ndarray of shape (n, d)
        Rows.
    weight : ndarray of shape (n,), optional
        Their weights.
    """

    def __init__(self, V: np.ndarray, weight: np.ndarray | None = None) -> None:
        V = np.asarray(V, dtype=np.float64)
        share = shares(weight, len(V))
        self.center = share @ V
        self.rows = np.sqrt(share)[:, None] * (V - self.center)
        self.diagonal = (self.rows**2).sum(0)
        wide = len(V) < V.shape[1]
        self.matrix = None if wide else self.rows.T @ self.rows
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.rows.shape[1]

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        if self.matrix is None:
            return self.rows.T @ (self.rows @ other)
        return self.matrix @ other

    def leading(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The largest eigenvalues, at most k, and their vectors (d, k).

        Above 2,000 rows and columns they are found by a randomised decomposition (Halko,
        Martinsson and Tropp 2011).
        """
        if self._found is None or (len(self._found[0]) < k and min(self.rows.shape) > MOST_EXACT):
            self._found = self._decompose(k)
        value, vector = self._found
        return value[:k], vector[:, :k]

    def _decompose(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if min(self.rows.shape) > MOST_EXACT:
            _, size, vector = randomized_svd(self.rows, k, random_state=0)
            return size**2, vector.T
        if self.matrix is None:
            _, size, vector = np.linalg.svd(self.rows, full_matrices=False)
            return size**2, vector.T
        value, vector = np.linalg.eigh(self.matrix)
        return np.maximum(value[::-1], 0.0), vector[:, ::-1]


MOST_EXACT = 2000


def fit_linear(
    covariance: Covariance, n_latent: int, per_feature: bool, floor: float, most: float = np.inf
) -> LinearFit:
    r"""Maximum likelihood of :math:`x = W z + \epsilon` with the given covariance of x.

    One variance: the eigenvectors of the covariance (Tipping and Bishop 1999, section 3.2). One per
    column: expectation maximisation from there (Rubin and Thayer 1982). Where there are as many
    latent variables as columns, one variance is at most ``most``.
    """
    d = len(covariance)
    n_latent = min(n_latent, d)
    value, vector = covariance.leading(n_latent)
    if d > n_latent:
        noise = (covariance.diagonal.sum() - value.sum()) / (d - n_latent)
    else:
        noise = min((value[-1] if len(value) == d else 0.0) / 2, most)
    noise = max(noise, floor**2)
    size = np.sqrt(np.maximum(value - noise, 0.0))
    W, psi = vector * size, np.full(d, noise)
    if per_feature:
        # what is left of each column, so that a column without noise of its own is not stuck at 0
        psi = np.maximum(covariance.diagonal - (W**2).sum(1), max(floor**2, 1e-3))
        for _ in range(500):
            scaled = W / psi[:, None]
            inner = np.linalg.inv(np.eye(W.shape[1]) + W.T @ scaled)
            beta = inner @ scaled.T
            cross = covariance @ beta.T
            W = cross @ np.linalg.inv(inner + beta @ cross)
            new = np.maximum(covariance.diagonal - (W * cross).sum(1), floor**2)
            change, psi = np.abs(new - psi).max(), new
            if change < 1e-6:
                break
        # turn the latent space so that the posterior is diagonal
        U, s, _ = np.linalg.svd(W / np.sqrt(psi)[:, None], full_matrices=False)
        W = np.sqrt(psi)[:, None] * U * s
    return LinearFit(W, psi)


def log_density(V: np.ndarray, fit: LinearFit) -> np.ndarray:
    """Log density (n,) of centred rows V (n, d), without a d x d matrix."""
    W, psi = fit
    scaled = W / psi[:, None]
    L = np.linalg.cholesky(np.eye(W.shape[1]) + W.T @ scaled)
    square = (V**2 / psi).sum(1) - (np.linalg.solve(L, (V @ scaled).T) ** 2).sum(0)
    log_det = np.log(psi).sum() + 2.0 * np.log(np.diag(L)).sum()
    return -0.5 * (square + log_det + len(psi) * np.log(2 * np.pi))


def start_linear(model: VAE, V: np.ndarray, weight: np.ndarray | None) -> None:
    """Put the closed form of the linear model into a model's linear paths.

    Columns that are not real keep their base rates. Only the real part of V (n, n_columns) is used.
    """
    spec, layout = model.spec, model.spec.layout
    n_real, n_latent = layout.n_real, spec.n_latent
    covariance = Covariance(V[:, :n_real], weight)
    center = covariance.center
    if spec.prior == "mixture":
        # the prior has the shape of the data, which large noise would blur
        fit = fit_linear(covariance, n_latent, False, spec.floor, most=0.01)
    else:
        fit = fit_linear(covariance, n_latent, spec.noise != "shared", spec.floor)
    W, psi = fit
    k = W.shape[1]
    precision = 1.0 + (W**2 / psi[:, None]).sum(0)
    encode = (W / psi[:, None]).T / precision[:, None]  # (k, n_real)
    with torch.no_grad():
        enc, dec = model.encoder.linear, model.decoder.linear
        assert enc is not None and dec is not None
        enc.weight.zero_()
        enc.bias.zero_()
        dec.weight.zero_()
        enc.weight[:k, :n_real] = torch.as_tensor(encode)
        enc.bias[:k] = torch.as_tensor(-encode @ center)
        enc.bias[n_latent : n_latent + k] = torch.as_tensor(-np.log(precision))
        dec.weight[:n_real, :k] = torch.as_tensor(W)
        model.head.set_noise(torch.as_tensor(psi[:1] if spec.noise == "shared" else psi))
        dec.bias[:n_real] = torch.as_tensor(center)


def start_rates(model: VAE, V: np.ndarray, weight: np.ndarray | None) -> None:
    """Start the biases of binary, count and category outputs at their rates in the data."""
    layout = model.spec.layout
    path = model.decoder
    bias: Any = path.deep.layers[-1].bias if path.linear is None else path.linear.bias
    at = out = layout.n_real
    share = shares(weight, len(V))
    means = share @ V[:, : at + layout.n_binary + layout.n_count]
    if path.linear is None and model.spec.image_shape is not None:
        # pixels are all of one kind; the last convolution has one bias for each map
        means = means.reshape(len(bias), -1).mean(1)
        values = _logits(means, len(V)) if layout.n_binary else np.log(means + 1e-3).tolist()
    else:
        values = _logits(means[at : at + layout.n_binary], len(V))
        at += layout.n_binary
        values.extend(np.log(means[at : at + layout.n_count] + 1e-3))
        at += layout.n_count
    for j, k in enumerate(layout.n_categories):
        share = np.bincount(V[:, at + j].astype(int), weights=weight, minlength=k) + 0.5
        values.extend(np.log(share / share.sum()))
    with torch.no_grad():
        bias[out : out + len(values)] = torch.as_tensor(values, dtype=bias.dtype)


def _logits(mean: np.ndarray, n: int) -> list[float]:
    """Logits of rates, with half a row of each value added."""
    p = (mean * n + 0.5) / (n + 1.0)
    return np.log(p / (1 - p)).tolist()


def choose_linear(
    spec: Architecture,
    V: np.ndarray,
    weight: np.ndarray | None,
    held_out: np.ndarray,
    held_out_weight: np.ndarray | None,
    n_latent: int | None,
    noise: str,
) -> Architecture:
    """The number of latent variables, and the kind of noise, with the best held-out density."""
    d = spec.layout.n_real
    covariance = Covariance(V, weight)
    center = covariance.center
    sizes = sorted({*range(1, min(d, 12)), d // 2, 3 * d // 4, d} - {0})
    if d > 4 * MOST_LINEAR:
        sizes = [1, 2, 4, 8, 16, MOST_LINEAR]
    sizes = [q for q in sizes if q <= MOST_LINEAR] or [min(d, MOST_LINEAR)]
    if n_latent:
        sizes = [n_latent]
    kinds = ("shared", "per_feature") if noise == "per_row" else (noise,)
    best: tuple[float, Architecture] | None = None
    for kind in kinds:
        for q in sizes:
            fit = fit_linear(covariance, q, kind == "per_feature", spec.floor)
            value = np.average(log_density(held_out - center, fit), weights=held_out_weight)
            if best is None or value > best[0]:
                best = value, replace(spec, n_latent=q, noise=kind)
    assert best is not None
    return best[1]
