"""Weight averaging: a Gaussian around a mode, or around each of several, from the path of SGD."""

from __future__ import annotations

import torch

from skbayes.inference.base import Method, points, to_numpy
from skbayes.inference.kernel import start
from skbayes.inference.sgd_path import collect
from skbayes.posterior import Posterior


class SWAG(Method):
    r"""Stochastic weight averaging, Gaussian (Maddox et al., 2019).

    From a mode, SGD goes on at a constant rate. Its snapshots have the average
    :math:`\theta_{\text{SWA}}` (Izmailov et al., 2018), the variances

    .. math:: \Sigma_{\text{diag}} = \operatorname{diag}(\overline{\theta^2}
              - \theta_{\text{SWA}}^2),

    and their last K deviations from the running average are the columns of :math:`\hat D`. The
    posterior is taken as

    .. math:: N\left(\theta_{\text{SWA}},\ \tfrac12 \left(\Sigma_{\text{diag}}
              + \frac{\hat D \hat D^T}{K - 1}\right)\right),

    and drawn from as in their equation 1,

    .. math:: \theta = \theta_{\text{SWA}} + \tfrac{1}{\sqrt 2} \Sigma_{\text{diag}}^{1/2} z_1
              + \tfrac{1}{\sqrt{2 (K - 1)}} \hat D z_2,
              \qquad z_1 \sim N(0, I_d), \ z_2 \sim N(0, I_K).

    One :math:`z_2` serves all layers, so that draws are correlated across them, and K is the
    number of columns that there are. Theta is the whole of it: learned noise and hyper-parameters
    are averaged with the weights, on their unconstrained scale. With several modes the posterior
    is the equal mixture of their Gaussians (Wilson and Izmailov, 2020).

    The covariance is that of SGD, not of the posterior. Near a mode with Hessian H of the mean
    loss, gradient noise of covariance C / batch makes the stationary covariance S of SGD solve
    :math:`H S + S H = \eta C / (\text{batch} (1 - \mu))` for small rates :math:`\eta` (Mandt,
    Hoffman and Blei, 2017, for momentum 0). With C near H it is a multiple of the identity that
    grows with the rate and falls with the batch, whatever the number of rows. The average is
    right: on a linear model it is the posterior mean.

    Parameters
    ----------
    n_modes : int, default=1
        Modes, each with a start, a path and a Gaussian of its own, all at once.
    n_draws : int, default=30
        Draws per mode.
    rank : int, default=20
        Columns of the low-rank part at most, at least 2.
    n_snapshots : int, default=100
        Points of the path that are averaged.
    thin : int or None, default=None
        Steps per snapshot; None is as many as an epoch has, at least 10 and at most 50.
    learning_rate : float or None, default=None
        Constant rate on the mean loss per row. None is (1 - momentum) over the largest curvature at
        the mode, which is measured. Of the factors 0.03, 0.1, 0.3, 1, 2 and 4 on that, 1 was good
        on all of six small tables (log scores of held-out rows, in shuffled epochs): larger ones
        are better still for regressions with heteroscedastic noise, and harm classifiers.
    momentum : float, default=0.9
        Of SGD.
    batch_size : int or None, default=None
        Rows per step; None is a tenth of them, at most 128.
    scale : float, default=0.5
        Factor of the covariance; the paper has one half.
    init : Method or None, default=None
        Finds the modes; None is `Ensemble`, ``Ensemble(validation_fraction=0)`` one that does not
        stop early. (`MAP` keeps one mode only.)
    """

    def __init__(
        self,
        n_modes=1,
        n_draws=30,
        rank=20,
        n_snapshots=100,
        thin=None,
        learning_rate=None,
        momentum=0.9,
        batch_size=None,
        scale=0.5,
        init=None,
    ):
        self.n_modes = n_modes
        self.n_draws = n_draws
        self.rank = rank
        self.n_snapshots = n_snapshots
        self.thin = thin
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.scale = scale
        self.init = init

    def chain_count(self):
        """Number of modes."""
        return self.n_modes

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._require("n_modes", "n_draws")
        self._require("rank", "n_snapshots", low=2)
        self._require("batch_size", "thin", or_in=(None,))
        self._positive("learning_rate", or_in=(None,))
        self._positive("scale")
        self._require("momentum", kind=(int, float), low=0, high=0.999)
        self._check_init()

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Average and draw, see `Method.run`; from ``theta0``, if given, SGD goes on at once."""
        theta, messages = theta0, []
        if theta is None:
            theta, stopped = start(self.init, log_posterior, streams, on_step)
            if stopped is not None:
                return stopped
            n_found = len(torch.unique(theta, dim=0))
            if n_found < self.n_modes:
                messages.append(
                    f"init={self.init!r} found {n_found} of {self.n_modes} modes, so that paths "
                    "begin at the same ones: take Ensemble()."
                )
        path = collect(
            log_posterior,
            theta,
            streams,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            batch_size=self.batch_size,
            n_snapshots=self.n_snapshots,
            thin=self.thin,
            rank=self.rank,
            on_step=on_step,
        )
        messages, n_columns = [*messages, *path.messages], path.deviations.shape[1]
        if path.interrupted:
            messages.append(
                f"Averaging was interrupted after {path.losses.shape[1]} of {self.n_snapshots} "
                "snapshots; the draws are made from these."
            )
            if n_columns < 2:
                messages[-1] = "Averaging was interrupted before it began; the modes are kept."
                return points(theta, log_posterior, path.losses, messages, True)
        kw = {"dtype": torch.float64, "device": theta.device}
        each = streams.normal(self.n_draws, theta.shape[1], **kw)
        shared = streams.normal(self.n_draws, n_columns, **kw)
        draws = each * path.variance.sqrt()[:, None]
        draws += shared @ path.deviations / (n_columns - 1) ** 0.5
        draws = (path.mean[:, None] + self.scale**0.5 * draws).to(theta.dtype)
        with torch.no_grad():
            log_prob = [log_posterior(part) for part in draws.flatten(0, 1).split(64)]
        return Posterior(
            to_numpy(draws),
            log_posterior.layout,
            stats={"log_prob": to_numpy(torch.cat(log_prob).view(draws.shape[:2]))},
            adapted={
                "mean": to_numpy(path.mean),
                "variance": to_numpy(path.variance),
                "deviations": to_numpy(path.deviations),
                "learning_rate": path.rate,
            },
            last_state=to_numpy(path.last),
            loss_curve=path.losses,
            independent=True,
            messages=messages,
            interrupted=path.interrupted,
        )


class MultiSWAG(SWAG):
    r"""MultiSWAG (Wilson and Izmailov, 2020): an equal mixture of Gaussians, one for each mode.

    .. math:: p(\theta \mid D) \approx \frac1M \sum_{m=1}^M
              N(\theta;\ \theta_{\text{SWA}}^{(m)},\ \Sigma^{(m)})

    with :math:`\theta_{\text{SWA}}` and :math:`\Sigma` as in `SWAG`, which it is, but for the
    defaults: ten modes, five draws from each. All modes are trained and averaged at once as one
    batch.

    Parameters
    ----------
    n_modes : int, default=10
        Modes, each with a start, a path and a Gaussian of its own.
    n_draws : int, default=5
        Draws per mode.
    rank, n_snapshots, thin, learning_rate, momentum, batch_size, scale, init
        See `SWAG`.
    """

    def __init__(
        self,
        n_modes=10,
        n_draws=5,
        rank=20,
        n_snapshots=100,
        thin=None,
        learning_rate=None,
        momentum=0.9,
        batch_size=None,
        scale=0.5,
        init=None,
    ):
        super().__init__(
            n_modes,
            n_draws,
            rank,
            n_snapshots,
            thin,
            learning_rate,
            momentum,
            batch_size,
            scale,
            init,
        )
