"""A logistic regression whose posterior moments are known from a long run of NumPyro's NUTS."""

import json
from pathlib import Path

import numpy as np
import torch
from gaussian_target import CPU

from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, NormalPrior

REFERENCE = json.loads((Path(__file__).parent / "data" / "logistic_reference.json").read_text())
"""Its data, ``mean``, ``sd`` and ``square`` (second central moments) of each weight, and their
Monte Carlo errors; examples/benchmarks/logistic_reference.py makes it."""


def logistic_target(dtype=torch.float64):
    X, y = np.array(REFERENCE["X"]), np.array(REFERENCE["y"])
    network = MLPNetwork(X.shape[1], (), 1, "tanh")
    kw = {"dtype": dtype, "device": CPU}
    prior = NormalPrior(scale=REFERENCE["prior_scale"]).build(network)
    targets = torch.as_tensor(y[None, None], **kw)
    return LogPosterior(network, Bernoulli(), prior, Inputs(X, **kw), targets)
