"""What commands read and write: prompts, one JSON value a line; results, one JSON object a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_LARGEST = 1 << 30
STANDARD_INPUT = "-"
# What a shell calls a command that Ctrl-C ended; typer gives it too.
INTERRUPTED = 130


def read_text(path: str) -> str:
    """A file's text, or for "-" that of standard input.

    Raises:
        PathError: it cannot be read.
        FormatError: it is no UTF-8, or larger than 1 GiB.
    """
    from wordkiln.errors import FormatError, PathError

    name = "standard input" if path == STANDARD_INPUT else path
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PathError(f"{name}: cannot be read: {reason}") from error
    if len(content) > _LARGEST:
        raise FormatError(f"{name}: is larger than {_LARGEST} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: is not UTF-8: {error.reason} at byte {error.start}") from error


def read_records(path: str, field: str) -> list[dict[str, Any]]:
    """The lines of a JSONL file: objects with the string `field`, or strings, which stand for objects of that alone.

    Raises:
        PathError: it cannot be read.
        FormatError: a line is something else; it is named.
    """
    from wordkiln.errors import FormatError

    records = []
    # Not splitlines: a JSON string may hold U+2028 and others of its line ends.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{'standard input' if path == STANDARD_INPUT else path}, line {number}"
        value = parse(line, where)
        record = {field: value} if isinstance(value, str) else value
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            raise FormatError(f'{where}: must be a JSON string, or an object with the string "{field}"')
        records.append(record)
    return records


def parse(text: str, where: str) -> Any:
    """A JSON value; `where` names it in the error.

    Raises:
        FormatError: it is none.
    """
    from wordkiln.errors import FormatError

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: is no JSON: {error}") from error


def check_output(path: Path | None) -> None:
    """Before work that may take hours: whether its result can be written.

    Raises:
        PathError: the folder is missing, or `path` is one.
    """
    from wordkiln.errors import PathError

    if path is not None and path.is_dir():
        raise PathError(f"{path}: is a folder: must be a file")
    if path is not None and not path.parent.is_dir():
        raise PathError(f"{path.parent}: no such folder to write {path.name} to")


def line_of(record: dict[str, Any]) -> str:
    """A record as a line of JSONL; infinite and NaN numbers, which JSON has not, as null."""
    line = json.dumps(_finite(record), ensure_ascii=False)
    # A lone surrogate, which a model may write, is no UTF-8; its escape is JSON's.
    return line.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
