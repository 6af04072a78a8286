"""Priors over the weights of a network.

A prior object holds hyper-parameters only; `Prior.build` ties it to a network and gives a
`BoundPrior`, which is what `LogPosterior` works with.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skbayes.layers.kl import kl_normal, kl_normal_laplace

LOG_2PI = math.log(2.0 * math.pi)


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
        for name, value in self.get_params(deep=False).items():
            if name == "fan_in":
                if not isinstance(value, bool | np.bool_):
                    raise ValueError(
                        f"{type(self).__name__}: fan_in={value!r} is not allowed; "
                        "it must be True or False."
                    )
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


class NormalPrior(Prior):
    r"""Independent normal weights.

    .. math:: \log p(w) = \sum_i -\tfrac12 (w_i / s_i)^2 - \log s_i - \tfrac12 \log 2 \pi

    Parameters
    ----------
    scale : float, default=1.0
        Standard deviation of every weight and bias (with ``fan_in``, times 1 / sqrt(fan-in) for
        weights).
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, fan_in=False):
        self.scale = scale
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundNormal(network, self._scales(network, mean_squared_norm))


class LaplacePrior(Prior):
    r"""Independent Laplace (double exponential) weights; their mode is L1 regularisation.

    .. math:: \log p(w) = \sum_i -|w_i| / b_i - \log 2 b_i

    Parameters
    ----------
    scale : float, default=1.0
        The b above (the standard deviation is b times the root of two).
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, fan_in=False):
        self.scale = scale
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundLaplace(network, self._scales(network, mean_squared_norm))


class StudentTPrior(Prior):
    r"""Independent Student-t weights: heavy tails let single weights be large.

    .. math:: \log p(w) = \sum_i -\tfrac{\nu + 1}{2} \log(1 + (w_i / s_i)^2 / \nu)
              - \log s_i + \log \Gamma(\tfrac{\nu + 1}{2}) - \log \Gamma(\tfrac{\nu}{2})
              - \tfrac12 \log \nu \pi

    Parameters
    ----------
    scale : float, default=1.0
        The s above.
    df : float, default=4.0
        Degrees of freedom, the nu above.
    fan_in : bool, default=False
        Whether the scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, df=4.0, fan_in=False):
        self.scale = scale
        self.df = df
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundStudentT(network, self._scales(network, mean_squared_norm), float(self.df))


class HierarchicalPrior(Prior):
    r"""Normal weights whose scale per layer is inferred with them (non-centred).

    .. math:: w_i = s_i \tau_l z_i, \quad z_i \sim N(0, 1), \quad
              \log \tau_l \sim N(0, \text{spread}^2)

    theta holds z and log(tau) / spread, so that it is standard normal a priori and the geometry
    stays benign where data say little (Papaspiliopoulos, Roberts and Skold, 2007). Every layer's
    weights and biases share one tau.

    Parameters
    ----------
    scale : float, default=1.0
        Median of the prior's scale.
    spread : float, default=1.0
        Standard deviation of the logarithm of tau.
    fan_in : bool, default=True
        Whether the median scale of a layer's weights falls with the root of its fan-in.
    """

    def __init__(self, scale=1.0, spread=1.0, fan_in=True):
        self.scale = scale
        self.spread = spread
        self.fan_in = fan_in

    def build(self, network, mean_squared_norm=None):
        """Tie the prior to a network, see `Prior.build`."""
        return BoundHierarchical(
            network, self._scales(network, mean_squared_norm), float(self.spread)
        )


PRIORS: dict[str, type[Prior]] = {
    "normal": NormalPrior,
    "laplace": LaplacePrior,
    "student_t": StudentTPrior,
    "hierarchical": HierarchicalPrior,
}


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
        """Turn a gradient by the weights into gradients by ``net`` and ``hyper``."""
        return grad, None

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

    def kl(self, mean: Tensor, var: Tensor, hyper: Tensor | None = None) -> Tensor | None:
        r"""KL of independent normals from the prior (n_chains,), differentiable.

        Parameters
        ----------
        mean, var : Tensor of shape (n_chains, n_network)
            Moments of q over theta's network part.
        hyper : Tensor of shape (n_chains, n_hyper), optional
            A draw h of the hyper-parameters, where the prior has some. The answer is then
            :math:`\text{KL}(q(w) \,\|\, p(w \mid h)) - \log p(h)`.

        Returns
        -------
        Tensor or None
            None where there is no closed form.
        """
        return None

    def sample(self, streams, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """One draw per chain of theta's network part and of the hyper-parameters."""
        raise NotImplementedError("abstract")

    def _vector(self, name: str, values: np.ndarray, like: Tensor, dtype=None) -> Tensor:
        key = (name, dtype or like.dtype, like.device)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(values, dtype=key[1], device=like.device)
        return self._cache[key]

    def _scale_tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.as_tensor(self.scales, dtype=dtype, device=device)

    @staticmethod
    def _no_hyper(n_chains: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros((n_chains, 0), dtype=dtype, device=device)


class BoundNormal(BoundPrior):
    """See `NormalPrior`."""

    def __init__(self, network, scales):
        super().__init__(network, scales)
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(scales)
        self._shared = float(scales[0]) ** -2.0 if np.all(scales == scales[0]) else None

    def with_scales(self, scales: np.ndarray) -> BoundNormal:
        """The same kind of prior with other scales, (n_params,)."""
        return BoundNormal(None, scales)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        if self._shared is not None and not with_value:
            return hyper, _plus(plus, net, -self._shared), hyper
        exact = net.double()
        if self._shared is not None:
            value = torch.linalg.vecdot(exact, exact).mul_(-0.5 * self._shared)
            grad = _plus(plus, net, -self._shared)
        else:
            precision = self._vector("precision", -0.5 * self.scales**-2.0, net, torch.float64)
            value = torch.mv(exact * exact, precision)
            grad = _plus(plus, net * self._vector("grad", -(self.scales**-2.0), net))
        return value.add_(self._constant), grad, hyper

    def kl(self, mean, var, hyper=None):
        return kl_normal(mean, var, 0.0, self._vector("variance", self.scales**2.0, mean)).sum(1)

    def sample(self, streams, dtype, device):
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        return z * self._scale_tensor(dtype, device), self._no_hyper(len(z), dtype, device)


class BoundLaplace(BoundPrior):
    """See `LaplacePrior`."""

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        rate = self._vector("rate", 1.0 / self.scales, net)
        exact = self._vector("rate", 1.0 / self.scales, net, torch.float64)
        value = -(net.double().abs() @ exact) - float(np.log(2.0 * self.scales).sum())
        return value, _plus(plus, net.sign() * rate, -1.0), hyper

    def kl(self, mean, var, hyper=None):
        return kl_normal_laplace(mean, var, self._vector("scale", self.scales, mean)).sum(1)

    def sample(self, streams, dtype, device):
        u = streams.uniform(len(self.scales), dtype=torch.float64, device=device) - 0.5
        z = -u.sign() * torch.log1p(-2.0 * u.abs())
        z = z.to(dtype) * self._scale_tensor(dtype, device)
        return z, self._no_hyper(len(z), dtype, device)


class BoundStudentT(BoundPrior):
    """See `StudentTPrior`."""

    def __init__(self, network, scales, df: float):
        super().__init__(network, scales)
        self.df = df
        one = math.lgamma(0.5 * (df + 1)) - math.lgamma(0.5 * df) - 0.5 * math.log(df * math.pi)
        self._constant = one * len(scales) - float(np.log(scales).sum())

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        inverse = self._vector("inverse", 1.0 / self.scales, net)
        exact = self._vector("inverse", 1.0 / self.scales, net, torch.float64)
        square = (net.double() * exact) ** 2
        value = -0.5 * (self.df + 1) * torch.log1p(square / self.df).sum(1) + self._constant
        z = net * inverse
        return value, _plus(plus, z * inverse / (self.df + z * z), -(self.df + 1)), hyper

    def sample(self, streams, dtype, device):
        z = streams.normal(len(self.scales), dtype=dtype, device=device)
        gamma = streams.gamma(0.5 * self.df, len(self.scales), dtype=dtype, device=device)
        z *= torch.rsqrt(2.0 * gamma / self.df)  # chi-squared over its degrees of freedom
        return z * self._scale_tensor(dtype, device), self._no_hyper(len(z), dtype, device)


class BoundHierarchical(BoundPrior):
    """See `HierarchicalPrior`."""

    def __init__(self, network, scales, spread: float):
        super().__init__(network, scales)
        self.spread = spread
        self.n_hyper = len(network.layers)
        # (start, stop) of each layer's parameters
        self._spans = [(layer.weight.start, layer.bias.stop) for layer in network.layers]
        group = np.zeros(len(scales), dtype=np.int64)
        for i, (start, stop) in enumerate(self._spans):
            group[start:stop] = i
        self._group = group

    def parameters(self):
        return [("prior_scale", (self.n_hyper,))]

    def constrain(self, hyper):
        return {"prior_scale": np.exp(self.spread * np.asarray(hyper, dtype=np.float64))}

    def _factors(self, hyper: Tensor) -> Tensor:
        group = self._vector("group", self._group, hyper, torch.int64)
        return self._vector("scales", self.scales, hyper) * torch.exp(self.spread * hyper)[:, group]

    def weights(self, net, hyper):
        return net * self._factors(hyper)

    def from_weights(self, weights):
        return weights / self._scale_tensor(weights.dtype, weights.device)

    def pullback(self, net, hyper, grad):
        grad = grad * self._factors(hyper)
        by_scale = grad * net  # d / d log(tau) of every weight
        sums = [by_scale[:, start:stop].sum(1) for start, stop in self._spans]
        return grad, self.spread * torch.stack(sums, 1)

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        value = -0.5 * (net.double() ** 2).sum(1) - 0.5 * (hyper.double() ** 2).sum(1)
        value -= 0.5 * LOG_2PI * (net.shape[1] + hyper.shape[1])
        return value, _plus(plus, net, -1.0), -hyper

    def kl(self, mean, var, hyper=None):
        return kl_normal(mean, var).sum(1) + 0.5 * (hyper**2 + LOG_2PI).sum(1)

    def sample(self, streams, dtype, device):
        net = streams.normal(len(self.scales), dtype=dtype, device=device)
        return net, streams.normal(self.n_hyper, dtype=dtype, device=device)


def _plus(first: Tensor | None, second: Tensor, alpha: float = 1.0) -> Tensor:
    """``first + alpha * second`` in one pass."""
    return second * alpha if first is None else torch.add(first, second, alpha=alpha)
