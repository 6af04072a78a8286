"""Inference methods: hyper-parameters and one verb, ``run``."""

from skbayes.inference.anchored import Anchored
from skbayes.inference.base import Method
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.hmc import HMC
from skbayes.inference.map import MAP
from skbayes.inference.streams import Streams

METHODS: dict[str, type[Method]] = {
    "map": MAP,
    "ensemble": Ensemble,
    "anchored": Anchored,
    "hmc": HMC,
}
"""Methods by the names that ``method=`` takes."""

__all__ = ["HMC", "MAP", "METHODS", "Anchored", "Ensemble", "Method", "Streams"]
