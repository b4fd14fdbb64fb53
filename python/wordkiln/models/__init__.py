"""Language models over token ids: one config, one class, one step protocol. Only the config works without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wordkiln.errors import DependencyError
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
    if name not in _LAZY:
        raise AttributeError(f"module 'wordkiln.models' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise DependencyError(f"wordkiln.models.{name} needs torch: pip install 'wordkiln[train]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
