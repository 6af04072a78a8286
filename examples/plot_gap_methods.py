"""
A gap in x, seen by six methods
===============================

Where there are no data, many functions are possible, and the uncertainty should grow. How much of
it a method finds depends on how far from a mode it looks.
"""

# %%
# Two groups of points on a sine, and nothing between them. All methods fit the same network of 20
# units with known noise. ``swag`` begins at a trained network, ``multiswag`` and the plane of
# ``subspace`` at anchored members.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC, SWAG, Anchored, Ensemble, MultiSWAG, Subspace
from skbayes.model.priors import NormalPrior

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -1, 40), rng.uniform(1, 3, 40)])
y = np.sin(2 * x) + 0.15 * rng.standard_normal(len(x))
grid = np.linspace(-4, 4, 161)

modes = Ensemble(20, learning_rate=0.01, batch_size=80, max_epochs=1500, validation_fraction=0)
anchored = Anchored(n_members=20, solver="adam")
methods = {
    "hmc": HMC(n_warmup=60, n_draws=40),
    "anchored": anchored,
    "ensemble": modes,
    "swag": SWAG(init=modes),
    "multiswag": MultiSWAG(n_modes=20, n_draws=5, init=anchored),
    "subspace": Subspace(
        "curve", sampler="ess", temperature=2.0, n_warmup=50, n_draws=75, init=anchored
    ),
}

# %%
# The dark band holds 90 % of the functions.

figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True, layout="constrained")
widths = {}
for ax, (name, method) in zip(axes.flat, methods.items(), strict=True):
    model = BayesianMLPRegressor(
        (20,), method=method, prior=NormalPrior(3.0, fan_in=True), noise=0.15, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of short runs
        model.fit(x[:, None], y)
    functions = model.predict_draws(grid[:, None])[0]
    low, high = np.quantile(functions, [0.05, 0.95], axis=0)
    ax.fill_between(grid, low, high, alpha=0.35, lw=0)
    ax.plot(grid, functions[:: max(1, len(functions) // 8)].T, color="C0", lw=0.5, alpha=0.6)
    ax.plot(grid, functions.mean(0), "C0")
    ax.plot(grid, np.sin(2 * grid), "k:", lw=1)
    ax.plot(x, y, "k.", ms=3)
    ax.axvspan(-1, 1, color="0.9", zorder=-1)
    ax.set(title=name, ylim=(-3, 3))
    deviation, there = functions.std(0), np.abs(grid)
    widths[name] = deviation[there < 0.5].mean(), deviation[np.abs(there - 2) < 0.5].mean()
plt.show()

# %%
# ``hmc``, the reference here, leaves the most room in the gap. ``swag`` stays around one mode: its
# band is as wide there as at the data, because every draw is a variation of one solution. The
# members of ``ensemble`` end close to each other. ``multiswag`` has Gaussians around modes that
# differ, and the plane of a curve between two modes holds different functions too.

figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
position = np.arange(len(widths))
ax.bar(position - 0.2, [w[0] for w in widths.values()], 0.4, label="in the gap")
ax.bar(position + 0.2, [w[1] for w in widths.values()], 0.4, label="at the data")
ax.set_xticks(position, widths)
ax.set(yscale="log", ylabel="deviation of the functions")
ax.legend()
plt.show()

# %%
for name, (gap, data) in widths.items():
    print(f"{name:16s} in the gap {gap:.3f}, at the data {data:.3f}, ratio {gap / data:.1f}")
