"""Stochastic-gradient Hamiltonian Monte Carlo, with fixed friction and with a thermostat."""

from __future__ import annotations

import torch

from skbayes.inference.stochastic import StochasticKernel, StochasticMethod


class SGHMC(StochasticMethod):
    r"""Stochastic-gradient Hamiltonian Monte Carlo, Chen, Fox and Guestrin (2014), equation 15.

    .. math:: v \leftarrow (1 - \alpha) v + \eta \hat\nabla \log p(\theta \mid D)
              + N(0, 2 (\alpha T - \hat\beta) \eta), \qquad \theta \leftarrow \theta + v,

    with eta = ``learning_rate`` / n. The noise of the gradients, of variance V per parameter, heats
    the particle as much as :math:`\hat\beta = \eta V / 2` of the friction cools it. V is estimated
    as the chain runs from the two halves of every minibatch, whose gradients differ by their noise
    alone: V is a quarter of the mean of that difference squared. (The paper leaves the estimate
    open and takes zero in practice.) Where the gradients alone heat more than the friction cools,
    no noise is added, and the draws are too wide: lower the rate, or raise friction or batch.

    Parameters
    ----------
    n_chains, n_warmup, n_draws, batch_size, temperature, control_variates, init : object
        See `SGLD`.
    n_steps : int or None, default=None
        Steps per iteration; None is a pass over the data, at least 100, at most 1,000.
    learning_rate : float or None, default=None
        As of gradient descent with momentum on the mean loss per row. None is a twentieth of the
        inverse of the mean loss's largest curvature at each chain's start, times 2 batch / n where
        that is less than one, as in `SGLD`.
    friction : float, default=0.1
        The number alpha: one less the momentum of such a descent.
    noise_correction : bool, default=True
        Whether V is estimated; without, it counts as zero.
    """

    can_stream = True
    safe_rate = 0.05

    def __init__(
        self,
        n_chains=4,
        n_warmup=50,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        learning_rate=None,
        friction=0.1,
        noise_correction=True,
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
        self.friction = friction
        self.noise_correction = noise_correction
        self.temperature = temperature
        self.control_variates = control_variates
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("friction", kind=(int, float), low=0, high=1, above=True)
        self._choice("noise_correction", (True, False))

    def _kernel(self, log_posterior, theta):
        return _SGHMCKernel(self, log_posterior, theta)


class SGNHT(StochasticMethod):
    r"""Stochastic-gradient Nose-Hoover thermostat, Ding et al. (2014), algorithm 2.

    .. math:: v \leftarrow (1 - \xi) v + \eta \hat\nabla \log p(\theta \mid D)
              + N(0, 2 \alpha \eta T), \qquad \theta \leftarrow \theta + v, \qquad
              \xi \leftarrow \xi + r \left(\left(1 - \frac{\xi}{2}\right) \frac{v^T v}{\eta d}
              - T\right)

    The friction xi, which starts at alpha, rises while the particle is hotter than T and falls
    while it is colder, so that noise of the gradients needs no estimate, as long as it is alike in
    all parameters. (The paper has r = eta, that is, a thermostat of inertia one; the stationary
    density of theta does not depend on it, and with eta of the order 1 / n it would never answer.
    Nor has it the factor 1 - xi / 2: in steps of finite length velocities are hotter than positions
    by its inverse, and positions are what is asked for.)

    Parameters
    ----------
    n_chains, n_warmup, n_draws, batch_size, temperature, control_variates, init : object
        See `SGLD`.
    n_steps, learning_rate : object
        See `SGHMC`.
    friction : float, default=0.1
        The number alpha.
    thermostat_rate : float, default=0.01
        The number r.
    """

    can_stream = True
    safe_rate = 0.05

    def __init__(
        self,
        n_chains=4,
        n_warmup=50,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        learning_rate=None,
        friction=0.1,
        thermostat_rate=0.01,
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
        self.friction = friction
        self.thermostat_rate = thermostat_rate
        self.temperature = temperature
        self.control_variates = control_variates
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("friction", kind=(int, float), low=0, high=1, above=True)
        self._positive("thermostat_rate")

    def _kernel(self, log_posterior, theta):
        return _SGNHTKernel(self, log_posterior, theta)


class _SGHMCKernel(StochasticKernel):
    names = ("velocity", "variance")

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        self.velocity = torch.zeros_like(theta)
        self.variance = torch.zeros_like(theta)  # of the stochastic gradient, from the start on

    def move(self, streams, epsilon):
        method, index = self.method, self.batch(streams)
        if index is not None and method.noise_correction and self.batch_size > 1:
            half = self.batch_size // 2
            first, second = (
                self.gradient(part, self.theta) for part in (index[:, :half], index[:, -half:])
            )
            grad = 0.5 * (first + second)
            rate = max(0.01, 1.0 / (self.t + 1))
            self.variance = torch.lerp(self.variance, (0.5 * (first - second)) ** 2, rate)
        else:
            grad = self.gradient(index, self.theta)
        heat = method.friction * method.temperature
        left = (heat - 0.5 * epsilon * self.variance).clamp_min_(0.0)
        noise = self.normal(streams) * (2.0 * epsilon * left).sqrt_()
        self.velocity = noise.add_(self.velocity, alpha=1.0 - method.friction)
        self.velocity.addcmul_(epsilon, grad)
        self.theta = self.theta + self.velocity


class _SGNHTKernel(StochasticKernel):
    names = ("velocity", "friction")

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        self.velocity = torch.zeros_like(theta)
        self.friction = torch.full_like(theta[:, :1], method.friction)

    def move(self, streams, epsilon):
        method = self.method
        if self.t == 0:  # at the temperature, so that the thermostat need not warm it up
            self.velocity = self.normal(streams) * (epsilon * method.temperature).sqrt_()
        grad = self.gradient(self.batch(streams), self.theta)
        noise = self.normal(streams)
        noise *= (2.0 * method.friction * epsilon * method.temperature).sqrt_()
        self.velocity = noise.addcmul_(1.0 - self.friction, self.velocity).addcmul_(epsilon, grad)
        self.theta = self.theta + self.velocity
        heat = (self.velocity**2).mean(1, keepdim=True) / epsilon
        heat = heat * (1.0 - 0.5 * self.friction) - method.temperature
        self.friction = self.friction + method.thermostat_rate * heat
