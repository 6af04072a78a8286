"""Constant-rate SGD as approximate inference: the rate is chosen so that its noise is right."""

from __future__ import annotations

import numpy as np
import torch

from skbayes.inference.base import to_numpy
from skbayes.inference.stochastic import StochasticKernel, StochasticMethod

MOST_PARAMS = 3000  # of a full preconditioner, whose matrices have that number squared
SAFE = 0.5  # largest step on a curvature; from 2 on the iteration does not converge at all
NOISE_ROWS = 100  # whose gradients are taken after each iteration of the warm-up


class ConstantSGD(StochasticMethod):
    r"""Stochastic gradient descent whose stationary density is the posterior, Mandt et al. (2017).

    .. math:: \theta \leftarrow \theta + H \hat\nabla \log p(\theta \mid D)

    Near a mode, where the log posterior has the Hessian -A and the gradients of minibatches have
    the covariance V, both constant, the covariance of theta solves (their section 3)

    .. math:: H A \Sigma + \Sigma A H^T = H V H^T.

    It comes nearest to the posterior's, A^{-1}, in Kullback-Leibler divergence with (theirs
    are for means over the data, these for sums)

    .. math:: H = \frac{2 D}{\operatorname{tr} V} I, \qquad
              H_{kk} = \frac{2}{V_{kk}}, \qquad H = 2 V^{-1},

    D being the number of parameters. The last is exact in the limit of small minibatches; the size
    of the steps widens it by about 1 / (1 - batch / n). V follows from the gradients of single
    rows, taken through the warm-up along the chain (the paper's algorithm 1 takes one row a step);
    it is frozen with the warm-up's end. To be invertible it gets ``damping`` times its mean
    diagonal on the diagonal. Where steps on the largest curvature would exceed 0.5, they are
    shortened, and a warning says so: the draws are then narrower than they should be.

    One mode per chain, and only what the data determine: a direction in which the rows' gradients
    do not differ gets no noise, whatever the prior.

    Parameters
    ----------
    n_chains : int, default=4
        Chains.
    n_warmup : int, default=100
        Iterations in which V is estimated.
    n_draws : int, default=50
        Draws kept per chain, one per iteration.
    n_steps : int or None, default=None
        Steps per iteration; None is a pass over the data, at least 100, at most 1,000.
    batch_size : int or None, default=None
        Rows per step; None is a twentieth of them, at least one and at most 200.
    preconditioner : {"full", "diagonal", "scalar"}, default="diagonal"
        Which H; "full" for up to 3,000 parameters.
    damping : float, default=0.001
        See above.
    temperature, init : object
        See `SGLD`.
    """

    control_variates = False
    learning_rate = 1.0  # the method's own

    def __init__(
        self,
        n_chains=4,
        n_warmup=100,
        n_draws=50,
        n_steps=None,
        batch_size=None,
        preconditioner="diagonal",
        damping=0.001,
        temperature=1.0,
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.preconditioner = preconditioner
        self.damping = damping
        self.temperature = temperature
        self.init = init

    def rows_of_a_step(self, n_rows):
        """The size of minibatches where there are so many rows."""
        if self.batch_size is None:
            return int(np.clip(n_rows // 20, 1, 200))
        return super().rows_of_a_step(n_rows)

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._choice("preconditioner", ("full", "diagonal", "scalar"))
        self._positive("damping", "temperature")

    def _kernel(self, log_posterior, theta):
        return _ConstantSGDKernel(self, log_posterior, theta)


class _ConstantSGDKernel(StochasticKernel):
    """``noise`` is V as far as it is known: (n_chains, n_params), or with n_params columns more."""

    names = ("noise", "gain", "caution")

    def __init__(self, method, log_posterior, theta):
        super().__init__(method, log_posterior, theta)
        n = log_posterior.n
        if log_posterior.layout.n_buffers:
            raise ValueError(
                "ConstantSGD takes gradients of single rows, which batch normalisation does not "
                "have: put it in eval mode, or take another normalisation."
            )
        if method.batch_size is not None and self.batch_size >= n:
            raise ValueError(
                f"ConstantSGD: batch_size={method.batch_size!r} is not allowed with {n} rows; it "
                "must be less, since the noise of minibatches is what spreads the draws."
            )
        d = theta.shape[1]
        self.full = method.preconditioner == "full"
        if self.full and d > MOST_PARAMS:
            raise ValueError(
                f"ConstantSGD: preconditioner='full' is not allowed with {d} parameters, at most "
                f"{MOST_PARAMS}; use 'diagonal'."
            )
        self.noise = theta.new_zeros((len(theta), d, d) if self.full else theta.shape)
        self.gain = torch.zeros_like(self.noise)  # H
        self.caution = torch.ones_like(theta[:, :1])  # factor on what counts as safe
        self.n_seen = 0
        self._said = False

    def find_step_size(self, streams):
        """A first V from the rows' gradients where the chains start."""
        own = streams.child(2)
        for _ in range(5):
            self._see(own)
        self._set_gain(own)

    def adapt(self, iteration, n_warmup, stats):
        """Add to V, and follow it; what the first half saw, far from the mode, is forgotten."""
        own = self.streams.child(3 + iteration)
        if iteration == n_warmup // 2:
            self.n_seen = min(self.n_seen, 1)
        self._see(own)
        last = iteration + 1 == n_warmup
        if last or iteration % 10 == 0:
            self._set_gain(own, tell=last)

    def advance(self, streams, iteration):
        self.streams, self.before = streams, self.theta
        stats = super().advance(streams, iteration)
        del stats["step_size"]  # there are as many as parameters
        self._take_back(streams)
        return stats

    def move(self, streams, epsilon):
        grad = self.gradient(self.batch(streams), self.theta)
        self.theta = self.theta + self.precondition(grad)

    def _take_back(self, streams):
        """Put chains that left the mode's surroundings back to where the iteration began."""
        good = self.has_stayed(self.before, streams)
        if not bool(good.all()):  # away from the mode the curvature may be larger
            self.theta = torch.where(good, self.theta, self.before)
            self.caution = torch.where(good, self.caution, 0.25 * self.caution)
            self._set_gain(self.streams.child(3 + self.t))
            if not self._said:
                self._say()

    def precondition(self, vector):
        if self.full:
            return torch.bmm(self.gain, vector[:, :, None])[:, :, 0]
        return self.gain * vector

    def adapted(self):
        return {"preconditioner": to_numpy(self.gain), "gradient_noise": to_numpy(self.noise)}

    def state(self):
        return {**super().state(), "n_seen": np.array(self.n_seen)}

    def restore(self, state):
        super().restore(state)
        self.n_seen = int(state["n_seen"])

    def _see(self, streams) -> None:
        """Average the covariance of the gradients of some rows into V."""
        n = self.log_posterior.n
        # fewer where theta is so long that their gradients would fill the memory
        size = min(n, int(np.clip((1 << 26) // self.theta.numel(), 2, NOISE_ROWS)))
        rows = np.stack([g.choice(n, size, replace=False) for g in streams.generators])
        n_chains, d = self.theta.shape
        # as many chains as rows, with a minibatch of one row each
        many = self.theta[:, None].expand(n_chains, size, d).reshape(-1, d)
        grad = self.log_posterior.minibatch(rows.reshape(-1, 1)).grad(many)
        centred = grad.view(n_chains, size, d)
        centred = centred - centred.mean(1, keepdim=True)
        if self.full:
            found = centred.mT @ centred
        else:
            found = (centred**2).sum(1)
        # the rows are a sample without repetition from n, whose covariance is by n, not n - 1
        found *= (1.0 - 1.0 / n) / (max(1, size - 1) * self.batch_size)
        self.n_seen += 1
        self.noise = torch.lerp(self.noise, found, 1.0 / self.n_seen)

    def _set_gain(self, streams, tell: bool = False) -> None:
        """H from V, shortened to what is stable."""
        kind, method = self.theta.dtype, self.method
        noise = self.noise.double()
        diagonal = torch.diagonal(noise, dim1=1, dim2=2) if self.full else noise
        mean = diagonal.mean(1, keepdim=True).clamp_min(1e-100)
        # first for a noise of mean one: where there is next to none, H has no bound but stability
        if self.full:
            eye = torch.eye(noise.shape[1], dtype=noise.dtype, device=noise.device)
            gain = torch.linalg.inv(noise / mean[:, :, None] + method.damping * eye)
            gain = 0.5 * (gain + gain.mT)
        elif method.preconditioner == "diagonal":
            gain = 1.0 / (noise / mean + method.damping)
        else:
            gain = torch.ones_like(noise)
        self.gain = gain.to(kind)
        asked = 2.0 * method.temperature / mean
        safe = SAFE * self.caution.double() / self._largest_curvature(streams)
        factor, short = torch.minimum(asked, safe), safe / asked
        self.gain = (gain * (factor[:, :, None] if self.full else factor)).to(kind)
        if tell and not self._said and bool((short < 1.0).any()):
            self._say()

    def _say(self) -> None:
        self._said = True
        self.messages.append(
            "Steps as long as the posterior needs them were not safe and were shortened: the draws "
            "are narrower than they should be. Lower batch_size, or raise damping."
        )
