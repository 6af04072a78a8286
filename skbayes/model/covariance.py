"""Normal distributions of the weights around a mode, kept as numpy arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.model.network import MLPNetwork
from skbayes.model.pairs import paired, paired_inputs, pairs
from skbayes.model.tangent import Tangent, gram

BLOCK = 1 << 21  # numbers in the largest array of one block of rows


def block_rows(network, full: bool, last_layer: bool = False) -> int:
    """Rows of one block, so that its largest array has about `BLOCK` numbers.

    With ``full`` the rows' Jacobians are made; of a network whose layers are not known they always
    are, unless only the last layer moves.
    """
    if not (isinstance(network, MLPNetwork) or last_layer):
        return max(1, BLOCK // (network.n_params * network.n_outputs))
    wide = max(max(layer.fan_in, layer.fan_out) for layer in network.layers)
    if full:  # of two layers' pairs of inputs, or of outputs
        sizes = sorted(max(layer.fan_in + 1, layer.fan_out) for layer in network.layers)
        return max(16, BLOCK // max(sizes[-1] * sizes[-1], wide * network.n_outputs))
    return max(16, BLOCK // (wide * network.n_outputs))


class Covariance:
    """Covariance of the moving weights, in float64.

    Attributes
    ----------
    log_det : float
        Log determinant of the precision.
    """

    log_det: float

    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._cache: dict[torch.device, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}}

    @property
    def variances(self) -> np.ndarray:
        """Diagonal of the covariance, (n_params,)."""
        raise NotImplementedError("abstract")

    def spread(self, normal: Tensor) -> Tensor:
        """Numbers with this covariance (m, n_params), from standard normal ones."""
        raise NotImplementedError("abstract")

    def times(self, vectors: Tensor) -> Tensor:
        """The covariance times vectors (m, n_params)."""
        raise NotImplementedError("abstract")

    def of_functions(self, local: Tangent) -> Tensor:
        """Covariance J S J^T of the linearised outputs, (n_outputs, n_outputs, n)."""
        raise NotImplementedError("abstract")

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """The arrays as tensors, copied since they may be mapped from a file."""
        if device not in self._cache:
            self._cache[device] = {
                name: torch.as_tensor(np.array(values), device=device)
                for name, values in self._arrays.items()
            }
        return self._cache[device]


class FullCovariance(Covariance):
    """A dense matrix, kept as the Cholesky factor of the precision.

    Parameters
    ----------
    factor : ndarray of shape (n_params, n_params)
        Lower triangle.
    spans : list of tuple of int
        Where each layer begins, its inputs (with the bias) and its outputs.
    """

    def __init__(self, factor: np.ndarray, spans: list[tuple[int, int, int]]) -> None:
        super().__init__(factor=factor)
        self.spans = spans
        self.log_det = 2.0 * float(np.log(np.diagonal(factor)).sum())

    @classmethod
    def of(cls, precision: Tensor, spans: list[tuple[int, int, int]]) -> FullCovariance:
        """From the precision (n_params, n_params)."""
        return cls(torch.linalg.cholesky(precision).cpu().numpy(), spans)

    @property
    def variances(self):
        return self._matrix(torch.device("cpu")).diagonal().numpy()

    def spread(self, normal):
        factor = self._on(normal.device)["factor"]
        return torch.linalg.solve_triangular(factor.mT, normal.mT, upper=True).mT

    def times(self, vectors):
        return vectors @ self._matrix(vectors.device)

    def of_functions(self, local):
        matrix = self._matrix(local.outputs.device)
        if not local.has_parts:
            jacobian = local.jacobian()
            moved = (matrix @ jacobian.flatten(1)).view(jacobian.shape)
            return torch.einsum("pkn,pjn->kjn", jacobian, moved)
        parts, k = local.parts(), len(local.outputs)
        out: Tensor | float = 0.0
        for m, (_, below_m, delta_m) in enumerate(parts):
            for i, (_, below_l, delta_l) in enumerate(parts[: m + 1]):
                if i == m and delta_l.shape[:2] == (1, 1):  # a single output
                    a = self.spans[i][0]
                    rows = below_l * delta_l[0]
                    own = matrix[a : a + len(rows), a : a + len(rows)]
                    out = out + (rows * (own @ rows)).sum(0)[None, None]
                    continue
                if k == 1:
                    inner = self._pairs(i, m, matrix).T @ pairs(below_l, below_m, i == m)
                    out = out + (inner * pairs(delta_l, delta_m, i == m)).sum(0)[None, None]
                    continue
                # with several outputs the inputs are summed first, once for all of them
                inner = self._blocks(i, m, matrix).T @ pairs(below_l, below_m, i == m)
                inner = inner.view(delta_l.shape[1], delta_m.shape[1], -1).permute(2, 0, 1)
                part = delta_l.permute(2, 0, 1) @ inner @ delta_m.permute(2, 1, 0)
                out = out + (part if i == m else part + part.mT)
        assert isinstance(out, Tensor)
        return out if k == 1 else out.permute(1, 2, 0)

    def _matrix(self, device: torch.device) -> Tensor:
        """The covariance itself, made on use."""
        tensors = self._on(device)
        if "matrix" not in tensors:
            tensors["matrix"] = torch.cholesky_inverse(tensors["factor"])
        return tensors["matrix"]

    def _pairs(self, i: int, m: int, matrix: Tensor) -> Tensor:
        """Coefficients of pairs of inputs and pairs of outputs, for a single output."""
        tensors, name = self._on(matrix.device), f"pairs {i} {m}"
        if name not in tensors:
            (a, *first), (b, *second) = self.spans[i], self.spans[m]
            block = matrix[a : a + first[0] * first[1], b : b + second[0] * second[1]]
            tensors[name] = paired(block, first, second, i == m)
        return tensors[name]

    def _blocks(self, i: int, m: int, matrix: Tensor) -> Tensor:
        """The same with all products of outputs."""
        tensors, name = self._on(matrix.device), f"blocks {i} {m}"
        if name not in tensors:
            (a, *first), (b, *second) = self.spans[i], self.spans[m]
            block = matrix[a : a + first[0] * first[1], b : b + second[0] * second[1]]
            tensors[name] = paired_inputs(block, first, second, i == m)
        return tensors[name]


class KronCovariance(Covariance):
    r"""A Kronecker product for each layer, after a change of units that makes the prior one.

    With T the prior precision of a layer's inputs,

    .. math:: A \otimes G + T \otimes I
              = T^{1/2} (T^{-1/2} A T^{-1/2} \otimes G + I)\, T^{1/2},

    so that the prior is added to the products of the factors' eigenvalues exactly, and not to the
    factors.
    """

    def __init__(self, log_det: float, variances: np.ndarray, **arrays: np.ndarray) -> None:
        super().__init__(variances=variances, **arrays)
        self.log_det = log_det
        self.n_layers = len(arrays) // 3

    @property
    def variances(self):
        return self._arrays["variances"]

    @classmethod
    def of(cls, left: list[Tensor], right: list[Tensor], priors: list[Tensor]) -> KronCovariance:
        """From the factors of every layer and the prior precisions (fan_in + 1, fan_out)."""
        arrays: dict[str, np.ndarray] = {}
        log_det, variances = 0.0, []
        for i, (a, g, prior) in enumerate(zip(left, right, priors, strict=True)):
            if not torch.equal(prior, prior[:, :1].expand_as(prior)):
                raise ValueError("the weights that leave a unit must share their prior scale.")
            scale = prior[:, 0].rsqrt()
            values_a, vectors_a = torch.linalg.eigh(scale[:, None] * a * scale)
            values_g, vectors_g = torch.linalg.eigh(g)
            product = values_a.clamp_min(0.0)[:, None] * values_g.clamp_min(0.0)
            inverse = 1.0 / (product + 1.0)
            vectors_a = scale[:, None] * vectors_a
            log_det += float(torch.log1p(product).sum() + prior.log().sum())
            variances.append(((vectors_a**2) @ inverse @ (vectors_g**2).T).flatten())
            for name, values in (("a", vectors_a), ("g", vectors_g), ("inverse", inverse)):
                arrays[f"{name}{i}"] = values.cpu().numpy()
        return cls(log_det, torch.cat(variances).cpu().numpy(), **arrays)

    def spread(self, normal):
        out = []
        for a, g, inverse, z in self._by_layer(normal):
            out.append((a @ (z * inverse.sqrt()) @ g.T).flatten(1))
        return torch.cat(out, 1)

    def times(self, vectors):
        out = []
        for a, g, inverse, v in self._by_layer(vectors):
            out.append((a @ ((a.T @ v @ g) * inverse) @ g.T).flatten(1))
        return torch.cat(out, 1)

    def _by_layer(self, vectors: Tensor):
        """The arrays of every layer, and its part (m, fan_in + 1, fan_out) of vectors."""
        tensors, start = self._on(vectors.device), 0
        for i in range(self.n_layers):
            a, g, inverse = (tensors[f"{name}{i}"] for name in ("a", "g", "inverse"))
            part = vectors[:, start : start + inverse.numel()].reshape(-1, *inverse.shape)
            yield a, g, inverse, part
            start += inverse.numel()

    def of_functions(self, local):
        tensors = self._on(local.outputs.device)
        out: Tensor | float = 0.0
        for i, (_, a, delta) in enumerate(local.parts()):
            along = (tensors[f"a{i}"].T @ a) ** 2  # (fan_in + 1, n)
            weights = (tensors[f"inverse{i}"].T @ along).sqrt()  # (fan_out, n)
            half = torch.matmul(tensors[f"g{i}"].T, delta) * weights  # (k, fan_out, n)
            out = out + gram(half)
        assert isinstance(out, Tensor)
        return out


class DiagonalCovariance(Covariance):
    """Independent weights."""

    def __init__(self, variances: np.ndarray) -> None:
        super().__init__(variances=variances)
        self.log_det = -float(np.log(variances).sum())

    @classmethod
    def of(cls, precision: Tensor) -> DiagonalCovariance:
        """From the precisions (n_params,)."""
        return cls(precision.reciprocal().cpu().numpy())

    @property
    def variances(self):
        return self._arrays["variances"]

    def spread(self, normal):
        return normal * self._on(normal.device)["variances"].sqrt()

    def times(self, vectors):
        return vectors * self._on(vectors.device)["variances"]

    def of_functions(self, local):
        return local.diagonal_gram(self._on(local.outputs.device)["variances"])
