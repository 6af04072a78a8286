"""
Density and samples of a variational autoencoder
================================================

Two half circles with noise. The first panel has the rows and the log density that
:class:`~skbayes.VAEDensityEstimator` finds, the second rows drawn from the model, the third the
held-out log density of the models that were tried. A linear model is one normal and cannot bend.
"""

# %%
# Fit
# ---
# Two models are trained: a linear one, and a deep one with a linear path and a mixture as the
# latent prior. The simpler one is kept unless the other is clearly better on held-out rows. For
# comparison networks alone are trained too, which start far from the data.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from skbayes import VAEDensityEstimator

X, _ = make_moons(600, noise=0.08, random_state=0)
vae = VAEDensityEstimator((32,), max_epochs=150, refit=False, random_state=0).fit(X)
alone = VAEDensityEstimator((32,), linear_path=False, max_epochs=150, refit=False, random_state=0)
alone.fit(X)
drawn = vae.sample(600, random_state=1)

# %%
# Look
# ----

x, y = np.linspace(-1.7, 2.7, 60), np.linspace(-1.2, 1.7, 45)
grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
log_density = vae.score_samples(grid).reshape(len(y), len(x))

fig, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
filled = axes[0].contourf(x, y, log_density, np.arange(-10, 1.1), cmap="Blues", extend="min")
axes[0].plot(*X.T, ".", color="black", ms=2)
fig.colorbar(filled, ax=axes[0], label="log density in nats")
axes[0].set_title("Rows and log density")
axes[1].plot(*drawn.T, ".", color="tab:red", ms=2)
axes[1].set_title("Rows drawn from the model")
for ax in axes[:2]:
    ax.set(xlim=(-1.7, 2.7), ylim=(-1.2, 1.7), xlabel="column 0", ylabel="column 1")

candidates = {**vae.candidates_, **alone.candidates_}
names, values = list(candidates), list(candidates.values())
colors = ["tab:blue" if name == vae.candidate_ else "lightgray" for name in names]
bars = axes[2].barh(names, np.array(values) - min(values) + 0.1, left=min(values) - 0.1)
for bar, color in zip(bars, colors, strict=True):
    bar.set_color(color)
axes[2].bar_label(bars, [f"{v:.2f}" for v in values], padding=3)
axes[2].set(xlabel="held-out log density in nats", title="Models tried (blue: kept)")
axes[2].margins(x=0.2)
axes[2].invert_yaxis()
plt.show()
