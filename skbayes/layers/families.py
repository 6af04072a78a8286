"""Approximate posteriors: what turns variational parameters into moments of theta."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from skbayes.layers.kl import LOG_2PI, entropy_normal
from skbayes.layers.passes import Units
from skbayes.layers.variational import Noise


class Family:
    """A family of distributions q over theta, with the parameters that are trained.

    theta is [network | likelihood | hyper-parameters]. Given factors of units, where a family has
    them, all of theta is independent and normal.

    Attributes
    ----------
    leaves : list of Tensor
        What is trained; each has ``requires_grad``.
    """

    leaves: list[Tensor]

    draws_others = True
    """Whether parameters that are not of a variational layer are random too."""

    def project(self) -> None:
        """Bring the leaves back to where they may be; called after every step."""

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of theta, each (n_params,), differentiable."""
        raise NotImplementedError("abstract")

    def units(self, n: int, noise: Noise) -> Units | None:
        """Factors of units and channels for n rows, see `VariationalNetwork.forward`."""
        return None

    def kl(self, mean: Tensor, var: Tensor, noise: Noise) -> Tensor:
        """KL(q || prior), a number, differentiable; ``mean`` and ``var`` are what `moments` gave.

        Where it has no closed form, an estimate without bias.
        """
        raise NotImplementedError("abstract")

    def given(self, mean: Tensor, var: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the network's weights, (n_network,), given hyper-parameters (n_hyper,)."""
        return mean, var

    def centre(self) -> Tensor:
        """The mean of theta, (n_params,)."""
        raise NotImplementedError("abstract")

    def sample(self, n: int, noise: Noise) -> Tensor:
        """Independent draws of theta, (n, n_params)."""
        raise NotImplementedError("abstract")


class MeanField(Family):
    r"""Independent normals.

    .. math:: q(\theta) = \prod_j N(\theta_j \mid m_j, e^{l_j})

    The trained parameters are m and l, the logarithm of the variance.

    Parameters
    ----------
    log_posterior : LogPosterior
        Says what theta is, and has the prior.
    mean : Tensor of shape (n_params,)
        Where to start.
    init_scale : float
        Starting deviation, as a share of 1 / sqrt(fan-in) for weights and of one for all else.

    Attributes
    ----------
    mean, log_var : Tensor of shape (n_params,)
        The above.
    """

    def __init__(self, log_posterior, mean: Tensor, init_scale: float) -> None:
        self.layout, self.prior = log_posterior.layout, log_posterior.prior
        self.likelihood = log_posterior.likelihood
        std = starting_deviation(log_posterior, init_scale, mean)
        self.mean = mean.detach().clone().requires_grad_()
        self.log_var = std.log().mul_(2.0).requires_grad_()
        self.leaves = [self.mean, self.log_var]
        self._is_mapped = self.prior.n_hyper > 0 or _maps(self.prior)

    def moments(self):
        """See `Family.moments`."""
        return self.mean, self.log_var.exp()

    def given(self, mean, var, hyper):
        """See `Family.given`."""
        if not self._is_mapped:
            return mean, var
        # weights are linear in theta's network part
        hyper = hyper[None]
        return (
            self.prior.weights(mean[None], hyper)[0],
            self.prior.weights(var.sqrt()[None], hyper)[0] ** 2,
        )

    def kl(self, mean, var, noise):
        """See `Family.kl`."""
        out = self.likelihood.kl(*(self.layout.split(part[None])[1] for part in (mean, var)))
        return (out + prior_kl(self.prior, self.layout, mean, var, noise)).sum()

    def centre(self):
        """See `Family.centre`."""
        return self.mean.detach()

    def sample(self, n, noise):
        """See `Family.sample`."""
        return self.draw(n, noise).detach()

    def draw(self, n: int, noise: Noise) -> Tensor:
        """Draws of theta, (n, n_params), differentiable."""
        mean, var = self.moments()
        return torch.addcmul(mean, var.sqrt(), noise.normal(n, len(mean), like=mean))

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log density of draws (n,), differentiable by them and by the leaves."""
        mean, var = self.moments()
        logs = (theta - mean) ** 2 / var + self.log_var + LOG_2PI
        return -0.5 * logs.sum(1)


def starting_deviation(log_posterior, share: float, like: Tensor) -> Tensor:
    """Deviations (n_params,): a share of 1 / sqrt(fan-in) for weights, and of one for all else."""
    network, prior = log_posterior.network, log_posterior.prior
    std = np.ones(network.n_params)
    for layer in network.layers:
        std[layer.weight] = 1.0 / math.sqrt(layer.fan_in)
    of_weights = prior.from_weights(
        torch.as_tensor(std, dtype=like.dtype, device=like.device)[None]
    )
    out = torch.ones_like(like)
    out[: network.n_params] = of_weights[0].abs()
    return share * out


def prior_kl(prior, layout, mean: Tensor, var: Tensor, noise: Noise) -> Tensor:
    r"""KL of independent normals from a prior over weights and hyper-parameters, a number.

    With h a draw of the hyper-parameters, its estimate is

    .. math:: \text{KL}(q(w) \,\|\, p(w \mid h)) + \text{KL}(q(h) \,\|\, p(h)),

    where the first term has a closed form (the second has; without hyper-parameters all is exact),
    and

    .. math:: -H(q(w)) - H(q(h)) - \log p(w, h)

    with a draw w too where it has none (Blundell et al., 2015, section 3.2, draw the entropy as
    well).
    """
    net, _, hyper = layout.split(mean[None])
    net_var, _, hyper_var = layout.split(var[None])
    drawn = noise.draw(hyper, hyper_var) if hyper.shape[1] else hyper
    closed = prior.kl(net, net_var, drawn)
    if closed is not None:
        return (closed + prior.hyper_kl(hyper, hyper_var)).sum()
    log_prior = _LogPrior.apply(noise.draw(net, net_var), drawn, prior)
    return -entropy_normal(net_var).sum() - entropy_normal(hyper_var).sum() - log_prior.sum()


def _maps(prior) -> bool:
    """Whether a prior's theta is something else than the weights."""
    one = torch.ones((1, len(prior.scales)), dtype=torch.float64)
    hyper = torch.zeros((1, prior.n_hyper), dtype=torch.float64)
    return not torch.equal(prior.weights(one, hyper), one)


class _LogPrior(torch.autograd.Function):
    """The log density of a prior, whose gradient it has itself."""

    @staticmethod
    def forward(ctx, net, hyper, prior):
        value, by_net, by_hyper = prior.log_prob_and_grad(net.detach(), hyper.detach())
        ctx.save_for_backward(by_net, by_hyper)
        return value.to(net.dtype)

    @staticmethod
    def backward(ctx, grad):
        by_net, by_hyper = ctx.saved_tensors
        return grad[:, None] * by_net, grad[:, None] * by_hyper, None
