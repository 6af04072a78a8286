"""
Diversity against accuracy
==========================

What do the members of an ensemble have that draws around one mode do not? Fort, Hu and
Lakshminarayanan (2019) plot, for each draw of a method, its accuracy against how often its
predictions disagree with those of a reference network. Networks that were trained from different
starts are as accurate as each other, and yet they make different mistakes. Draws from the
neighbourhood of one network make nearly the same mistakes, or else lose accuracy.
"""

# %%
# Three classes of twelve clusters in ten dimensions. Few rows are used for training, so that there
# are mistakes to compare. The prior is wide: with a narrow one all networks are nearly the same.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skbayes import BayesianMLPClassifier
from skbayes.inference import HMC, METHODS, Anchored, Dropout, Ensemble
from skbayes.model.priors import NormalPrior

X, y = make_classification(
    2400,
    n_features=10,
    n_informative=6,
    n_redundant=0,
    n_classes=3,
    n_clusters_per_class=4,
    class_sep=1.5,
    random_state=0,
)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=400, random_state=0)

# %%
# Methods with many starts, chains, and methods that stay around one mode (``multiswag`` around
# several), with one setting for each.

methods = {
    "ensemble": Ensemble(n_members=20, learning_rate=0.01, validation_fraction=0, max_epochs=100),
    "anchored": Anchored(n_members=20, max_epochs=300),
    "hmc": HMC(n_chains=4, n_warmup=60, n_draws=10, max_leapfrog=30, init="prior"),
    "dropout, 2 %": Dropout(0.02, n_draws=40, max_epochs=500),
    "dropout, 10 %": Dropout(0.1, n_draws=40, max_epochs=500),
    "dropout, 30 %": Dropout(0.3, n_draws=40, max_epochs=500),
}
local = {
    "laplace": {},
    "swag": {},
    "subspace": {},
    "multiswag": {},
}
methods.update({name: METHODS[name](**own) for name, own in local.items() if name in METHODS})

# %%
# The disagreement of two networks is the share of test rows on which their labels differ. For each
# draw it is taken against the first draw of the same method. It is divided by the draw's own error
# rate, since a bad network disagrees with all others.

N_SHOWN = 40
MARKERS = "osD^vP*X<>hd"
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
print(f"{'method':16s}  one draw      all draws     log loss      disagreement")
print(f"{'':16s}  error rate    error rate    of average    of two draws")
for marker, (name, method) in zip(MARKERS, methods.items(), strict=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # short runs
        classifier = BayesianMLPClassifier(
            (24, 24), prior=NormalPrior(5.0, fan_in=True), method=method, random_state=0
        ).fit(X_train, y_train)
    labels = classifier.predict_draws(X_test, N_SHOWN).argmax(-1)  # (n_draws, n)
    errors = np.mean(labels != y_test, axis=1)
    disagreement = np.mean(labels[1:] != labels[0], axis=1)
    axes[0].scatter(disagreement / errors[1:], 1 - errors[1:], label=name, marker=marker, alpha=0.7)
    whole = np.mean(classifier.predict(X_test) != y_test)
    loss = log_loss(y_test, classifier.predict_proba(X_test))
    pairs = np.mean(labels[:, None] != labels[None], axis=2)
    pairs = pairs[np.triu_indices(len(labels), 1)].mean()
    axes[1].scatter(pairs, errors.mean() - whole, marker=marker, s=70, label=name)
    values = errors.mean(), whole, loss, pairs
    print(f"{name:16s}" + "".join(f"  {value:<12.3f}" for value in values))
axes[0].set(
    xlabel="disagreement with the first draw / error rate",
    ylabel="accuracy of a single draw",
    title="each draw",
)
axes[1].set(
    xlabel="mean disagreement of two draws",
    ylabel="error of a single draw less error of their average",
    title="what averaging gains",
)
axes[1].legend(fontsize=8)
plt.show()

# %%
# On the left, every point is one network. A method that stays around one mode has a trade to make,
# which the rate of ``dropout`` shows: at 2 % the draws are good and alike, at 30 % they differ as
# those of an ensemble do and are worse. Members of the ensemble were trained from starts of their
# own. They lie at the upper right end of that trade or beyond it: as different as the draws of a
# middle rate, and on average more accurate.
#
# On the right is why it matters. Averaging helps where networks make different mistakes, and it
# gains more the more they disagree. Draws of ``hmc`` and members of ``anchored`` have the whole
# width of the posterior, and of a wide prior at that: each alone is worse than a trained network,
# and the average makes up for much of it. So do those of ``laplace``, whose normal with a full
# covariance is wider still than the posterior, for it does not bend with it. A method that reports
# little disagreement does not know more than the others: it may only have looked at one mode.
