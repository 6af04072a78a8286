"""
A decision boundary and what is not known about it
==================================================

A classifier with one set of weights is sure of itself far from the data, where it has seen
nothing. The average over many networks that all explain the data is not: they agree near the
data, and disagree far from them.
"""

# %%
# The data are two half moons.

import matplotlib.pyplot as plt
from sklearn.datasets import make_moons

from skbayes import BayesianMLPClassifier
from skbayes.inference import HMC
from skbayes.plotting import DecisionBoundaryUncertaintyDisplay

X, y = make_moons(120, noise=0.2, random_state=0)

# %%
# Both classifiers have the same network and the same prior. One takes the most probable weights,
# the other draws weights from the posterior by Hamiltonian Monte Carlo.

from skbayes.model.priors import NormalPrior

prior = NormalPrior(scale=3.0, fan_in=True)
point = BayesianMLPClassifier((16,), prior=prior, method="map", random_state=0).fit(X, y)
bayesian = BayesianMLPClassifier(
    (16,), prior=prior, method=HMC(n_warmup=200, n_draws=100), random_state=0
).fit(X, y)

# %%
# The colours on the left and in the middle are probabilities, and the black line is where they
# are one half. On the right is the epistemic uncertainty: how much a label there would tell about
# the weights. It grows along the boundary as that leaves the data.

DecisionBoundaryUncertaintyDisplay.from_estimator(
    bayesian, X, y, point_estimator=point, eps=2.0, point_title="most probable weights"
)
plt.show()

# %%
# The total uncertainty also counts the overlap of the classes near the data, which more rows
# would not remove.

DecisionBoundaryUncertaintyDisplay.from_estimator(bayesian, X, y, response="total", eps=2.0)
plt.show()
