"""Variational inference: the best of a family of distributions over the weights."""

from __future__ import annotations

import math

import numpy as np
import torch

from skbayes.inference.ascent import ascend
from skbayes.inference.base import Method, to_numpy
from skbayes.layers.families import MeanField
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import ESTIMATORS, Noise
from skbayes.posterior import Posterior

STEPS = 10_000  # at most, where max_epochs is None
ELBO_ROWS = 2_000_000  # rows times draws that the bound is estimated from in the end


class VI(Method):
    r"""Variational inference with independent normal weights.

    Graves (2011); Blundell et al. (2015). Among the distributions

    .. math:: q(\theta) = \prod_j N(\theta_j \mid m_j, s_j^2)

    the one with the highest evidence lower bound is looked for,

    .. math:: \mathcal{L}(q) = \mathbb{E}_q \sum_i \log p(y_i \mid x_i, \theta)
              - \text{KL}(q \,\|\, p) \;\le\; \log p(D),

    by Adam on gradients of random estimates of it. Their noise is that of ``estimator``, see
    `skbayes.layers.variational.VariationalLayer`.

    Parameters
    ----------
    estimator : {"local", "flipout", "weight"}, default="local"
        How the outputs are drawn in training: "local" draws them (Kingma, Salimans and Welling,
        2015), "weight" one set of weights for a minibatch, "flipout" (Wen et al., 2018) signs of
        its deviations for every row.
    n_draws : int, default=100
        Independent draws from q that are kept.
    init_scale : float, default=0.1
        Starting deviation, as a share of 1 / sqrt(fan-in) for weights and of one for all else.
    learning_rate : float, default=0.01
        Of Adam, on the bound per row. Where the smoothed bound does not rise any more it falls by
        0.3, three times, before the climb ends.
    batch_size : int or None, default=None
        Rows per step; None is 256, or all rows up to 1,024 of them.
    max_epochs : int or None, default=None
        Passes over the data at most; None is as many as 10,000 steps take, at least 20.
    kl_warmup : int, default=0
        Epochs in which the weight of the divergence rises from zero to one.
    """

    needs = frozenset({"network", "likelihood", "prior"})
    reads_from_disk = True

    def __init__(
        self,
        estimator="local",
        n_draws=100,
        init_scale=0.1,
        learning_rate=0.01,
        batch_size=None,
        max_epochs=None,
        kl_warmup=0,
    ):
        self.estimator = estimator
        self.n_draws = n_draws
        self.init_scale = init_scale
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.kl_warmup = kl_warmup

    def chain_count(self):
        """One q."""
        return 1

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("estimator", tuple(name for name in ESTIMATORS if name != "mean"))
        self._require("n_draws")
        self._positive("init_scale", "learning_rate")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._require("kl_warmup", low=0)

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Climb the bound and draw from q, see `Method.run`."""
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        noise = Noise(int(streams.generators[0].integers(2**62)), log_posterior.device)
        family = MeanField(log_posterior, theta[0], self.init_scale)
        network = VariationalNetwork.of(log_posterior, noise, self.estimator)
        objective = Objective(log_posterior, family, network)
        n = log_posterior.n
        batch_size = self.batch_size or (n if n <= 1024 else 256)
        max_epochs = self.max_epochs or max(20, math.ceil(STEPS * min(batch_size, n) / n))
        ascent = ascend(
            objective,
            streams,
            learning_rate=self.learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            kl_warmup=self.kl_warmup,
            on_step=on_step,
        )
        with torch.no_grad():
            draws = family.sample(self.n_draws, noise)
        posterior = Posterior(
            to_numpy(draws)[None],
            log_posterior.layout,
            adapted={"mean": to_numpy(family.mean), "log_var": to_numpy(family.log_var)},
            last_state=to_numpy(family.mean)[None],
            loss_curve=ascent.losses[None],
            independent=True,
            messages=ascent.messages,
            interrupted=ascent.interrupted,
        )
        posterior.elbo = self._elbo(log_posterior, family, draws, noise)
        return posterior

    @staticmethod
    def _elbo(log_posterior, family, draws, noise) -> float:
        """The bound, from draws of the weights and all data."""
        some = draws[: int(np.clip(ELBO_ROWS // log_posterior.n, 4, len(draws)))]
        with torch.no_grad():
            fit = log_posterior.log_likelihood(some).mean()
            mean, var = family.moments()
            kl = torch.stack([family.kl(mean, var, noise).double() for _ in range(len(some))])
        return float(fit - kl.mean())
