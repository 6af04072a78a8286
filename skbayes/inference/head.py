"""The last layer of a network as a linear model of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.evidence import Local
from skbayes.model.covariance import block_rows
from skbayes.model.inputs import Inputs
from skbayes.model.log_posterior import LogPosterior
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal
from skbayes.model.tangent import in_blocks, tangent


class Head:
    """What the last layer's weights are to be, given the layers below, which are held.

    The rows that it sees are what the layers below give, made once and kept: a pass over them costs
    next to nothing beside one through the whole network.

    Parameters
    ----------
    log_posterior : LogPosterior
        The whole.
    theta : Tensor of shape (1, n_params)
        The weights, of which those below the last layer stay.

    Attributes
    ----------
    log_posterior : LogPosterior
        The head's, up to the log prior of what is held.
    theta : Tensor of shape (1, n)
        Its weights, and the parameters of the likelihood.
    """

    def __init__(self, log_posterior, theta: Tensor) -> None:
        self._whole, self._from = log_posterior, theta
        network = log_posterior.network
        layer = network.layers[-1]
        self._joint, self._end = layer.joint, log_posterior.layout.n_network
        weights = theta[0, : self._end].double()
        rows = theta.new_empty((log_posterior.inputs.n, layer.fan_in + 1))
        size = block_rows(network, full=False, last_layer=True)
        for some, part in in_blocks(log_posterior.inputs, size):
            _, values, _ = tangent(network, weights, part, last_layer=True).parts()[-1]
            rows[some] = values.T  # with ones in the last column
        self.log_posterior = LogPosterior(
            MLPNetwork(layer.fan_in, (), layer.fan_out, "identity"),
            log_posterior.likelihood,
            self.prior(log_posterior.prior),
            Inputs.of(rows),
            log_posterior.y,
            log_posterior.weight,
        ).with_power(log_posterior.factor)
        self.theta = torch.cat([theta[:, self._joint], theta[:, self._end :]], 1)

    def prior(self, prior: BoundNormal) -> BoundNormal:
        """The head's part of a prior of the whole."""
        return prior.with_scales(prior.scales[self._joint])

    def held(self, prior: BoundNormal) -> float:
        """Log prior of the weights that are held, over the rows' total weight."""
        rest = np.r_[: self._joint.start, self._joint.stop : self._end]
        logs = norm.logpdf(to_numpy(self._from[0])[rest], scale=prior.scales[rest])
        return float(logs.sum() / self.log_posterior.total_weight)

    def whole(self, found: Local) -> Local:
        """What was found of the head, as of the whole network."""
        prior = self._whole.prior
        scales = prior.scales.copy()
        scales[self._joint] = found.target.prior.scales
        theta = self._from.clone()
        n = self._joint.stop - self._joint.start
        theta[:, self._joint], theta[:, self._end :] = found.theta[:, :n], found.theta[:, n:]
        target = self._whole.given(prior.with_scales(scales))
        return replace(found, log_posterior=self._whole, target=target, theta=theta)
