"""
Rows arrive one by one
======================

Assumed-density filtering keeps one normal per weight, takes each row in once, and forgets it.
Expectation propagation may come back to a row, and Hamiltonian Monte Carlo is the reference. Here
they fit the same network to the same curve, with a gap in x.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import EP, HMC
from skbayes.model import NormalPrior

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-2, -0.4, 30), rng.uniform(0.7, 2, 30)])
x = rng.permutation(x)
X, y = x[:, None], np.sin(2.5 * x) + 0.2 * rng.standard_normal(60)
grid = np.linspace(-3, 3, 121)[:, None]


def fit(method, n=60):
    model = BayesianMLPRegressor(
        (20,),
        "relu",
        method=method,
        prior=NormalPrior(1.0),
        noise=0.2,
        standardize=False,
        random_state=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short runs; see the numbers below
        return model.fit(X[:n], y[:n])


def band(ax, model, title, n=60):
    f = model.predict_draws(grid)[0]
    mean, deviation = f.mean(0), f.std(0)
    ax.fill_between(grid[:, 0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.3)
    ax.plot(grid[:, 0], mean)
    ax.plot(x[:n], y[:n], "k.", markersize=4)
    ax.set(title=title, ylim=(-4, 4))
    return deviation


# %%
# Filtering
# ---------
#
# Mean and two deviations of the function after 5, 20 and 60 rows, each seen once.

figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
for ax, n in zip(axes, (5, 20, 60), strict=True):
    model = fit(EP(mode="adf", batch_size=1, shuffle=False, n_draws=300), n)
    band(ax, model, f"filtering, {n} rows", n)
plt.show()

# %%
# Against the reference
# ---------------------
#
# One pass of filtering has not learned the curve yet. Forty passes have, but they count each row
# forty times. Expectation propagation counts it once.

methods = {
    "filtering, 1 pass": EP(mode="adf", batch_size=1, n_draws=300),
    "filtering, 40 passes": EP(mode="adf", batch_size=4, max_epochs=40, n_draws=300),
    "expectation propagation": EP(batch_size=2, max_epochs=30, n_draws=300),
    "hmc": HMC(n_warmup=150, n_draws=75, max_leapfrog=50),
}
figure, axes = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
deviations = {}
for ax, (name, method) in zip(axes, methods.items(), strict=True):
    deviations[name] = band(ax, fit(method), name)
plt.show()

# %%
# Where the band is too narrow, and where too wide
# ------------------------------------------------
#
# The deviation of the function, divided by that of HMC. Expectation propagation is too wide at the
# data, where the posterior is sure of the function but not of single weights: these must then move
# together, which independent weights cannot. In the gap it is too narrow: it knows only one way
# through.

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for name in list(methods)[:3]:
    ax.plot(grid[:, 0], deviations[name] / deviations["hmc"], label=name)
ax.axhline(1.0, color="k", linewidth=0.8)
ax.plot(x, np.full(60, 0.02), "k|", markersize=8)
ax.set(yscale="log", ylim=(0.015, 60), xlabel="x", ylabel="deviation / that of HMC")
ax.legend(fontsize=8, ncols=3, loc="upper center")
plt.show()
