"""What all priors have in common."""

from __future__ import annotations

import math
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skbayes.layers.kl import kl_normal


class Prior(BaseEstimator):
    """Base of all priors: independent over weights, with a scale per layer.

    The scale of a weight is ``scale``; with ``fan_in=True`` it is ``scale / sqrt(fan_in)``, so
    that the variance of a unit does not grow with the layer below it (Neal, 1996, section 2.1).
    For the first layer the fan-in is replaced by the mean squared norm of the rows, which equals
    the number of features on standardised columns, and one on TF-IDF text. Biases have the scale
    ``scale`` in either case.
    """

    scale: float
    fan_in: bool
    _own_checks: ClassVar[tuple[str, ...]] = ()  # parameters that are not positive numbers

    def build(self, network, mean_squared_norm: float | None = None) -> BoundPrior:
        """Tie the prior to a network.

        Parameters
        ----------
        network : object with ``layers`` and ``n_params``
            The network whose weights the prior is about.
        mean_squared_norm : float or None
            Mean squared norm of the rows that the first layer sees; None takes its fan-in.

        Returns
        -------
        BoundPrior
        """
        raise NotImplementedError("abstract")

    def _check(self) -> None:
        """Raise unless all parameters are positive numbers, or booleans where they are that."""
        for name, value in self.get_params(deep=False).items():
            if name in ("fan_in", "centred"):
                if not isinstance(value, bool | np.bool_):
                    raise ValueError(
                        f"{type(self).__name__}: {name}={value!r} is not allowed; "
                        "it must be True or False."
                    )
                continue
            if name in self._own_checks:
                continue
            number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(
                    f"{type(self).__name__}: {name}={value!r} is not allowed; "
                    "it must be a positive, finite number."
                )

    def _scales(self, network, mean_squared_norm: float | None) -> np.ndarray:
        """Scale of every weight, (n_params,)."""
        self._check()
        out = np.full(network.n_params, float(self.scale))
        if self.fan_in:
            for i, layer in enumerate(network.layers):
                size = float(layer.fan_in)
                if i == 0 and mean_squared_norm is not None and mean_squared_norm > 0:
                    size = mean_squared_norm
                out[layer.weight] /= math.sqrt(size)
        return out


class BoundPrior:
    """A prior on the weights of one network.

    theta's network part need not be the weights themselves: `weights` maps it to them, and
    `pullback` maps gradients back.

    Parameters
    ----------
    network : object with ``layers``
        The network.
    scales : ndarray of shape (n_params,)
        Scale of every weight.
    """

    n_hyper = 0

    improper = False
    """Whether the density has no finite integral, so that nothing can be drawn from it."""

    def __init__(self, network, scales: np.ndarray) -> None:
        self.scales = scales
        self._cache: dict[tuple, Tensor] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}}

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the hyper-parameters, as `constrain` gives them."""
        return []

    def constrain(self, hyper: np.ndarray) -> dict[str, np.ndarray]:
        """Named values of the hyper-parameters (..., n_hyper)."""
        return {}

    def weights(self, net: Tensor, hyper: Tensor) -> Tensor:
        """Weights for theta's network part and hyper-parameters."""
        return net

    def from_weights(self, weights: Tensor) -> Tensor:
        """Theta's network part for given weights, where all hyper-parameters are zero."""
        return weights

    def pullback(self, net: Tensor, hyper: Tensor, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn a gradient by the weights into gradients by ``net`` and ``hyper``.

        The second is None only where there are no hyper-parameters.
        """
        return grad, torch.zeros_like(hyper) if self.n_hyper else None

    def log_prob_and_grad(
        self,
        net: Tensor,
        hyper: Tensor,
        plus: Tensor | None = None,
        with_value: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log density (n_chains,) in float64 and its gradients by ``net`` and ``hyper``.

        ``plus``, the gradient of the likelihood by ``net``, is added to the first of these. With
        ``with_value=False`` the value may be anything.
        """
        raise NotImplementedError("abstract")

    def sample(self, streams, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """One draw per chain of theta's network part and of the hyper-parameters.

        Raises
        ------
        ValueError
            If the prior is improper.
        """
        raise NotImplementedError("abstract")

    def kl(self, mean: Tensor, var: Tensor, hyper: Tensor | None = None) -> Tensor | None:
        r"""Divergence of independent normals from the prior given its hyper-parameters.

        .. math:: \text{KL}(N(m, v) \,\|\, p(\text{net} \mid \text{hyper}))

        Parameters
        ----------
        mean, var : Tensor of shape (n_chains, n_network)
            Moments of theta's network part.
        hyper : Tensor of shape (n_chains, n_hyper), optional
            Hyper-parameters, where the prior has some; the divergence of their own distribution
            is `hyper_kl`.

        Returns
        -------
        Tensor of shape (n_chains,) or None
            Summed over weights, differentiable by autograd. None where there is no closed form:
            log q - log p at draws from q estimates it without bias.
        """
        return None

    def hyper_kl(self, mean: Tensor, var: Tensor) -> Tensor:
        """Divergence (n_chains,) of independent normal hyper-parameters from their own prior.

        ``mean`` and ``var`` are (n_chains, n_hyper); differentiable by autograd.
        """
        return kl_normal(mean, var).sum(1)  # of nothing, or of standard normal ones

    def _vector(self, name: str, values: np.ndarray, like: Tensor, dtype=None) -> Tensor:
        key = (name, dtype or like.dtype, like.device)
        if key not in self._cache:
            self._cache[key] = torch.tensor(values, dtype=key[1], device=like.device)
        return self._cache[key]

    def _scale_tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.as_tensor(self.scales, dtype=dtype, device=device)

    @staticmethod
    def _no_hyper(n_chains: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros((n_chains, 0), dtype=dtype, device=device)


def layer_groups(network) -> tuple[list[tuple[int, int]], np.ndarray]:
    """(start, stop) of each layer's parameters, and the layer of every parameter (n_params,)."""
    spans = [(layer.weight.start, layer.bias.stop) for layer in network.layers]
    group = np.zeros(network.n_params, dtype=np.int64)
    for i, (start, stop) in enumerate(spans):
        group[start:stop] = i
    return spans, group


def sum_of(first: Tensor | None, second: Tensor, alpha: float = 1.0) -> Tensor:
    """``first + alpha * second`` in one pass."""
    return second * alpha if first is None else torch.add(first, second, alpha=alpha)
