r"""
The loop of active learning, picture by picture
===============================================

A function is asked for its value where least is known of it, again and again:

.. math:: x_* = \arg\max_x \operatorname{Var}[f(x) \mid D].

Inside is scikit-learn's Gaussian process; any other regressor that tells its uncertainty will do.
"""

# %%
# The function is :math:`\sin 14 x^2` on [0, 1], known at three points, with noise of deviation
# 0.05. The pool are 201 places.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from skbayes import ActiveLearner, BayesianMLPRegressor
from skbayes.inference import Anchored
from skbayes.model.priors import NormalPrior

warnings.simplefilter("ignore")  # of the kernel's bounds, where there are three points
x = np.linspace(0, 1, 201)[:, None]
truth = np.sin(14 * x[:, 0] ** 2)


def process():
    """A Gaussian process whose parameters are fitted anew with each answer."""
    kernel = ConstantKernel(1.0, (0.1, 10)) * RBF(0.2, (0.05, 1)) + WhiteKernel(0.01, (1e-4, 0.1))
    return GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)


def begin(acquisition, seed):
    """A learner with three answers, and the function that gives more."""
    rng = np.random.default_rng(seed)
    noisy = truth + 0.05 * rng.standard_normal(len(truth))
    y = np.full(len(truth), np.nan)
    first = rng.choice(len(truth), 3, replace=False)
    y[first] = noisy[first]
    return ActiveLearner(process(), acquisition, random_state=seed).fit(x, y), noisy


# %%
# Each picture shows the mean, two deviations on both sides, and where the next answer is wanted.

learner, noisy = begin("variance", 0)
figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), sharex=True, sharey=True, layout="constrained")
for ax, n in zip(axes.flat, (3, 4, 5, 7, 10, 13), strict=True):
    while learner.n_answers_ < n - 3:
        i = learner.query()
        learner.teach(i, noisy[i])
    mean, std = learner.predict(x, return_std=True)
    ax.plot(x, truth, "k:", lw=1)
    ax.fill_between(x[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.25, lw=0)
    ax.plot(x, mean)
    known, y, _ = learner.labelled_()
    ax.plot(known, y, "k.")
    ax.axvline(x[learner.query()[0], 0], color="C3", lw=1)
    error = np.sqrt(np.mean((mean - truth) ** 2))
    ax.set_title(f"{n} answers, RMSE {error:.2f}", fontsize=10)
    ax.set_ylim(-2.2, 2.2)

# %%
# The error against the number of answers, over five seeds, beside places taken at random.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, color in (("variance", "C0"), ("random", "C1")):
    curves = []
    for seed in range(5):
        learner, noisy = begin(name, seed)
        errors = []
        for _ in range(13):
            errors.append(np.sqrt(np.mean((learner.predict(x) - truth) ** 2)))
            i = learner.query()
            learner.teach(i, noisy[i])
        curves.append(errors)
    ax.plot(np.arange(3, 16), np.mean(curves, 0), color=color, label=name)
    ax.plot(np.arange(3, 16), np.transpose(curves), color=color, lw=0.5, alpha=0.5)
ax.set(xlabel="answers", ylabel="RMSE", yscale="log")
ax.legend()

# %%
# The same with Bayesian networks. Three values say little, so that what one knows of the function
# must be said: the noise, as the bounds of the kernel did above, and that the function turns
# several times, by tanh units whose weights have a wide prior. (With learned noise and the narrower
# default prior, the first fits may take the turns for noise.) ``warm_start=True`` lets the networks
# go on from answer to answer.

inside = (x - x.mean()) / x.std()
network = BayesianMLPRegressor(
    (50,),
    activation="tanh",
    method=Anchored(),
    prior=NormalPrior(5.0, fan_in=True),
    noise=0.05,
    standardize=False,
    warm_start=True,
    random_state=0,
)
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, color in (("variance", "C0"), ("random", "C1")):
    rng = np.random.default_rng(2)
    noisy = truth + 0.05 * rng.standard_normal(len(truth))
    y = np.full(len(truth), np.nan)
    first = rng.choice(len(truth), 3, replace=False)
    y[first] = noisy[first]
    learner = ActiveLearner(network, name, random_state=0).fit(inside, y)
    errors = []
    for _ in range(16):
        mean, std = learner.predict(inside, return_std=True)
        errors.append(np.sqrt(np.mean((mean - truth) ** 2)))
        if len(errors) < 16:
            i = learner.query()
            learner.teach(i, noisy[i])
    axes[1].plot(np.arange(3, 19), errors, color=color, label=name)
    if name == "variance":
        axes[0].plot(x, truth, "k:", lw=1)
        axes[0].fill_between(x[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.25, lw=0)
        axes[0].plot(x, mean)
        known = np.flatnonzero(~np.isnan(learner.labels_))
        axes[0].plot(x[known], noisy[known], "k.")
        axes[0].set(title="after 18 answers", ylim=(-2.2, 2.2))
axes[1].set(xlabel="answers", ylabel="RMSE", yscale="log")
axes[1].legend()
plt.show()
