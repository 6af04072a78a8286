"""Stochastic-gradient Langevin dynamics, plain and preconditioned."""

from __future__ import annotations

import numpy as np

from skbayes.inference.stochastic import StochasticKernel, StochasticMethod


class SGLD(StochasticMethod):
    r"""Stochastic-gradient Langevin dynamics, Welling and Teh (2011), equations 2 and 4.

    .. math:: \theta_{t+1} = \theta_t + \tfrac{\epsilon_t}{2} \hat\nabla \log p(\theta_t \mid D)
              + \eta_t, \qquad \eta_t \sim N(0, T \epsilon_t I), \qquad
              \epsilon_t = \tfrac{a}{n} (1 + t / b)^{-\gamma}

    with the gradient of n / batch times a minibatch's log likelihood plus the log prior. With
    gamma in (1/2, 1] the step sizes have an infinite sum and a finite sum of squares, for which
    averages of the draws, weighted by step size, converge to those of the posterior. Draws are
    taken at equal steps of the sum of step sizes, so that they weigh the same. A constant step
    (``decay=0``) has a bias of first order in it, and no end to its progress.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=50
        Iterations that are thrown away.
    n_draws : int, default=50
        Draws kept per chain, one per iteration.
    n_steps : int or None, default=None
        Steps of the first iteration; where step sizes fall, later ones take more, so that all
        advance the sum of step sizes by the same. None is a pass over the data, at least 100 and at
        most 1,000.
    batch_size : int or None, default=None
        Rows per step, drawn anew for every chain; None is 200, or all where there are fewer.
    learning_rate : float or None, default=None
        The number a: the first step, as one of gradient descent on the mean loss per row (whose
        drift is half of it, as the equation has it). None is a
        fifth of the inverse of the mean loss's largest curvature at each chain's start, times
        2 batch / n where that is less than one (not with control variates): larger steps let the
        noise of minibatches widen the draws.
    decay : float, default=0.55
        The exponent gamma; 0 keeps the step constant.
    decay_steps : int or None, default=None
        The number b of steps after which the decay sets in; None is as many as the warm-up would
        take without it, or an iteration where there is none. The steps that an iteration takes grow
        with the time that has passed, the more so the smaller b and the larger gamma are.
    temperature : float, default=1.0
        T: draws are from the posterior to the power 1 / T.
    control_variates : bool, default=False
        Whether the noise of the gradients is reduced by those at the chains' starting points,
        which should be modes (``init=MAP()``), at twice the gradients per step (Baker, Fearnhead,
        Fox and Nemeth, 2019).
    init : Method, "prior" or None, default=None
        Where chains start: see `HMC`.
    """

    can_stream = True

    def __init__(
        self,
        n_chains=4,
        n_warmup=50,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        learning_rate=None,
        decay=0.55,
        decay_steps=None,
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
        self.decay = decay
        self.decay_steps = decay_steps
        self.temperature = temperature
        self.control_variates = control_variates
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("decay", kind=(int, float), low=0, high=1)
        self._require("decay_steps", or_in=(None,))

    def _kernel(self, log_posterior, theta):
        return _SGLDKernel(self, log_posterior, theta)


class PSGLD(SGLD):
    r"""Preconditioned SGLD, Li, Chen, Carlson and Carin (2016), algorithm 1.

    With g the gradient divided by the weight n of the rows,

    .. math:: V \leftarrow \alpha V + (1 - \alpha)\, g^2, \qquad
              G = \frac{1}{\lambda + \sqrt{V}},

    .. math:: \theta \leftarrow \theta + \tfrac{\epsilon_t}{2} G \hat\nabla \log p(\theta \mid D)
              + \eta_t, \qquad \eta_t \sim N(0, T \epsilon_t G).

    As in the paper's algorithm the term Gamma, the derivative of G, is left out: V changes slowly,
    and the bias that remains is that of its changes along the chain.

    Parameters
    ----------
    n_chains, n_warmup, n_draws, n_steps, batch_size, learning_rate, decay, decay_steps : object
        See `SGLD`.
    temperature, control_variates, init : object
        See `SGLD`.
    alpha : float, default=0.99
        How long gradients are remembered.
    damping : float, default=0.1
        The number lambda, against steps without bound where the gradient is small.
    """

    def __init__(
        self,
        n_chains=4,
        n_warmup=50,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        learning_rate=None,
        decay=0.55,
        decay_steps=None,
        temperature=1.0,
        control_variates=False,
        alpha=0.99,
        damping=0.1,
        init=None,
    ):
        super().__init__(
            n_chains=n_chains,
            n_warmup=n_warmup,
            n_draws=n_draws,
            n_steps=n_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            decay=decay,
            decay_steps=decay_steps,
            temperature=temperature,
            control_variates=control_variates,
            init=init,
        )
        self.alpha = alpha
        self.damping = damping

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("alpha", kind=(int, float), low=0, high=0.99999)
        self._positive("damping")

    def _kernel(self, log_posterior, theta):
        return _PSGLDKernel(self, log_posterior, theta)


class _SGLDKernel(StochasticKernel):
    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        self.decay_steps = getattr(method, "decay_steps", None)
        if self.decay_steps is None:
            self.decay_steps = self.n_steps * max(1, method.n_warmup)

    def size(self, t):
        return (1.0 + t / self.decay_steps) ** -self.method.decay

    def move(self, streams, epsilon):
        grad = self.gradient(self.batch(streams), self.theta)
        noise = self.normal(streams).mul_((epsilon * self.method.temperature).sqrt_())
        self.theta = noise.add_(self.theta).addcmul_(epsilon, grad, value=0.5)


class _PSGLDKernel(_SGLDKernel):
    names = ("square",)

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        # at the starting point, so that the first steps have a size to go by
        index = np.stack([np.arange(self.batch_size)] * len(theta))
        grad = self.gradient(None if self.batch_size == log_posterior.n else index, theta)
        self.square = (grad / log_posterior.total_weight) ** 2

    def scale(self):
        """The diagonal G."""
        return 1.0 / (self.method.damping + self.square.sqrt())

    def precondition(self, vector):
        return self.scale() * vector

    def move(self, streams, epsilon):
        grad = self.gradient(self.batch(streams), self.theta)
        mean = grad / self.log_posterior.total_weight
        alpha = self.method.alpha
        self.square = (alpha * self.square).addcmul_(mean, mean, value=1.0 - alpha)
        scale = self.scale()
        noise = self.normal(streams) * (epsilon * self.method.temperature * scale).sqrt_()
        self.theta = noise.add_(self.theta).addcmul_(epsilon * scale, grad, value=0.5)
