r"""
Finding a minimum by requests
=============================

The smallest value of a function is wanted, and every value costs. A function drawn from the
posterior is minimised in the place of the unknown one, and the true one is asked there (Thompson,
1933). Where much is unknown the draws differ, and requests explore; later they settle.
"""

# %%
# The posterior comes from Langevin dynamics (``"sgld"``), and from the ensemble filter, whose
# members are moved on by each answer instead of being sampled anew.

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPRegressor
from skbayes.inference import SGLD, Ensemble, EnsembleFilter

warnings.simplefilter("ignore", ConvergenceWarning)  # of short chains
x = np.linspace(-2, 2, 161)[:, None]
truth = np.sin(5 * x[:, 0]) + 0.5 * x[:, 0] ** 2 - 0.3 * x[:, 0]

methods = {
    "sgld": SGLD(
        n_chains=8,
        n_warmup=5,
        n_draws=5,
        n_steps=30,
        init=Ensemble(8, validation_fraction=0, max_epochs=300, learning_rate=0.05),
    ),
    "ensemble_filter": EnsembleFilter(10, max_epochs=100, learning_rate=0.05),
}
N_REQUESTS, SEEDS = 8, 2


def requests(name, seed):
    """Values found, the places asked, the seconds that it took, and the last model."""
    rng = np.random.default_rng(seed)
    model = BayesianMLPRegressor(
        (20,), method=methods.get(name, "map"), noise=0.1, random_state=seed
    )
    model.set_params(standardize=False)
    rows = list(rng.choice(len(x), 3, replace=False))
    y = truth[rows] + 0.1 * rng.standard_normal(3)
    begin = time.perf_counter()
    for number in range(N_REQUESTS):
        if name == "random":
            best = int(rng.integers(len(x)))
        else:
            if name == "sgld":
                model.fit(x[rows], y)
            elif number == 0:
                model.partial_fit(x[rows], y)
            else:
                model.partial_fit(x[rows[-1:]], y[-1:])
            draws = model.predict_draws(x)[0]
            best = int(draws[rng.integers(len(draws))].argmin())
        rows.append(best)
        y = np.append(y, truth[best] + 0.1 * rng.standard_normal())
    return np.minimum.accumulate(truth[rows]), rows, time.perf_counter() - begin, model


# %%
# The smallest true value among the places asked so far, less the minimum.

runs = {name: [requests(name, seed) for seed in range(SEEDS)] for name in (*methods, "random")}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for ax, name in zip(axes[1:], methods, strict=True):
    _, rows, _, model = runs[name][0]
    draws = model.predict_draws(x)[0]
    ax.plot(x, draws[:: max(1, len(draws) // 10)].T, color="C0", lw=0.5, alpha=0.6)
    ax.plot(x, truth, "k:", lw=1)
    ax.scatter(x[rows, 0], truth[rows], c=np.arange(len(rows)), cmap="viridis", s=25, zorder=3)
    ax.set(title=f"{name}: functions, places", ylim=(-2.5, 4))
for name, results in runs.items():
    regret = np.mean([found - truth.min() for found, *_ in results], 0)
    seconds = np.mean([result[2] for result in results]) / N_REQUESTS
    label = name if name == "random" else f"{name} ({seconds:.2f} s a request)"
    axes[0].plot(np.arange(len(regret)) - 2, regret, label=label)
axes[0].set(xlabel="requests", ylabel="minimum found less the true one", title="mean of two runs")
axes[0].legend(fontsize=8)
plt.show()
