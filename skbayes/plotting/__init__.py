"""Displays in the style of scikit-learn: data in attributes, drawn by ``plot``.

They need matplotlib (``pip install "skbayes[plot]"``), which is imported when something is drawn.
"""

from skbayes.plotting.bands import PredictiveBandDisplay
from skbayes.plotting.boundary import DecisionBoundaryUncertaintyDisplay
from skbayes.plotting.chains import RankDisplay, TraceDisplay
from skbayes.plotting.cumulative import CumulativeDensityDisplay
from skbayes.plotting.functions import PriorPosteriorDisplay
from skbayes.plotting.orbit import OrbitDisplay
from skbayes.plotting.reliability import ReliabilityDisplay
from skbayes.plotting.sparsity import LayerWeightsDisplay, SparsityCurveDisplay

__all__ = [
    "CumulativeDensityDisplay",
    "DecisionBoundaryUncertaintyDisplay",
    "LayerWeightsDisplay",
    "OrbitDisplay",
    "PredictiveBandDisplay",
    "PriorPosteriorDisplay",
    "RankDisplay",
    "ReliabilityDisplay",
    "SparsityCurveDisplay",
    "TraceDisplay",
]
