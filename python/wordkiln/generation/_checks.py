"""Checks of single arguments: the message names the field, the value and the limit."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from wordkiln.errors import ArgumentError


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int from `low` to `high`; a bool or a float is none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or (high is not None and number > high):
        limit = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise ArgumentError(f"{name}={shown(value)}: must be an integer {limit}")
    return number


def real(name: str, value: Any, low: float, high: float | None = None) -> float:
    """`value` as a finite float from `low` to `high`."""
    try:
        # The sign of a bool is no mistake that a message would help with, yet True is no temperature.
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < low or (high is not None and number > high):
        limit = f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
        raise ArgumentError(f"{name}={shown(value)}: must be a finite number {limit}")
    return number


def strings(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """`value` as a tuple of non-empty strings; one string stands for itself."""
    if not isinstance(value, str) and not hasattr(value, "__iter__"):
        raise ArgumentError(f"{name}={shown(value)}: must be a string or several")
    several = (value,) if isinstance(value, str) else tuple(value)
    for position, text in enumerate(several):
        if not isinstance(text, str) or not text:
            raise ArgumentError(f"{name}[{position}]={shown(text)}: must be a non-empty string")
    return several


def shown(value: Any) -> str:
    """`value` for a message, at most 80 characters of it."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
