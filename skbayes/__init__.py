"""scikit-learn compatible Bayesian deep learning on torch."""

__version__ = "0.1.0.dev0"
