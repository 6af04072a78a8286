"""Inference methods: hyper-parameters and one verb, ``run``."""

from skbayes.inference.adjusted_mclmc import AdjustedMCLMC
from skbayes.inference.anchored import Anchored
from skbayes.inference.base import Method
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.hmc import HMC
from skbayes.inference.mala import MALA
from skbayes.inference.map import MAP
from skbayes.inference.mclmc import MCLMC
from skbayes.inference.metropolis import Metropolis
from skbayes.inference.nuts import NUTS
from skbayes.inference.streams import Streams
from skbayes.inference.subspace import Subspace
from skbayes.inference.swag import SWAG, MultiSWAG

METHODS: dict[str, type[Method]] = {
    "map": MAP,
    "ensemble": Ensemble,
    "anchored": Anchored,
    "metropolis": Metropolis,
    "mala": MALA,
    "hmc": HMC,
    "nuts": NUTS,
    "mclmc": MCLMC,
    "adjusted_mclmc": AdjustedMCLMC,
    "swag": SWAG,
    "multiswag": MultiSWAG,
    "subspace": Subspace,
}
"""Methods by the names that ``method=`` takes."""

__all__ = [
    "HMC",
    "MALA",
    "MAP",
    "MCLMC",
    "METHODS",
    "NUTS",
    "SWAG",
    "AdjustedMCLMC",
    "Anchored",
    "Ensemble",
    "Method",
    "Metropolis",
    "MultiSWAG",
    "Streams",
    "Subspace",
]
