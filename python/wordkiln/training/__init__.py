"""Training of language models on token data sets. Only the config works without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wordkiln._allocator import keep_freed_memory
from wordkiln._lazy import import_name
from wordkiln.training.config import TrainingConfig

if TYPE_CHECKING:
    from wordkiln.training.loss import Evaluation, evaluate
    from wordkiln.training.optim import build_optimizer, learning_rate_at
    from wordkiln.training.trainer import DivergedError, Trainer, TrainingResult

# Public name -> the module that defines it: these import torch, so they load when first used.
_LAZY = {
    "DivergedError": "wordkiln.training.trainer",
    "Evaluation": "wordkiln.training.loss",
    "Trainer": "wordkiln.training.trainer",
    "TrainingResult": "wordkiln.training.trainer",
    "build_optimizer": "wordkiln.training.optim",
    "evaluate": "wordkiln.training.loss",
    "learning_rate_at": "wordkiln.training.optim",
}

__all__ = [
    "DivergedError",
    "Evaluation",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "build_optimizer",
    "evaluate",
    "keep_freed_memory",
    "learning_rate_at",
]


def __getattr__(name: str) -> Any:
    value = globals()[name] = import_name(__name__, name, _LAZY)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
