"""The rows that a network is evaluated on: dense or sparse, shared or one batch per chain."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

ALIGNMENT = 16  # numbers: a cache line in float32


class Inputs:
    """Rows of X with a column of ones, in the layout that the network's products want.

    Three kinds are told apart by what is stored: dense rows shared by all chains, dense rows of a
    minibatch that differ from chain to chain, and sparse rows. Every array is multiplied by
    ``scale`` once, so that an activation's input scale costs nothing later.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, n_features)
        Rows.
    dtype : torch.dtype
        Float type of the products.
    device : torch.device
        Where they run.
    scale : float
        Factor on X and on the column of ones.
    """

    def __init__(self, X, *, dtype: torch.dtype, device: torch.device, scale: float = 1.0) -> None:
        self.dtype, self.device, self.scale = dtype, device, scale
        self.n, self.n_features = X.shape
        self._sparse = sp.csr_matrix(X) if sp.issparse(X) else None
        self._rows: Tensor | None = None  # (n, d + 1), for gathering minibatches
        self._columns: Tensor | None = None  # (d + 1, padded n), for products with all rows
        self._batches: Tensor | None = None  # (n_chains, n, d + 1)
        self._pairs: list[tuple[Tensor, Tensor]] | None = None  # sparse batches, per chain
        self._pair_of_all: tuple[Tensor, Tensor] | None = None  # sparse X and its transpose
        self._views: dict[tuple[int, int, int], Tensor] = {}  # of _columns
        if self._sparse is None:
            rows = torch.empty((self.n, self.n_features + 1), dtype=dtype, device=device)
            # a copy, since a read-only array must not be shared with torch
            rows[:, :-1] = torch.as_tensor(np.array(X, dtype=_numpy_dtype(dtype)), device=device)
            rows[:, -1] = 1.0
            if scale != 1.0:
                rows *= scale
            self._rows = rows

    @classmethod
    def of(cls, rows: Tensor) -> Inputs:
        """Dense rows that have their column of ones, (n, n_features + 1), which are not copied."""
        kind = _numpy_dtype(rows.dtype)
        none: np.ndarray = np.empty((0, rows.shape[1] - 1), kind)
        out = cls(none, dtype=rows.dtype, device=rows.device)
        out.n, out._rows = len(rows), rows
        return out

    @property
    def kind(self) -> str:
        """What is stored: "rows", "batches" or "sparse"; buffers are made to suit it."""
        if self._rows is not None:
            return "rows"
        return "sparse" if self._batches is None else "batches"

    @property
    def can_slice_rows(self) -> bool:
        """Whether blocks of rows are free to make (a sparse matrix is used whole)."""
        return self._rows is not None or self._batches is not None

    def take(self, index: np.ndarray) -> Inputs:
        """Return the rows of a minibatch; index (batch,), or (n_chains, batch)."""
        out = object.__new__(Inputs)
        out.dtype, out.device, out.scale = self.dtype, self.device, self.scale
        out.n, out.n_features = index.shape[-1], self.n_features
        out._sparse = out._rows = out._columns = None
        out._views = {}
        out._batches = out._pairs = out._pair_of_all = None
        if self._sparse is not None:
            if index.ndim == 1:
                out._sparse = self._sparse[index]
            else:
                out._pairs = [self._pair(self._sparse[rows]) for rows in index]
        else:
            assert self._rows is not None
            flat = torch.as_tensor(index.reshape(-1), device=self.device)
            rows = self._rows.index_select(0, flat)
            if index.ndim == 1:
                out._rows = rows
            else:
                out._batches = rows.view(*index.shape, self.n_features + 1)
        return out

    def dense(self, dtype: torch.dtype, index: np.ndarray | None = None) -> Tensor:
        """Rows as they are, with the column of ones: (*index.shape, n_features + 1).

        Without an index all rows, (n, n_features + 1).
        """
        if index is None:
            index = np.arange(self.n)
        flat = index.reshape(-1)
        if self._rows is not None:
            rows = self._rows[torch.as_tensor(flat, device=self.device)].to(dtype) / self.scale
        elif self._sparse is not None:
            X = np.ones((len(flat), self.n_features + 1))
            X[:, :-1] = self._sparse[flat].toarray()
            rows = torch.as_tensor(X, dtype=dtype, device=self.device)
        else:
            raise ValueError("minibatches that differ from chain to chain have no common rows.")
        return rows.view(*index.shape, -1)

    def plain(self) -> Tensor:
        """Rows as they are, dense and without the column of ones, (n, n_features)."""
        if self._sparse is not None:
            kind = _numpy_dtype(self.dtype)
            return torch.as_tensor(self._sparse.toarray().astype(kind), device=self.device)
        if self._rows is None:
            raise ValueError("minibatches that differ from chain to chain have no common rows.")
        rows = self._rows[:, :-1]
        return rows if self.scale == 1.0 else rows / self.scale

    def padded(self, n: int) -> int:
        """Length of the buffer that `times` wants for n rows.

        Rows of a matrix that start on a cache line make products a tenth faster. Only dense rows
        shared by all chains are stored so.
        """
        return -(-n // ALIGNMENT) * ALIGNMENT if self._rows is not None else n

    def times(self, joint: Tensor, chains: slice, rows: slice, out: Tensor) -> None:
        """Write ``joint @ [X, 1].T`` into ``out``.

        ``joint`` is (chains, units, n_features + 1), ``out`` (chains, units, `padded` rows). What
        comes after the rows asked for are finite numbers without a meaning.
        """
        columns = self._columns_of(chains, rows, out.shape[2])
        if columns is not None:
            torch.bmm(joint, columns, out=out)
        elif self._pairs is not None:
            for c, (matrix, _) in enumerate(self._pairs[chains]):
                out[c] = (matrix @ joint[c, :, :-1].T).T
                out[c] += self.scale * joint[c, :, -1:]
        else:
            matrix = self._shared_pair()[0]
            product = matrix @ joint[:, :, :-1].reshape(-1, self.n_features).T.contiguous()
            out.copy_(product.T.view(out.shape))  # from (n, chains * units)
            out += self.scale * joint[:, :, -1:]

    def add_outer(
        self, delta: Tensor, delta_t: Tensor, chains: slice, rows: slice, out: Tensor, beta: int
    ) -> None:
        """``out = beta * out + [X, 1].T @ delta.T``.

        ``delta`` is (chains, units, rows), ``delta_t`` its transpose, ``out`` (chains,
        n_features + 1, units).
        """
        columns = self._columns_of(chains, rows, delta.shape[2])
        if columns is not None:
            if beta == 0:  # the general product takes several microseconds longer
                torch.bmm(columns, delta_t, out=out)
            else:
                torch.baddbmm(out, columns, delta_t, beta=beta, out=out)
            return
        if beta == 0:
            out.zero_()
        out[:, -1] += self.scale * delta.sum(2)
        if self._pairs is not None:
            for c, (_, transposed) in enumerate(self._pairs[chains]):
                out[c, :-1] += transposed @ delta[c].T
        else:
            transposed = self._shared_pair()[1]
            product = transposed @ delta.reshape(-1, self.n).T.contiguous()
            out[:, :-1] += product.view(self.n_features, *delta.shape[:2]).movedim(1, 0)

    def _columns_of(self, chains: slice, rows: slice, n: int) -> Tensor | None:
        """``[X, 1].T`` (chains, n_features + 1, n) from the first of ``rows``, None if sparse."""
        if self._batches is not None:
            return self._batches[chains, rows].mT
        if self._rows is None:
            return None
        key = (chains.stop - chains.start, rows.start, n)
        view = self._views.get(key)
        if view is None:
            if self._columns is None:
                self._columns = self._rows.new_zeros((self.n_features + 1, self.padded(self.n)))
                self._columns[:, : self.n] = self._rows.T
            view = self._columns[:, rows.start : rows.start + n].expand(key[0], -1, -1)
            self._views[key] = view
        return view

    def _shared_pair(self) -> tuple[Tensor, Tensor]:
        if self._pair_of_all is None:
            self._pair_of_all = self._pair(self._sparse)
        return self._pair_of_all

    def _pair(self, matrix) -> tuple[Tensor, Tensor]:
        """Return a sparse matrix and its transpose as torch CSR tensors, scaled."""
        return self._torch_csr(matrix), self._torch_csr(sp.csr_matrix(matrix.T))

    def _torch_csr(self, matrix) -> Tensor:
        with warnings.catch_warnings():
            # torch says once per process that its CSR tensors are in beta
            warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support is in beta.*")
            return torch.sparse_csr_tensor(
                torch.as_tensor(matrix.indptr.astype(np.int64)),
                torch.as_tensor(matrix.indices.astype(np.int64)),
                torch.as_tensor(matrix.data.astype(_numpy_dtype(self.dtype)) * self.scale),
                size=matrix.shape,
                dtype=self.dtype,
                device=self.device,
                check_invariants=False,  # scipy made them
            )


def _numpy_dtype(dtype: torch.dtype) -> type:
    return np.float64 if dtype == torch.float64 else np.float32
