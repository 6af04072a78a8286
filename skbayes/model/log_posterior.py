"""The log posterior of a network's weights: what every inference method works on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.model.curvature import gauss_newton
from skbayes.model.inputs import Inputs
from skbayes.model.layout import Layout
from skbayes.model.likelihoods import Likelihood, Normal
from skbayes.model.priors import BoundPrior


class Density:
    """What samplers ask of their target: a log density and its gradient, for all chains at once."""

    inputs: Inputs

    @property
    def dtype(self) -> torch.dtype:
        """Float type of theta."""
        return self.inputs.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.inputs.device

    def grad(self, theta: Tensor) -> Tensor:
        """Gradient (n_chains, n_params) of the log posterior, a little cheaper than with value."""
        return self._evaluate(theta, with_value=False)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior (n_chains,) in float64 and its gradient (n_chains, n_params)."""
        value, grad = self._evaluate(theta, with_value=True)
        assert value is not None
        return value, grad

    def _evaluate(self, theta: Tensor, with_value: bool) -> tuple[Tensor | None, Tensor]:
        """Value, unless it is not asked for, and gradient."""
        raise NotImplementedError("abstract")


class LogPosterior(Density):
    r"""Log likelihood plus log prior of the full data, summed, for many chains at once.

    .. math:: \log p(\theta \mid D) = \sum_i w_i \log p(y_i \mid x_i, \theta) + \log p(\theta)
              + \text{const}

    Parameters
    ----------
    network : MLPNetwork
        Maps weights and rows to outputs.
    likelihood : Likelihood
        Maps outputs to the log density of the targets.
    prior : BoundPrior
        Log density of the weights and the hyper-parameters.
    inputs : Inputs
        Rows of X.
    y : Tensor of shape (1 or n_chains, n_targets, n)
        Targets, as the likelihood wants them.
    weight : Tensor of shape (1 or n_chains, n) or None
        Weights of the rows in the sum above; None are ones.

    Attributes
    ----------
    n : int
        Number of rows that the sum stands for.
    total_weight : float
        Sum of their weights: how many rows the data amount to.
    layout : Layout
        Names and shapes of theta's parts.
    """

    def __init__(
        self,
        network,
        likelihood: Likelihood,
        prior: BoundPrior,
        inputs: Inputs,
        y: Tensor,
        weight: Tensor | None = None,
    ) -> None:
        self.network = network
        self.likelihood = likelihood
        self.prior = prior
        self.inputs = inputs
        self.y = y
        self.weight = weight
        self.n = inputs.n
        self.total_weight = float(inputs.n if weight is None else weight[0].double().sum())
        self.layout = Layout(network, likelihood, prior)
        self._power = 1.0  # of the likelihood, see `with_power`
        self._factor = 1.0  # that, times rows that the sum stands for / rows in it
        self._anchor: Tensor | None = None  # (n_chains, n_params), see `perturbed`
        self._constants: tuple[Tensor, ...] | None = None  # of a likelihood without parameters
        self._weight_sum: Tensor | None = None
        self._empty: Tensor | None = None  # (n_chains, 0), the parts that theta does not have
        self._frozen = False  # whether the likelihood's own parameters are held fixed

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return self.layout.n_params

    @property
    def factor(self) -> float:
        """What the sum over rows is multiplied by: rows that it stands for / rows in it.

        (And the power of the likelihood, where it has one.)
        """
        return self._factor

    def seen(self, theta: Tensor) -> None:
        """Be told of theta by a method that does not ask for gradients there; see callbacks."""

    @property
    def anchor(self) -> Tensor | None:
        """Each chain's own centre of the prior, (n_chains, n_params), see `perturbed`."""
        return self._anchor

    @property
    def _total(self) -> Tensor | float:
        """Sum of the rows' weights, a number or (n_chains,)."""
        if self.weight is None:
            return float(self.inputs.n)
        if self._weight_sum is None:
            self._weight_sum = self.weight.sum(1, dtype=torch.float64)
        return self._weight_sum

    def __call__(self, theta: Tensor) -> Tensor:
        """Log posterior (n_chains,) in float64."""
        return self.log_likelihood(theta) + self._prior_terms(theta)[0]

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """Sum of the weighted log likelihood (n_chains,) in float64, without the prior."""
        own = self.likelihood.at(self.layout.split(theta)[1])
        value = self.likelihood.finish(self.statistic(theta), own, self._total)
        return self._factor * value

    def pointwise(self, theta: Tensor, weighted: bool = True) -> Tensor:
        """Log likelihood of every row, (n_chains, n), times the rows' weights unless told."""
        net, params, hyper = self.layout.split(theta)
        outputs = self.network.forward(self.prior.weights(net, hyper), self.inputs)
        logs = self.likelihood.pointwise(outputs, params, self.y)
        return logs if self.weight is None or not weighted else logs * self.weight

    def statistic(self, theta: Tensor) -> Tensor:
        """The likelihood's statistic summed over all rows, (n_chains, k) in float64."""
        net, _, hyper = self.layout.split(theta)
        outputs = self.network.forward(self.prior.weights(net, hyper), self.inputs)
        weight = None if self.weight is None else self.weight[:, None]
        return self.likelihood.statistic(outputs, self.y, weight)

    def without(self, held: np.ndarray) -> LogPosterior:
        """The same posterior with some rows left out: ``held`` (n_chains, n) is true for them."""
        out = copy.copy(self)
        keep = torch.as_tensor(~held, dtype=self.dtype, device=self.device)
        out.weight = keep if self.weight is None else self.weight * keep
        out._weight_sum = out._constants = None
        return out

    def with_power(self, power: float) -> LogPosterior:
        """The same posterior with every row counted ``power`` times."""
        out = copy.copy(self)
        out._power *= power
        out._factor *= power
        out.total_weight *= power
        return out

    def log_prior_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log prior (n_chains,) in float64 and its gradient (n_chains, n_params)."""
        value, *parts = self._prior_terms(theta)
        return value, torch.cat(parts, 1)

    def _evaluate(self, theta: Tensor, with_value: bool) -> tuple[Tensor | None, Tensor]:
        net, params, hyper = self._split(theta)
        likelihood, n = self.likelihood, self.inputs.n
        weight = None if self.weight is None else self.weight[:, None]
        prepared, own = self._constants, likelihood.at(params)
        if prepared is None:
            prepared = likelihood.prepare(own, self.y, weight)
            if not likelihood.n_params:
                self._constants = prepared
        statistics: list[tuple[slice, Tensor]] = []
        with_statistic = with_value or likelihood.n_params > 0
        n_chains = theta.shape[0]

        def cotangent(outputs: Tensor, chains: slice, rows: slice) -> Tensor:
            whole = rows.stop - rows.start == n and chains.stop - chains.start == n_chains
            if with_statistic:
                y, w = self.y, weight
                if not whole:
                    y, w = _cut(y, chains, rows), None if w is None else _cut(w, chains, rows)
                statistics.append((chains, likelihood.statistic(outputs, y, w)))
            if whole:
                return likelihood.gradient(outputs, *prepared)
            return likelihood.gradient(outputs, *[_cut(part, chains, rows) for part in prepared])

        weights = self.prior.weights(net, hyper)
        by_weights = self.network.vjp(weights, self.inputs, cotangent)
        if self._factor != 1.0:
            by_weights *= self._factor
        by_net, by_hyper = self.prior.pullback(net, hyper, by_weights)
        statistic = _add_up(statistics) if with_statistic else params
        value: Any = None
        if with_value:
            value = self._factor * likelihood.finish(statistic, own, self._total)
        if net is theta and self._anchor is None:
            more, grad = self.prior.log_prob_and_grad(net, hyper, by_net, with_value)[:2]
            return (value + more if with_value else None), grad
        more, grad_net, prior_params, prior_hyper = self._prior_terms(theta, by_net)
        if with_value:
            value = value + more
        parts = [grad_net]
        if self._frozen:
            parts.append(torch.zeros_like(params))
        elif likelihood.n_params:
            by_params = likelihood.params_gradient(statistic, own, self._total)
            parts.append(by_params.mul_(self._factor).add_(prior_params).to(params.dtype))
        if by_hyper is not None:
            parts.append(prior_hyper + by_hyper)
        return value, torch.cat(parts, 1) if len(parts) > 1 else grad_net

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`Layout.split`, which makes the empty parts of a plain network's theta once only."""
        if self.layout.n_network != self.layout.n_params:
            return self.layout.split(theta)
        if self._empty is None or self._empty.shape[0] != theta.shape[0]:
            self._empty = theta.new_empty((theta.shape[0], 0))
        return theta, self._empty, self._empty

    def _prior_terms(
        self, theta: Tensor, plus: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log prior and its gradients by theta's parts, to the first of which ``plus`` is added."""
        if self._anchor is not None:
            theta = theta - self._anchor
        net, params, hyper = self.layout.split(theta)
        value, by_net, by_hyper = self.prior.log_prob_and_grad(net, hyper, plus)
        if not self.likelihood.n_params or self._frozen:
            return value, by_net, torch.zeros_like(params), by_hyper
        more, by_params = self.likelihood.log_prior_and_grad(params)
        return value + more, by_net, by_params, by_hyper

    # ------------------------------------------------------------------ copies

    def rows(self, index: np.ndarray) -> LogPosterior:
        """The same posterior on some of the rows only, for these rows' own sake.

        ``index`` is (batch,), or (n_chains, batch) for rows that differ from chain to chain.
        """
        out = copy.copy(self)
        out.inputs = self.inputs.take(index)
        out.y = _take(self.y, index)
        out.weight = None if self.weight is None else _take(self.weight, index)
        out._weight_sum = out._constants = None
        out.n = index.shape[-1]
        out._factor = self._power
        return out

    def subset(self, index: np.ndarray) -> LogPosterior:
        """The posterior given some of the rows only, index (m,)."""
        out = self.rows(index)
        total = out.n if out.weight is None else out.weight[0].double().sum()
        out.total_weight = self._power * float(total)
        return out

    def minibatch(self, index: np.ndarray) -> LogPosterior:
        """The unbiased copy: n / batch times the weighted sum over the rows of a minibatch.

        ``index`` is (batch,), or (n_chains, batch) for rows that differ from chain to chain.
        """
        out = self.rows(index)
        out._factor = self._power * self.n / index.shape[-1]
        out.n = self.n
        return out

    def given(self, prior: BoundPrior) -> LogPosterior:
        """The same posterior with another prior, and the likelihood's own parameters held fixed.

        These have a gradient of zero and no prior, so that the density is that of the weights. The
        prior of a perturbed copy is centred at zero again.
        """
        out = self.with_prior(prior)
        out._anchor = None
        out._frozen = self.likelihood.n_params > 0
        return out

    def with_prior(self, prior: BoundPrior) -> LogPosterior:
        """The same posterior with another prior."""
        out = copy.copy(self)
        out.prior = prior
        out.layout = Layout(self.network, self.likelihood, prior)
        return out

    def gauss_newton(self, theta: Tensor, hessian: str, last_layer: bool = False):
        """Curvature of the log likelihood in the weights, see `skbayes.model.curvature`.

        ``theta`` is (n_params,).
        """
        return gauss_newton(self, theta, hessian, last_layer)

    def perturbed(
        self, streams, noise_std: Tensor | None = None, bootstrap: bool = True
    ) -> LogPosterior:
        r"""The anchored copy: every chain with its own noisy data, around its own prior draw.

        With normal noise of known deviation, y becomes y + noise, so that on a model that is
        linear in its weights and has a normal prior each mode is an exact draw from the posterior
        (Papandreou and Yuille, 2010; for networks Pearce et al., 2020, who move the prior's centre
        and leave y alone, which is too narrow). With any other likelihood the rows get
        exponential weights (Newton and Raftery, 1994). The prior is centred on the chain's draw
        from it.

        Parameters
        ----------
        streams : Streams
            One random stream per chain.
        noise_std : Tensor of shape (n_chains, n_outputs) or None
            Standard deviation of the noise where it is learned; the likelihood's parameters are
            then held fixed.
        bootstrap : bool, default=True
            Whether rows get exponential weights where the noise is not of this kind.

        Returns
        -------
        LogPosterior
        """
        out = copy.copy(self)
        out._constants = None
        kw: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        net, hyper = self.prior.sample(streams, **kw)
        params = self.likelihood.initial(streams.n_chains, **kw)
        out._anchor = torch.cat([net, params, hyper], 1)
        likelihood = self.likelihood
        if isinstance(likelihood, Normal) and not likelihood.heteroscedastic:
            out._frozen = likelihood.learned
            if noise_std is None:
                noise_std = torch.as_tensor(likelihood.noise, **kw).view(1, -1)
            noise = streams.normal(*self.y.shape[1:], **kw) * noise_std[:, :, None].to(self.dtype)
            if self.weight is not None:
                # a row of weight w is w rows in one: its noise is smaller by the root of w
                w = self.weight[:, None, :]
                noise = torch.where(w > 0, noise * torch.rsqrt(w.clamp_min(1e-30)), 0.0)
            out.y = self.y + noise
        elif bootstrap:
            weight = streams.exponential(self.n, **kw)
            if self.weight is not None:
                # a row of weight w is w rows in one: the sum of w exponentials
                weight = streams.gamma(self.weight[0].cpu().numpy(), self.n, **kw)
            out.weight, out._weight_sum = weight, None
        return out

    def initial(self, streams) -> Tensor:
        """Starting points for an optimiser, (n_chains, n_params)."""
        kw: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        net = self.prior.from_weights(self.network.initial(streams, **kw))
        params = self.likelihood.initial(streams.n_chains, **kw)
        hyper = torch.zeros((streams.n_chains, self.prior.n_hyper), **kw)
        return torch.cat([net, params, hyper], 1)

    def sample_prior(self, streams) -> Tensor:
        """Draws from the prior, one per chain, (n_chains, n_params)."""
        kw: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        net, hyper = self.prior.sample(streams, **kw)
        return torch.cat([net, self.likelihood.sample_prior(streams, **kw), hyper], 1)


def _add_up(statistics: list[tuple[slice, Tensor]]) -> Tensor:
    """Sum the statistics of blocks over rows and put the chains in order, (n_chains, k)."""
    if len(statistics) == 1:
        return statistics[0][1]
    sums: dict[int, Tensor] = {}
    for chains, statistic in statistics:
        known = sums.get(chains.start)
        sums[chains.start] = statistic if known is None else known + statistic
    return torch.cat([sums[start] for start in sorted(sums)])


def _cut(values: Tensor, chains: slice, rows: slice) -> Tensor:
    """A block of an array (1 or n_chains, ..., 1 or n)."""
    if values.shape[0] > 1:
        values = values[chains]
    return values[..., rows] if values.shape[-1] > 1 else values


def _take(values: Tensor, index: np.ndarray) -> Tensor:
    """Columns of ``values`` (1 or n_chains, ..., n) by index (batch,) or (n_chains, batch)."""
    flat = torch.as_tensor(index, device=values.device)
    if index.ndim == 1:
        return values[..., flat]
    if values.shape[0] == 1:
        rows = values[0].movedim(-1, 0).contiguous()  # (n, ...); else much slower
        picked = rows.index_select(0, flat.reshape(-1)).view(*index.shape, *rows.shape[1:])
        return picked.movedim(1, -1).contiguous()  # (n_chains, ..., batch)
    chains = torch.arange(values.shape[0], device=values.device)[:, None]
    return (
        values.movedim(1, -1)[chains, flat].movedim(-1, 1)
        if values.dim() == 3
        else values[chains, flat]
    )
