"""
Evidence across network sizes
=============================

How large should a network be? The evidence answers without held-out data. It is the probability
that a model, before it has seen anything, gave to the data that came:

.. math:: p(D \\mid M) = \\int p(D \\mid \\theta, M)\\, p(\\theta \\mid M)\\, d\\theta.

Since the evidence of a model sums to one over all data sets, a model can only give much of it to
a few. The *support* of a model is the set of data sets to which it gives a probability worth
speaking of. A model that is too small has a small support: these data are not in it. A model that
is too large has a wide support, and little is left for each data set, these included. The largest
evidence is in between (MacKay, 1992).

Here networks of growing size are fitted by `~skbayes.inference.Laplace`, whose estimators have
``log_evidence_``. The prior is fixed, so that the size is all that changes: 5 on every weight and
bias. The score on many held-out rows, which no fit has seen, is drawn beside it.
"""

# %%
# A curve with several bends, and 60 noisy rows of it.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, Laplace
from skbayes.model.priors import NormalPrior

warnings.simplefilter("ignore")  # a network without enough units need not reach its mode
rng = np.random.default_rng(0)


def draw(n):
    """Rows and targets."""
    x = rng.uniform(-2, 2, size=n)
    return x[:, None], np.sin(3 * x) + 0.4 * x + 0.2 * rng.normal(size=n)


X, y = draw(60)
X_held, y_held = draw(2000)

# %%
# Each size is fitted from eight starts, and the best mode is kept.

sizes = [0, 1, 2, 3, 4, 6, 10, 20, 40]
models, evidence, held_out = {}, [], []
for size in sizes:
    models[size] = best = BayesianMLPRegressor(
        (size,) if size else (),
        noise=0.2,
        prior=NormalPrior(scale=5.0),
        method=Laplace(
            tune_prior=None, init=MAP(n_restarts=8 if size else 1, solver="lbfgs", max_epochs=400)
        ),
        dtype="float64",
        random_state=0,
    ).fit(X, y)
    evidence.append(best.log_evidence_)
    held_out.append(best.log_predictive_density(X_held, y_held).mean())

# %%
# (Networks with no hidden unit or one lie far below the figure.)
#
# The evidence rises steeply until the network can bend as often as the curve does, and then falls:
# every further unit widens the support. The held-out score rises as steeply but falls much less:
# averaging over the weights protects a large network's predictions, and the evidence still sees
# that it has spread itself over data sets that did not come.

fig, axes = plt.subplots(1, 2, figsize=(10, 4))
positions = np.arange(len(sizes))
axes[0].plot(positions, evidence, "o-")
axes[0].set(title="log evidence of the 60 rows", ylabel="nats")
axes[1].plot(positions, held_out, "o-", color="tab:orange")
axes[1].set(title="held-out log density per row", ylabel="nats")
for ax, values in zip(axes, (evidence, held_out), strict=True):
    ax.set_xticks(positions, sizes)
    ax.set_xlabel("hidden units")
    ax.axvline(positions[int(np.argmax(values))], color="grey", linestyle=":")
    ax.set_ylim(bottom=np.max(values) - 1.3 * (np.max(values) - np.min(values[2:])))
fig.tight_layout()

# %%
# The support can be looked at. For three sizes the figure shows functions drawn from the prior
# (thin), and the fitted mean with its band of two standard deviations. The smallest cannot make
# the data from any weights; the functions of the largest are wilder than the data need.

grid = np.linspace(-2.3, 2.3, 300)[:, None]
best_size = sizes[int(np.argmax(evidence))]
fig, axes = plt.subplots(2, 3, figsize=(12, 6), sharex=True)
for (above, below), size in zip(axes.T, (1, best_size, 40), strict=True):
    model = models[size]
    above.plot(grid, model.sample_prior(grid, 8, random_state=1).T, lw=0.8)
    above.plot(X, y, "k.", ms=3)
    above.set_title(f"{size} hidden unit{'s' if size > 1 else ''}: functions from the prior")
    mean, std = model.predict(grid, return_std=True)
    below.plot(X, y, "k.", ms=3)
    below.plot(grid, mean)
    below.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.3)
    below.set_ylim(-3, 3)
    below.set_title(f"fitted: log evidence {model.log_evidence_:.0f}")
fig.tight_layout()
plt.show()
