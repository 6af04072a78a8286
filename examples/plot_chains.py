"""
Have the chains converged?
==========================

A Markov chain must run long enough to forget where it started. Several chains that start at
different places tell whether it did: they must agree. A network's weights are not identified,
since hidden units can be swapped without a change of the function. So the chains are compared by
what they predict.
"""

# %%
# The same network is sampled twice: once with a warm-up and enough draws, and once with chains
# that start at draws from the prior, are not warmed up and are stopped early.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC
from skbayes.plotting import RankDisplay, TraceDisplay

rng = np.random.default_rng(0)
X = np.sort(rng.uniform(-3, 3, (40, 1)), axis=0)
y = np.sin(2 * X[:, 0]) + 0.2 * rng.standard_normal(40)

patient = HMC(n_warmup=300, n_draws=200)
good = BayesianMLPRegressor((10,), noise=0.2, method=patient, random_state=0).fit(X, y)

hasty = HMC(n_warmup=0, n_draws=100, step_size=0.005, max_leapfrog=10, init="prior")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns, as it should
    bad = BayesianMLPRegressor((10,), noise=0.2, method=hasty, random_state=0).fit(X, y)

# %%
# Traces
# ------
#
# Good traces lie over each other and look like noise. R-hat compares the chains with each other;
# it should be below 1.01 for careful work, and the estimator warns above 1.1.

TraceDisplay.from_estimator(good, X, n_points=3)
plt.show()

# %%
# The chains that were stopped early do not agree. They still drift.

TraceDisplay.from_estimator(bad, X, n_points=3)
plt.show()

# %%
# Ranks
# -----
#
# Rank plots show the same more sharply. All draws are ranked together. If the chains agree, each
# chain has as many low ranks as high ones, and its bars are level.

RankDisplay.from_estimator(good, X, n_points=2)
plt.show()

# %%
# Here the bars are not level: some chains have mostly low ranks, others mostly high ones.

RankDisplay.from_estimator(bad, X, n_points=2)
plt.show()

# %%
# The numbers behind the pictures are in ``diagnostics_``.

for name, model in {"good": good, "bad": bad}.items():
    numbers = model.diagnostics_
    print(
        f"{name:5s} R-hat {numbers['r_hat_max']:.3f} (within a chain "
        f"{numbers['r_hat_within_max']:.3f})  ESS {numbers['ess_bulk_min']:.0f}  "
        f"divergences {numbers['n_divergences']}"
    )
