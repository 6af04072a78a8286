"""Rows of any shape, as a torch module takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class TensorInputs:
    """Rows of X with any number of dimensions, shared by all chains or one batch per chain.

    The same interface as `skbayes.model.Inputs` where methods use it: ``n``, ``n_features``,
    ``dtype``, ``device`` and `take`.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Rows.
    dtype : torch.dtype
        Float type of the rows.
    device : torch.device
        Where they are kept.
    """

    def __init__(self, X, *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        X = np.asarray(X, dtype=np.float64 if dtype == torch.float64 else np.float32)
        if not X.flags.writeable:  # a read-only array must not be shared with torch
            X = X.copy()
        self._values = torch.as_tensor(X, device=device)  # (n, ...) or (n_chains, n, ...)
        self.per_chain = False

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._values.shape[1 if self.per_chain else 0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._values.shape[2 if self.per_chain else 1 :])

    @property
    def n_features(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape))

    def take(self, index: np.ndarray) -> TensorInputs:
        """Return the rows of a minibatch; index (batch,), or (n_chains, batch)."""
        if self.per_chain:
            raise ValueError("Rows can be taken once only where they differ from chain to chain.")
        out = object.__new__(TensorInputs)
        out.dtype, out.device, out.per_chain = self.dtype, self.device, index.ndim == 2
        flat = torch.as_tensor(index.reshape(-1), device=self.device)
        out._values = self._values.index_select(0, flat).view(*index.shape, *self.shape)
        return out

    def block(self, chains: slice, rows: slice) -> Tensor:
        """Some rows, (rows, ...), or (chains, rows, ...) where they differ by chain."""
        return self._values[chains, rows] if self.per_chain else self._values[rows]
