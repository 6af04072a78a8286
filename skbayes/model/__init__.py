"""Networks, likelihoods and priors, and the log posterior that they make with data."""

from skbayes.model.inputs import Inputs
from skbayes.model.likelihoods import Bernoulli, Categorical, Likelihood, Normal
from skbayes.model.log_posterior import Layout, LogPosterior
from skbayes.model.module_network import ModuleNetwork
from skbayes.model.module_source import ModuleSource
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import (
    HierarchicalPrior,
    LaplacePrior,
    NormalPrior,
    Prior,
    StudentTPrior,
)
from skbayes.model.tensor_inputs import TensorInputs

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
    "ModuleNetwork",
    "ModuleSource",
    "Normal",
    "NormalPrior",
    "Prior",
    "StudentTPrior",
    "TensorInputs",
]
