"""A pruned network as sparse matrices, which predicts faster than the whole one."""

from __future__ import annotations

from numbers import Real

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from skbayes.layers.compact import Select, compact
from skbayes.layers.unit_steps import POINTWISE_MODULES

ROWS_AT_ONCE = 512
"""Rows of a block: their activations stay in the cache of a core."""


class SparseNetwork:
    r"""A pruned network whose linear layers are sparse matrices.

    First what can be removed whole is removed (`skbayes.layers.compact.compact`). Of what is left,
    a layer with a small share of non-zero weights is kept in compressed columns (CSC), any other as
    a dense matrix. Activations are held with one row per unit and one column per example, so that a
    weight times a unit runs along memory, and each unit is read once while all sums that it goes
    into stay in the cache; long inputs are cut into blocks of rows. All of it runs on one core: a
    block takes less than a millisecond, and threads would wait for each other.

    Convolutions, if any, come first and run in torch, made smaller.

    Parameters
    ----------
    module : torch.nn.Module
        A pruned network: its removed weights are zero. What is left of it must be a chain that ends
        in linear layers with activations between them; after the last one anything may follow.
    sparse_below : float, default=0.125
        Share of non-zero weights below which a layer is a sparse matrix. A product with non-zeros
        only costs about eight times as much for each as one with all.

    Attributes
    ----------
    matrices : list of (csc_array or ndarray, ndarray, Module or None)
        Weight (n_out, n_in), bias (n_out, 1) and activation of each linear layer.
    n_nonzero : int
        Weights that are not zero in these.

    Raises
    ------
    ValueError
        If the network is no such chain, or ``sparse_below`` is not in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(50, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.masked_fill_(torch.rand(40, 50) < 0.95, 0.0)
    >>> X = np.ones((5, 50), dtype=np.float32)
    >>> fast = SparseNetwork(net)
    >>> np.allclose(fast(X), net(torch.from_numpy(X)).detach(), atol=1e-6)
    True
    """

    def __init__(self, module: nn.Module, sparse_below: float = 0.125) -> None:
        _check_share(sparse_below)
        small = compact(module).cpu()
        if not isinstance(small, nn.Sequential):
            raise ValueError(
                f"{type(module).__name__} is not a chain of modules (torch.nn.Sequential), "
                "so it has no form of sparse matrices; use the smaller network instead."
            )
        steps = list(small)
        start, end = _linear_part(steps)
        self.before = nn.Sequential(*steps[:start]) if start else None
        self.after = nn.Sequential(*steps[end:]) if end < len(steps) else None
        self.selected: np.ndarray | None = None
        self.matrices: list[tuple[sp.csc_array | np.ndarray, np.ndarray, nn.Module | None]] = []
        for step in steps[start:end]:
            if isinstance(step, Select):  # only before the first: others went with their units
                self.selected = step.index.numpy().copy()
            elif isinstance(step, nn.Linear):
                self.matrices.append((*_matrix(step, sparse_below), None))
            else:
                weight, bias, _ = self.matrices[-1]
                self.matrices[-1] = (weight, bias, step)
        self.n_nonzero = sum(int(np.count_nonzero(_values(w))) for w, _, _ in self.matrices)
        self.dtype = self.matrices[0][1].dtype
        self._steps = _folded(self.matrices)

    def __call__(self, X) -> np.ndarray:
        """Outputs of the network.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            As the module takes it; cast to its dtype.

        Returns
        -------
        ndarray of shape (n, n_outputs)
        """
        X = np.asarray(X, dtype=self.dtype)
        n = len(X)
        if n <= ROWS_AT_ONCE:
            return np.ascontiguousarray(self._block(X))
        out = np.empty((n, len(self.matrices[-1][1])), dtype=self.dtype)
        for start in range(0, n, ROWS_AT_ONCE):
            out[start : start + ROWS_AT_ONCE] = self._block(X[start : start + ROWS_AT_ONCE])
        return out

    def _block(self, X: np.ndarray) -> np.ndarray:
        """Outputs (n, n_outputs) for a block of rows."""
        if self.before is not None:
            with torch.no_grad():
                X = self.before(torch.from_numpy(X)).numpy()
        # (n_units, n), in one copy
        units = np.ascontiguousarray(X.T) if self.selected is None else X.T[self.selected]
        for weight, bias, activation in self._steps:
            units = weight @ units
            if activation is np.maximum:
                np.maximum(units, bias, out=units)
            else:
                units += bias
                units = _activate(activation, units)
        if self.after is None:
            return units.T
        with torch.no_grad():
            return self.after(torch.from_numpy(np.ascontiguousarray(units.T))).numpy()


def _check_share(sparse_below) -> None:
    """Raise unless it is a number between 0 and 1."""
    if not isinstance(sparse_below, Real) or not 0.0 <= float(sparse_below) <= 1.0:
        raise ValueError(
            f"sparse_below={sparse_below!r} is not allowed; it must be a number between 0 and 1."
        )


def _linear_part(steps: list[nn.Module]) -> tuple[int, int]:
    """First and last position (exclusive) of the linear layers that end the chain."""
    linear = [i for i, step in enumerate(steps) if isinstance(step, nn.Linear)]
    if not linear:
        raise ValueError("The network has no linear layer, so it has no form of sparse matrices.")
    end = linear[-1] + 1
    if end < len(steps) and isinstance(steps[end], POINTWISE_MODULES):
        end += 1
    start = linear[-1]
    # back over linear layers with at most one activation between them
    while start > 0:
        one, two = steps[start - 1], steps[start - 2] if start > 1 else None
        if isinstance(one, nn.Linear):
            start -= 1
        elif isinstance(one, POINTWISE_MODULES) and isinstance(two, nn.Linear):
            start -= 2
        else:
            break
    return start - isinstance(steps[start - 1], Select) if start else start, end


def _matrix(layer: nn.Linear, sparse_below: float) -> tuple[sp.csc_array | np.ndarray, np.ndarray]:
    """Weight, sparse or dense, and bias as a column."""
    weight = layer.weight.detach().numpy().copy()
    bias = np.zeros(len(weight), weight.dtype)
    if layer.bias is not None:
        bias += layer.bias.detach().numpy()
    share = np.count_nonzero(weight) / weight.size
    return (sp.csc_array(weight) if share < sparse_below else weight), bias[:, None]


def _values(weight: sp.csc_array | np.ndarray) -> np.ndarray:
    return weight if isinstance(weight, np.ndarray) else np.asarray(weight.data)


def _folded(matrices: list) -> list:
    """The same layers with one pass over the units of each ReLU in place of two.

    relu(z + b) = max(z, -b) + b, and the next layer's bias takes W b in: such a step is (weight,
    -b, np.maximum).
    """
    steps: list[tuple] = []
    carried: np.ndarray | None = None
    for weight, bias, activation in matrices:
        if carried is not None:
            bias = bias + weight @ carried
        carried = None
        if type(activation) is nn.ReLU and len(steps) + 1 < len(matrices):
            carried = bias
            steps.append((weight, -bias, np.maximum))
        else:
            steps.append((weight, bias, activation))
    return steps


def _activate(activation: nn.Module | None, units: np.ndarray) -> np.ndarray:
    """The activation, in place where that is quick."""
    if activation is None:
        return units
    if type(activation) is nn.ReLU:
        return np.maximum(units, 0.0, out=units)
    if type(activation) is nn.Tanh:
        return np.tanh(units, out=units)
    with torch.no_grad():
        return activation(torch.from_numpy(units)).numpy()
