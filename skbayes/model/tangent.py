"""The network linearised at one weight vector: Jacobians, and products with them, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.model.activations import ACTIVATIONS
from skbayes.model.inputs import Inputs
from skbayes.model.network import MLPNetwork


def tangent(network, weights: Tensor, inputs: Inputs, last_layer: bool = False) -> Tangent:
    r"""Linearise a network at its weights, on some rows.

    .. math:: f(x; w) \approx f(x; \hat w) + J(x)\, (w - \hat w)

    Parameters
    ----------
    network : MLPNetwork or other network
        The multilayer perceptron has its own backward pass, which never makes the Jacobian where
        it is not asked for; any other network needs ``vjp``, and ``features`` for its last layer.
    weights : Tensor of shape (n_params,)
        Where to linearise.
    inputs : Inputs
        Rows.
    last_layer : bool
        Whether only the last layer's weights move: then J and w mean those alone.

    Returns
    -------
    Tangent
    """
    if isinstance(network, MLPNetwork):
        return MLPTangent(network, weights, inputs, last_layer)
    return ModuleTangent(network, weights, inputs, last_layer)


def in_blocks(inputs: Inputs, size: int) -> Iterator[tuple[slice, Inputs]]:
    """Rows in blocks of at most ``size``."""
    for start in range(0, inputs.n, max(1, size)):
        rows = slice(start, min(start + max(1, size), inputs.n))
        whole = rows.stop - rows.start == inputs.n
        yield rows, inputs if whole else inputs.take(np.arange(rows.start, rows.stop))


def gram(half: Tensor) -> Tensor:
    """Products of every row's matrix with its own transpose, (k, k, n) from (k, width, n)."""
    if half.shape[0] == 1:
        return (half * half).sum(1)[None]
    rows = half.permute(2, 0, 1)
    return (rows @ rows.mT).permute(1, 2, 0)


def moving(network, last_layer: bool) -> slice:
    """Which of the weights move."""
    return network.layers[-1].joint if last_layer else slice(0, network.n_params)


class Tangent:
    """A network linearised at its weights, on some rows, in float64.

    Attributes
    ----------
    outputs : Tensor of shape (n_outputs, n)
        At the weights themselves.
    has_parts : bool
        Whether `parts` is known.
    """

    outputs: Tensor
    has_parts: bool = True

    def parts(self, root: Tensor | None = None) -> list[tuple[Any, Tensor, Tensor]]:
        """Factors of the Jacobian, layer by layer.

        Parameters
        ----------
        root : Tensor of shape (k, n_outputs, n), optional
            Rows of what J is multiplied by from the left; default the identity.

        Returns
        -------
        list of (Layer, Tensor of shape (fan_in + 1, n), Tensor of shape (k, fan_out, n))
            Input of the layer, with a last row of ones, and derivative by its output: in every
            row the Jacobian by the joint matrix of weight and bias is their outer product.
        """
        raise NotImplementedError("abstract")

    def jacobian(self, root: Tensor | None = None) -> Tensor:
        """The transposed Jacobian (n_params, k, n), with ``root`` as in `parts`."""
        raise NotImplementedError("abstract")

    def squares(self, root: Tensor) -> Tensor:
        """Diagonal (n_params,) of the sum over rows of J^T R^T R J, R the ``root`` of `parts`."""
        return (self.jacobian(root) ** 2).sum((1, 2))

    def diagonal_gram(self, variances: Tensor) -> Tensor:
        """J diag(variances) J^T, (n_outputs, n_outputs, n), for variances (n_params,)."""
        return gram((self.jacobian() * variances.sqrt()[:, None, None]).transpose(0, 1))

    def jvp(self, directions: Tensor) -> Tensor:
        """J times directions (m, n_params), as (m, n_outputs, n)."""
        jacobian = self.jacobian()
        return (directions @ jacobian.flatten(1)).view(-1, *jacobian.shape[1:])

    def _root(self, root: Tensor | None) -> Tensor:
        if root is not None:
            return root
        k, n = self.outputs.shape
        eye = torch.eye(k, dtype=self.outputs.dtype, device=self.outputs.device)
        return eye[:, :, None].expand(k, k, n)


class MLPTangent(Tangent):
    """See `Tangent`; one pass forward keeps what the others need."""

    def __init__(
        self, network: MLPNetwork, weights: Tensor, inputs: Inputs, last_layer: bool
    ) -> None:
        act = ACTIVATIONS[network.activation]
        self.layers, self.last_layer = network.layers, last_layer
        weights = weights.double()
        self.joints = [weights[lay.joint].view(lay.fan_in + 1, lay.fan_out) for lay in self.layers]
        self.below: list[Tensor] = [
            inputs.dense(torch.float64).T.contiguous()
        ]  # what each layer receives
        self.slopes: list[Tensor] = []  # of the activations
        for layer, joint in zip(self.layers[:-1], self.joints[:-1], strict=True):
            z = joint.T @ self.below[-1]
            if act.input_scale != 1.0:
                z *= act.input_scale
            h = z.new_empty((layer.fan_out + 1, z.shape[1]))
            h[-1] = 1.0
            act.forward(z, h[:-1])
            if not last_layer:
                slope = torch.empty_like(z)
                act.backward(torch.ones_like(z), z if act.keeps_input else h[:-1], slope)
                self.slopes.append(slope)
            self.below.append(h)
        self.outputs = self.joints[-1].T @ self.below[-1]

    def parts(self, root=None):
        delta = self._root(root)
        out = [(self.layers[-1], self.below[-1], delta)]
        if self.last_layer:
            return out
        for i in range(len(self.layers) - 1, 0, -1):
            delta = torch.matmul(self.joints[i][:-1], delta)
            delta *= self.slopes[i - 1]
            out.insert(0, (self.layers[i - 1], self.below[i - 1], delta))
        return out

    def jacobian(self, root=None):
        parts = self.parts(root)
        first = parts[0][0].joint.start
        k, n = parts[-1][2].shape[0], self.outputs.shape[1]
        out = self.outputs.new_empty((parts[-1][0].joint.stop - first, k, n))
        for layer, a, delta in parts:
            rows = out[layer.joint.start - first : layer.joint.stop - first]
            into = rows.view(layer.fan_in + 1, layer.fan_out, k, n)
            torch.mul(a[:, None, None], delta.transpose(0, 1), out=into)
        return out

    def squares(self, root):
        # a row's Jacobian is an outer product, and so are its squares
        return torch.cat(
            [((a * a) @ (delta * delta).sum(0).T).flatten() for _, a, delta in self.parts(root)]
        )

    def diagonal_gram(self, variances):
        out: Tensor | float = 0.0
        first = self.layers[-1].joint.start if self.last_layer else 0
        for layer, a, delta in self.parts():
            own = variances[layer.joint.start - first : layer.joint.stop - first]
            weights = own.view(layer.fan_in + 1, layer.fan_out).T @ (a * a)  # (fan_out, n)
            out = out + gram(delta * weights.sqrt())
        return out

    def jvp(self, directions):
        m, n = len(directions), self.outputs.shape[1]
        if self.last_layer:
            layer = self.layers[-1]
            moves = directions.view(m, layer.fan_in + 1, layer.fan_out).mT
            return (moves.reshape(-1, layer.fan_in + 1) @ self.below[-1]).view(m, -1, n)
        change: Tensor | None = None
        for i, layer in enumerate(self.layers):
            moves = directions[:, layer.joint].view(m, layer.fan_in + 1, layer.fan_out).mT
            by_weights = moves.reshape(-1, layer.fan_in + 1) @ self.below[i]
            by_weights = by_weights.view(m, layer.fan_out, n)
            if change is not None:
                by_weights += torch.matmul(self.joints[i][:-1].T, change * self.slopes[i - 1])
            change = by_weights
        assert change is not None
        return change


class ModuleTangent(Tangent):
    """See `Tangent`; for any network that has ``vjp``: every row is a chain of its own.

    With ``last_layer`` the network needs ``features(theta, inputs)``, what its last layer
    receives, (n_chains, fan_in, n), and that layer as ``layers[-1]``.
    """

    def __init__(self, network, weights: Tensor, inputs: Inputs, last_layer: bool) -> None:
        self.network, self.inputs, self.last_layer = network, inputs, last_layer
        self.has_parts = last_layer
        self.weights = weights.to(inputs.dtype)[None]
        if last_layer:
            if not hasattr(network, "features"):
                raise ValueError(
                    f"The last layer of {type(network).__name__} is not known: it has no "
                    "features(theta, inputs)."
                )
            features = network.features(self.weights, inputs)[0].double()
            self.below = torch.cat([features, torch.ones_like(features[:1])])
            layer = network.layers[-1]
            joint = weights[layer.joint].double().view(layer.fan_in + 1, layer.fan_out)
            self.outputs = joint.T @ self.below
        else:
            self.outputs = network.forward(self.weights, inputs)[0].double()

    def parts(self, root=None):
        if not self.last_layer:
            raise ValueError(
                f"{type(self.network).__name__} does not tell what its layers receive; the "
                "curvature of each layer needs it."
            )
        return [(self.network.layers[-1], self.below, self._root(root))]

    def jacobian(self, root=None):
        root = self._root(root)
        k, _, n = root.shape
        if self.last_layer:
            return torch.mul(self.below[:, None, None], root.transpose(0, 1)).flatten(0, 1)
        rows = np.tile(np.arange(n), k)[:, None]  # one row for each chain
        by_chain = root.transpose(1, 2).reshape(k * n, -1, 1).to(self.weights.dtype)
        grad = self.network.vjp(
            self.weights.expand(k * n, -1).contiguous(),
            self.inputs.take(rows),
            lambda outputs, chains, rows: by_chain[chains],
        )
        return grad.double().view(k, n, -1).permute(2, 0, 1).contiguous()
