"""Checkpoint directories of torch models: config.json, model.safetensors, tokenizer.json, generation_config.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wordkiln import _files
from wordkiln.errors import FormatError, PathError
from wordkiln.models import _json, checkpoint
from wordkiln.models.config import ModelConfig

if TYPE_CHECKING:
    from wordkiln.models.causal_lm import CausalLM

# What a checkpoint directory may hold beside its own files and still be replaced as a whole.
_REPLACEABLE = ("training_state.safetensors", "training_state.json")


class Saves(Protocol):
    """A tokenizer, as far as models know one."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides its ids."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text -> id."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tokenizer_config.json says; empty where there is none."""
        ...

    def save(self, path: Any, /) -> Any:
        """Write tokenizer.json, and what belongs to it, into the folder `path`."""


def save(model: CausalLM, directory: str | os.PathLike[str], tokenizer: Saves | None) -> None:
    """See `CausalLM.save_pretrained`."""
    path = Path(directory).resolve()
    _refuse_foreign_files(path)
    with _files.write_directory(path) as folder:
        config = model.config.to_dict()
        if tokenizer is not None:
            config[checkpoint.TOKENIZER_FINGERPRINT] = tokenizer.fingerprint
        _files.write_file(folder / checkpoint.CONFIG, _json.dumps(config))
        end = {} if model.eos_token_id is None else {"eos_token_id": model.eos_token_id}
        _files.write_file(folder / checkpoint.GENERATION_CONFIG, _json.dumps(end))
        weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
        # Hugging Face reads no file without this note.
        try:
            safetensors.torch.save_file(weights, folder / checkpoint.WEIGHTS, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:  # a full disk, for one
            raise PathError(f"{path}: cannot be written: {error}") from error
        if tokenizer is not None:
            tokenizer.save(folder)
            _files.write_file(folder / checkpoint.TOKENIZER_CONFIG, _json.dumps(_tokenizer_config(tokenizer, end)))


def _tokenizer_config(tokenizer: Saves, end: Mapping[str, int]) -> dict[str, Any]:
    """What transformers needs to take tokenizer.json as it is: without a class it may choose one by the model."""
    ends = [token for token, id in tokenizer.special_tokens.items() if id == end.get("eos_token_id")]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return config | ({"eos_token": ends[0]} if ends else {}) | dict(tokenizer.settings)


def load_weights(directory: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The float32 weights of `config`, every one checked before and after it is read."""
    path = directory / checkpoint.WEIGHTS
    if not path.exists() and (directory / f"{checkpoint.WEIGHTS}.index.json").exists():
        raise FormatError(f"{directory}: weights in several files: Wordkiln reads one {checkpoint.WEIGHTS}")
    checkpoint.check_weights(path, config)
    weights = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                # A copy: the file's own memory would change, or vanish, with the file.
                weights[name] = file.get_tensor(name).to(torch.float32, copy=True)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path}: {error}") from error
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error}") from error
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise FormatError(f"{path}: {name}: holds NaN or infinity")
    return weights


def _refuse_foreign_files(path: Path) -> None:
    """Replacing a directory deletes what is in it: only what checkpoints consist of may be there."""
    if not path.exists():
        return
    if not path.is_dir():
        raise PathError(f"{path}: is a file, not a directory")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in (*checkpoint.FILES, *_REPLACEABLE))
    if foreign:
        raise PathError(
            f"{path}: holds {foreign[0]!r}, which saving a model here would delete: choose another directory"
        )
