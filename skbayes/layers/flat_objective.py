"""The evidence lower bound from draws of flat theta, whose gradients the network has by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from skbayes.layers.objective import Bound
from skbayes.layers.variational import Noise

BASELINES = ("optimal", "mean", None)
"""See `FlatObjective`."""


class FlatObjective:
    r"""The bound of a family from several draws of theta at a time, which run as chains do.

    .. math:: \mathcal{L}(q) = \mathbb{E}_q \left[ \sum_i w_i \log p(y_i \mid x_i, \theta)
              + \log p(\theta) - \log q(\theta) \right]

    *By reparameterisation*, theta is a function of the trained parameters phi and of noise, and the
    integrand is differentiated along it. In log q only theta is differentiated and phi is not: the
    expectation of what is left out is zero, and where q is the posterior itself the gradient has no
    noise at all (Roeder, Wu and Duvenaud, 2017).

    *By the score function* (Williams, 1992; Ranganath, Gerrish and Blei, 2014, equation 2), only
    values of the integrand f are needed, which may jump:

    .. math:: \nabla_\phi \mathcal{L} = \mathbb{E}_q \left[ (f(\theta) - b)\,
              \nabla_\phi \log q(\theta) \right].

    Any baseline b that is independent of theta leaves the expectation alone and changes the
    variance. The baseline of a draw is made from the other draws: their mean f ("mean"; Mnih and
    Rezende, 2016), or for each entry of phi the coefficient of Ranganath et al. (2014,
    section 3.2) for the control variate :math:`h = \nabla_\phi \log q`, of mean zero ("optimal"):

    .. math:: b_j = \frac{\sum f h_j^2}{\sum h_j^2}.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of all data.
    family : Family
        q, with ``draw`` and ``log_prob``.
    noise : Noise
        Random numbers.
    n_samples : int
        Draws in an estimate.
    by_score : bool
        Whether by the score function.
    baseline : {"optimal", "mean", None}
        See above.
    """

    def __init__(
        self,
        log_posterior,
        family,
        noise: Noise,
        n_samples: int,
        by_score: bool = False,
        baseline: str | None = "mean",
    ) -> None:
        self.target, self.family, self.noise = log_posterior, family, noise
        self.n_samples, self.by_score, self.baseline = n_samples, by_score, baseline

    def __call__(self, part) -> Bound:
        """Estimate the bound from a minibatch, as `LogPosterior.minibatch` gives it."""
        if self.by_score:
            return self._by_score(part)
        theta = self.family.draw(self.n_samples, self.noise)
        fit = _Density.apply(theta, lambda at: _likelihood(part, at))
        kl = -_Density.apply(theta, self.target.log_prior_and_grad)
        with _fixed(self.family.leaves):
            log_q = self.family.log_prob(theta)
        return Bound(fit.mean(), (kl if log_q is None else kl + log_q).mean())

    def _by_score(self, part) -> Bound:
        leaves = self.family.leaves
        with torch.no_grad():
            theta = self.family.draw(self.n_samples, self.noise)
            fit = part.log_likelihood(theta)
            log_prior = self.target.log_prior_and_grad(theta)[0]
        log_q = self.family.log_prob(theta)
        kl = log_q.detach() - log_prior
        each = torch.eye(self.n_samples, dtype=log_q.dtype, device=log_q.device)
        # of every draw's log q by every leaf, (n_samples, *leaf)
        scores = torch.autograd.grad(log_q, leaves, each, is_grads_batched=True)
        return Bound(
            *(
                _with_gradient(f.mean(), leaves, [self._mean(f, score) for score in scores])
                for f in (fit, kl)
            )
        )

    def _mean(self, f: Tensor, score: Tensor) -> Tensor:
        """Estimate of E (f - b) score, in the shape of a leaf."""
        h = score.reshape(len(f), -1)
        f = f.to(h.dtype)[:, None]
        if self.baseline == "mean":
            f = f - (f.sum() - f) / (len(f) - 1)
        elif self.baseline == "optimal":
            square = h * h
            above, below = (f * square).sum(0) - f * square, square.sum(0) - square
            f = f - above / below.clamp_min(1e-30)
        return (f * h).mean(0).view(score.shape[1:])


class _Density(torch.autograd.Function):
    """A function of theta (n, n_params) with values (n,), which knows its gradient itself."""

    @staticmethod
    def forward(ctx, theta, function: Callable):
        value, grad = function(theta.detach())
        ctx.save_for_backward(grad.clone())  # it may be a buffer that is written over
        return value

    @staticmethod
    def backward(ctx, grad):
        own = ctx.saved_tensors[0]
        return grad[:, None].to(own.dtype) * own, None


def _likelihood(part, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Log likelihood without the prior, and its gradient."""
    value, grad = part.value_and_grad(theta)
    prior, by_prior = part.log_prior_and_grad(theta)
    return value - prior, grad - by_prior


def _with_gradient(value: Tensor, leaves: list[Tensor], grads: list[Tensor]) -> Tensor:
    """A number whose derivatives by the leaves are as given."""
    for leaf, grad in zip(leaves, grads, strict=True):
        value = value + ((leaf - leaf.detach()) * grad).sum()
    return value


@contextmanager
def _fixed(leaves: list[Tensor]):
    """Leave leaves out of what is differentiated."""
    for leaf in leaves:
        leaf.requires_grad_(False)
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)
