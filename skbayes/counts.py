"""The check of numbers that count something."""

from __future__ import annotations

from numbers import Integral


def check_count(name: str, value, low: int = 1) -> int:
    """Raise unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name}={value!r} is not allowed; it must be an integer >= {low}.")
    return int(value)


def check_own_count(owner, name: str, low: int = 1) -> None:
    """Raise unless an object's parameter is an integer of at least ``low``."""
    check_count(f"{type(owner).__name__}: {name}", getattr(owner, name), low)
