"""Approximate stochastic Langevin Monte Carlo: Metropolis steps judged on the minibatch."""

from __future__ import annotations

import torch

from skbayes.inference.base import to_numpy
from skbayes.inference.stochastic import StochasticKernel, StochasticMethod


class SGLMC(StochasticMethod):
    r"""Langevin Monte Carlo with minibatches, accepted on the minibatch.

    .. math:: \theta' = \theta + \tfrac{\epsilon}{2} \hat\nabla \log p(\theta \mid D) + \eta,
              \qquad \eta \sim N(0, T \epsilon I),

    is accepted with the probability

    .. math:: \min\left(1, \exp\left(\frac{\hat\Delta}{T} + \log \frac{q(\theta \mid \theta')}
              {q(\theta' \mid \theta)} - \frac{\hat\sigma^2}{2 T^2}\right)\right),

    where the difference of the log posteriors :math:`\hat\Delta` and both densities q of the
    proposal are those of one minibatch. :math:`\hat\sigma^2`, the variance of that difference over
    minibatches, is estimated from the rows' own differences (the penalty method of Ceperley and
    Dewing, 1999): were the noise normal and its variance known, its term would make the test exact.

    It is **not** exact, whatever the number of draws, and says so in a warning: the variance is an
    estimate, and the proposal knows the minibatch that judges it. Nor does it scale: the steps must
    be so small that the variance stays near one, or nothing is accepted. It is here to be compared
    with.

    Parameters
    ----------
    n_chains, n_warmup, n_draws, batch_size, temperature, control_variates, init : object
        See `SGLD`; control variates reduce the noise of the proposal's gradients only.
    n_steps : int or None, default=None
        Steps per iteration; None is a pass over the data, at least 100, at most 1,000.
    learning_rate : float or None, default=None
        epsilon times the weight n of the rows. None is a fiftieth of the inverse of the mean loss's
        largest curvature at each chain's start, times 2 batch / n where that is less than one.
    """

    can_stream = True
    safe_rate = 0.02

    def __init__(
        self,
        n_chains=4,
        n_warmup=50,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        learning_rate=None,
        temperature=1.0,
        control_variates=False,
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.control_variates = control_variates
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._positive("temperature")

    def _kernel(self, log_posterior, theta):
        return _SGLMCKernel(self, log_posterior, theta)


class _SGLMCKernel(StochasticKernel):
    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        if self.batch_size < log_posterior.n:
            self.messages.append(
                "sglmc accepts by minibatches: its draws do not converge to the posterior, however "
                "many there are. For exact draws take method='mala' or 'hmc', or batch_size=n."
            )

    def move(self, streams, epsilon):
        heat, index = self.method.temperature, self.batch(streams)
        target = self.source if index is None else self.source.minibatch(index)
        here = self.theta
        grad = self.gradient(index, here)
        there = self.normal(streams) * (heat * epsilon).sqrt() + here + 0.5 * epsilon * grad
        back = self.gradient(index, there)
        change = target(there) - target(here)
        forward = ((there - here - 0.5 * epsilon * grad) ** 2).sum(1, dtype=torch.float64)
        backward = ((here - there - 0.5 * epsilon * back) ** 2).sum(1, dtype=torch.float64)
        error = change / heat + (forward - backward) / (2.0 * heat * epsilon[:, 0])
        if index is not None:
            rows = (target.pointwise(there) - target.pointwise(here)).double()
            variance = rows.var(1) * self.log_posterior.n**2 / self.batch_size
            error = error - 0.5 * variance / heat**2
        error = torch.nan_to_num(error, nan=-torch.inf, posinf=-torch.inf)
        uniform = streams.uniform(1, device=here.device)[:, 0]
        self.theta = torch.where((torch.log(uniform) < error)[:, None], there, here)
        return {"acceptance": to_numpy(error.clamp_max(0.0).exp())}
