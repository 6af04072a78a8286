"""
Outliers with a rate of false alarms that one chooses
=====================================================

:class:`~skbayes.VAEAnomalyDetector` flags rows by conformal p-values. Normal rows have p-values
that are spread evenly, so that a threshold of 0.05 flags a twentieth of them, and outliers have
small ones. What is odd about a row is said by ``explain``.
"""

# %%
# Fit
# ---
# The normal rows are handwritten digits 0 to 3, by eight principal components; the outliers are 4s.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from skbayes import VAEAnomalyDetector

X, y = load_digits(return_X_y=True)
Z = PCA(8, random_state=0).fit_transform(X)
rng = np.random.default_rng(0)
normal = rng.permutation(Z[y < 4])
train, new = normal[:560], normal[560:]
odd = Z[y == 4]
detector = VAEAnomalyDetector(false_alarm_rate=0.05, random_state=0).fit(train)

# %%
# Look
# ----

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
bins = np.linspace(0, 1, 21)
for rows, name, color in ((new, "new normal rows", "tab:blue"), (odd, "fours", "tab:red")):
    p = detector.predict_p_value(rows)
    share = (detector.predict(rows) == -1).mean()
    axes[0].hist(
        p, bins, weights=np.full(len(p), 1 / len(p)), alpha=0.6, color=color,
        label=f"{name}: {share:.0%} flagged",
    )  # fmt: skip
axes[0].axhline(0.05, color="gray", ls=":", label="an even spread")
axes[0].set(xlabel="p-value", ylabel="share of the rows", title="Conformal p-values")
axes[0].legend()

parts = detector.models_[0].explain(odd[:1])
usual = detector.models_[0].explain(train[:300])
names = [f"component {j}" for j in range(8)] + ["latent"]
gap = np.append(parts.features[0], parts.latent) - np.append(
    usual.features.mean(0), usual.latent.mean()
)
axes[1].barh(names, gap, color="tab:red")
axes[1].axvline(0, color="black", lw=0.8)
axes[1].invert_yaxis()
axes[1].set(xlabel="part of -log p(x), less its mean, in nats", title="Why the first four is odd")
plt.show()
