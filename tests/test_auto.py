"""What ``method="auto"`` stands for."""

import numpy as np
import pytest

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import MAP, MCLMC, Anchored, Ensemble
from skbayes.inference.auto import choose


@pytest.mark.parametrize(
    ("shape", "labels", "kind", "more"),
    [
        ((60, 3), False, MCLMC, {}),
        ((60, 3), False, MCLMC, {"hidden_layer_sizes": ()}),
        ((60, 3), False, Anchored, {"hidden_layer_sizes": (65,)}),
        ((60, 3), False, Anchored, {"prior": "laplace"}),
        ((20, 500), False, Anchored, {}),  # more than 20,000 weights
        ((60, 3), True, Anchored, {}),
        ((20, 30), True, Ensemble, {}),
    ],
)
def test_what_auto_stands_for(shape, labels, kind, more, monkeypatch):
    """By the kind of y, the rows, and the network."""
    chosen = []

    def spy(log_posterior):
        chosen.append(choose(log_posterior))
        return MAP(max_epochs=2)

    monkeypatch.setattr("skbayes.base.choose", spy)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape), rng.normal(size=shape[0])
    estimator = BayesianMLPClassifier if labels else BayesianMLPRegressor
    estimator(random_state=0, **more).fit(X, y > 0 if labels else y)
    assert type(chosen[0]) is kind
