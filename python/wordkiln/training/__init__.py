"""Training of language models on token data sets. Needs torch: ``pip install 'wordkiln[train]'``."""

from wordkiln.errors import DependencyError

try:
    import torch as _torch  # noqa: F401  (asked for its presence)
except ModuleNotFoundError as error:
    raise DependencyError("wordkiln.training needs torch: pip install 'wordkiln[train]'") from error

from wordkiln._allocator import keep_freed_memory
from wordkiln.training.config import TrainingConfig
from wordkiln.training.loss import Evaluation, evaluate
from wordkiln.training.optim import build_optimizer, learning_rate_at
from wordkiln.training.trainer import DivergedError, Trainer, TrainingResult

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
