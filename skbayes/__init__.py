"""scikit-learn compatible Bayesian deep learning on torch."""

from skbayes.active.learner import ActiveLearner
from skbayes.mlp import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.torch_module import BayesianModuleClassifier, BayesianModuleRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "ActiveLearner",
    "BayesianMLPClassifier",
    "BayesianMLPRegressor",
    "BayesianModuleClassifier",
    "BayesianModuleRegressor",
]
