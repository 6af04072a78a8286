"""The log posterior with the output layer integrated out, where that can be done exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.kl import LOG_2PI
from skbayes.model.activations import ACTIVATIONS
from skbayes.model.likelihoods import Normal
from skbayes.model.log_posterior import Density, LogPosterior
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal

MOST_PRECISION = 1e6
"""Sum of the rows' precisions up to which sums over them are made in float32."""


def why_not(log_posterior) -> str | None:
    """What stands against integrating the output layer out; None if nothing does."""
    if not isinstance(getattr(log_posterior, "network", None), MLPNetwork):
        return "the model is not a multilayer perceptron"
    likelihood = log_posterior.likelihood
    if not isinstance(likelihood, Normal):
        return "the noise is not normal"
    if likelihood.heteroscedastic and likelihood.n_outputs > 1:
        return "the noise of several outputs is heteroscedastic"
    if not isinstance(log_posterior.prior, BoundNormal):
        return "the prior is not a NormalPrior"
    if len(log_posterior.network.layers) < 2:
        return "the network has no hidden layer"
    return None


class CollapsedLogPosterior(Density):
    r"""The marginal log posterior of all parameters but the weights that the mean is linear in.

    Given the hidden layers and the noise, a network's mean is linear in the weights b of its
    output layer: with normal noise and a normal prior N(0, S), b can be integrated out. With
    the last hidden layer's values :math:`\Phi` (n, units + 1), a column of ones included, and W
    the diagonal matrix of the rows' weights over their noise variances, for one output

    .. math:: A = \Phi^T W \Phi + S^{-1}, \qquad m = A^{-1} \Phi^T W y, \qquad
              b \mid y \sim N(m, A^{-1}),

    .. math:: \log p(y) = \log p(y \mid m) + \log p(m) + \tfrac{\dim b}{2} \log 2 \pi
              - \tfrac12 \log |A|

    (Bishop, 2006, equations 3.53, 3.54 and 3.86). With r = y - Phi m its gradient by Phi is

    .. math:: \frac{\partial \log p(y)}{\partial \Phi} = W (r m^T - \Phi A^{-1}),

    and that by the noise is the one given b, averaged over b's posterior (Fisher's identity). What
    is left has fewer dimensions and is far less stiff. It is the same model: `complete` draws b
    given the rest, and together they are draws from the whole posterior. Of a heteroscedastic
    model b is the mean's part of the output layer; that of the noise stays.

    Parameters
    ----------
    log_posterior : LogPosterior
        The whole, for which `why_not` is None.

    Attributes
    ----------
    n_params : int
        Length of theta without b.
    """

    def __init__(self, log_posterior: LogPosterior) -> None:
        reason = why_not(log_posterior)
        if reason is not None:
            raise ValueError(f"The output layer cannot be integrated out: {reason}.")
        assert isinstance(log_posterior.likelihood, Normal)
        self.whole, self.likelihood = log_posterior, log_posterior.likelihood
        self.inputs = log_posterior.inputs
        network = log_posterior.network
        layer, sizes = network.layers[-1], [one.fan_out for one in network.layers[:-1]]
        self.d, self.k = layer.fan_in + 1, self.likelihood.n_outputs
        self.cut = layer.joint.start  # where the hidden layers' parameters end
        of_layer = np.arange(self.cut, layer.joint.stop).reshape(self.d, layer.fan_out)
        drawn = of_layer[:, : self.k].T.ravel()  # by outputs
        kept = np.setdiff1d(np.arange(log_posterior.n_params), drawn)
        self.n_params = len(kept)
        self.hidden = MLPNetwork(
            network.layers[0].fan_in, tuple(sizes[:-1]), sizes[-1], network.activation
        )
        self.act = ACTIVATIONS[network.activation]
        # The inputs carry the scale that the activation wants below the first layer, which here may
        # be the last; others are to be scaled, and what belongs to the first scaled back.
        single = len(sizes) == 1
        self._scale = 1.0 if single else self.act.input_scale
        self._unscale = 1.0 / self.act.input_scale if single else 1.0
        on_device: dict[str, Any] = {"device": log_posterior.device}
        exact: dict[str, Any] = {"dtype": torch.float64, **on_device}
        self._drawn, self._kept = (torch.as_tensor(i, **on_device) for i in (drawn, kept))
        weight = log_posterior.weight
        self._weight = None if weight is None else weight[:, None]  # (1 or chains, 1, n)
        scales = log_posterior.prior.scales
        precision = torch.as_tensor(scales[drawn] ** -2.0, **exact)
        self._output_precision = precision.view(self.k, self.d)
        self._n_normal = log_posterior.layout.n_network - len(drawn)  # of theta's prior
        of_rest = scales[kept[: self._n_normal]] ** -2.0
        self._half_precision = torch.as_tensor(-0.5 * of_rest, **exact)
        self._minus_precision = torch.as_tensor(-of_rest, dtype=self.dtype, **on_device)
        self._constant = -float(np.log(scales).sum()) - 0.5 * LOG_2PI * len(of_rest)
        self._fixed_precision = None
        if self.likelihood.heteroscedastic:
            self._fixed_precision = torch.ones((1, 1), **exact)
        elif not self.likelihood.learned:
            fixed = np.asarray(self.likelihood.noise) ** -2.0
            self._fixed_precision = torch.as_tensor(fixed, **exact)[None]
        self._buffers: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, theta: Tensor) -> Tensor:
        """Log posterior (n_chains,) in float64."""
        return self.value_and_grad(theta)[0]

    def reduce(self, theta: Tensor) -> Tensor:
        """Leave b out of theta (n_chains, n_params of the whole)."""
        return theta[:, self._kept]

    def complete(self, theta: Tensor, value: Tensor | None, streams) -> tuple[Tensor, Tensor]:
        """Draw b given all else.

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
        z = self.hidden.forward(theta[:, : self.cut], self.inputs)
        params = theta[:, self.cut :]
        found = self._solve(z, slice(0, len(theta)), params, self.likelihood.at(params))
        normal = streams.normal(self.k, self.d, 1, dtype=torch.float64, device=self.device)
        # A = L L', so that L'^-1 z has the covariance A^-1
        noise = torch.linalg.solve_triangular(found.factor.mT, normal, upper=True)[..., 0]
        log_density = _half_log_det(found.factor) - 0.5 * (normal**2).sum((1, 2, 3))
        whole = theta.new_empty((len(theta), self.whole.n_params))
        whole[:, self._kept] = theta
        whole[:, self._drawn] = (found.mean + noise).flatten(1).to(theta.dtype)
        return whole, value + log_density - 0.5 * LOG_2PI * self.k * self.d

    # ------------------------------------------------------------------ parts

    def _evaluate(self, theta: Tensor, with_value: bool) -> tuple[Tensor | None, Tensor]:
        inputs, likelihood = self.inputs, self.likelihood
        net, params = theta[:, : self.cut], theta[:, self.cut :]
        values: list[Tensor] = []  # of blocks of chains, and their gradients by params
        slopes: list[Tensor] = []

        def solve(z: Tensor, chains: slice) -> Tensor:
            some = params[chains]
            own = likelihood.at(some)
            found = self._solve(z, chains, some, own)
            if with_value or likelihood.learned:
                squares = self._squares(found, chains)
            if with_value:
                values.append(self._value(found, squares, chains, own))
            if likelihood.heteroscedastic:
                by_z, slope = self._backward_with_noise(found, z, chains, some)
                slopes.append(slope)
                return by_z
            if likelihood.learned:
                expected = squares + self._spread(found)
                by_own = likelihood.params_gradient(expected, own, self._total(chains))
                slopes.append(by_own.to(theta.dtype))
            return self._backward(found, z)

        if self.hidden.blocks_have_all_rows(net, inputs):
            by_net = self.hidden.vjp(net, inputs, lambda z, chains, rows: solve(z, chains))
        else:
            by_z = solve(self.hidden.forward(net, inputs), slice(0, len(theta)))
            by_net = self.hidden.vjp(net, inputs, lambda z, chains, rows: by_z[chains, :, rows])
        grad = torch.cat([by_net, *_joined(slopes)], 1) if slopes else by_net
        n = self._n_normal
        normal = theta[:, :n]
        value = None
        if with_value:
            exact = normal.double()
            value = torch.mv(exact * exact, self._half_precision) + self._constant
            value = value + _joined(values)[0]
        if not likelihood.learned:
            return value, torch.addcmul(grad, normal, self._minus_precision)
        more, by_params = likelihood.log_prior_and_grad(params)
        grad[:, :n].addcmul_(normal, self._minus_precision)
        grad[:, n:] += by_params
        return None if value is None else value + more, grad

    def _solve(self, z: Tensor, chains: slice, params: Tensor, own: Any) -> _Output:
        """The posterior of b given the last hidden layer's input.

        z is (chains, units, n), with all rows; it is left as the way back wants it. ``own`` is
        what the likelihood made of the other parameters.
        """
        k = self.k
        plain, rows, weight, sigma, slope = self._features(z, chains, params)
        # of the noise, (chains or 1, k) in float64; that of rows is in the rows
        precision = own.precision if self._fixed_precision is None else self._fixed_precision
        if self._is_noisy(weight, precision):
            sums = torch.bmm(plain, rows.mT).double()
        else:
            sums = torch.bmm(plain.double(), rows.double().mT)
        if k == 1:
            matrix = (sums[:, :, 1:] * precision[:, :, None])[:, None]
        else:
            matrix = sums[:, None, :, k:] * precision[:, :, None, None]
        matrix.diagonal(dim1=2, dim2=3).add_(self._output_precision)
        # no error where theta is not finite: the value is not either, and the point refused
        factor = torch.linalg.cholesky_ex(matrix).L
        inverse = torch.cholesky_inverse(factor)  # once for all that wants it
        right = sums[:, :, :k].mT * precision[:, :, None]
        mean = torch.matmul(inverse, right[..., None])[..., 0]
        return _Output(mean, factor, inverse, precision, plain, rows, weight, sigma, slope)

    def _is_noisy(self, weight: Tensor | None, precision: Tensor) -> bool:
        """Whether A may be summed in float32, whose error has to stay far below the prior's part.

        It is about the sum of the rows' weights over the variances of their noise, times float32's
        precision.
        """
        total = self.whole.total_weight if weight is None else weight.sum(2).max()
        return bool(total * precision.max() < MOST_PRECISION)

    def _features(
        self, z: Tensor, chains: slice, params: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """What `_Output` has of the rows of X: its last five fields."""
        k = self.k
        key = (chains.start, len(z), z.shape[2])
        weighted = self._weight is not None or self.likelihood.heteroscedastic
        if key not in self._buffers:
            if chains.start == 0:
                self._buffers.clear()
            rows = z.new_empty((len(z), k + self.d, z.shape[2]))
            rows[:, :k] = _of(self.whole.y, chains)
            plain = z.new_empty((len(z), self.d, z.shape[2])) if weighted else rows[:, k:]
            plain[:, -1] = 1.0
            self._buffers[key] = plain, rows
        plain, rows = self._buffers[key]
        if self._scale != 1.0:
            z.mul_(self._scale)
        self.act.forward(z, plain[:, :-1])
        if not weighted:
            return plain, rows, None, None, None
        weight = None if self._weight is None else _of(self._weight, chains)
        sigma = slope = None
        if self.likelihood.heteroscedastic:
            raw = torch.bmm(params[:, None], plain)
            sigma, slope = self.likelihood.noise_and_slope(raw, 1)
            precision = sigma.reciprocal().square_()
            weight = precision if weight is None else weight * precision
        assert weight is not None
        torch.mul(plain, weight, out=rows[:, k:])
        rows[:, :k] = _of(self.whole.y, chains) * weight
        return plain, rows, weight, sigma, slope

    def _backward(self, found: _Output, z: Tensor) -> Tensor:
        r"""Derivative by the last hidden layer's input, written into z.

        With the residuals written out it is one product with the rows [y | hidden values | 1],

        .. math:: r m^T - \Phi A^{-1} = y m^T - \Phi (m m^T + A^{-1}).
        """
        k = self.k
        precision, mean = found.precision * self._unscale, found.mean
        second = torch.addcmul(found.inverse, mean[..., None], mean[:, :, None])
        small = z.new_empty((len(z), self.d - 1, k + self.d))
        small[:, :, :k] = (mean * precision[:, :, None]).mT[:, :-1]
        if k == 1:
            torch.mul(second[:, 0, :-1], -precision[:, :, None], out=small[:, :, 1:])
        else:
            small[:, :, k:] = (second[:, :, :-1] * -precision[:, :, None, None]).sum(1)
        by_h = torch.bmm(small, found.rows, out=None if self.act.keeps_input else z)
        saved = z if self.act.keeps_input else found.plain[:, :-1]
        self.act.backward(by_h, saved, z)
        return z

    def _backward_with_noise(
        self, found: _Output, z: Tensor, chains: slice, params: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""The same where the noise depends on the row, and the derivative by its weights v.

        With s the derivative by the rows' raw outputs,
        :math:`W (r m^T - \Phi A^{-1}) + s v^T` is made as a product with :math:`W \Phi`, of which
        the leverages :math:`\phi^T A^{-1} \phi` are by-products, and a correction of rank two.
        """
        assert found.weight is not None and found.sigma is not None and found.slope is not None
        mean = found.mean.to(z.dtype)
        inverse = found.inverse[:, 0].to(z.dtype)
        residuals = self._residuals(found, chains)
        by_features = torch.bmm(inverse * self._unscale, found.rows[:, 1:])
        leverage = (found.plain * by_features).sum(1, keepdim=True) / self._unscale
        weighted = residuals * found.weight
        slope = found.slope / found.sigma
        weight = 1.0 if self._weight is None else _of(self._weight, chains)
        by_raw = (residuals * weighted + leverage - weight) * slope
        pair = torch.cat([mean, params[:, None]], 1).mul_(self._unscale)
        torch.baddbmm(
            by_features, pair.mT, torch.cat([weighted, by_raw], 1), beta=-1.0, out=by_features
        )
        saved = z if self.act.keeps_input else found.plain[:, :-1]
        self.act.backward(by_features[:, :-1], saved, z)
        return z, torch.bmm(by_raw, found.plain.mT)[:, 0]

    def _residuals(self, found: _Output, chains: slice) -> Tensor:
        """Targets less their means at the mean of b, (chains, k, n)."""
        y = _of(self.whole.y, chains)
        return torch.baddbmm(y, found.mean.to(y.dtype), found.plain, alpha=-1.0)

    def _squares(self, found: _Output, chains: slice) -> Tensor:
        """Weighted sum of squared residuals at the mean, (chains, k)."""
        residuals = self._residuals(found, chains).double()
        weighted = residuals if found.weight is None else residuals * found.weight
        return torch.linalg.vecdot(residuals, weighted)

    def _value(self, found: _Output, squares: Tensor, chains: slice, own: Any) -> Tensor:
        """Log likelihood at the mean of b, its log prior, and the volume around it, (chains,)."""
        exponent = (found.mean**2 * self._output_precision).sum((1, 2))
        value = -0.5 * exponent - _half_log_det(found.factor)
        if found.sigma is None:
            return value + self.likelihood.finish(squares, own, self._total(chains))
        logs = found.sigma.double().log()
        if self._weight is not None:
            logs = logs * _of(self._weight, chains)
        total = self._total(chains)
        return value - 0.5 * squares[:, 0] - logs.sum((1, 2)) - 0.5 * LOG_2PI * total

    def _total(self, chains: slice) -> Tensor | float:
        """Sum of the rows' weights."""
        total = self.whole._total
        return _of(total, chains) if isinstance(total, Tensor) else total

    def _spread(self, found: _Output) -> Tensor:
        """What b's variance adds to the expected sum of squares, (chains, k)."""
        variance = found.inverse.diagonal(dim1=2, dim2=3)
        return (self.d - torch.linalg.vecdot(variance, self._output_precision)) / found.precision


class _Output(NamedTuple):
    """The posterior of b given all else; k outputs, d = units + 1 weights of each."""

    mean: Tensor  # (chains, k, d), float64
    factor: Tensor  # (chains, k, d, d), Cholesky's of the precision, float64
    inverse: Tensor  # (chains, k, d, d), the covariance, float64
    precision: Tensor  # (chains or 1, k), of the noise, float64
    plain: Tensor  # (chains, d, n), [hidden values | 1]
    rows: Tensor  # (chains, k + d, n), [y | hidden values | 1], all of it times weight
    weight: Tensor | None  # (chains or 1, 1, n), of a row, over the variance of its own noise
    sigma: Tensor | None  # (chains, 1, n), noise of the rows where it is not that of all
    slope: Tensor | None  # (chains, 1, n), its derivative by what the network gives for it


def _half_log_det(factor: Tensor) -> Tensor:
    """Half the log determinant of all precisions of a chain, (chains,)."""
    return factor.diagonal(dim1=2, dim2=3).log().sum((1, 2))


def _of(values: Tensor, chains: slice) -> Tensor:
    """The part of some chains, of values that may be the same for all."""
    return values if len(values) == 1 else values[chains]


def _joined(parts: list[Tensor]) -> list[Tensor]:
    """Blocks of chains put together, as a list of one."""
    return parts if len(parts) == 1 else [torch.cat(parts)]
