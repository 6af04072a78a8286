"""
Which labels are asked for
==========================

Three groups of points and a Bayesian network. Requests by what a label tells of the weights go to
the borders between the classes, and to places where the networks of the ensemble disagree.
"""

# %%
# Two labels of each class are known at first; 24 more are asked for, at random and by mutual
# information (``"bald"``).

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning

from skbayes import ActiveLearner, BayesianMLPClassifier
from skbayes.inference import Anchored

warnings.simplefilter("ignore", ConvergenceWarning)
rng = np.random.default_rng(3)
X, truth = make_moons(240, noise=0.15, random_state=0)
X = np.concatenate([X, [0.5, 2.0] + 0.25 * rng.standard_normal((120, 2))])
truth = np.concatenate([truth, np.full(120, 2)])
first = np.concatenate([np.flatnonzero(truth == c)[:2] for c in range(3)])
start = np.full(len(truth), -1)
start[first] = truth[first]

network = BayesianMLPClassifier(
    (20,),
    method=Anchored(10, solver="adam", max_epochs=300),
    random_state=0,
)
learners = {}
for name in ("random", "bald"):
    learner = ActiveLearner(network, name, random_state=0).fit(X, start)
    accuracy = [learner.score(X, truth)]
    for _ in range(8):
        rows = learner.query(3)
        learner.teach(rows, truth[rows])
        accuracy.append(learner.score(X, truth))
    learners[name] = learner, accuracy

# %%
# Dark regions are those where the label would tell most. Large points have labels; the numbers give
# the order in which they were asked for.

side = np.linspace(-2.2, 3.2, 70)
grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for ax, (name, (learner, _)) in zip(axes, learners.items(), strict=False):
    information = learner.predict_uncertainty(grid).epistemic.reshape(70, 70)
    ax.contourf(side, side, information, 12, cmap="Greys", alpha=0.6)
    for c in range(3):
        of_class = truth == c
        ax.scatter(*X[of_class].T, s=4, color=f"C{c}", alpha=0.5)
    asked = [i for entry in learner.history_ for i in entry["indices"]]
    ax.scatter(*X[first].T, s=45, c=[f"C{c}" for c in truth[first]], edgecolors="k", marker="s")
    ax.scatter(*X[asked].T, s=70, c=[f"C{c}" for c in truth[asked]], edgecolors="k")
    for number, i in enumerate(asked, 1):
        ax.text(*X[i], str(number), fontsize=5.5, ha="center", va="center", color="w")
    ax.set(title=name, xlim=(-2, 3), ylim=(-1.6, 3))
for name, (_, accuracy) in learners.items():
    axes[2].plot(6 + 3 * np.arange(len(accuracy)), accuracy, label=name)
axes[2].set(xlabel="labels", ylabel="accuracy on the pool", title="learning curves")
axes[2].legend()
plt.show()
