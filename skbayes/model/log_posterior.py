"""The log posterior of a network's weights: what every inference method works on."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skbayes.model.inputs import Inputs
from skbayes.model.likelihoods import Likelihood, Normal
from skbayes.model.priors import BoundPrior


@dataclass(frozen=True)
class Layout:
    """Names, shapes and meaning of the parts of theta, in numpy and plain Python.

    ``theta`` is [network | likelihood | hyper-parameters], all unconstrained.
    """

    network: object
    likelihood: Likelihood
    prior: BoundPrior

    @property
    def n_network(self) -> int:
        """Number of the network's parameters."""
        return self.network.n_params  # type: ignore[attr-defined]

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return self.n_network + self.likelihood.n_params + self.prior.n_hyper

    def split(self, theta):
        """Cut theta (..., n_params) into network, likelihood and hyper-parameter parts."""
        a, b = self.n_network, self.n_network + self.likelihood.n_params
        return theta[..., :a], theta[..., a:b], theta[..., b:]

    def weights(self, theta: np.ndarray) -> np.ndarray:
        """The network's weights (..., n_network) for theta (..., n_params)."""
        flat = torch.as_tensor(np.array(theta)).reshape(-1, theta.shape[-1])
        net, _, hyper = self.split(flat)
        return self.prior.weights(net, hyper).numpy().reshape(*theta.shape[:-1], self.n_network)

    def constrain(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Named values, each (..., *shape), for theta (..., n_params)."""
        lead = theta.shape[:-1]
        _, params, hyper = self.split(theta)
        weights = self.weights(theta)
        out: dict[str, np.ndarray] = {}
        start = 0
        for name, shape in self.network.parameters():  # type: ignore[attr-defined]
            size = int(np.prod(shape))
            out[name] = weights[..., start : start + size].reshape(*lead, *shape)
            start += size
        return {**out, **self.likelihood.constrain(params), **self.prior.constrain(hyper)}


class LogPosterior:
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
        self.layout = Layout(network, likelihood, prior)
        self._factor = 1.0  # rows that the sum stands for / rows in it
        self._anchor: Tensor | None = None  # (n_chains, n_params), see `perturbed`
        self._frozen = False  # whether the likelihood's own parameters are held fixed

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return self.layout.n_params

    @property
    def dtype(self) -> torch.dtype:
        """Float type of theta."""
        return self.inputs.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.inputs.device

    def __call__(self, theta: Tensor) -> Tensor:
        """Log posterior (n_chains,) in float64."""
        return self.log_likelihood(theta) + self._prior_terms(theta)[0]

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """Sum of the weighted log likelihood (n_chains,) in float64, without the prior."""
        net, params, hyper = self.layout.split(theta)
        outputs = self.network.forward(self.prior.weights(net, hyper), self.inputs)
        return self._factor * self.likelihood.value_and_grad(outputs, params, self.y, self.weight)[0]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior (n_chains,) in float64 and its gradient (n_chains, n_params)."""
        net, params, hyper = self.layout.split(theta)
        weights = self.prior.weights(net, hyper)
        likelihood = self.likelihood
        value = torch.zeros(theta.shape[0], dtype=torch.float64, device=theta.device)
        grad_params = torch.zeros_like(params)
        y, weight = self.y, self.weight

        def cotangent(outputs: Tensor, chains: slice, rows: slice) -> Tensor:
            targets = y[chains if y.shape[0] > 1 else slice(None), :, rows]
            w = None
            if weight is not None:
                w = weight[chains if weight.shape[0] > 1 else slice(None), rows]
            part, grad, by_params = likelihood.value_and_grad(outputs, params[chains], targets, w)
            value[chains] += part
            if likelihood.n_params:
                grad_params[chains] += by_params
            return grad

        by_weights = self.network.vjp(weights, self.inputs, cotangent)
        if self._factor != 1.0:
            by_weights *= self._factor
            grad_params *= self._factor
            value *= self._factor
        by_net, by_hyper = self.prior.pullback(net, hyper, by_weights)
        prior_value, prior_net, prior_params, prior_hyper = self._prior_terms(theta)
        value += prior_value
        if by_net.shape[1] == theta.shape[1]:  # nothing but the network in theta
            return value, by_net.add_(prior_net)
        if self._frozen:
            grad_params.zero_()
        else:
            grad_params += prior_params
        parts = [by_net.add_(prior_net), grad_params]
        if by_hyper is not None:
            parts.append(by_hyper + prior_hyper)
        return value, torch.cat(parts, 1)

    def _prior_terms(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log prior and its gradients by the three parts of theta."""
        if self._anchor is not None:
            theta = theta - self._anchor
        net, params, hyper = self.layout.split(theta)
        value, by_net, by_hyper = self.prior.log_prob_and_grad(net, hyper)
        by_params = params
        if self.likelihood.n_params and not self._frozen:
            more, by_params = self.likelihood.log_prior_and_grad(params)
            value = value + more
        return value, by_net, by_params, by_hyper

    # ------------------------------------------------------------------ copies

    def rows(self, index: np.ndarray) -> LogPosterior:
        """The same posterior on some of the rows only, for these rows' own sake.

        ``index`` is (batch,), or (n_chains, batch) for rows that differ from chain to chain.
        """
        out = copy.copy(self)
        out.inputs = self.inputs.take(index)
        out.y = _take(self.y, index)
        out.weight = None if self.weight is None else _take(self.weight, index)
        out.n = index.shape[-1]
        out._factor = 1.0
        return out

    def minibatch(self, index: np.ndarray) -> LogPosterior:
        """The unbiased copy: n / batch times the weighted sum over the rows of a minibatch.

        ``index`` is (batch,), or (n_chains, batch) for rows that differ from chain to chain.
        """
        out = self.rows(index)
        out._factor = self.n / index.shape[-1]
        out.n = self.n
        return out

    def perturbed(self, streams, noise_std: Tensor | None = None) -> LogPosterior:
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

        Returns
        -------
        LogPosterior
        """
        out = copy.copy(self)
        kw = {"dtype": self.dtype, "device": self.device}
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
        else:
            weight = streams.exponential(self.n, **kw)
            if self.weight is not None:
                # a row of weight w is w rows in one: the sum of w exponentials
                weight = streams.gamma(self.weight[0].cpu().numpy(), self.n, **kw)
            out.weight = weight
        return out

    def initial(self, streams) -> Tensor:
        """Starting points for an optimiser, (n_chains, n_params)."""
        kw = {"dtype": self.dtype, "device": self.device}
        net = self.prior.from_weights(self.network.initial(streams, **kw))
        params = self.likelihood.initial(streams.n_chains, **kw)
        hyper = torch.zeros((streams.n_chains, self.prior.n_hyper), **kw)
        return torch.cat([net, params, hyper], 1)

    def sample_prior(self, streams) -> Tensor:
        """Draws from the prior, one per chain, (n_chains, n_params)."""
        kw = {"dtype": self.dtype, "device": self.device}
        net, hyper = self.prior.sample(streams, **kw)
        return torch.cat([net, self.likelihood.sample_prior(streams, **kw), hyper], 1)


def _take(values: Tensor, index: np.ndarray) -> Tensor:
    """Columns of ``values`` (1 or n_chains, ..., n) by index (batch,) or (n_chains, batch)."""
    flat = torch.as_tensor(index, device=values.device)
    if index.ndim == 1:
        return values[..., flat]
    if values.shape[0] == 1:
        return values[0][..., flat].movedim(-2, 0).contiguous()
    chains = torch.arange(values.shape[0], device=values.device)[:, None]
    return values.movedim(1, -1)[chains, flat].movedim(-1, 1) if values.dim() == 3 else values[
        chains, flat
    ]
