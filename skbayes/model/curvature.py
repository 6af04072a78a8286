"""Curvature of the log likelihood in the weights, from all rows in one pass.

It is in float64: the precision adds numbers as large as n / sigma^2 to those of the prior.
"""

from __future__ import annotations

from torch import Tensor

from skbayes.model.covariance import (
    Covariance,
    DiagonalCovariance,
    FullCovariance,
    KronCovariance,
    block_rows,
)
from skbayes.model.pairs import pairs, unpaired
from skbayes.model.tangent import Tangent, in_blocks, moving, tangent


def gauss_newton(log_posterior, theta: Tensor, hessian: str, last_layer: bool) -> Curvature:
    r"""Generalised Gauss-Newton matrix of the log likelihood at theta.

    .. math:: H = \sum_i w_i\, J_i^T \Lambda_i J_i,

    with J the Jacobian of the network's outputs by its weights in a row and Lambda the Fisher
    information of the outputs. For the likelihoods here that is the Hessian of the negative log
    likelihood without the network's own second derivatives (Martens, 2020, section 8), always
    positive semi-definite.

    Parameters
    ----------
    log_posterior : LogPosterior
        Data, network and likelihood.
    theta : Tensor of shape (n_params,)
        Where.
    hessian : {"full", "kron", "diag"}
        The whole matrix; for each layer a Kronecker product of two factors; its diagonal.
    last_layer : bool
        Whether only the last layer's weights count.

    Returns
    -------
    Curvature
    """
    kind = {"full": FullCurvature, "kron": KronCurvature, "diag": DiagonalCurvature}[hessian]
    network, likelihood = log_posterior.network, log_posterior.likelihood
    weights, params, _ = log_posterior.layout.split(theta.double())
    size = block_rows(network, full=hessian == "full", last_layer=last_layer)
    out: Curvature = kind(network, last_layer, weights)
    for rows, part in in_blocks(log_posterior.inputs, size):
        local = tangent(network, weights, part, last_layer)
        root = likelihood.fisher_root(local.outputs[None], params[None])[0]
        weight = None
        if log_posterior.weight is not None or log_posterior.factor != 1.0:
            weight = root.new_full((root.shape[-1],), log_posterior.factor)
            if log_posterior.weight is not None:
                weight *= log_posterior.weight[0, rows]
            root = root * weight.sqrt()
        out.add(local, root, weight)
    out.finish(log_posterior.total_weight)
    return out


class Curvature:
    """The matrix H above in one of three forms, to which blocks of rows are added."""

    def __init__(self, network, last_layer: bool, like: Tensor) -> None:
        self.network, self.last_layer = network, last_layer
        self.layers = network.layers[-1:] if last_layer else network.layers
        self.moving = moving(network, last_layer)
        self.n_params = self.moving.stop - self.moving.start

    def add(self, local: Tangent, root: Tensor, weight: Tensor | None) -> None:
        """Add a block of rows.

        Parameters
        ----------
        local : Tangent
            The network there.
        root : Tensor of shape (k, n_outputs, n)
            Root of their Fisher information times their weight.
        weight : Tensor of shape (n,) or None
            Their weights; None are ones.
        """
        raise NotImplementedError("abstract")

    def finish(self, total_weight: float) -> None:
        """Called when all rows are in; ``total_weight`` is the sum of their weights."""

    def covariance(self, prior_precision: Tensor) -> Covariance:
        """The normal posterior of the moving weights, given their prior precision (n_params,).

        Raises
        ------
        torch.linalg.LinAlgError
            Where H is not finite.
        """
        raise NotImplementedError("abstract")

    def spans(self) -> list[slice]:
        """Every layer's slice of the moving weights."""
        return [self._span(layer) for layer in self.layers]

    def _span(self, layer) -> slice:
        """Where a layer's weights are among those that move."""
        return slice(layer.joint.start - self.moving.start, layer.joint.stop - self.moving.start)


class FullCurvature(Curvature):
    r"""The whole matrix (n_params, n_params), without the Jacobian where layers are known.

    A row's Jacobian by layer l is the outer product of the layer's input a and the derivative g of
    the outputs by what it gives, so the block of two layers is one matrix product over rows,

    .. math:: H_{lm} = \sum_i (a_{li} a_{mi}^T) \otimes (g_{li}^T \Lambda_i\, g_{mi}),

    between products of two inputs and sums, over outputs, of products of two derivatives. It costs
    as much for many outputs as for one, and pairs within a layer are symmetric in both.
    """

    def __init__(self, network, last_layer, like):
        super().__init__(network, last_layer, like)
        self.matrix = like.new_zeros((self.n_params, self.n_params))
        self._sums: dict[tuple[int, int], Tensor] = {}

    def add(self, local, root, weight):
        if not local.has_parts:
            wide = local.jacobian(root).flatten(1)  # (n_params, k n)
            self.matrix.addmm_(wide, wide.T)
            return
        parts = local.parts(root)
        for m, (_, below_m, delta_m) in enumerate(parts):
            for i, (_, below_l, delta_l) in enumerate(parts[: m + 1]):
                if i == m and delta_l.shape[:2] == (1, 1):  # a single output
                    inputs = below_l * delta_l[0]
                    outputs = inputs
                else:
                    inputs = pairs(below_l, below_m, i == m)
                    outputs = pairs(delta_l, delta_m, i == m)
                block = self._sums.get((i, m))
                if block is None:
                    self._sums[i, m] = inputs @ outputs.T
                else:
                    block.addmm_(inputs, outputs.T)

    def finish(self, total_weight):
        for (i, m), block in self._sums.items():
            first, second = self.layers[i], self.layers[m]
            rows, columns = self._span(first), self._span(second)
            single = i == m and block.shape == (first.fan_in + 1, first.fan_in + 1)
            whole = block if single else unpaired(block, first, second)
            self.matrix[rows, columns] = whole
            if i != m:
                self.matrix[columns, rows] = whole.T
        self._sums = {}

    def covariance(self, prior_precision):
        precision = self.matrix.clone()
        precision.diagonal().add_(prior_precision)
        spans = [
            (s.start, layer.fan_in + 1, layer.fan_out)
            for s, layer in zip(self.spans(), self.layers, strict=True)
        ]
        return FullCovariance.of(precision, spans)


class KronCurvature(Curvature):
    r"""A Kronecker product for each layer, weight and bias together.

    .. math:: H_l \approx A_l \otimes G_l, \qquad
              A_l = \frac{1}{\sum_i w_i} \sum_i w_i\, a_i a_i^T, \quad
              G_l = \sum_i w_i\, g_i^T \Lambda_i\, g_i

    with a the layer's input and a one for the bias (the homogeneous form of Martens and Grosse,
    2015), g the derivatives of the outputs by what the layer gives. It is exact where the second
    factor is the same in all rows, as in linear regression.
    """

    def __init__(self, network, last_layer, like):
        super().__init__(network, last_layer, like)
        self.left = [like.new_zeros((lay.fan_in + 1, lay.fan_in + 1)) for lay in self.layers]
        self.right = [like.new_zeros((lay.fan_out, lay.fan_out)) for lay in self.layers]

    def add(self, local, root, weight):
        parts = local.parts(root)
        for left, right, (_, a, delta) in zip(self.left, self.right, parts, strict=True):
            left.addmm_(a if weight is None else a * weight, a.T)
            wide = delta.transpose(0, 1).flatten(1)  # (fan_out, k n)
            right.addmm_(wide, wide.T)

    def finish(self, total_weight):
        for left in self.left:
            left /= total_weight

    def covariance(self, prior_precision):
        shapes = [(layer.fan_in + 1, layer.fan_out) for layer in self.layers]
        priors = [prior_precision[a].view(b) for a, b in zip(self.spans(), shapes, strict=True)]
        return KronCovariance.of(self.left, self.right, priors)


class DiagonalCurvature(Curvature):
    """The diagonal (n_params,)."""

    def __init__(self, network, last_layer, like):
        super().__init__(network, last_layer, like)
        self.diagonal = like.new_zeros(self.n_params)

    def add(self, local, root, weight):
        self.diagonal += local.squares(root)

    def covariance(self, prior_precision):
        return DiagonalCovariance.of(self.diagonal + prior_precision)
