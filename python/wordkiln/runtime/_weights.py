"""model.safetensors as float32 arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from wordkiln.errors import FormatError, PathError
from wordkiln.models import checkpoint
from wordkiln.models.config import ModelConfig

Array = NDArray[np.float32]


def load_weights(directory: Path, config: ModelConfig) -> dict[str, Array]:
    """Every tensor of `config`, by name; names, shapes and dtypes are checked before any is read.

    Raises:
        PathError: the file is missing or cannot be read.
        FormatError: it does not hold exactly the tensors of `config`.
    """
    path = directory / checkpoint.WEIGHTS
    dtype = checkpoint.check_weights(path, config)
    try:
        if dtype == "BF16":
            entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]  # safetensors has no types
            return {name: _from_bfloat16(entry) for name, entry in entries}
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path}: {error}") from error
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error


def _from_bfloat16(entry: dict[str, Any]) -> Array:
    """For numpy, which has no bfloat16: the bits are the upper half of a float32's."""
    bits = np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(entry["shape"])
