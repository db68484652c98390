"""Checks of settings that people give: each error names the value and what is valid."""

import math
import numbers
from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is a real number, of Python's or of NumPy's, and not True."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python's or of NumPy's, and not True."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """Raises ValueError unless the value is a whole number from least to most."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be <= {most:,}, got {value:,}")


def check_number(
    name: str, value: Any, low: float, high: float, bounds: str = "()"
) -> None:
    """Raises ValueError unless the value is a number between low and high.

    Args:
      name: the setting, for the message.
      value: its value.
      low, high: the ends of the valid range.
      bounds: '()', '[)', '(]' or '[]'; an end with a square bracket is valid too.
    """
    above, below = ">=" if bounds[0] == "[" else ">", "<=" if bounds[1] == "]" else "<"
    enough = is_number(value) and (low < value or (above == ">=" and low == value))
    if not enough or not (value < high or (below == "<=" and value == high)):
        least = f"{above} {low:g} and " if low > -math.inf else ""
        most = f"{below} {high:g}" if high < math.inf else "finite"
        raise ValueError(f"{name} must be a number {least}{most}, got {value!r}")


def check_switch(name: str, value: Any) -> None:
    """Raises ValueError unless the value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
