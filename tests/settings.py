"""Small settings of every inference method, for tests that run on all of them."""

from skbayes.inference import (
    CSGMCMC,
    EP,
    HMC,
    MALA,
    MAP,
    MCLMC,
    NUTS,
    PSGLD,
    SGHMC,
    SGLD,
    SGLMC,
    SGNHT,
    SWAG,
    VI,
    AdjustedMCLMC,
    Anchored,
    ConstantSGD,
    Dropout,
    Ensemble,
    Laplace,
    Metropolis,
    MultiSWAG,
    Subspace,
)

_STEPS = {"n_chains": 2, "n_warmup": 4, "n_draws": 10, "n_steps": 5, "init": MAP(max_epochs=10)}
_LONG = {"n_chains": 8, "n_warmup": 20, "n_draws": 60, "init": MAP(max_epochs=200)}
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
    "sgld": SGLD(**_STEPS),
    "psgld": PSGLD(**_STEPS),
    "sglmc": SGLMC(**_STEPS),
    "sghmc": SGHMC(**_STEPS),
    "sgnht": SGNHT(**_STEPS),
    "csgmcmc": CSGMCMC(
        n_chains=2, n_draws=10, draws_per_cycle=5, n_steps=40, init=MAP(max_epochs=10)
    ),
    "constant_sgd": ConstantSGD(**_STEPS),
    "dropout": Dropout(n_draws=10, max_epochs=120, learning_rate=0.05),
    "laplace": Laplace(n_draws=20, max_rounds=5, tol=5.0, init=MAP(max_epochs=100)),
    "ep": EP(n_members=2, n_draws=100, max_epochs=10, batch_size=32),
    "swag": SWAG(n_draws=4, **_PATH),
    "multiswag": MultiSWAG(
        2, 3, **{**_PATH, "init": Ensemble(2, max_epochs=40, learning_rate=0.02)}
    ),
    "subspace": Subspace(n_dims=2, n_chains=2, n_warmup=10, n_draws=10, init=SWAG(**_PATH)),
    "vi": VI(n_draws=10, max_epochs=60, learning_rate=0.1),
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
    "sgld": SGLD(**_LONG, batch_size=20, n_steps=15),
    "psgld": PSGLD(**_LONG, batch_size=20, n_steps=15),
    "sglmc": SGLMC(**_LONG, batch_size=30, n_steps=25),
    "sghmc": SGHMC(**_LONG, batch_size=20, n_steps=20),
    "sgnht": SGNHT(**_LONG, batch_size=20, n_steps=20),
    "csgmcmc": CSGMCMC(n_chains=8, n_draws=80, n_steps=500, batch_size=20),
    "constant_sgd": ConstantSGD(**_LONG, n_steps=20, preconditioner="full"),
    "dropout": Dropout(n_members=2, max_epochs=1000, learning_rate=0.03),
    "laplace": Laplace(hessian="full", tune_prior=None, n_draws=1000),
    "ep": EP(n_members=2, n_draws=2000, batch_size=8, tol=1e-3),
    "swag": SWAG(n_draws=100, init=MAP()),
    "multiswag": MultiSWAG(3, 20, init=_MODES),
    "subspace": Subspace("random", 4, n_warmup=50, n_draws=50, init=MAP()),
    "vi": VI(n_draws=500, learning_rate=0.03, max_epochs=700),
}
"""Long enough for the mean of a Gaussian target or of a linear model to be known."""
