"""Small settings of every inference method, for tests that run on all of them."""

from skbayes.inference import (
    HMC,
    MALA,
    MAP,
    MCLMC,
    NUTS,
    SWAG,
    AdjustedMCLMC,
    Anchored,
    Ensemble,
    Metropolis,
    MultiSWAG,
    Subspace,
)

_SHORT = {"n_chains": 2, "n_warmup": 10, "n_draws": 10, "init": MAP(max_epochs=10)}

_PATH = {"n_snapshots": 5, "rank": 4, "thin": 3, "init": MAP(max_epochs=10)}

METHOD_SETTINGS = {
    "map": MAP(max_epochs=30),
    "ensemble": Ensemble(n_members=3, max_epochs=40, learning_rate=0.02),
    "anchored": Anchored(n_members=3, max_epochs=30),
    "metropolis": Metropolis(**_SHORT, thin=2),
    "mala": MALA(**_SHORT, thin=2),
    "hmc": HMC(**_SHORT, max_leapfrog=4),
    "nuts": NUTS(**_SHORT, max_tree_depth=3),
    "mclmc": MCLMC(**_SHORT, n_leapfrog=4),
    "adjusted_mclmc": AdjustedMCLMC(**_SHORT, max_leapfrog=4),
    "swag": SWAG(n_draws=4, **_PATH),
    "multiswag": MultiSWAG(
        2, 3, **{**_PATH, "init": Ensemble(2, max_epochs=40, learning_rate=0.02)}
    ),
    "subspace": Subspace(n_dims=2, n_chains=2, n_warmup=10, n_draws=10, init=SWAG(**_PATH)),
}
"""Method objects by the names in `skbayes.inference.METHODS`; a new method adds its line here."""

_MODES = Ensemble(validation_fraction=0, batch_size=100, max_epochs=600, learning_rate=0.03)

TARGET_SETTINGS = {
    "map": MAP(n_restarts=2),
    "ensemble": Ensemble(
        n_members=3, validation_fraction=0, batch_size=100, max_epochs=600, learning_rate=0.03
    ),
    "anchored": Anchored(n_members=200),
    "metropolis": Metropolis(n_chains=8, n_warmup=1000, n_draws=200, init="prior"),
    "mala": MALA(n_chains=8, n_warmup=500, n_draws=100, init="prior"),
    "hmc": HMC(n_chains=8, n_warmup=100, n_draws=50, init="prior"),
    "nuts": NUTS(n_chains=8, n_warmup=100, n_draws=50, init="prior"),
    "mclmc": MCLMC(n_chains=8, n_warmup=100, n_draws=100, n_leapfrog=20, init="prior"),
    "adjusted_mclmc": AdjustedMCLMC(n_chains=8, n_warmup=100, n_draws=100, init="prior"),
    "swag": SWAG(n_draws=100, init=MAP()),
    "multiswag": MultiSWAG(3, 20, init=_MODES),
    "subspace": Subspace("random", 4, n_warmup=50, n_draws=50, init=MAP()),
}
"""Long enough for the mean of a Gaussian target or of a linear model to be known."""
