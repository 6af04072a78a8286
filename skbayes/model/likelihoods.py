"""Likelihoods: the log density of the targets given a network's outputs, with its derivatives.

Outputs are feature-major, (n_chains, n_outputs, n), as the network makes them. Targets carry a
leading axis of one, or of n_chains where every chain has its own (perturbed) targets. Values are
summed in float64, because a Metropolis step needs the difference of two large sums.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from skbayes.layers.kl import LOG_2PI, kl_normal

RAW_SHIFT = math.log(math.expm1(0.3))
# without axes: it goes with tensors of any type and device
_RAW_SHIFT = torch.tensor(RAW_SHIFT, dtype=torch.float64)


class Likelihood:
    """Log density of targets given outputs.

    Attributes
    ----------
    n_params : int
        Number of the likelihood's own unconstrained parameters in theta.
    """

    n_params = 0

    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the likelihood's own parameters, as `constrain` gives them."""
        return []

    def constrain(self, params: np.ndarray) -> dict[str, np.ndarray]:
        """Named values of the own parameters; ``params`` is (..., n_params), unconstrained."""
        return {}

    def initial(self, n_chains: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Starting values of the own parameters, (n_chains, n_params)."""
        return torch.zeros((n_chains, self.n_params), dtype=dtype, device=device)

    def log_prior_and_grad(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Log prior density of the own parameters (n_chains,) in float64, and its gradient."""
        zero = torch.zeros(params.shape[0], dtype=torch.float64, device=params.device)
        return zero, torch.zeros_like(params)

    def sample_prior(self, streams, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Own parameters drawn from their prior, (n_chains, n_params)."""
        return torch.zeros((streams.n_chains, self.n_params), dtype=dtype, device=device)

    def kl(self, mean: Tensor, var: Tensor) -> Tensor:
        """KL of independent normals from the prior of the own parameters, (n_chains,).

        ``mean`` and ``var`` are (n_chains, n_params).
        """
        return mean.sum(1)  # of nothing: zero

    def at(self, params: Tensor) -> Any:
        """What the methods below need of the own parameters (n_chains, n_params), made once."""
        return params

    def prepare(self, own: Any, y: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
        """Whatever `gradient` needs besides the outputs, each (1 or n_chains, ..., 1 or n).

        Parameters
        ----------
        own : object
            What `at` gave.
        y : Tensor of shape (1 or n_chains, n_targets, n)
            Targets, in the form that the likelihood asks for.
        weight : Tensor of shape (1 or n_chains, 1, n) or None
            Weights of the rows.
        """
        return (y,) if weight is None else (y, weight)

    def gradient(self, outputs: Tensor, *prepared: Tensor) -> Tensor:
        """Derivative of the log likelihood by the outputs, written over them.

        Outputs are those of a block of chains and rows, (chains, n_outputs, rows), and so is what
        `prepare` gave.
        """
        raise NotImplementedError("abstract")

    def statistic(self, outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """Sum over rows (n_chains, k) in float64, from which `finish` makes the value."""
        raise NotImplementedError("abstract")

    def finish(self, statistic: Tensor, own: Any, n: Tensor | float) -> Tensor:
        """Log likelihood (n_chains,) in float64.

        ``own`` is what `at` gave, ``n`` the sum of the rows' weights, a number or (n_chains,).
        """
        return statistic[:, 0]

    def params_gradient(self, statistic: Tensor, own: Any, n: Tensor | float) -> Tensor:
        """Derivative of the log likelihood by the own parameters, (n_chains, n_params), float64."""
        return torch.zeros((len(statistic), 0), dtype=torch.float64, device=statistic.device)

    def pointwise(self, outputs: Tensor, params: Tensor, y: Tensor) -> Tensor:
        """Log density of every row (n_chains, n) in the dtype of ``outputs``."""
        raise NotImplementedError("abstract")

    def fisher_root(self, outputs: Tensor, params: Tensor) -> Tensor:
        r"""A root of the Fisher information of a row's outputs, (n_chains, k, n_outputs, n).

        Its rows :math:`r_j` give the information as :math:`\sum_j r_j r_j^T`; for the outputs of
        these likelihoods (other than the noise) that is minus the second derivative of the log
        density too.
        """
        raise NotImplementedError("abstract")


class Bernoulli(Likelihood):
    r"""Independent binary labels, one logit each (one label: binary classification).

    .. math:: \log p(y \mid z) = \sum_k \log \sigma((2 y_k - 1) z_k)

    Targets are 0 or 1, (1, n_labels, n).
    """

    def gradient(self, outputs, *prepared):
        y, weight = prepared if len(prepared) == 2 else (*prepared, None)
        grad = torch.sub(y, outputs.sigmoid_(), out=outputs)
        return grad if weight is None else grad.mul_(weight)

    def statistic(self, outputs, y, weight):
        logs = logsigmoid((2.0 * y - 1.0) * outputs)  # (chains, labels, n)
        if weight is not None:
            logs *= weight
        return logs.sum((1, 2), dtype=torch.float64)[:, None]

    def pointwise(self, outputs, params, y):
        return logsigmoid((2.0 * y - 1.0) * outputs).sum(1)

    def fisher_root(self, outputs, params):
        # the information is p (1 - p)
        return _on_diagonal((0.5 * (logsigmoid(outputs) + logsigmoid(-outputs))).exp())


class Categorical(Likelihood):
    r"""One of three or more classes, a logit for each.

    .. math:: \log p(y \mid z) = z_y - \log \sum_k e^{z_k}

    Targets are one-hot, (1, n_classes, n).
    """

    def gradient(self, outputs, *prepared):
        y, weight = prepared if len(prepared) == 2 else (*prepared, None)
        grad = torch.sub(y, outputs.softmax(1), out=outputs)
        return grad if weight is None else grad.mul_(weight)

    def statistic(self, outputs, y, weight):
        logs = (outputs.log_softmax(1) * y).sum(1, keepdim=True)
        if weight is not None:
            logs *= weight
        return logs.sum((1, 2), dtype=torch.float64)[:, None]

    def pointwise(self, outputs, params, y):
        return (outputs.log_softmax(1) * y).sum(1)

    def fisher_root(self, outputs, params):
        # diag(p) - p p^T = R^T R with R = diag(sqrt(p)) - sqrt(p) p^T, since p sums to one
        p = outputs.softmax(1)
        root = p.sqrt()
        return _on_diagonal(root) - root[:, :, None] * p[:, None]


class _FixedNoise(NamedTuple):
    precision: Tensor  # (1, n_outputs, 1)
    half_precision: Tensor  # (n_outputs,) in float64, times -1/2
    log_constant: Tensor  # (n_outputs,), of one row


class LearnedNoise(NamedTuple):
    """Learned noise at given raw parameters, each (n_chains, n_outputs) in float64."""

    sigma: Tensor
    precision: Tensor
    by_raw: Tensor
    """Derivative of the log of sigma by the raw parameters."""


class Normal(Likelihood):
    r"""Targets with normal noise, independent over outputs.

    .. math:: \log p(y \mid f) = \sum_k -\tfrac12 ((y_k - f_k) / \sigma_k)^2 - \log \sigma_k
              - \tfrac12 \log 2 \pi

    The noise's standard deviation is fixed, learned (one parameter r per output), or
    heteroscedastic (the network gives 2 r for every row). In the latter two

    .. math:: \sigma = s \, (\text{floor} + \operatorname{softplus}(r + r_0)),

    with s the scale of y and softplus(r_0) = 0.3. A learned r has the prior N(0, 1.5^2) (95 % of
    the prior lie between 0.021 and 2.0 times s). A heteroscedastic r is half of what the network
    gives, whose prior it inherits: noise varies less than means do, and with the whole of it chains
    end in functions that pass exactly through the more frequent values of a y that is rounded.
    Without prior and floor, the density of a network that passes through every point is unbounded.

    Targets are (1, n_outputs, n).

    Parameters
    ----------
    n_outputs : int
        Number of targets per row.
    noise : "learned", "heteroscedastic" or ndarray of shape (n_outputs,)
        Kind of noise, or its standard deviation.
    scale : ndarray of shape (n_outputs,)
        Standard deviation of y as the network sees it (1 where y is standardised).
    """

    floor = 0.003
    prior_scale = 1.5
    raw_shift = RAW_SHIFT

    def __init__(self, n_outputs: int, noise, scale: np.ndarray) -> None:
        self.n_outputs = n_outputs
        self.noise = noise
        self.scale = np.asarray(scale, dtype=np.float64)
        self.learned = isinstance(noise, str) and noise == "learned"
        self.heteroscedastic = isinstance(noise, str) and noise == "heteroscedastic"
        self.gain = 0.5 if self.heteroscedastic else 1.0  # of the raw parameters
        self.n_params = n_outputs if self.learned else 0
        self._of_unit_scale = bool((self.scale == 1.0).all())
        self._cache: dict[tuple, Any] = {}  # tensors made once per dtype and device

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}}

    @property
    def n_network_outputs(self) -> int:
        """Outputs that the network must have."""
        return self.n_outputs * (2 if self.heteroscedastic else 1)

    def parameters(self):
        return [("noise_std", (self.n_outputs,))] if self.learned else []

    def constrain(self, params):
        if not self.learned:
            return {}
        raw = np.asarray(params, dtype=np.float64) + self.raw_shift
        return {"noise_std": self.scale * (self.floor + np.logaddexp(0.0, raw))}

    def noise_std(self, raw: Tensor, axis: int) -> Tensor:
        """Noise for raw parameters whose outputs lie along ``axis``."""
        return self._scaled(softplus(self._shifted(raw)).add_(self.floor), axis)

    def noise_slope(self, raw: Tensor, axis: int) -> Tensor:
        """Derivative of `noise_std` by the raw parameters, as they come from the network."""
        return self.noise_and_slope(raw, axis)[1]

    def noise_and_slope(self, raw: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """`noise_std` and `noise_slope` at once, which is cheaper."""
        shifted = self._shifted(raw)
        sigma = self._scaled(softplus(shifted).add_(self.floor), axis)
        return sigma, self._scaled(torch.sigmoid(shifted).mul_(self.gain), axis)

    def _shifted(self, raw: Tensor) -> Tensor:
        return torch.add(_RAW_SHIFT, raw, alpha=self.gain)

    def _scaled(self, noise: Tensor, axis: int) -> Tensor:
        """Noise in units of the scale of y, whose outputs lie along ``axis``."""
        return noise if self._of_unit_scale else self._scale(noise, axis) * noise

    def log_prior_and_grad(self, params):
        if not self.learned:
            return super().log_prior_and_grad(params)
        exact, precision = params.double(), self.prior_scale**-2.0
        value = torch.linalg.vecdot(exact, exact).mul_(-0.5 * precision)
        value -= self.n_outputs * (math.log(self.prior_scale) + 0.5 * LOG_2PI)
        return value, params * -precision

    def kl(self, mean, var):
        return kl_normal(mean, var, 0.0, self.prior_scale**2).sum(1)

    def sample_prior(self, streams, dtype, device):
        return self.prior_scale * streams.normal(self.n_params, dtype=dtype, device=device)

    def at(self, params):
        if not self.learned:
            return params
        sigma, slope = self.noise_and_slope(params.double(), 1)
        return LearnedNoise(sigma, sigma.reciprocal().square_(), slope / sigma)

    def prepare(self, own, y, weight):
        if self.heteroscedastic:
            return super().prepare(own, y, weight)
        # the derivative is precision (y - f), as one product and one sum: a + b f
        if self.learned:
            precision = own.precision.to(y.dtype)[:, :, None]
        else:
            precision = self._fixed(y).precision
        if weight is not None:
            precision = precision * weight
        return precision * y, -precision

    def gradient(self, outputs, *prepared):
        if self.heteroscedastic:
            return self._heteroscedastic_gradient(outputs, *prepared)
        return torch.addcmul(prepared[0], prepared[1], outputs, out=outputs)

    def statistic(self, outputs, y, weight):
        if self.heteroscedastic:
            logs = self._row_logs(*self.mean_and_std(outputs, outputs), y)
            if weight is not None:
                logs *= weight
            return logs.sum((1, 2), dtype=torch.float64)[:, None]
        exact = (y - outputs).double()
        return torch.linalg.vecdot(exact, exact if weight is None else exact * weight)

    def finish(self, statistic, own, n):
        if self.heteroscedastic:
            return statistic[:, 0]
        if isinstance(n, Tensor):
            n = n[:, None]
        if not self.learned:
            fixed = self._fixed(own)
            return (statistic * fixed.half_precision + n * fixed.log_constant).sum(1)
        half = torch.addcmul(own.sigma.log() * n, statistic, own.precision, value=0.5)
        return -(half + (0.5 * LOG_2PI) * n).sum(1)

    def params_gradient(self, statistic, own, n):
        if not self.learned:
            return super().params_gradient(statistic, own, n)
        if isinstance(n, Tensor):
            n = n[:, None]
        return (statistic * own.precision).sub_(n).mul_(own.by_raw)

    def _heteroscedastic_gradient(self, outputs, y, weight=None):
        mean, raw = outputs[:, : self.n_outputs], outputs[:, self.n_outputs :]
        sigma, slope = self.noise_and_slope(raw, 1)
        z = (y - mean) / sigma
        outputs[:, self.n_outputs :] = (z * z - 1.0) / sigma * slope
        outputs[:, : self.n_outputs] = z / sigma
        return outputs if weight is None else outputs.mul_(weight)

    def _scale(self, like: Tensor, axis: int) -> Tensor:
        """The scale of y, with the outputs along an axis."""
        key = ("scale", like.dtype, like.device)
        if key not in self._cache:
            self._cache[key] = torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)
        shape = [1] * like.dim()
        shape[axis] = -1
        return self._cache[key].view(shape)

    def _fixed(self, like: Tensor) -> _FixedNoise:
        """Constants of fixed noise as tensors, made once."""
        key = ("noise", like.dtype, like.device)
        if key not in self._cache:
            noise = torch.as_tensor(self.noise, dtype=torch.float64, device=like.device)
            self._cache[key] = _FixedNoise(
                (noise**-2).to(like.dtype).view(1, -1, 1),
                -0.5 * noise**-2,
                -(noise.log() + 0.5 * LOG_2PI),
            )
        return self._cache[key]

    def noise_grid(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Learned noise on a grid: raw parameters (k,), log prior (k,), noise (n_outputs, k)."""
        raw = torch.linspace(-8.0, 6.0, 7001, dtype=torch.float64, device=device)
        sigma = self.noise_std(raw.expand(self.n_outputs, -1).clone(), 0)
        return raw, -0.5 * (raw / self.prior_scale) ** 2, sigma

    def raw_of(self, std: float) -> float:
        """The raw parameter whose noise has a standard deviation, in units of y's."""
        return math.log(math.expm1(std - self.floor)) - self.raw_shift

    def mean_and_std(self, outputs: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and noise of every row, both (n_chains, n_outputs, n)."""
        mean = outputs[:, : self.n_outputs]
        if self.heteroscedastic:
            return mean, self.noise_std(outputs[:, self.n_outputs :], 1)
        if self.learned:
            sigma = self.noise_std(params, 1)[:, :, None]
        else:
            sigma = torch.as_tensor(self.noise, dtype=mean.dtype, device=mean.device).view(1, -1, 1)
        return mean, sigma.expand_as(mean)

    def pointwise(self, outputs, params, y):
        return self._row_logs(*self.mean_and_std(outputs, params), y).sum(1)

    def fisher_root(self, outputs, params):
        sigma = self.mean_and_std(outputs, params)[1]
        roots = sigma.reciprocal()
        if self.heteroscedastic:
            # of the noise 2 / sigma^2, by the raw output the slope squared times that
            slope = self.noise_slope(outputs[:, self.n_outputs :], 1)
            roots = torch.cat([roots, math.sqrt(2.0) * slope / sigma], 1)
        return _on_diagonal(roots)

    @staticmethod
    def _row_logs(mean: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        z = (y - mean) / sigma
        return -0.5 * (z * z) - sigma.log() - 0.5 * LOG_2PI


def _on_diagonal(values: Tensor) -> Tensor:
    """Diagonal matrices (n_chains, k, k, n) of values (n_chains, k, n)."""
    return torch.diag_embed(values.movedim(1, -1), dim1=1, dim2=2)
