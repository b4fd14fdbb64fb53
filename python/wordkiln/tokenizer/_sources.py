"""What a tokenizer can be trained on: paths, texts, or a table of counts."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wordkiln.errors import ArgumentError, FormatError, PathError

_SUFFIXES = (".txt", ".jsonl")

Source = str | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]] | Mapping[str, int] | Mapping[bytes, int]

NativeSource = tuple[list[str], Iterator[Any] | None, int, bool]
"""Files, or else texts; the weight; whether a text comes with its count."""

_MOST = 2**32


def read_sources(source: Source | Sequence[Source], weights: Sequence[int] | None) -> list[NativeSource]:
    """One source, or with `weights` a list of them."""
    if weights is None:
        return [_native(source, 1)]  # type: ignore[arg-type]  # checked by read_source
    weights = list(weights)
    if not isinstance(source, list | tuple) or len(source) != len(weights):
        raise ArgumentError(f"weights: source must be a list of {len(weights)} sources, one for each weight")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= _MOST:
            raise ArgumentError(f"weights: {weight!r} must be an integer from 1 to {_MOST}")
    return [_native(part, weight) for part, weight in zip(source, weights, strict=True)]


def _native(source: Source, weight: int) -> NativeSource:
    if isinstance(source, Mapping):
        if not source:
            raise ArgumentError("source: is empty")
        return [], iter(source.items()), weight, True
    files, texts = read_source(source)
    return files, texts, weight, False


def read_source(source: Source) -> tuple[list[str], Iterator[str | bytes] | None]:
    """The files to read natively, or else the texts. Where a .jsonl file is among the files, all come as texts."""
    if isinstance(source, bytes):
        raise ArgumentError("source: must be a path or an iterable of texts, not one text as bytes")
    if isinstance(source, str | os.PathLike):
        paths = [Path(source)]
    elif isinstance(source, Iterable):
        items, paths = _sort_out(source)
        if not paths:
            return [], items
    else:
        raise ArgumentError(f"source: must be a path or an iterable of texts, not {type(source).__name__}")
    files = [file for path in paths for file in _files_of(path)]
    if any(file.suffix == ".jsonl" for file in files):
        return [], itertools.chain.from_iterable(map(_texts_of, files))
    return [str(file) for file in files], None


def _sort_out(source: Iterable[Any]) -> tuple[Iterator[str | bytes], list[Path]]:
    """The items as texts, or as paths: if the first one is a path object, or names something in a list of strings."""
    items = iter(source)
    first = next(items, None)
    if first is None:
        raise ArgumentError("source: is empty")
    listed = isinstance(source, list | tuple)
    if isinstance(first, os.PathLike) or (listed and isinstance(first, str) and _exists(first)):
        return iter(()), [_path(item) for item in itertools.chain([first], items)]
    return itertools.chain([first], items), []


def _exists(name: str) -> bool:
    try:
        return os.path.exists(name)
    except ValueError:  # a NUL character
        return False


def _path(item: str | bytes | os.PathLike[str]) -> Path:
    if isinstance(item, str | os.PathLike):
        return Path(item)
    raise ArgumentError("source: begins with a path but also holds bytes; give paths or texts, not both")


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise PathError(f"{path}: holds no {' or '.join(_SUFFIXES)} file")
        return files
    if not path.is_file():
        raise PathError(f"{path}: no such file or folder")
    return [path]


def _texts_of(file: Path) -> Iterator[str | bytes]:
    try:
        if file.suffix != ".jsonl":
            yield file.read_bytes()
            return
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text_of(file, number, line)
    except OSError as error:
        raise PathError(f"{file}: cannot be read: {error.strerror or error}") from error


def _text_of(file: Path, number: int, line: bytes) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise FormatError(f'{file}: line {number} is not a JSON object with a string "text"')
    return text
