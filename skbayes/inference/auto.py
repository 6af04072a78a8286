"""Which method ``method="auto"`` stands for."""

from __future__ import annotations

from skbayes.inference.anchored import Anchored
from skbayes.inference.base import Method
from skbayes.inference.ensemble import Ensemble


def choose(n_rows: int, n_features: int, classes: bool) -> Method:
    """The method that benchmarks show best for data of a size.

    The anchored ensemble, whose members are nearly draws from the posterior, except for
    classification where X has at least as many features as rows. There the data say nothing of
    most weights; every anchored member keeps its draw from the prior in them, and the average of
    a few such members is drawn towards ignorance. A plain ensemble of modes has no such noise. It
    is trained without held-out rows, since the prior already keeps it from overfitting and early
    stopping leaves its probabilities too cautious. (With learned noise in a regression it would
    be overconfident.)

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the training data.
    classes : bool
        Whether y are labels.

    Returns
    -------
    Method
    """
    if classes and n_features >= n_rows:
        return Ensemble(validation_fraction=0.0, max_epochs=200)
    return Anchored()
