"""Rotary angles from config.json: the kinds of scaling that can be told as fixed frequencies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from wordkiln.errors import FormatError
from wordkiln.models import _checks

_KINDS = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class Rope:
    """The angles, and what Hugging Face multiplies cos and sin by (only yarn has another factor than 1)."""

    frequencies: tuple[float, ...]
    attention_factor: float = 1.0


def rope(parameters: Mapping[str, Any], head_dim: int, max_positions: int) -> Rope:
    """The angles of a model.

    Args:
        parameters: rope_theta, rope_type and what the type needs, by transformers' names.
        head_dim: D, even.
        max_positions: of the model.

    Raises:
        FormatError: the kind is not known, a value is missing or out of its range.
        ArgumentError: a value is no number or out of its range.
    """
    theta = _checks.real("rope_theta", parameters.get("rope_theta"), 1.0, 1e12)
    plain = [theta ** -(index / head_dim) for index in range(0, head_dim, 2)]
    kind = parameters.get("rope_type", "default")
    if kind not in _KINDS:
        raise FormatError(f"rope_type={_checks.shown(kind)}: must be one of {', '.join(_KINDS)}")
    if kind == "default":
        return Rope(tuple(plain))
    factor = _checks.real("rope factor", parameters.get("factor"), 1.0, 1e6)
    if kind == "linear":
        return Rope(tuple(frequency / factor for frequency in plain))
    original = _checks.integer(
        "original_max_position_embeddings",
        parameters.get("original_max_position_embeddings") or max_positions,
        1,
        2**24,
    )
    if kind == "llama3":
        return Rope(tuple(_llama3(parameters, frequency, factor, original) for frequency in plain))
    return _yarn(parameters, plain, theta, factor, original)


def _llama3(parameters: Mapping[str, Any], frequency: float, factor: float, original: int) -> float:
    """Llama 3.1's: slow angles divided by `factor`, fast ones kept, a ramp between."""
    low = _checks.real("low_freq_factor", parameters.get("low_freq_factor"), 1e-6, 1e6)
    high = _checks.real("high_freq_factor", parameters.get("high_freq_factor"), 1e-6, 1e6)
    if low >= high:
        raise FormatError(f"low_freq_factor={low}: must be below high_freq_factor={high}")
    turns = original * frequency / (2 * math.pi)
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return frequency * (kept + (1 - kept) / factor)


def _yarn(parameters: Mapping[str, Any], plain: list[float], theta: float, factor: float, original: int) -> Rope:
    """Peng et al. 2023, "YaRN", section 3.2: a ramp over the elements of a head; section 3.4: the factor."""
    fast = _checks.real("beta_fast", parameters.get("beta_fast") or 32, 1e-6, 1e6)
    slow = _checks.real("beta_slow", parameters.get("beta_slow") or 1, 1e-6, 1e6)
    if theta == 1.0:
        raise FormatError("rope_theta=1.0: must be above 1 for rope_type='yarn'")
    head_dim = 2 * len(plain)

    def element(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = element(fast), element(slow)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    frequencies = []
    for index, frequency in enumerate(plain):
        divided = min(max((index - first) / width, 0.0), 1.0)
        frequencies.append(frequency * (1 - divided + divided / factor))
    return Rope(tuple(frequencies), _attention_factor(parameters, factor))


def _attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    given = parameters.get("attention_factor")
    if given is not None:
        return _checks.real("attention_factor", given, 1e-3, 1e3)
    scale, of_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if scale and of_all:
        ratio = _softening(factor, _checks.real("mscale", scale, 0, 1e3))
        return ratio / _softening(factor, _checks.real("mscale_all_dim", of_all, 0, 1e3))
    return _softening(factor, 1.0)


def _softening(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0
