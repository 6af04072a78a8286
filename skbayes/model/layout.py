"""What the parts of theta are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.model.priors import BoundPrior


class Layout:
    """Names, shapes and meaning of the parts of theta, in numpy and plain Python.

    ``theta`` is [network | likelihood | hyper-parameters], all unconstrained. The draws of a
    posterior may have more: the buffers of the network that go with them (`n_buffers` numbers,
    statistics of batch normalisation).
    """

    def __init__(self, network, likelihood: Any, prior: BoundPrior) -> None:
        self.network, self.likelihood, self.prior = network, likelihood, prior
        self.n_network: int = network.n_params
        self.n_params = self.n_network + likelihood.n_params + prior.n_hyper
        self.n_buffers: int = network.n_buffers

    def split(self, theta):
        """Cut theta (..., n_params) into network, likelihood and hyper-parameter parts."""
        a, b = self.n_network, self.n_network + self.likelihood.n_params
        if a == theta.shape[-1]:  # the common case, on the path of every gradient
            empty = theta[..., :0]
            return theta, empty, empty
        return theta[..., :a], theta[..., a:b], theta[..., b : self.n_params]

    def for_forward(self, theta: Tensor) -> Tensor:
        """What the network's ``forward`` takes, for theta or draws (n_chains, ...).

        Weights, and the buffers that draws carry.
        """
        net, _, hyper = self.split(theta)
        weights = self.prior.weights(net, hyper)
        if theta.shape[-1] == self.n_params:
            return weights
        return torch.cat([weights, theta[:, self.n_params :]], 1)

    def weights(self, theta: np.ndarray) -> np.ndarray:
        """The network's weights (..., n_network) for theta (..., n_params), buffers after them."""
        flat = torch.as_tensor(np.array(theta)).reshape(-1, theta.shape[-1])
        return self.for_forward(flat).numpy().reshape(*theta.shape[:-1], -1)

    def constrain(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Named values, each (..., *shape), for theta (..., n_params)."""
        lead = theta.shape[:-1]
        _, params, hyper = self.split(theta)
        weights = self.weights(theta)
        out: dict[str, np.ndarray] = {}
        start = 0
        named = self.network.parameters()
        if weights.shape[-1] > self.n_network:
            named = named + self.network.buffers()
        for name, shape in named:
            size = int(np.prod(shape))
            out[name] = weights[..., start : start + size].reshape(*lead, *shape)
            start += size
        return {**out, **self.likelihood.constrain(params), **self.prior.constrain(hyper)}
