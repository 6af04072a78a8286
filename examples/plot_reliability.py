"""
Are the probabilities calibrated?
=================================

Of all the rows to which a classifier gives 80 %, it should get 80 % right. Of all the targets,
90 % should lie in the 90 % interval of a regressor. A reliability diagram shows whether that
holds.
"""

# %%
# Classification
# --------------
#
# The classes overlap, and the training rows are few. Both classifiers have the same network and
# the same wide prior. One takes the most probable weights, the other averages over the posterior.

import matplotlib.pyplot as plt
from sklearn.datasets import make_classification, make_friedman1
from sklearn.model_selection import train_test_split

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP
from skbayes.model.priors import NormalPrior
from skbayes.plotting import ReliabilityDisplay

X, y = make_classification(3000, 10, n_informative=5, flip_y=0.15, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=150, random_state=0)

prior = NormalPrior(scale=3.0, fan_in=True)
hmc = HMC(n_warmup=150, n_draws=100)
point = BayesianMLPClassifier((10,), prior=prior, method=MAP(solver="adam"), random_state=0)
bayesian = BayesianMLPClassifier((10,), prior=prior, method=hmc, random_state=0)
point.fit(X_train, y_train)
bayesian.fit(X_train, y_train)

# %%
# Below the diagonal a classifier is too sure, above it not sure enough. The lower panel counts
# the rows in each bin. Two displays can share their axes.

display = ReliabilityDisplay.from_estimator(point, X_test, y_test, name="map")
ReliabilityDisplay.from_estimator(bayesian, X_test, y_test, name="hmc", ax=display.ax_)
plt.show()

# %%
# Regression
# ----------
#
# For a regressor the diagram shows how many targets lie inside the central intervals.

X, y = make_friedman1(1000, n_features=5, noise=1.0, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=60, random_state=0)
prior = NormalPrior(scale=2.0, fan_in=True)
point = BayesianMLPRegressor(
    (10,), prior=prior, noise=1.0, method=MAP(solver="adam"), random_state=0
)
bayesian = BayesianMLPRegressor((10,), prior=prior, noise=1.0, method=hmc, random_state=0)
point.fit(X_train, y_train)
bayesian.fit(X_train, y_train)

display = ReliabilityDisplay.from_estimator(point, X_test, y_test, name="map")
ReliabilityDisplay.from_estimator(bayesian, X_test, y_test, name="hmc", ax=display.ax_)
plt.show()

# %%
# The most probable weights give intervals that hold too few targets, because they leave out that
# the weights are not known.
#
# An average over a posterior is calibrated as far as the model fits the data. Where the prior is
# wrong, it can be too sure or too cautious. A reliability diagram on rows that were held out is
# the way to find out.
