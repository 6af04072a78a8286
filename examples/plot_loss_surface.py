"""
The loss surface through two modes
==================================

Two networks that are trained from different starts end at different modes. On the straight line
between them the loss is high, yet a curve of low loss connects them. This example looks at the
plane through the curve, for the rows of the training and for rows held out.
"""

# %%
# The data are two moons. The loss is the negative log posterior per row.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_moons

from skbayes.inference import MAP, SWAG, Streams
from skbayes.inference.curve import train_curve
from skbayes.model import Bernoulli, Inputs, LogPosterior, MLPNetwork, NormalPrior

network = MLPNetwork(2, (10,), 1, "tanh")
kw = {"dtype": torch.float64, "device": torch.device("cpu")}


def make_posterior(seed):
    X, y = make_moons(300, noise=0.25, random_state=seed)
    inputs = Inputs(X, scale=network.input_scale, **kw)
    target = torch.as_tensor(y[None, None], **kw)
    return LogPosterior(network, Bernoulli(), NormalPrior().build(network), inputs, target)


train, held_out = make_posterior(0), make_posterior(1)

# %%
# Two modes, and a quadratic Bezier curve between them (Garipov et al., 2018). Only the point that
# the curve bends to is trained.

modes = [MAP().run(train, None, Streams(seed, 1)).draws[0] for seed in (0, 3)]
ends = torch.as_tensor(np.concatenate(modes))
curve = train_curve(train, ends, Streams(0, 8), n_steps=600)
centre, basis = curve.plane()  # the modes are at (1, 0) and (-1, 0)


def loss(posterior, z):
    """Loss per row at points (k, 2) of the plane."""
    theta = centre + torch.as_tensor(z) @ basis.T
    return -posterior(theta).numpy() / posterior.n


t = np.linspace(0, 1, 101)
on_curve = ((curve.points(t) - centre) @ basis / (basis**2).sum(0)).numpy()
on_line = np.stack([1 - 2 * t, 0 * t], 1)
bend = ((curve.bend - centre) @ basis / (basis**2).sum(0)).numpy()

# %%
# The plane
# ---------
#
# Contours of the loss. The dashed line crosses a ridge; the curve goes round it. The valley is at
# the same place for the held-out rows, which is why its points make an ensemble.

top = max(1.9, bend[1] + 0.3)
x, y = np.meshgrid(np.linspace(-1.7, 1.7, 81), np.linspace(-0.9, top, 81))
grid = np.stack([x.ravel(), y.ravel()], 1)
surfaces = [loss(posterior, grid).reshape(x.shape) for posterior in (train, held_out)]
least = min(surface.min() for surface in surfaces)
levels = least + np.geomspace(0.01, 4.0, 14)
kwargs = {"cmap": "viridis_r", "extend": "both", "norm": "log"}
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
for ax, surface, title in zip(axes, surfaces, ("training rows", "held-out rows"), strict=True):
    shown = ax.contourf(x, y, surface - least + 1e-9, levels - least, **kwargs)
    ax.contour(x, y, surface, levels, colors="k", linewidths=0.3)
    ax.plot(*on_line.T, "w--", lw=1.5, label="straight line")
    ax.plot(*on_curve.T, "r-", lw=2, label="curve")
    ax.plot([1, -1], [0, 0], "wo", mec="k", label="modes")
    ax.set(title=title, xlabel="$z_1$", ylabel="$z_2$" if ax is axes[0] else "")
axes[0].legend(loc="lower center", ncols=3, fontsize=8)
figure.colorbar(shown, ax=axes, label="loss per row above the least", format="%.2g")
plt.show()

# %%
# Along the curve
# ---------------

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, path, style in (("straight line", on_line, "--"), ("curve", on_curve, "-")):
    for posterior, rows, color in ((train, "training", "C0"), (held_out, "held-out", "C1")):
        ax.plot(t, loss(posterior, path), style, color=color, label=f"{name}, {rows} rows")
ax.set(xlabel="t, from one mode to the other", ylabel="loss per row")
ax.legend(fontsize=8)
plt.show()

# %%
# Flatness
# --------
#
# How far can a mode be left before it costs anything? The loss at the average of SGD's path (SWAG)
# and at the mode, along random directions: mean over 50 of them, and the band that holds 80 %.
# On the held-out rows the loss rises as slowly. In most directions the surface is flat over a
# distance at which the few stiff ones would have cost a lot, which is why an average over a
# neighbourhood of a mode predicts well.

average = SWAG(init=MAP()).run(train, ends[:1], Streams(0, 1)).adapted["mean"][0]
directions = np.random.default_rng(0).normal(size=(50, len(average)))
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
radius = np.linspace(0, 4, 25)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for ax, posterior, title in ((axes[0], train, "training"), (axes[1], held_out, "held-out")):
    for name, point in (("mode", modes[0][0]), ("average (SWAG)", average)):
        theta = point + radius[:, None, None] * directions
        values = -posterior(torch.as_tensor(theta.reshape(-1, len(point)))).numpy() / posterior.n
        values = values.reshape(len(radius), -1)
        low, high = np.quantile(values, [0.1, 0.9], axis=1)
        (line,) = ax.plot(radius, values.mean(1), label=name)
        ax.fill_between(radius, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(title=f"{title} rows", xlabel="distance in theta")
axes[0].set_ylabel("loss per row")
axes[0].legend()
plt.show()

# %%
for name, path in (("straight line", on_line), ("curve", on_curve)):
    print(f"largest held-out loss on the {name}: {loss(held_out, path).max():.3f}")
