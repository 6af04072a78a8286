"""Draws around one mode, whose functions are linearised there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from skbayes.model.covariance import Covariance, block_rows
from skbayes.model.inputs import Inputs
from skbayes.model.network import MLPNetwork
from skbayes.model.tangent import in_blocks, moving, tangent
from skbayes.model.tensor_inputs import TensorInputs
from skbayes.posterior import Posterior

JITTER = 1e-12  # of a row's covariance, so that it has a root where its outputs depend


class LaplacePosterior(Posterior):
    r"""A normal posterior of the weights around a mode, and independent draws from it.

    With ``predictive="linear"`` the network is linear in the weights around the mode,

    .. math:: f(x; w) = f(x; \hat w) + J(x)\,(w - \hat w), \qquad
              f(x) \sim N(f(x; \hat w), J(x)\, S\, J(x)^T).

    Answers about single rows (`predict_proba`, `predict_quantiles`, ...) then take this normal
    itself, at as many fixed points as there are draws; those about rows together (`sample_y`,
    `predict_draws`) take the draws' own linear functions.

    Parameters
    ----------
    draws : ndarray of shape (1, n_draws, n_params)
        Theta.
    layout : Layout
        Of theta, with the prior that was tuned.
    mode : ndarray of shape (n_params,)
        Theta at the mode.
    covariance : Covariance
        Of the weights that move, the S above.
    last_layer : bool
        Whether these are the last layer's alone.
    predictive : {"linear", "sampling"}
        Whether functions are linearised, or the network's own at every draw.
    log_evidence : float
        Log evidence in the units that the network sees.
    **parts
        As `Posterior` takes them.
    """

    def __init__(
        self,
        draws: np.ndarray,
        layout: Any,
        *,
        mode: np.ndarray,
        covariance: Covariance,
        last_layer: bool,
        predictive: str,
        log_evidence: float,
        **parts: Any,
    ) -> None:
        super().__init__(draws, layout, independent=True, last_state=mode[None].copy(), **parts)
        self.mode, self.covariance, self.last_layer = mode, covariance, last_layer
        self.predictive, self.log_evidence = predictive, log_evidence

    def function_moments(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the linearised outputs, without any draws.

        Parameters
        ----------
        X : {ndarray, CSR matrix} of shape (n, ...)
            Rows as the network sees them (standardised).

        Returns
        -------
        mean : ndarray of shape (n, n_outputs)
            Logits, or standardised means.
        cov : ndarray of shape (n, n_outputs, n_outputs)
            Without the noise of a regression.
        """
        network = self.layout.network
        kw: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
        inputs: Any
        if isinstance(network, MLPNetwork):
            inputs = Inputs(X, scale=network.input_scale, **kw)
        else:
            inputs = TensorInputs(X, **kw)
        weights = self._weights(inputs.device)
        means, covs = [], []
        for _, part in self._blocks(inputs, True):
            local = tangent(self.layout.network, weights, part, self.last_layer)
            means.append(local.outputs.T.numpy())
            covs.append(self.covariance.of_functions(local).permute(2, 0, 1).numpy())
        return np.concatenate(means), np.concatenate(covs)

    def outputs(self, theta: Tensor, inputs: Inputs, joint: bool = True) -> Tensor:
        """Each draw's outputs, or points of every row's own normal, see `Posterior.outputs`."""
        if self.predictive == "sampling":
            return super().outputs(theta, inputs, joint)
        network = self.layout.network
        weights, moves = self._weights(theta.device), moving(network, self.last_layer)
        out = theta.new_empty((len(theta), network.n_outputs, inputs.n))
        steps = theta[:, moves].double() - weights[moves]
        points = torch.as_tensor(normal_points(len(theta), network.n_outputs), device=theta.device)
        for rows, part in self._blocks(inputs, not joint):
            local = tangent(network, weights, part, self.last_layer)
            if joint:
                change = local.jvp(steps)
            else:
                root = _root(self.covariance.of_functions(local))
                change = torch.einsum("kjn,mj->mkn", root, points)
            torch.add(change, local.outputs, out=out[:, :, rows])
        return out

    def _weights(self, device: torch.device) -> Tensor:
        mode = torch.as_tensor(np.array(self.mode, dtype=np.float64), device=device)
        return self.layout.split(mode)[0]

    def _blocks(self, inputs: Inputs, jacobian: bool):
        size = block_rows(self.layout.network, jacobian, self.last_layer)
        return in_blocks(inputs, size if jacobian else max(16, size // len(self.flat)))


def normal_points(m: int, k: int) -> np.ndarray:
    """Points (m, k) that stand for a standard normal, always the same ones.

    For one dimension quantiles at equal steps; for more, fixed numbers in pairs of opposite sign,
    with the covariance of a standard normal where there are enough of them.
    """
    if m == 1:
        return np.zeros((1, k))
    if k == 1:
        points = ndtri((np.arange(m) + 0.5) / m)[:, None]
        return points / points.std()
    half = np.random.default_rng(0).standard_normal((-(-m // 2), k))
    points = np.stack([half, -half], 1).reshape(-1, k)[:m]
    points -= points.mean(0)
    if m > 2 * k:
        points = np.linalg.solve(np.linalg.cholesky(np.cov(points.T, bias=True)), points.T).T
    return points


def _root(cov: Tensor) -> Tensor:
    """A root R of covariances (k, k, n), with R R^T the covariance."""
    if cov.shape[0] == 1:
        return cov.clamp_min(0.0).sqrt()
    matrix = cov.permute(2, 0, 1).clone()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal.add_(JITTER * diagonal.sum(1, keepdim=True) + torch.finfo(cov.dtype).tiny)
    return torch.linalg.cholesky_ex(matrix).L.permute(1, 2, 0)
