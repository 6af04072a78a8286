"""
Regression with a gap in the data
=================================

A network that is fitted to data with a gap can do many things inside the gap. A single set of
weights picks one of them. A posterior over the weights keeps them all, so its band becomes wide
where no data are. This example compares three ways to fit the same network.
"""

# %%
# The data are a sine with noise of standard deviation 0.15. No row has x between -1 and 1.

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC, MAP, Anchored
from skbayes.plotting import PredictiveBandDisplay

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -1, 40), rng.uniform(1, 3, 40)])
y = np.sin(2 * x) + 0.15 * rng.standard_normal(len(x))
X = x[:, None]

# %%
# The prior says which functions are likely before the data are seen. With ``fan_in=True`` the
# scale does not depend on the number of units, and a scale of 3 lets the functions bend
# often enough for this sine. The noise is taken as known here.

from skbayes.model.priors import NormalPrior

methods = {
    "map: one set of weights": MAP(solver="adam"),
    "anchored: 20 members": Anchored(n_members=20, solver="adam"),
    "hmc: 4 chains": HMC(n_warmup=150, n_draws=100),
}
models = {
    title: BayesianMLPRegressor(
        (20,),
        method=method,
        prior=NormalPrior(scale=3.0, fan_in=True),
        noise=0.15,
        random_state=0,
    ).fit(X, y)
    for title, method in methods.items()
}

# %%
# The dark band holds 90 % of the functions. It is the epistemic part of the uncertainty: more
# data would make it narrower. The light band adds the noise, so it should hold 90 % of new
# points. The single network has only the light band, as narrow in the gap as anywhere else.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
for ax, (title, model) in zip(axes, models.items(), strict=True):
    PredictiveBandDisplay.from_estimator(
        model, X, y=y, grid_range=(-4, 4), ax=ax, legend=ax is axes[0]
    )
    ax.plot(np.linspace(-4, 4, 200), np.sin(2 * np.linspace(-4, 4, 200)), "k:", lw=1)
    ax.set(title=title, xlabel="x", ylabel="y" if ax is axes[0] else "", ylim=(-3, 3))
plt.show()

# %%
# The dotted line is the function that made the data. Both bands widen in the gap and beyond the
# data. That of ``hmc`` is the wider one: ``anchored`` is an approximation. Whether the chains of
# ``hmc`` agree can be read from ``diagnostics_``.

r_hat = models["hmc: 4 chains"].diagnostics_["r_hat_max"]
print(f"largest R-hat of the predictions: {r_hat:.3f}")
for title, model in models.items():
    std = np.sqrt(model.predict_uncertainty([[0.0], [2.0]]).epistemic)
    print(f"{title:24s} epistemic deviation at x = 0: {std[0]:.2f}, at x = 2: {std[1]:.2f}")
