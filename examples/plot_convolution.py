"""
A convolutional network that knows what it has not seen
=======================================================

Any torch module can have a posterior over its weights. Here it is a small convolutional network
on images of handwritten digits. The question is not how often it is right, but whether it can
tell when it is not.
"""

# %%
# The network
# -----------
#
# A module is written as for torch and returns logits: there is no softmax at its end. Its class
# goes to the estimator, and the arguments of its constructor get the prefix ``module__``. Images
# keep their shape, (n, channels, height, width).

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skbayes import BayesianModuleClassifier
from skbayes.inference import Ensemble
from skbayes.model.priors import NormalPrior


class Digits(nn.Sequential):
    def __init__(self, width=8, n_outputs=10):
        super().__init__(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, n_outputs),
        )


digits = load_digits()
X = digits.images[:, None] / 16
X_train, X_test, y_train, y_test = train_test_split(
    X, digits.target, train_size=600, stratify=digits.target, random_state=0
)

model = BayesianModuleClassifier(
    Digits,
    module__width=8,
    prior=NormalPrior(scale=5.0, fan_in=True),
    method=Ensemble(n_members=5, max_epochs=30, validation_fraction=0, learning_rate=0.01),
    random_state=0,
)
model.fit(X_train, y_train)
print(f"{model.score(X_test, y_test):.1%} of the test images are right")

# %%
# The images that it is least sure of
# -----------------------------------
#
# The entropy of the averaged probabilities says how unsure the model is of a digit. The upper row
# has the test images with the lowest entropy, the lower row those with the highest: a person
# hesitates there too. Titles are the two most probable digits; the true one is in the corner.

uncertainty = model.predict_uncertainty(X_test)
proba = model.predict_proba(X_test)
order = np.argsort(uncertainty.total)
figure, axes = plt.subplots(2, 6, figsize=(9, 3.6), layout="constrained")
for ax, i in zip(axes.flat, [*order[:6], *order[-6:]], strict=True):
    first, second = np.argsort(-proba[i])[:2]
    ax.imshow(X_test[i, 0], cmap="gray_r")
    ax.set_title(f"{first}: {proba[i, first]:.0%}   {second}: {proba[i, second]:.0%}", fontsize=9)
    ax.text(0.3, 0.6, y_test[i], color="tab:red", fontsize=11)
    ax.set_axis_off()
plt.show()

# %%
# A digit that turns
# ------------------
#
# A three is turned by half a circle. Lying on its side it is like no digit, and the entropy is
# highest. Part of it is the disagreement of the members, the mutual information of label and
# weights: that is the epistemic uncertainty, which more training images could take away. The rest
# is what each member is unsure about by itself.

three = X_test[(y_test == 3) & (uncertainty.total < np.median(uncertainty.total))][0, 0]
angles = np.arange(0, 181, 5)
turned = np.stack([rotate(three, a, reshape=False, order=1) for a in angles])[:, None]
parts = model.predict_uncertainty(turned)
labels = model.predict(turned)

figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(8, 4.2), height_ratios=[1, 3], layout="constrained"
)
shown = np.arange(0, len(angles), 4)
top.imshow(np.hstack([np.pad(turned[i, 0], 1) for i in shown]), cmap="gray_r")
top.set_xticks(10 * np.arange(len(shown)) + 4.5, [f"as {labels[i]}" for i in shown])
top.set_yticks([])
bottom.fill_between(angles, parts.epistemic, label="epistemic", color="tab:orange", alpha=0.6)
bottom.fill_between(
    angles, parts.epistemic, parts.total, label="aleatoric", color="tab:blue", alpha=0.4
)
bottom.set(xlabel="angle in degrees", ylabel="entropy in nats", xlim=(-10, 190), ylim=(0, None))
bottom.set_xticks(angles[shown])
bottom.legend()
plt.show()

# %%
# At 35 degrees the picture is another one: all members take the three for a nine, and are nearly
# sure of it. An average over weights knows what the weights have not learned; it does not know that
# images are turned.
#
# A single network would have no epistemic part: it has nobody to disagree with. Ensembles are one
# of the methods; all others take a module in the same way.
