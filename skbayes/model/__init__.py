"""Networks, likelihoods and priors, and the log posterior that they make with data."""

from skbayes.model.inputs import Inputs
from skbayes.model.likelihoods import Bernoulli, Categorical, Likelihood, Normal
from skbayes.model.log_posterior import Layout, LogPosterior
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import (
    HierarchicalPrior,
    LaplacePrior,
    NormalPrior,
    Prior,
    StudentTPrior,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "HierarchicalPrior",
    "Inputs",
    "LaplacePrior",
    "Layout",
    "Likelihood",
    "LogPosterior",
    "MLPNetwork",
    "Normal",
    "NormalPrior",
    "Prior",
    "StudentTPrior",
]
