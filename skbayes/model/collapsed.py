"""The log posterior with the output layer integrated out, where that can be done exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.model.activations import ACTIVATIONS
from skbayes.model.likelihoods import LOG_2PI, Normal
from skbayes.model.log_posterior import LogPosterior
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal


def why_not(log_posterior) -> str | None:
    """What stands against integrating the output layer out; None if nothing does."""
    if not isinstance(getattr(log_posterior, "network", None), MLPNetwork):
        return "the model is not a multilayer perceptron"
    likelihood = log_posterior.likelihood
    if not isinstance(likelihood, Normal) or likelihood.heteroscedastic:
        return "the noise is not normal with the same deviation in all rows"
    if not isinstance(log_posterior.prior, BoundNormal):
        return "the prior is not a NormalPrior"
    if len(log_posterior.network.layers) < 2:
        return "the network has no hidden layer"
    return None


class CollapsedLogPosterior:
    r"""The marginal log posterior of all parameters but the output layer's.

    Given the hidden layers, a network is linear in the weights b of its output layer: with
    normal noise and a normal prior N(0, S), b can be integrated out. With the last hidden
    layer's values :math:`\Phi` (n, units + 1), a column of ones included, for one output

    .. math:: A = \Phi^T \Phi / \sigma^2 + S^{-1}, \qquad m = A^{-1} \Phi^T y / \sigma^2, \qquad
              b \mid y \sim N(m, A^{-1}),

    .. math:: \log p(y) = \log p(y \mid m) + \log p(m) + \tfrac{\dim b}{2} \log 2 \pi
              - \tfrac12 \log |A|

    (Bishop, 2006, equations 3.53, 3.54 and 3.86). With r = y - Phi m its gradient by Phi is

    .. math:: \frac{\partial \log p(y)}{\partial \Phi}
              = (r m^T - \Phi A^{-1}) / \sigma^2.

    What is left has fewer dimensions and is far less stiff. It is the same model: `complete` draws
    b given the rest, and together they are draws from the whole posterior.

    Parameters
    ----------
    log_posterior : LogPosterior
        The whole, for which `why_not` is None.

    Attributes
    ----------
    n_params : int
        Length of theta without the output layer.
    """

    def __init__(self, log_posterior: LogPosterior) -> None:
        reason = why_not(log_posterior)
        if reason is not None:
            raise ValueError(f"The output layer cannot be integrated out: {reason}.")
        self.whole = log_posterior
        network = log_posterior.network
        self.layer = network.layers[-1]
        self.d, self.k = self.layer.fan_in + 1, self.layer.fan_out
        sizes = [layer.fan_out for layer in network.layers[:-1]]
        self.hidden = MLPNetwork(
            network.layers[0].fan_in, tuple(sizes[:-1]), sizes[-1], network.activation
        )
        self.n_params = log_posterior.n_params - self.d * self.k
        self.act = ACTIVATIONS[network.activation]
        # The inputs carry the scale that the activation wants below the first layer, which here may
        # be the last; others are to be scaled, and what belongs to the first scaled back.
        single = len(sizes) == 1
        self._scale = 1.0 if single else self.act.input_scale
        self._unscale = 1.0 / self.act.input_scale if single else 1.0
        weight = log_posterior.weight
        self._root = None if weight is None else weight.sqrt()[:, None]  # (1 or chains, 1, n)
        y = log_posterior.y
        self._y = y if self._root is None else y * self._root
        assert isinstance(log_posterior.likelihood, Normal)
        self._likelihood = log_posterior.likelihood
        exact: dict[str, Any] = {"dtype": torch.float64, "device": log_posterior.device}
        scales = log_posterior.prior.scales
        of_output = scales[self.layer.joint].reshape(self.d, self.k).T
        self._output_precision = torch.as_tensor(of_output.copy() ** -2.0, **exact)  # (k, d)
        of_hidden = scales[: self.layer.joint.start] ** -2.0
        self._half_precision = torch.as_tensor(-0.5 * of_hidden, **exact)
        self._minus_precision = torch.as_tensor(-of_hidden, dtype=self.dtype, device=self.device)
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(of_hidden)
        self._buffers: dict[tuple[int, ...], Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Float type of theta."""
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.whole.device

    def __call__(self, theta: Tensor) -> Tensor:
        """Log posterior (n_chains,) in float64."""
        return self.value_and_grad(theta)[0]

    def grad(self, theta: Tensor) -> Tensor:
        """Gradient (n_chains, n_params), a little cheaper than with value."""
        return self._evaluate(theta, with_value=False)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior (n_chains,) in float64 and its gradient (n_chains, n_params)."""
        value, grad = self._evaluate(theta, with_value=True)
        assert value is not None
        return value, grad

    def reduce(self, theta: Tensor) -> Tensor:
        """Leave the output layer out of theta (n_chains, n_params of the whole)."""
        a, b = self.layer.joint.start, self.layer.joint.stop
        return torch.cat([theta[:, :a], theta[:, b:]], 1)

    def complete(self, theta: Tensor, value: Tensor | None, streams) -> tuple[Tensor, Tensor]:
        """Draw the output layer given all else.

        Parameters
        ----------
        theta : Tensor of shape (n_chains, n_params)
            All else.
        value : Tensor of shape (n_chains,) or None
            The log posterior of that; None computes it.
        streams : Streams
            One random stream per chain.

        Returns
        -------
        theta : Tensor of shape (n_chains, n_params of the whole)
        log_prob : Tensor of shape (n_chains,)
            Its log posterior, in float64.
        """
        value = self(theta) if value is None else value
        net, params = self._split(theta)
        z = self.hidden.forward(net, self.whole.inputs)
        found = self._solve(z, slice(0, len(theta)), params)
        normal = streams.normal(self.k, self.d, 1, dtype=torch.float64, device=self.device)
        # A = L L', so that L'^-1 z has the covariance A^-1
        noise = torch.linalg.solve_triangular(found.factor.mT, normal, upper=True)[..., 0]
        output = (found.mean + noise).mT.flatten(1).to(theta.dtype)
        log_det = found.factor.diagonal(dim1=2, dim2=3).log().sum((1, 2))
        log_density = log_det - 0.5 * (normal**2).sum((1, 2, 3)) - 0.5 * LOG_2PI * self.k * self.d
        return torch.cat([net, output, params], 1), value + log_density

    # ------------------------------------------------------------------ parts

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden layers' part and the likelihood's."""
        cut = self.layer.joint.start
        return theta[:, :cut], theta[:, cut:]

    def _evaluate(self, theta: Tensor, with_value: bool) -> tuple[Tensor | None, Tensor]:
        whole, inputs, likelihood = self.whole, self.whole.inputs, self._likelihood
        net, params = self._split(theta)
        parts: list[_Output] = []

        def solve(z: Tensor, chains: slice) -> Tensor:
            parts.append(self._solve(z, chains, params))
            if with_value or likelihood.learned:
                squares.append(self._squares(parts[-1]))
            return self._backward(parts[-1], z, chains)

        squares: list[Tensor] = []
        if self.hidden.blocks_have_all_rows(net, inputs):
            by_net = self.hidden.vjp(net, inputs, lambda z, chains, rows: solve(z, chains))
        else:
            by_z = solve(self.hidden.forward(net, inputs), slice(0, len(theta)))
            by_net = self.hidden.vjp(net, inputs, lambda z, chains, rows: by_z[chains, :, rows])
        grad, value = torch.addcmul(by_net, net, self._minus_precision), None
        if with_value:
            exact = net.double()
            value = torch.mv(exact * exact, self._half_precision) + self._constant
            value = value + _joined([self._at_mean(part) for part in parts])
            value = value + likelihood.finish(_joined(squares), params, whole._total)
        if likelihood.learned:
            prior, by_params = likelihood.log_prior_and_grad(params)
            # Fisher's identity: the gradient given b, averaged over b's posterior
            expected = _joined(squares) + _joined([self._spread(part) for part in parts])
            by_params = by_params + likelihood.params_gradient(expected, params, whole._total)
            grad = torch.cat([grad, by_params], 1)
            value = None if value is None else value + prior
        return value, grad

    def _solve(self, z: Tensor, chains: slice, params: Tensor) -> _Output:
        """The output layer's posterior given the last hidden layer's input.

        z is (chains, units, n), with all rows; it is left as the way back wants it.
        """
        k = self.k
        rows = self._features(z, chains)
        # float32 sums: a test bounds their effect on the energy
        sums = torch.bmm(rows[:, k:], rows.mT).double()
        precision = self._noise(params[chains]) ** -2  # (chains or 1, k)
        if k == 1:
            matrix = (sums[:, :, 1:] * precision[:, :, None])[:, None]
        else:
            matrix = sums[:, None, :, k:] * precision[:, :, None, None]
        matrix.diagonal(dim1=2, dim2=3).add_(self._output_precision)
        # no error where theta is not finite: the value is not either, and the point refused
        factor = torch.linalg.cholesky_ex(matrix).L
        right = sums[:, :, :k].mT * precision[:, :, None]
        mean = torch.cholesky_solve(right[..., None], factor)[..., 0]
        return _Output(mean, factor, precision, rows)

    def _noise(self, params: Tensor) -> Tensor:
        """Deviation of the noise in float64, (chains, outputs), or (1, outputs) where fixed."""
        if self._likelihood.learned:
            return self._likelihood.noise_std(params.double(), 1)
        fixed = self._likelihood.noise
        return torch.as_tensor(fixed, dtype=torch.float64, device=params.device)[None]

    def _features(self, z: Tensor, chains: slice) -> Tensor:
        """Rows [y | hidden values | 1], (chains, k + d, n).

        With weights of the rows of X everything is times their root.
        """
        d, k = self.d, self.k
        key = (chains.start, len(z), z.shape[2])
        rows = self._buffers.get(key)
        if rows is None:
            if chains.start == 0:
                self._buffers.clear()
            rows = self._buffers[key] = z.new_empty((len(z), k + d, z.shape[2]))
            rows[:, :k] = _of(self._y, chains)
            rows[:, -1] = 1.0 if self._root is None else _of(self._root, chains)[:, 0]
        h = rows[:, k:-1]
        if self._scale != 1.0:
            z.mul_(self._scale)
        self.act.forward(z, h)
        if self._root is not None:
            if not self.act.keeps_input:
                z.copy_(h)
            h *= _of(self._root, chains)
        return rows

    def _backward(self, found: _Output, z: Tensor, chains: slice) -> Tensor:
        r"""Derivative by the last hidden layer's input, written into z.

        With the residuals written out it is one product with the rows [y | hidden values | 1],

        .. math:: r m^T - \Phi A^{-1} = y m^T - \Phi (m m^T + A^{-1}).
        """
        k = self.k
        precision = (found.precision * self._unscale).to(z.dtype)
        mean = found.mean.to(z.dtype)
        second = (
            torch.cholesky_inverse(found.factor.to(z.dtype)) + mean[..., None] * mean[:, :, None]
        )
        small = z.new_empty((len(z), self.d - 1, k + self.d))
        small[:, :, :k] = (mean * precision[:, :, None]).mT[:, :-1]
        if k == 1:
            torch.mul(second[:, 0, :-1], -precision[:, :, None], out=small[:, :, 1:])
        else:
            small[:, :, k:] = (second[:, :, :-1] * -precision[:, :, None, None]).sum(1)
        if self.act.keeps_input or self._root is not None:
            by_h = torch.bmm(small, found.rows)
            if self._root is not None:
                by_h *= _of(self._root, chains)
            self.act.backward(by_h, z, z)
        else:
            torch.bmm(small, found.rows, out=z)
            self.act.backward(z, found.rows[:, k:-1], z)
        return z

    def _squares(self, found: _Output) -> Tensor:
        """Weighted sum of squared residuals at the mean, (chains, k)."""
        y, features = found.rows[:, : self.k], found.rows[:, self.k :]
        residuals = torch.baddbmm(y, found.mean.to(y.dtype), features, alpha=-1.0).double()
        return torch.linalg.vecdot(residuals, residuals)

    def _at_mean(self, found: _Output) -> Tensor:
        """The prior's exponent at the mean and the volume around it, (chains,)."""
        exponent = (found.mean**2 * self._output_precision).sum((1, 2))
        half_log_det = found.factor.diagonal(dim1=2, dim2=3).log().sum((1, 2))
        return -0.5 * exponent - half_log_det

    def _spread(self, found: _Output) -> Tensor:
        """What b's variance adds to the expected sum of squares, (chains, k)."""
        inverse = torch.cholesky_inverse(found.factor).diagonal(dim1=2, dim2=3)
        return (self.d - (inverse * self._output_precision).sum(2)) / found.precision


class _Output(NamedTuple):
    """The output layer's posterior given all else; k outputs, d = units + 1 weights of each."""

    mean: Tensor  # (chains, k, d), float64 as all but the last
    factor: Tensor  # (chains, k, d, d), Cholesky's of the precision
    precision: Tensor  # (chains or 1, k), of the noise
    rows: Tensor  # see `CollapsedLogPosterior._features`


def _of(values: Tensor, chains: slice) -> Tensor:
    """The part of some chains, of values that may be the same for all."""
    return values if len(values) == 1 else values[chains]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
