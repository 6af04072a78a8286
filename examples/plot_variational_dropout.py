"""
A network that prunes itself
============================

Sparse variational dropout (Molchanov, Ashukha and Vetrov, 2017) learns how much noise each weight
of a network bears. Where it bears any amount, the data do not need the weight, and it is removed.
Here a perceptron with one hidden layer reads the digits of scikit-learn, 64 pixels each.
"""

# %%
# The weight of the divergence rises from zero over the first epochs, so that the network learns
# to read before it learns to forget.

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skbayes import VariationalDropoutClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

clf = VariationalDropoutClassifier((60,), max_epochs=150, random_state=0)
clf.fit(X_train, y_train)

whole = sum(mask.size for mask in clf.masks_.values())
kept = sum(int(mask.sum()) for mask in clf.masks_.values())
print(f"accuracy on test rows: {clf.score(X_test, y_test):.3f}")
print(f"weights: {kept} of {whole} are kept, a compression of {clf.compression_ratio_.pruning:.0f}")

# %%
# A layer going sparse
# --------------------
#
# The weights of the first hidden layer, one row for each unit, in the order of how many it has
# left; what is removed is white. Units without a weight are gone altogether. Beside it, how many
# weights lead from each pixel, as an image: some at the border, which are blank in nearly all
# digits, are not read at all.

import matplotlib.pyplot as plt
import numpy as np

name = "0.weight"
mean, mask = clf.posterior_.adapted["weight_mean"][name], clf.masks_[name]
order = np.argsort(-mask.sum(1), kind="stable")
shown = np.ma.masked_array(mean, ~mask)[order]
reach = np.quantile(np.abs(mean[mask]), 0.98)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=[1.7, 1], layout="constrained")
image = left.imshow(
    shown, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", interpolation="none"
)
fig.colorbar(image, ax=left, label="posterior mean")
left.set(
    xlabel="pixel",
    ylabel="hidden unit",
    title=f"first layer: {100 * clf.sparsity_[name]:.0f} % removed",
)
image = right.imshow(mask.sum(0).reshape(8, 8), cmap="Greys")
fig.colorbar(image, ax=right, label="weights kept", shrink=0.8)
right.set(title="by pixel", xticks=[], yticks=[])
plt.show()

# %%
# Over the epochs
# ---------------
#
# The shares of weights that would be removed after each epoch. Most go while the weight of the
# divergence rises, to the left of the dashed line; others follow as the learning rate falls.

from skbayes.plotting import SparsityCurveDisplay

display = SparsityCurveDisplay.from_estimator(clf)
display.ax_.axvline(0.3 * clf.n_iter_, color="0.5", ls="--", lw=1)
plt.show()

# %%
# The small network
# -----------------
#
# `to_module` gives a plain torch network without the pixels and units that have nothing left. It
# predicts what the pruned network predicts at the mean of its weights, from standardised pixels.

import torch

small = clf.to_module()
print(small)
inside = (X_test - X_train.mean(0)) / np.where(X_train.std(0) > 0, X_train.std(0), 1)
with torch.no_grad():
    logits = small(torch.as_tensor(inside, dtype=torch.float32))
print(f"accuracy on test rows: {np.mean(logits.argmax(1).numpy() == y_test):.3f}")
