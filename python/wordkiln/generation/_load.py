"""`wk.load`: a finished model's files become a `LanguageModel`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.generation._model import LanguageModel
from wordkiln.generation.protocol import StepModel

if TYPE_CHECKING:
    from wordkiln.interop import OpenedModel
    from wordkiln.models import ModelConfig
    from wordkiln.tokenizer import Tokenizer

DType = Literal["float32", "bfloat16", "int8"]

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_CONFIG_LIMIT = 2**20


def load(
    path: str | os.PathLike[str],
    dtype: DType = "float32",
    backend: Literal["runtime", "torch"] = "runtime",
    device: str = "cpu",
) -> LanguageModel:
    """Open a finished model: one of ours, or one of others (docs/interop.md tells which).

    Args:
        path: a checkpoint directory (config.json, model.safetensors, tokenizer.json); a run directory of `Trainer`:
            then its best/; a Hugging Face directory, single or sharded; a .gguf file, or a directory with exactly one.
        dtype: of the weights in memory, "float32" (the default), "bfloat16" or "int8"; see `runtime.DecoderModel`.
            backend="torch" knows "float32" alone.
        backend: "runtime": numpy and our kernels, on the CPU, no torch needed; "torch": `wordkiln.models.CausalLM`, for
            models of ours.
        device: where a torch model goes; the runtime knows "cpu" alone.

    Raises:
        PathError: the path or a file of it is missing.
        FormatError: a file does not hold what it should, or the tokenizer is not the model's.
        ArgumentError: another dtype, backend or device.
        DependencyError: backend="torch" without torch; a file that needs a library that is not installed.
    """
    if dtype not in ("float32", "bfloat16", "int8"):
        raise ArgumentError(f"dtype={dtype!r}: must be 'float32', 'bfloat16' or 'int8'")
    if backend not in ("runtime", "torch"):
        raise ArgumentError(f"backend={backend!r}: must be 'runtime' or 'torch'")
    if backend == "runtime" and device != "cpu":
        raise ArgumentError(f"device={device!r}: must be 'cpu' for backend='runtime'")
    if backend == "torch" and dtype != "float32":
        raise ArgumentError(f"dtype={dtype!r}: must be 'float32' for backend='torch'")
    from wordkiln.models.checkpoint import of_run

    path = of_run(path)
    load_kind = _load_recurrent if _is_recurrent(path) else _load_decoder
    return load_kind(path, dtype, backend, device)


def _load_decoder(path: Path, dtype: DType, backend: str, device: str) -> LanguageModel:
    from wordkiln.interop import open_model

    opened = open_model(path)
    return LanguageModel(
        _decoder(path, opened, dtype, backend, device),
        opened.tokenizer,
        end_ids=opened.architecture.eos_token_ids or None,
        beginning=[opened.bos_token_id] if opened.add_bos and opened.bos_token_id is not None else [],
        chat_template=opened.chat_template,
        recommended=opened.generation,
    )


def _decoder(path: Path, opened: OpenedModel, dtype: DType, backend: str, device: str) -> StepModel[Any]:
    if backend == "torch":
        if not (path / _CONFIG).is_file():
            raise ArgumentError(f"backend='torch': {path}: must be a directory with {_CONFIG}")
        from wordkiln.models import CausalLM

        return CausalLM.from_pretrained(path, device=device, unused_ids=opened.unused_ids)
    from wordkiln.runtime import DecoderModel

    return DecoderModel(opened.architecture, opened.source, dtype, opened.unused_ids)


def _load_recurrent(directory: Path, dtype: DType, backend: str, device: str) -> LanguageModel:
    from wordkiln.models import ModelConfig
    from wordkiln.tokenizer import Tokenizer

    for name in (_CONFIG, _WEIGHTS, _TOKENIZER):
        if not (directory / name).is_file():
            raise PathError(f"{directory}: holds no {name}, so it is not a checkpoint directory of a finished model")
    config, tokenizer = ModelConfig.load(directory), Tokenizer.load(directory)
    _check_tokenizer(directory, config, tokenizer)
    return LanguageModel(_recurrent(directory, dtype, backend, device), tokenizer)


def _recurrent(directory: Path, dtype: DType, backend: str, device: str) -> StepModel[Any]:
    if backend == "torch":
        from wordkiln.models import CausalLM

        return CausalLM.from_pretrained(directory, device=device)
    from wordkiln.runtime import load_model

    return load_model(directory, dtype)


def _check_tokenizer(directory: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Before the weights are read: that is the part that takes time and memory."""
    from wordkiln.models.checkpoint import tokenizer_fingerprint

    fingerprint = tokenizer_fingerprint(directory)
    if fingerprint not in (None, tokenizer.fingerprint):
        raise FormatError(
            f"{directory}: {_TOKENIZER} is not the tokenizer of this model (fingerprint "
            f"{tokenizer.fingerprint[:12]}..., saved with {str(fingerprint)[:12]}...)"
        )
    if tokenizer.vocab_size != config.vocab_size:
        raise FormatError(
            f"{directory}: {_TOKENIZER} has {tokenizer.vocab_size} tokens, but the model's vocab_size is "
            f"{config.vocab_size}: it is not the tokenizer of this model"
        )


def _is_recurrent(path: Path) -> bool:
    from wordkiln._json_files import read_json

    if not (path / _CONFIG).is_file():
        return False
    return str(read_json(path / _CONFIG, _CONFIG_LIMIT).get("model_type")).startswith("wordkiln_")
