"""
Six samplers, one posterior
===========================

All samplers of the package draw from the same posterior; they differ in how many gradients an
effective draw costs. Here they explore the network that fits a curve through a gap in x.
"""

# %%
# Every sampler gets the same model and starts from the same prior knowledge: a tanh layer of ten
# units, known noise, and no integration of the output layer, so that the differences show.

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from skbayes import BayesianMLPRegressor
from skbayes.diagnostics import ess_bulk, split_r_hat
from skbayes.inference import HMC, MALA, MCLMC, NUTS, AdjustedMCLMC, Metropolis

rng = np.random.default_rng(0)
X = np.concatenate([rng.uniform(-3, -0.5, 25), rng.uniform(1.5, 3, 20)])[:, None]
y = np.sin(2 * X[:, 0]) + 0.2 * rng.standard_normal(len(X))
grid = np.linspace(-3.5, 3.5, 141)[:, None]

whole = {"marginalize": False}
methods = {
    "metropolis": Metropolis(n_warmup=500, n_draws=100, thin=40, **whole),
    "mala": MALA(n_warmup=500, n_draws=100, thin=30, **whole),
    "hmc": HMC(n_warmup=100, n_draws=100, max_leapfrog=40, **whole),
    "nuts": NUTS(n_warmup=100, n_draws=100, max_tree_depth=6, **whole),
    "mclmc": MCLMC(n_warmup=100, n_draws=100, n_leapfrog=30, energy_variance=1e-2, **whole),
    "adjusted_mclmc": AdjustedMCLMC(n_warmup=100, n_draws=100, max_leapfrog=40, **whole),
}

# %%
# Bands
# -----
#
# The mean and two deviations of the function. Where there are no data the band is wide. A sampler
# that moves slowly has a band that is too narrow there: its chains did not get around, and R-hat
# tells.

figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), sharex=True, sharey=True)
rows = []
for ax, (name, method) in zip(axes.flat, methods.items(), strict=True):
    reg = BayesianMLPRegressor((10,), noise=0.2, method=method, random_state=0)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the slow ones warn of their R-hat, as they should
        reg.fit(X, y)
    seconds = time.process_time() - start
    f = reg.predict_draws(grid)[0].reshape(4, 100, -1)  # (chains, draws, points)
    mean, deviation = f.mean((0, 1)), f.std((0, 1))
    ax.fill_between(grid[:, 0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.3)
    ax.plot(grid[:, 0], mean)
    ax.plot(X[:, 0], y, "k.", markersize=3)
    n_effective, r_hat = np.median(ess_bulk(f)), split_r_hat(f).max()
    ax.set_title(f"{name}: ESS {n_effective:.0f}, R-hat {r_hat:.2f}", fontsize=9)
    rows.append((name, n_effective, r_hat, n_effective / seconds))
axes[0, 0].set_ylim(-2.5, 2.5)
figure.tight_layout()
plt.show()

# %%
# Effective draws per second
# --------------------------
#
# Random walks spread like ink in water: the time that they need grows with the square of the
# distance. Long trajectories along the gradient go straight. ``mclmc`` has no Metropolis step, so
# it wastes nothing, at the price of a small bias that ``energy_variance`` controls.

names, _, _, rates = zip(*rows, strict=True)
figure, ax = plt.subplots(figsize=(6, 2.8))
ax.barh(names, rates)
ax.set_xscale("log")
ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
ax.xaxis.set_major_formatter("{x:g}")
ax.xaxis.set_minor_formatter("")
ax.set_xlabel("effective draws of the function (median over x) per CPU second")
ax.invert_yaxis()
figure.tight_layout()
plt.show()

# %%
for name, n_effective, r_hat, rate in rows:
    print(f"{name:15s} ESS {n_effective:6.0f}  R-hat {r_hat:.2f}  per second {rate:6.1f}")
