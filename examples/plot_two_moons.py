"""
Two moons by every method
=========================

One network, one prior, one data set: the panels differ only in how the posterior is found. The
colours are the predictive probabilities, averaged over the draws or members of each method. White
is one half, the black line is the decision boundary.
"""

# %%
# Two half moons with little noise. The prior is wide enough for a curved boundary.

import math
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPClassifier
from skbayes.inference import METHODS
from skbayes.model.priors import NormalPrior

X, y = make_moons(100, noise=0.15, random_state=0)
prior = NormalPrior(scale=3.0, fan_in=True)

# %%
# Short settings, so that each method takes a few seconds at most. What a method has no name for
# is left out, so the same dictionary serves all: only parameters that the method knows are set.

SHORT = {
    "n_chains": 4,
    "n_warmup": 100,
    "n_draws": 50,
    "n_steps": 20,
    "max_epochs": 300,
}
OWN = {
    "map": {"max_epochs": None},
    "anchored": {"n_members": 30},
    "ensemble": {"n_members": 30, "batch_size": 32},
    "metropolis": {"n_warmup": 1000, "thin": 10},
    "mala": {"thin": 10},
    "nuts": {"n_draws": 30, "max_tree_depth": 5},
    "mclmc": {"n_leapfrog": 20},
    "csgmcmc": {"n_steps": 500},
    "ep": {"max_epochs": 20},
    "swag": {"max_epochs": None},
    "multiswag": {"max_epochs": None},
    "dropout": {"rate": 0.05, "n_draws": 100, "max_epochs": 1000},
}


def short(name):
    """The method of that name with a setting that suits a small picture."""
    method = METHODS[name]()
    known = method.get_params()
    settings = {**SHORT, **OWN.get(name, {})}
    return method.set_params(**{key: value for key, value in settings.items() if key in known})


# %%
# All methods are fitted on the same rows with the same seed. Chains as short as these have not
# converged, and the warnings say so.

grid = np.stack(np.meshgrid(np.linspace(-2.5, 3.5, 60), np.linspace(-2.0, 2.5, 50)), -1)
n_columns = 5
n_rows = math.ceil(len(METHODS) / n_columns)
fig, axes = plt.subplots(
    n_rows, n_columns, figsize=(11, 2.1 * n_rows), sharex=True, sharey=True, layout="constrained"
)
for ax in axes.flat:
    ax.set_axis_off()
for ax, name in zip(axes.flat, METHODS, strict=False):
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier = BayesianMLPClassifier(
            (16,), prior=prior, method=short(name), random_state=0
        ).fit(X, y)
    seconds = time.perf_counter() - start
    proba = classifier.predict_proba(grid.reshape(-1, 2))[:, 1].reshape(grid.shape[:2])
    shown = ax.contourf(*np.moveaxis(grid, -1, 0), proba, np.linspace(0, 1, 21), cmap="RdBu_r")
    ax.contour(*np.moveaxis(grid, -1, 0), proba, [0.5], colors="black", linewidths=1)
    ax.scatter(*X[y == 0].T, c="white", edgecolors="black", linewidths=0.5, s=9)
    ax.scatter(*X[y == 1].T, c="black", edgecolors="white", linewidths=0.5, s=9)
    ax.set_title(f"{name}, {seconds:.1f} s", fontsize=10)
fig.colorbar(shown, ax=axes, label="probability of a black point", ticks=[0, 0.5, 1], shrink=0.6)
plt.show()

# %%
# A single set of weights (``map``) is sure of itself wherever it is not on the boundary. The exact
# samplers, from ``metropolis`` to ``adjusted_mclmc``, should agree with each other: away from the
# data their colours fade, because the networks that explain the data disagree there. Members of
# ``anchored`` do the same with far fewer networks. Members of ``ensemble`` stop early, before their
# boundaries bend much, and differ less. Methods that stay around one mode, such as ``dropout``,
# widen its boundary a little and otherwise repeat it; ``swag``, ``multiswag`` and ``subspace``
# start from such early members and keep their straight boundary. Of the chains on minibatches,
# ``sghmc`` and ``sgnht`` look like the exact samplers here, where a minibatch is all rows;
# ``sglmc`` takes steps that are too small to leave its start. ``laplace`` has tuned its prior, to
# a wider one. ``ep`` with tanh units stays near the prior.
