"""scikit-learn compatible Bayesian deep learning on torch."""

from skbayes.active.learner import ActiveLearner
from skbayes.density.anomaly import VAEAnomalyDetector
from skbayes.density.vae import VAEDensityEstimator
from skbayes.mlp import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.torch_module import BayesianModuleClassifier, BayesianModuleRegressor
from skbayes.variational_dropout import VariationalDropoutClassifier, VariationalDropoutRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "ActiveLearner",
    "BayesianMLPClassifier",
    "BayesianMLPRegressor",
    "BayesianModuleClassifier",
    "BayesianModuleRegressor",
    "VariationalDropoutClassifier",
    "VariationalDropoutRegressor",
    "VAEAnomalyDetector",
    "VAEDensityEstimator",
]
