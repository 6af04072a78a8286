"""Microcanonical Langevin Monte Carlo, without a Metropolis step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.adaptation import EnergyVariance
from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import DIVERGENCE, ChainMethod
from skbayes.inference.microcanonical import MicrocanonicalKernel

REFRESH = 5  # steps between partial refreshments, so that they cost little


class MCLMC(ChainMethod):
    r"""Microcanonical Langevin Monte Carlo (Robnik, De Luca, Silverstein and Seljak, 2023).

    A particle of unit speed follows

    .. math:: dx = u\,dt, \qquad du = (I - u u^T) \nabla \log p(x \mid D) / (d - 1)\,dt
              + \eta\,(I - u u^T)\,dW, \qquad x = \theta / s,

    by leapfrog steps (`skbayes.inference.microcanonical`); after every few of them, of length t
    together, its direction is partly drawn anew,

    .. math:: u \leftarrow \frac{u + \nu z}{|u + \nu z|}, \qquad
              \nu = \sqrt{(e^{2 t / L} - 1) / d}, \qquad z \sim N(0, I)

    (Robnik and Seljak, 2024, "Fluctuation without dissipation", equation 14). There is no
    Metropolis step, and the draws are not exact: the variance per dimension of a step's energy
    error, which is tuned to ``energy_variance``, bounds the bias. Chains start at the members of
    an ensemble.

    While warming up, each chain's step size follows the energy errors of its own steps (their
    variance grows with the sixth power of the step), and s is replaced by the deviations within
    chains. A chain with an energy error over 1,000 goes back to where its last draw was, counted in
    ``n_divergences``.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=500
        Iterations that tune and are thrown away.
    n_draws : int, default=500
        Draws kept per chain.
    thin : int, default=1
        Iterations per draw kept.
    n_leapfrog : int, default=100
        Leapfrog steps per iteration.
    energy_variance : float, default=1e-3
        Variance of the energy error of one step, divided by the number of parameters, that step
        sizes are tuned for. Smaller is less biased and slower.
    decoherence_length : float or None, default=None
        L above, the length after which the direction is forgotten, in posterior standard
        deviations; None is sqrt(n_params).
    step_size : float or None, default=None
        First step size; None finds one.
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
        n_warmup=500,
        n_draws=500,
        thin=1,
        n_leapfrog=100,
        energy_variance=1e-3,
        decoherence_length=None,
        step_size=None,
        marginalize="auto",
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.n_leapfrog = n_leapfrog
        self.energy_variance = energy_variance
        self.decoherence_length = decoherence_length
        self.step_size = step_size
        self.marginalize = marginalize
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("n_leapfrog")
        self._positive("energy_variance")
        self._positive("decoherence_length", or_in=(None,))

    def _kernel(self, log_posterior, theta):
        return _MCLMCKernel(self, log_posterior, theta)


class _MCLMCKernel(MicrocanonicalKernel):
    tuned_by = "energy_variance"

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        self.u: Tensor | None = None  # directions, kept between iterations

    def make_tuner(self, step_size):
        # No more than the typical radius of whitened theta: a particle on its way through the
        # centre of a quadratic has no energy error at any step, so that the error alone, in few
        # dimensions, may ask for ever longer ones.
        return EnergyVariance(
            step_size, self.method.energy_variance, longest=self.theta.shape[1] ** 0.5
        )

    def step(self, streams, iteration):
        method = self.method
        if self.u is None:
            self.u = self.momentum(streams.child(2))
        step, d = self.tuner.step_size, self.theta.shape[1]
        length = method.decoherence_length or d**0.5
        theta, value, grad = self.theta, self.value, self.grad
        u, left, rows = self.u.clone(), method.n_leapfrog, []
        while left:
            n = min(REFRESH, left)
            left -= n
            if n > 1:
                theta, value, grad, _ = self.follow(u, step, n - 1, theta, grad)
            # the last step apart: its energy error is what the step size is tuned by
            before = value
            theta, value, grad, kinetic = self.follow(u, step, 1, theta, grad)
            rows.append(kinetic - to_numpy(value - before))
            nu = np.sqrt(np.expm1(2.0 * n * step / length) / d)
            normal = streams.normal(d, dtype=u.dtype, device=u.device)
            u.addcmul_(self.column(nu), normal)
            u /= torch.linalg.vector_norm(u, dim=1, keepdim=True)
        errors = np.array(rows)  # (times, n_chains)
        with np.errstate(invalid="ignore"):
            lost = ~((np.abs(errors) < DIVERGENCE).all(0) & np.isfinite(to_numpy(value)))
        back = torch.as_tensor(lost, device=value.device)
        self.accept(~back, theta, value, grad)
        if lost.any():
            u = torch.where(back[:, None], self.momentum(streams.child(3 + iteration)), u)
        self.u = u
        with np.errstate(invalid="ignore", over="ignore"):
            variance = (errors**2).mean(0) / d
        return {
            "log_prob": to_numpy(self.value),
            "energy_error": errors[-1],
            "energy_variance": np.where(lost, np.inf, variance),
            "diverging": lost,
            "n_leapfrog": np.full(len(lost), method.n_leapfrog),
        }

    def state(self):
        u = {} if self.u is None else {"u": to_numpy(self.u)}
        return {**super().state(), **u}

    def restore(self, state):
        super().restore(state)
        if "u" in state:
            self.u = self.tensor(state["u"])
