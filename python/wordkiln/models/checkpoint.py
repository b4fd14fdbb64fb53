"""The files of a checkpoint directory, and the check of model.safetensors against its config. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from wordkiln._json_files import parse_json, read_json
from wordkiln.errors import FormatError, PathError
from wordkiln.models import _checks, _json
from wordkiln.models.config import ModelConfig
from wordkiln.models.layout import parameter_shapes

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
# All that a checkpoint directory of ours may hold; the last is the tokenizer of one that SentencePiece runs.
FILES = (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, GENERATION_CONFIG, "tokenizer.model")
TOKENIZER_FINGERPRINT = "tokenizer_fingerprint"  # a key of config.json

DTYPES = ("F32", "F16", "BF16")
_HEADER_LIMIT = 2**25  # bytes; 1024 layers need about 2**20


def check_weights(path: str | os.PathLike[str], config: ModelConfig) -> str:
    """Refuse a model.safetensors whose tensors are not exactly those of `config`; read nothing but its header.

    safetensors itself finds truncated and overlapping data when the file is opened, but not a name that stands twice.

    Returns:
        The dtype of all tensors: "F32", "F16" or "BF16".

    Raises:
        PathError: the file cannot be read.
        FormatError: a tensor is missing, extra, or has another shape or dtype.
    """
    path = Path(path)
    header = _read_header(path)
    header.pop("__metadata__", None)
    shapes = parameter_shapes(config)
    _check_names(path, header, shapes)
    dtypes = set()
    for name, wanted in shapes.items():
        entry = header[name]
        shape, dtype = (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else (None, None)
        if shape != list(wanted):
            raise FormatError(f"{path}: {name}: shape {_checks.shown(shape)}, but the config asks for {list(wanted)}")
        if dtype not in DTYPES:
            raise FormatError(f"{path}: {name}: dtype {_checks.shown(dtype)}: must be one of {', '.join(DTYPES)}")
        dtypes.add(dtype)
    if len(dtypes) > 1:
        raise FormatError(f"{path}: tensors of several dtypes ({', '.join(sorted(dtypes))}): must be one")
    return str(dtypes.pop())


def of_run(path: str | os.PathLike[str]) -> Path:
    """A run directory of `Trainer` stands for the checkpoint in its best/, any other path for itself."""
    path = Path(path)
    best = path / "best"
    return best if best.is_dir() and not (path / CONFIG).exists() else path


def tokenizer_fingerprint(directory: str | os.PathLike[str]) -> str | None:
    """The fingerprint of the tokenizer that the model was saved with; None where config.json has none.

    Raises:
        PathError: config.json cannot be read.
        FormatError: it is no JSON object.
    """
    value = read_json(Path(directory) / CONFIG, _json.LIMIT).get(TOKENIZER_FINGERPRINT)
    return value if isinstance(value, str) else None


def _read_header(path: Path) -> dict[str, object]:
    """The JSON header: 8 bytes of length (little endian), then that many bytes."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(_HEADER_LIMIT, os.fstat(file.fileno()).st_size - 8):
                raise FormatError(f"{path}: truncated or no safetensors file: its header would be {size} bytes long")
            content = file.read(size)
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_json(content, f"{path}: header")


def _check_names(path: Path, header: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in shapes if name not in header]
    extra = [name for name in header if name not in shapes]
    for what, names in (("misses", missing), ("has extra", extra)):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise FormatError(f"{path}: {what} {', '.join(map(_checks.shown, names[:3]))}{rest}")
