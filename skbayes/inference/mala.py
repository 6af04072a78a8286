"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from skbayes.inference.kernel import ChainMethod, GradientKernel


class MALA(ChainMethod):
    r"""Metropolis-adjusted Langevin algorithm (Roberts and Tweedie, 1996).

    A step of the Langevin diffusion, accepted or not,

    .. math:: \theta' = \theta + \tfrac{\epsilon^2}{2} M^{-1} \nabla \log p(\theta \mid D)
              + \epsilon\, M^{-1/2} z, \quad z \sim N(0, I),

    which is one leapfrog step of Hamiltonian Monte Carlo from the momentum :math:`M^{1/2} z` and
    is computed so (Neal, 2011, section 5.2): the energy error is the logarithm of the
    Metropolis-Hastings ratio with the proposal's densities in both directions. While warming up,
    epsilon is tuned to the acceptance 0.574 that is best in many dimensions (Roberts and
    Rosenthal, 1998, theorem 2), and M is replaced by the inverse variances within chains.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=2000
        Iterations that tune and are thrown away.
    n_draws : int, default=1000
        Draws kept per chain.
    thin : int, default=10
        Iterations per draw kept.
    step_size : float or None, default=None
        First epsilon; None finds one.
    target_accept : float, default=0.574
        Mean acceptance that the step sizes are tuned for.
    metric : {"diagonal", "low_rank"}, default="diagonal"
        Shape of M: see `HMC`.
    marginalize : bool or "auto", default="auto"
        Whether the output layer (with heteroscedastic noise the mean's part of it) is integrated
        out, exactly, and drawn given all else for each draw kept: the same posterior in fewer
        dimensions, which mixes several times faster. It needs normal noise, of a single output
        if heteroscedastic, and a `NormalPrior`. "auto" does so where that holds and the last
        hidden layer has at most 128 units, since the cost of a gradient grows with their square.
    init : Method, "prior" or None, default=None
        Where chains start: see `HMC`.
    """

    def __init__(
        self,
        n_chains=4,
        n_warmup=2000,
        n_draws=1000,
        thin=10,
        step_size=None,
        target_accept=0.574,
        metric="diagonal",
        marginalize="auto",
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.step_size = step_size
        self.target_accept = target_accept
        self.metric = metric
        self.marginalize = marginalize
        self.init = init

    def _kernel(self, log_posterior, theta):
        return _MALAKernel(self, log_posterior, theta)


class _MALAKernel(GradientKernel):
    def step(self, streams, iteration):
        proposal = self.propose(self.momentum(streams), self.tuner.step_size, 1)
        return self.metropolis(streams, proposal, 1)[1]
