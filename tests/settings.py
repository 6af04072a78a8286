"""Small settings of every inference method, for tests that run on all of them."""

from skbayes.inference import HMC, MAP, Anchored, Ensemble

METHOD_SETTINGS = {
    "map": MAP(max_epochs=30),
    "ensemble": Ensemble(n_members=3, max_epochs=40, learning_rate=0.02),
    "anchored": Anchored(n_members=3, max_epochs=30),
    "hmc": HMC(n_chains=2, n_warmup=10, n_draws=10, max_leapfrog=4, init=MAP(max_epochs=10)),
}
"""Method objects by the names in `skbayes.inference.METHODS`; a new method adds its line here."""

TARGET_SETTINGS = {
    "map": MAP(n_restarts=2),
    "ensemble": Ensemble(
        n_members=3, validation_fraction=0, batch_size=100, max_epochs=600, learning_rate=0.03
    ),
    "anchored": Anchored(n_members=200),
    "hmc": HMC(n_chains=8, n_warmup=100, n_draws=50, init="prior"),
}
"""Long enough for the mean of a Gaussian target or of a linear model to be known."""
