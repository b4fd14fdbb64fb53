"""JSON that somebody else may have written: one object, of bounded size, read strictly."""

from __future__ import annotations

import collections
import json
import reprlib
from pathlib import Path
from typing import Any

from wordkiln.errors import FormatError, PathError


def read_json(path: Path, max_bytes: int, *, missing: str | None = None) -> dict[str, Any]:
    """The object in a file.

    Args:
        path: the file.
        max_bytes: nothing that is meant is longer.
        missing: what to say, after the folder's name, where there is no such file. Default: what the system says.

    Raises:
        PathError: it cannot be read.
        FormatError: it is longer than `max_bytes`, or not what `parse_json` takes.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        if missing is not None:
            raise PathError(f"{path.parent}: {missing} ({path.name} is missing)") from error
        raise PathError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise FormatError(f"{path}: longer than {max_bytes} bytes")
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object in `content`; `where` names it in errors.

    Raises:
        FormatError: no JSON, no object, a key that stands twice, NaN or Infinity.
    """
    try:
        values = json.loads(content.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError and our own are ValueErrors
        raise FormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{where}: holds {type(values).__name__}, not a JSON object")
    return values


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise ValueError(f"{reprlib.repr(counts.most_common(1)[0][0])} stands twice")
    return values


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
