"""Finished models on numpy arrays and our kernels, without torch: `load_model` opens a checkpoint directory."""

from wordkiln.runtime._kernel_calls import instruction_sets
from wordkiln.runtime._model import RuntimeModel, StepState, load_model

__all__ = ["RuntimeModel", "StepState", "instruction_sets", "load_model"]
