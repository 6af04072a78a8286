"""Rows of arrays, sparse matrices, data frames and lists; how dense and how far apart they are."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize

REFERENCE = 1000
"""Rows of a pool at most that scales and densities are estimated from."""


def n_rows(X) -> int:
    """Number of rows."""
    return X.shape[0] if hasattr(X, "shape") else len(X)


def take(X, rows: np.ndarray):
    """Some rows of X, of its own kind."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    if sp.issparse(X):
        return X.tocsr()[rows]
    if hasattr(X, "shape"):
        return X[rows]
    return [X[i] for i in rows]


def as_rows(X):
    """X as something of which rows can be taken: an array where it is a nested list of numbers."""
    if hasattr(X, "iloc") or sp.issparse(X) or hasattr(X, "shape"):
        return X
    if hasattr(X, "__array__"):
        return np.asarray(X)
    X = list(X)
    return X if X and isinstance(X[0], str | bytes | dict) else np.asarray(X)


class Geometry:
    """Densities and distances of rows as the final estimator sees them.

    Sparse rows are brought to length one, so that distances are those of cosines; dense columns
    are divided by their standard deviation. Distances are in units of their median.

    Parameters
    ----------
    X : {array, sparse matrix} of shape (n, n_features)
        A sample of the pool.
    """

    def __init__(self, X) -> None:
        self.scale = None
        if not sp.issparse(X):
            X = np.asarray(X, dtype=np.float64).reshape(X.shape[0], -1)
            self.scale = X.std(0)
            self.scale[self.scale == 0] = 1.0
        self.sample = self.see(X)
        distances = euclidean_distances(self.sample)
        among = distances[np.triu_indices(len(distances), 1)]
        among = among[among > 0]
        self.unit = float(np.median(among)) if len(among) else 1.0

    def see(self, X):
        """Rows in the scale of distances."""
        if self.scale is None:
            return normalize(sp.csr_matrix(X))
        return np.asarray(X, dtype=np.float64).reshape(X.shape[0], -1) / self.scale

    def density(self, X) -> np.ndarray:
        r"""Mean similarity to the sample, (n,).

        .. math:: \frac1R \sum_r \exp(-2 d(x, x_r)^2 / m^2), \qquad m \text{ the median distance}
        """
        d = euclidean_distances(self.see(X), self.sample, squared=True)
        return np.exp(-2.0 * d / self.unit**2).mean(1)

    def distance(self, X, others) -> np.ndarray:
        """Distance to the nearest of other rows, (n,), one where there are none."""
        if n_rows(others) == 0:
            return np.ones(X.shape[0])
        nearest = np.full(X.shape[0], np.inf)
        X, others = self.see(X), self.see(others)
        for start in range(0, others.shape[0], REFERENCE):
            part = euclidean_distances(X, others[start : start + REFERENCE])
            nearest = np.minimum(nearest, part.min(1))
        return nearest / self.unit
