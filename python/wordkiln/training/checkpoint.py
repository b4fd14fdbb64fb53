"""`last/`: a checkpoint directory with all else that a run needs to go on bit for bit, in safetensors and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from wordkiln._files import recover_directory, write_directory
from wordkiln._json_files import read_json
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.models import CausalLM, ModelConfig
from wordkiln.training.config import TrainingConfig

if TYPE_CHECKING:
    from wordkiln.tokenizer import Tokenizer

STATE_FILE = "training_state.json"
TENSORS_FILE = "training_state.safetensors"
FORMAT = "wordkiln-training-state"
VERSION = 1

_MAX_STATE_BYTES = 1 << 20
# The batches of a run depend on these: with another value it would not be the same run.
_FIXED_FIELDS = ("batch_size", "sequence_length", "batches", "seed")


@dataclass
class Counters:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        reported_step: the last step whose row of the log, and validation if it was due, are done.
        best_loss, best_bits_per_byte, best_step: of the best validation so far.
        validations_since_best: validations without a better loss.
        loss_sum, loss_count: train losses since the last row of the log.
        gradient_norm: of the last step, before clipping.
        seconds: time spent in steps.
    """

    step: int = 0
    reported_step: int = 0
    best_loss: float = math.inf
    best_bits_per_byte: float = math.inf
    best_step: int = 0
    validations_since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    gradient_norm: float = 0.0
    seconds: float = 0.0


@dataclass
class RunState:
    """All that changes while a run goes on, beside the torch generators.

    Attributes:
        model: its weights.
        optimizer: its moments.
        counters: numbers.
        recurrent: the state to go on from in contiguous batches, or None.
    """

    model: CausalLM
    optimizer: torch.optim.Optimizer
    counters: Counters
    recurrent: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same when a run goes on."""

    data_fingerprint: str
    tokenizer_fingerprint: str
    config: TrainingConfig


def save_last(path: Path, state: RunState, identity: RunIdentity, tokenizer: Tokenizer | None) -> None:
    """Replace the directory at `path` by the run as it stands."""
    counters = {
        name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(state.counters).items()
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "data_fingerprint": identity.data_fingerprint,
        "tokenizer_fingerprint": identity.tokenizer_fingerprint,
        "config": dataclasses.asdict(identity.config),
        "counters": counters,
    }
    with write_directory(path) as folder:
        state.model.save_pretrained(folder, tokenizer)
        safetensors.torch.save_file(_tensors(state), folder / TENSORS_FILE)
        (folder / STATE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def load_last(path: Path, state: RunState, identity: RunIdentity) -> None:
    """Bring `state` and the torch generators to where the run at `path` stood.

    Raises:
        PathError: there is no such checkpoint.
        FormatError: it is malformed, or of another data set, tokenizer or model.
        ArgumentError: a setting that the order of the batches depends on is another one.
    """
    recover_directory(path)
    content = _read_state(path / STATE_FILE)
    _check_identity(path, content, identity, state.model.config)
    counters = _read_counters(path / STATE_FILE, content.get("counters"))
    weights = CausalLM.from_pretrained(path).state_dict()
    tensors = _read_tensors(path / TENSORS_FILE)
    moments = _take_moments(path / TENSORS_FILE, tensors, state, counters.step)
    recurrent = _take_recurrent(path / TENSORS_FILE, tensors, state.model.config, identity.config.batch_size)
    # Everything is read and checked: only now does anything change.
    state.model.load_state_dict(weights)
    for parameter, values in moments.items():
        state.optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in values.items()}
    device = state.model.output_weight.device
    state.recurrent = None if recurrent is None else tuple(part.to(device) for part in recurrent)
    state.counters = counters
    _set_generators(path / TENSORS_FILE, tensors, device)


def _tensors(state: RunState) -> dict[str, Tensor]:
    tensors = {"generator.cpu": torch.get_rng_state()}
    device = state.model.output_weight.device
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
    for index, part in enumerate(state.recurrent or ()):
        tensors[f"recurrent.{index}"] = part.cpu().contiguous()
    return tensors


def _read_state(path: Path) -> dict[str, Any]:
    content = read_json(path, _MAX_STATE_BYTES, missing="no run to go on with")
    if content.get("format") != FORMAT:
        raise FormatError(f"{path}: format: must be {FORMAT!r}")
    if content.get("version") != VERSION:
        raise FormatError(f"{path}: version={content.get('version')!r}: this release reads version {VERSION}")
    return content


def _check_identity(path: Path, content: dict[str, Any], identity: RunIdentity, model: ModelConfig) -> None:
    for field, what in (("tokenizer_fingerprint", "tokenizer"), ("data_fingerprint", "data set")):
        if content.get(field) != getattr(identity, field):
            raise FormatError(f"{path}: this run was trained with another {what} ({field} differs)")
    if ModelConfig.load(path) != model:
        raise FormatError(f"{path}: this run trains another model (config.json differs)")
    stored = content.get("config")
    for field in _FIXED_FIELDS:
        value = stored.get(field) if isinstance(stored, dict) else None
        if value != getattr(identity.config, field):
            raise ArgumentError(
                f"{field}={getattr(identity.config, field)!r}: the run in {path} has {value!r}, and its batches depend"
                " on it"
            )


def _read_counters(path: Path, content: object) -> Counters:
    if not isinstance(content, dict):
        raise FormatError(f"{path}: counters: must be an object")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Counters):
        value = content.get(field.name)
        if value is None and field.default == math.inf:
            value = math.inf
        if not _is_count(value, whole=field.type == "int"):
            raise FormatError(f"{path}: counters.{field.name}={value!r}: must be a number from 0 to 2**53")
        values[field.name] = value
    return Counters(**values)


def _is_count(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return 0 <= value <= 2**53 or value == math.inf


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error


def _take_moments(
    path: Path, tensors: dict[str, Tensor], state: RunState, step: int
) -> dict[Tensor, dict[str, Tensor]]:
    if step == 0:
        return {}
    moments: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in state.model.named_parameters():
        if parameter.requires_grad:
            moments[parameter] = {
                key: _take(path, tensors, f"optimizer.{key}.{name}", shape, dtype)
                for key, shape, dtype in (
                    ("step", (), torch.float32),
                    ("exp_avg", tuple(parameter.shape), parameter.dtype),
                    ("exp_avg_sq", tuple(parameter.shape), parameter.dtype),
                )
            }
    return moments


def _take_recurrent(
    path: Path, tensors: dict[str, Tensor], model: ModelConfig, batch_size: int
) -> tuple[Tensor, ...] | None:
    count = sum(name.startswith("recurrent.") for name in tensors)
    if count == 0:
        return None
    if count != (2 if model.kind == "lstm" else 1):
        raise FormatError(f"{path}: holds {count} recurrent tensors, a model of kind {model.kind} has another number")
    shape = (model.num_hidden_layers, batch_size, model.hidden_size)
    return tuple(_take(path, tensors, f"recurrent.{index}", shape, torch.float32) for index in range(count))


def _take(path: Path, tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
        found = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
        raise FormatError(f"{path}: {name}: {found}; must be {dtype} {list(shape)}")
    return tensor


def _set_generators(path: Path, tensors: dict[str, Tensor], device: torch.device) -> None:
    try:
        torch.set_rng_state(_take(path, tensors, "generator.cpu", tuple(torch.get_rng_state().shape), torch.uint8))
        if device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], device)
    except RuntimeError as error:
        raise FormatError(f"{path}: generator: not the state of a generator: {error}") from error
