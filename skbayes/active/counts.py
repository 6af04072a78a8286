"""The check of numbers that count something."""

from __future__ import annotations

import numpy as np


def check_count(name: str, value, low: int = 1) -> int:
    """Raise unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name}={value!r} is not allowed; it must be an integer >= {low}.")
    return int(value)
