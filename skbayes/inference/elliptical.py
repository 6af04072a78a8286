"""Elliptical slice sampling, for many chains at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import GradientKernel


class EllipticalKernel(GradientKernel):
    r"""One transition of elliptical slice sampling (Murray, Adams and MacKay, 2010, figure 2).

    For a density that is a normal prior N(0, s^2 I) times a likelihood L, draw a point
    :math:`\nu` from the prior and a level :math:`\log u L(z)`, and look on the ellipse

    .. math:: z' = z \cos\alpha + \nu \sin\alpha

    for a point above the level, from an angle drawn uniformly, which is drawn anew from a bracket
    that shrinks towards 0 for as long as the point is below. There is nothing to tune, no gradient
    and no rejection. Each chain has its own bracket; those that are done wait for the others.

    s is the target's ``prior_scale``. Any density is a prior times a likelihood, so that it may
    differ from the target's own prior; the ellipses then only fit less well.
    """

    MOST_SHRINKS = 200  # the bracket is then below the rounding of theta

    def evaluate(self, theta):
        """Log density, see `GradientKernel.evaluate`."""
        return self.log_posterior(theta), theta[:, :0]  # there is no gradient

    def find_step_size(self, streams):
        """There is none."""

    def adapt(self, iteration, n_warmup, stats):
        """Nothing adapts."""

    def adapted(self):
        """What was tuned: nothing."""
        return {}

    def state(self):
        """See `Kernel.state`."""
        return {"theta": to_numpy(self.theta), "value": to_numpy(self.value)}

    def restore(self, state):
        """See `Kernel.restore`."""
        self.theta = self.tensor(state["theta"])
        if "value" in state:
            self.value = torch.as_tensor(state["value"], device=self.theta.device).clone()
        else:
            self.value = self.evaluate(self.theta)[0]

    def step(self, streams, iteration):
        """Move all chains once, see `Kernel.step`."""
        start, scale = self.theta, self.log_posterior.prior_scale
        kw = {"dtype": start.dtype, "device": start.device}
        nu = scale * streams.normal(start.shape[1], **kw)
        uniform = streams.uniform(2).numpy()
        level = to_numpy(self.value - self._log_prior(start)) + np.log(uniform[:, 0])
        angle = 2.0 * math.pi * uniform[:, 1]
        low, high = angle - 2.0 * math.pi, angle.copy()
        theta, value = start.clone(), self.value.clone()
        n_evaluations = np.zeros(len(start), dtype=int)
        open_ = np.arange(len(start))  # chains that still look for a point
        for _ in range(self.MOST_SHRINKS):
            # all chains are evaluated, so that a chain's numbers do not depend on the others
            turn = self.column(angle).double()
            there = (start * turn.cos() + nu * turn.sin()).to(start.dtype)
            at = self.evaluate(there)[0]
            likelihood = to_numpy(at - self._log_prior(there))
            n_evaluations[open_] += 1
            found = open_[likelihood[open_] > level[open_]]
            rows = torch.as_tensor(found, device=start.device)
            theta[rows], value[rows] = there[rows], at[rows]
            open_ = np.setdiff1d(open_, found)
            if not len(open_):
                break
            low[open_] = np.where(angle[open_] < 0, angle[open_], low[open_])
            high[open_] = np.where(angle[open_] < 0, high[open_], angle[open_])
            fresh = streams.select(open_).uniform(1).numpy()[:, 0]
            angle[open_] = low[open_] + fresh * (high[open_] - low[open_])
        self.theta, self.value = theta, value
        return {"log_prob": to_numpy(value), "n_evaluations": n_evaluations}

    def _log_prior(self, z: Tensor) -> Tensor:
        """Of N(0, s^2 I), up to a constant."""
        return -0.5 * (z.double() ** 2).sum(1) / self.log_posterior.prior_scale**2
