"""Networks, likelihoods and priors, and the log posterior that they make with data."""

from skbayes.model.inputs import Inputs
from skbayes.model.layout import Layout
from skbayes.model.likelihoods import Bernoulli, Categorical, Likelihood, Normal
from skbayes.model.log_posterior import LogPosterior
from skbayes.model.module_network import ModuleNetwork
from skbayes.model.module_source import ModuleSource
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import (
    FlatPrior,
    HierarchicalPrior,
    HorseshoePrior,
    LaplacePrior,
    LearnedMixturePrior,
    LogUniformPrior,
    NormalPrior,
    Prior,
    ScaleMixturePrior,
    SpikeAndSlabPrior,
    StudentTPrior,
)
from skbayes.model.tensor_inputs import TensorInputs

__all__ = [
    "Bernoulli",
    "Categorical",
    "FlatPrior",
    "HierarchicalPrior",
    "HorseshoePrior",
    "Inputs",
    "LaplacePrior",
    "Layout",
    "LearnedMixturePrior",
    "Likelihood",
    "LogPosterior",
    "LogUniformPrior",
    "MLPNetwork",
    "ModuleNetwork",
    "ModuleSource",
    "Normal",
    "NormalPrior",
    "Prior",
    "ScaleMixturePrior",
    "SpikeAndSlabPrior",
    "StudentTPrior",
    "TensorInputs",
]
