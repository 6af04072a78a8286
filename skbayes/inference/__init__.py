"""Inference methods: hyper-parameters and one verb, ``run``."""

from skbayes.inference.adjusted_mclmc import AdjustedMCLMC
from skbayes.inference.anchored import Anchored
from skbayes.inference.base import Method
from skbayes.inference.constant_sgd import ConstantSGD
from skbayes.inference.csgmcmc import CSGMCMC
from skbayes.inference.dropout import Dropout
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.ensemble_filter import EnsembleFilter
from skbayes.inference.ep import EP
from skbayes.inference.hmc import HMC
from skbayes.inference.laplace import Laplace
from skbayes.inference.mala import MALA
from skbayes.inference.map import MAP
from skbayes.inference.mclmc import MCLMC
from skbayes.inference.metropolis import Metropolis
from skbayes.inference.nuts import NUTS
from skbayes.inference.sghmc import SGHMC, SGNHT
from skbayes.inference.sgld import PSGLD, SGLD
from skbayes.inference.sglmc import SGLMC
from skbayes.inference.streams import Streams
from skbayes.inference.subspace import Subspace
from skbayes.inference.swag import SWAG, MultiSWAG
from skbayes.inference.vi import VI

METHODS: dict[str, type[Method]] = {
    "map": MAP,
    "ensemble": Ensemble,
    "anchored": Anchored,
    "ensemble_filter": EnsembleFilter,
    "metropolis": Metropolis,
    "mala": MALA,
    "hmc": HMC,
    "nuts": NUTS,
    "mclmc": MCLMC,
    "adjusted_mclmc": AdjustedMCLMC,
    "sgld": SGLD,
    "psgld": PSGLD,
    "sglmc": SGLMC,
    "sghmc": SGHMC,
    "sgnht": SGNHT,
    "csgmcmc": CSGMCMC,
    "constant_sgd": ConstantSGD,
    "dropout": Dropout,
    "laplace": Laplace,
    "ep": EP,
    "swag": SWAG,
    "multiswag": MultiSWAG,
    "subspace": Subspace,
    "vi": VI,
}
"""Methods by the names that ``method=`` takes."""

__all__ = [
    "CSGMCMC",
    "EP",
    "HMC",
    "MALA",
    "MAP",
    "MCLMC",
    "METHODS",
    "NUTS",
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGLMC",
    "SGNHT",
    "SWAG",
    "VI",
    "AdjustedMCLMC",
    "Anchored",
    "ConstantSGD",
    "Dropout",
    "Ensemble",
    "EnsembleFilter",
    "Laplace",
    "Method",
    "Metropolis",
    "MultiSWAG",
    "Streams",
    "Subspace",
]
