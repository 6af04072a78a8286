"""
What a prior says about functions
=================================

A prior on weights is hard to judge by its numbers. It is easier to draw weights from it and look
at the functions. Each row of pictures below shows functions from one prior, and what the data
leave of them. The chains are short: long enough for a picture, too short for numbers.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC
from skbayes.model.priors import HierarchicalPrior, NormalPrior, StudentTPrior
from skbayes.plotting import PriorPosteriorDisplay

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-2, -0.5, 15), rng.uniform(0.8, 2, 15)])
X, y = x[:, None], np.sin(3 * x) + 0.2 * rng.standard_normal(30)


def compare(priors):
    figure, axes = plt.subplots(
        len(priors), 2, figsize=(8, 2.6 * len(priors)), sharex=True, layout="constrained"
    )
    for pair, (name, prior) in zip(axes, priors.items(), strict=True):
        method = HMC(n_warmup=150, n_draws=50, max_leapfrog=50)
        model = BayesianMLPRegressor((10,), prior=prior, noise=0.2, method=method, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short runs: see above
            model.fit(X, y)
        PriorPosteriorDisplay.from_estimator(
            model, X, y=y, grid_range=(-3, 3), random_state=0, ax=pair
        )
        pair[0].set(title=f"{name}: prior", ylabel="y", ylim=(-6, 6))
        pair[1].set(title=f"{name}: posterior", ylim=(-4, 4))
    for ax in axes[:-1].ravel():
        ax.set_xlabel("")
    for ax in axes[-1]:
        ax.set_xlabel("x")
    plt.show()


# %%
# Scale
# -----
#
# The scale is the standard deviation of the weights. A small scale allows only smooth, nearly
# straight functions. A large one allows steep and wavy functions, and the posterior is wide where
# there are no data.

compare({f"scale {scale:g}": NormalPrior(scale, fan_in=True) for scale in (0.3, 1.0, 5.0)})

# %%
# Kind
# ----
#
# The Student-t prior has heavy tails: most weights are small and a few are large, so a few units
# bend sharply. The hierarchical prior infers the scale of each layer from the data, so functions
# drawn from it differ in size.

compare(
    {
        "normal": NormalPrior(1.0, fan_in=True),
        "Student t": StudentTPrior(1.0, df=2.0, fan_in=True),
        "hierarchical": HierarchicalPrior(1.0, spread=1.0),
    }
)
