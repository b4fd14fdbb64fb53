"""Language models over token ids: one config, one class, one step protocol. Only the config works without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wordkiln._lazy import import_name
from wordkiln.models.config import ModelConfig

if TYPE_CHECKING:
    from wordkiln.models.causal_lm import CausalLM
    from wordkiln.models.state import State, detach_state

# Public name -> the module that defines it: these import torch, so they load when first used.
_LAZY = {
    "CausalLM": "wordkiln.models.causal_lm",
    "State": "wordkiln.models.state",
    "detach_state": "wordkiln.models.state",
}

__all__ = ["CausalLM", "ModelConfig", "State", "detach_state"]


def __getattr__(name: str) -> Any:
    value = globals()[name] = import_name(__name__, name, _LAZY)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
