"""`wk.load`: a checkpoint directory becomes a `LanguageModel`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.generation._model import LanguageModel
from wordkiln.generation.protocol import StepModel

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_BEST = "best"


def load(
    path: str | os.PathLike[str],
    dtype: Literal["float32"] = "float32",
    backend: Literal["runtime", "torch"] = "runtime",
    device: str = "cpu",
) -> LanguageModel:
    """Open a finished model.

    Args:
        path: a checkpoint directory (config.json, model.safetensors, tokenizer.json), or a run directory of `Trainer`:
            then its best/.
        dtype: of the weights in memory; "float32" is the only one.
        backend: "runtime": numpy and our kernels, on the CPU, no torch needed; "torch": `wordkiln.models.CausalLM`.
        device: where a torch model goes; the runtime knows "cpu" alone.

    Raises:
        PathError: the directory or a file of it is missing.
        FormatError: a file does not hold what it should, or the tokenizer is not the model's.
        ArgumentError: another dtype, backend or device.
        DependencyError: backend="torch" without torch.
    """
    if dtype != "float32":
        raise ArgumentError(f"dtype={dtype!r}: must be 'float32'")
    if backend not in ("runtime", "torch"):
        raise ArgumentError(f"backend={backend!r}: must be 'runtime' or 'torch'")
    if backend == "runtime" and device != "cpu":
        raise ArgumentError(f"device={device!r}: must be 'cpu' for backend='runtime'")
    directory = _checkpoint_directory(Path(path))
    from wordkiln.models import ModelConfig
    from wordkiln.models.checkpoint import tokenizer_fingerprint
    from wordkiln.tokenizer import Tokenizer

    vocab_size = ModelConfig.load(directory).vocab_size
    tokenizer = Tokenizer.load(directory / _TOKENIZER)
    fingerprint = tokenizer_fingerprint(directory)
    if fingerprint not in (None, tokenizer.fingerprint):
        raise FormatError(
            f"{directory}: {_TOKENIZER} is not the tokenizer of this model (fingerprint "
            f"{tokenizer.fingerprint[:12]}..., saved with {str(fingerprint)[:12]}...)"
        )
    if tokenizer.vocab_size != vocab_size:
        # Before the weights are read: that is the part that takes time and memory.
        raise FormatError(
            f"{directory}: {_TOKENIZER} has {tokenizer.vocab_size} tokens, but the model's vocab_size is {vocab_size}: "
            "it is not the tokenizer of this model"
        )
    return LanguageModel(_load_model(directory, backend, device), tokenizer)


def _load_model(directory: Path, backend: str, device: str) -> StepModel[Any]:
    if backend == "torch":
        from wordkiln.models import CausalLM

        return CausalLM.from_pretrained(directory, device=device)
    from wordkiln.runtime import load_model

    return load_model(directory)


def _checkpoint_directory(path: Path) -> Path:
    if not path.is_dir():
        raise PathError(f"{path}: {'is a file, not' if path.exists() else 'does not exist: must be'} a directory")
    directory = path if (path / _CONFIG).exists() or not (path / _BEST).is_dir() else path / _BEST
    for name in (_CONFIG, _WEIGHTS, _TOKENIZER):
        if not (directory / name).is_file():
            raise PathError(f"{directory}: holds no {name}, so it is not a checkpoint directory of a finished model")
    return directory
