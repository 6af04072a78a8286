"""Which method ``method="auto"`` stands for."""

from __future__ import annotations

WIDE = 1.0
"""Features per row from which a table counts as wide."""


def choose(n_rows: int, n_features: int) -> str:
    """Name of the method that benchmarks show best for data of a size.

    The anchored ensemble, whose members are nearly draws from the posterior, except where X has
    more features than rows. There most weights are not informed by the data, every member keeps
    its draw from the prior in them, and the average of a few such members is drawn towards
    ignorance; members of a plain ensemble start from small weights instead, stop early, and
    predict better (``examples/benchmarks/auto.py``).

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the training data.

    Returns
    -------
    str
        A name in ``METHODS``.
    """
    return "ensemble" if n_features >= WIDE * n_rows else "anchored"
