"""
Normals with and without covariances
====================================

Variational inference looks for the normal distribution nearest to the posterior. Weights that may
only vary independently cannot follow a posterior in which they are tied to each other; a covariance
of low rank can in part, a full one better. Hamiltonian Monte Carlo is the reference. The first
picture is of two weights, the second of functions.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, VI
from skbayes.model import NormalPrior

rng = np.random.default_rng(0)


def fit(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short runs
        return model.fit(X, y)


# %%
# Two weights
# -----------
#
# Logistic regression on two columns with a correlation of 0.9: the data know the sum of the weights
# well and their difference badly. The divergence KL(q || p) punishes mass where the posterior has
# none, so independent weights shrink to what fits inside.

x1 = rng.standard_normal(100)
X = np.stack([x1, 0.9 * x1 + 0.44 * rng.standard_normal(100)], 1)
y = (X.sum(1) + 1.5 * rng.standard_normal(100) > 0).astype(int)
methods = {
    "mean_field": VI(learning_rate=0.05, max_epochs=400, n_draws=600),
    "low_rank": VI("low_rank", rank=1, learning_rate=0.05, max_epochs=400, n_draws=600),
    "full_rank": VI("full_rank", learning_rate=0.05, max_epochs=400, n_draws=600),
}
exact = BayesianMLPClassifier(
    (), method=HMC(n_warmup=150, n_draws=300), prior=NormalPrior(3.0), random_state=0
)
exact = fit(exact, X, y).posterior_.flat

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True, layout="constrained")
for ax, (name, method) in zip(axes, methods.items(), strict=True):
    model = BayesianMLPClassifier((), method=method, prior=NormalPrior(3.0), random_state=0)
    draws = fit(model, X, y).posterior_.flat
    ax.plot(*exact[:, :2].T, ".", color="0.75", markersize=3, label="HMC")
    ax.plot(*draws[:, :2].T, ".", markersize=3, label=name)
    ax.set(title=f"{name}, bound {model.elbo_:.1f} nats", xlabel="weight 1")
    ax.legend(loc="upper right", fontsize=8)
axes[0].set_ylabel("weight 2")
plt.show()

# %%
# Functions
# ---------
#
# A curve with a gap in x, and a network of 20 units: mean and two deviations of the function. The
# bound rises with the covariances. At the rows all three bands are wider than that of HMC, that of
# independent weights most: where data tie weights together, weights that vary on their own must
# scatter the function. Beyond the rows all three know one way on, and are too sure.

x = np.concatenate([rng.uniform(-2, -0.4, 30), rng.uniform(0.7, 2, 30)])
y = np.sin(2.5 * x) + 0.2 * rng.standard_normal(60)
grid = np.linspace(-3, 3, 121)[:, None]
settings = {"learning_rate": 0.02, "max_epochs": 2000}
methods = {
    "mean_field": VI(**settings),
    "low_rank": VI("low_rank", rank=10, **settings),
    "full_rank": VI("full_rank", **settings),
    "hmc": HMC(n_warmup=150, n_draws=75, max_leapfrog=50),
}
figure, axes = plt.subplots(1, 4, figsize=(12, 3), sharey=True, layout="constrained")
for ax, (name, method) in zip(axes, methods.items(), strict=True):
    model = BayesianMLPRegressor(
        (20,),
        "tanh",
        method=method,
        prior=NormalPrior(1.0),
        noise=0.2,
        standardize=False,
        random_state=1,
    )
    f = fit(model, x[:, None], y).predict_draws(grid)[0]
    mean, deviation = f.mean(0), f.std(0)
    ax.fill_between(grid[:, 0], mean - 2 * deviation, mean + 2 * deviation, alpha=0.3)
    ax.plot(grid[:, 0], mean)
    ax.plot(x, y, "k.", markersize=4)
    bound = f", bound {model.elbo_:.0f}" if hasattr(model, "elbo_") else ""
    ax.set(title=name + bound, ylim=(-3, 3))
plt.show()
