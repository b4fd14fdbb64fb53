"""Train, keep and ship your own small language model, in any language, on the computer you already have.

``import wordkiln as wk`` loads neither torch nor anything else that is slow: each name below is imported
when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wordkiln.errors import WordkilnError

if TYPE_CHECKING:
    from wordkiln import data, generation, interop, models, nn, ops, runtime, tasks, training
    from wordkiln._threads import get_num_threads, set_num_threads
    from wordkiln.generation import load
    from wordkiln.tokenizer import Tokenizer
    from wordkiln.training import Trainer

# Public name -> the module that defines it.
_LAZY = {
    "Tokenizer": "wordkiln.tokenizer",
    "Trainer": "wordkiln.training",
    "get_num_threads": "wordkiln._threads",
    "load": "wordkiln.generation",
    "set_num_threads": "wordkiln._threads",
}
_MODULES = frozenset({"data", "generation", "interop", "models", "nn", "ops", "runtime", "tasks", "training"})

__all__ = [
    "Tokenizer",
    "Trainer",
    "WordkilnError",
    "__version__",
    "data",
    "generation",
    "get_num_threads",
    "interop",
    "load",
    "models",
    "nn",
    "ops",
    "runtime",
    "set_num_threads",
    "tasks",
    "training",
]


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version  # takes longer to import than everything above

        value = version("wordkiln")
    elif name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"wordkiln.{name}")
    else:
        raise AttributeError(f"module 'wordkiln' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
