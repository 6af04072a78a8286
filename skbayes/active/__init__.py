"""Active learning: which label to ask for next."""

from skbayes.active.batch import BATCHES, Batch, BatchBALD, LogDet, Power, Top, joint_information
from skbayes.active.learner import ActiveLearner
from skbayes.active.moments import Moments
from skbayes.active.stopping import Budget, LowInformation, Stability, Stopping
from skbayes.active.store import LabelStore
from skbayes.active.utility import ACQUISITIONS, Acquisition

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "ActiveLearner",
    "BATCHES",
    "Batch",
    "BatchBALD",
    "Budget",
    "LabelStore",
    "LogDet",
    "LowInformation",
    "Moments",
    "Power",
    "Stability",
    "Stopping",
    "Top",
    "joint_information",
]
