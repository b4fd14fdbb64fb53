"""Checks of single values, shared by everything that reads a config."""

from __future__ import annotations

import operator
from typing import Any

from wordkiln.errors import ArgumentError


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int from `low` to `high`, or ArgumentError. A bool or a float is no integer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ArgumentError(f"{name}={shown(value)}: must be an integer from {low} to {high}")
    return number


def real(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float from `low` to `high`, or ArgumentError."""
    # An int is compared before it is converted: float(10**400) overflows.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ArgumentError(f"{name}={shown(value)}: must be a number from {low} to {high}")
    return float(value)


def shown(value: Any) -> str:
    """A short form of any value for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no int of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
