"""What says that a row is normal: scores of a fitted VAE, high for normal rows."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skbayes.density.importance import chunks, normal_points
from skbayes.density.objectives import OBJECTIVES
from skbayes.density.vae import VAEDensityEstimator
from skbayes.inference.optimizers import Adam

REGRET_STEPS = 50
REGRET_POINTS = 16


def log_density(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    """Log p(x)."""
    return vae.score_samples(X)


def elbo(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    """The evidence lower bound."""
    return vae._bound(X)[0]


def reconstruction(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    """Reconstruction probability: the mean of log p(x given z) over q (An and Cho 2015).

    Where the objective leaves no density it is log p(x given the mean of q), with the noise that is
    that of the held-out residuals: a squared error, each column in units of its own.
    """
    if OBJECTIVES[vae._objective].has_density:
        return vae._bound(X)[1]
    V = vae._values(X)
    model = vae._model()
    device = next(model.parameters()).device
    out = np.empty(len(V))
    with torch.no_grad():
        for rows in chunks(model, len(V), 1):
            v = torch.as_tensor(V[rows], device=device)
            value = model.head.log_prob(model.decoder(model.encode(v)[0]), v).sum(-1)
            out[rows] = value.cpu().numpy()
    return out - vae._columns.log_volume.sum()


def kl(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    """Minus the divergence of q from the prior."""
    return -vae._bound(X)[2]


def latent_knn(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    """Minus the mean distance to the nearest of the kept training rows among the latent means.

    Each latent variable counts by its deviation over the training rows. A training row is not its
    own neighbour.
    """
    reference, Z = vae._encode(train)[0], vae._encode(X)[0]
    scale = reference.std(0)
    scale[scale < 1e-6] = 1.0
    k = min(n_neighbors, len(reference) - 1)
    search = NearestNeighbors(n_neighbors=k + 1).fit(reference / scale)
    distance, _ = search.kneighbors(Z / scale)
    itself = distance[:, :1] <= 1e-12
    # the k nearest, without the row itself where it is among the training rows
    return -np.where(itself, distance[:, 1:], distance[:, :-1]).mean(1)


def regret(vae: VAEDensityEstimator, X, train, n_neighbors: int) -> np.ndarray:
    r"""Minus the likelihood regret: what the bound gains when q is fitted to the row alone.

    Xiao, Yan and Amit (2020) train the whole encoder anew for each row; here it is the mean and the
    deviation of the row's q, for 50 steps of Adam on the same points for all rows.
    """
    V = vae._values(X)
    model = vae._model()
    device = next(model.parameters()).device
    points = normal_points(REGRET_POINTS, model.n_noise, vae._point_seed)
    eps = torch.as_tensor(points, device=device)[:, None]
    out = np.empty(len(V))
    for rows in chunks(model, len(V), REGRET_POINTS):
        v = torch.as_tensor(V[rows], device=device)
        with torch.no_grad():
            mean, log_var = model.encode(v)
        q = torch.cat([mean, log_var], 1)
        adam = Adam(q)

        def bound(q: Tensor, v=v) -> Tensor:
            center, spread = q.chunk(2, 1)
            return model.log_weights(v, center, spread, eps)[0].mean(0)

        with torch.no_grad():
            first = bound(q)
        best = first.clone()
        for _ in range(REGRET_STEPS):
            with torch.enable_grad():
                at = q.detach().requires_grad_(True)
                value = bound(at)
                grad = torch.autograd.grad(-value.sum(), at)[0]
            best = torch.maximum(best, value.detach())
            adam.step(q, grad, 0.05)  # every row has its own numbers: no row moves another
        with torch.no_grad():
            best = torch.maximum(best, bound(q))
        out[rows] = (first - best).cpu().numpy()
    return out


SCORES = {
    "log_density": log_density,
    "elbo": elbo,
    "reconstruction": reconstruction,
    "kl": kl,
    "latent_knn": latent_knn,
    "regret": regret,
}

WITHOUT_DENSITY = ("reconstruction", "latent_knn")
"""Scores of models whose objective leaves no density."""
