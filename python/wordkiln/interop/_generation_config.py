"""generation_config.json: what the makers of a model recommend."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from wordkiln._json_files import read_json
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.interop._fields import Fields
from wordkiln.models import _checks
from wordkiln.runtime.architecture import Architecture

FILE = "generation_config.json"
_LIMIT = 2**20

# Name -> least and greatest value, as `generation` takes them.
_REALS = {
    "temperature": (0.0, 1e6),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 1e6),
    "length_penalty": (-16.0, 16.0),
}
_INTEGERS = {
    "top_k": (0, 2**31 - 1),
    "max_new_tokens": (1, 2**31 - 1),
    "num_beams": (1, 1024),
    "no_repeat_ngram_size": (0, 2**16),
}
_FLAGS = ("do_sample",)
GENERATION_DEFAULTS = (*_REALS, *_INTEGERS, *_FLAGS)


def generation_defaults(directory: Path) -> dict[str, Any]:
    """The settings of `GENERATION_DEFAULTS` that the file has; empty where there is no file.

    Raises:
        PathError: it cannot be read.
        FormatError: a value is of another type or out of its range.
    """
    path = directory / FILE
    fields = Fields(_values(path))
    found: dict[str, Any] = {}
    try:
        for name in GENERATION_DEFAULTS:
            value = fields.take(name)
            if value is None:
                continue
            if name in _REALS:
                found[name] = _checks.real(name, value, *_REALS[name])
            elif name in _INTEGERS:
                found[name] = _checks.integer(name, value, *_INTEGERS[name])
            elif isinstance(value, bool):
                found[name] = value
            else:
                raise FormatError(f"{path}: {name}={_checks.shown(value)}: must be true or false")
    except ArgumentError as error:
        raise FormatError(f"{path}: {error}") from error
    return found


def with_end_ids(architecture: Architecture, directory: Path) -> Architecture:
    """The architecture with the end tokens of the file, which count before those of config.json.

    Raises:
        FormatError: one is no id of the model.
    """
    path = directory / FILE
    try:
        ids = Fields(_values(path)).ids("eos_token_id", architecture.vocab_size)
    except (ArgumentError, FormatError) as error:
        raise FormatError(f"{path}: {error}") from error
    return dataclasses.replace(architecture, eos_token_ids=ids) if ids else architecture


def _values(path: Path) -> dict[str, Any]:
    return read_json(path, _LIMIT) if path.is_file() else {}
