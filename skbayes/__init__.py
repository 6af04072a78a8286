"""scikit-learn compatible Bayesian deep learning on torch."""

from skbayes.mlp import BayesianMLPClassifier, BayesianMLPRegressor

__version__ = "0.1.0.dev0"

__all__ = ["BayesianMLPClassifier", "BayesianMLPRegressor"]
