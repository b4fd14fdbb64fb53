"""Arguments of `Tokenizer`, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from wordkiln.errors import ArgumentError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def check_int(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name}={value!r}: must be an integer")
    if not least <= value < 2**32:
        raise ArgumentError(f"{name}={value}: must be at least {least} and less than 2**32")
    return int(value)


def check_names(special_tokens: Iterable[str]) -> list[str]:
    names = [special_tokens] if isinstance(special_tokens, str) else list(special_tokens)
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ArgumentError(f"special_tokens: {name!r} must be a string of printable characters")
    return names


def check_characters(initial_alphabet: Iterable[str]) -> list[str]:
    characters = list(initial_alphabet)
    for character in characters:
        if not isinstance(character, str) or len(character) != 1 or "\ud800" <= character <= "\udfff":
            raise ArgumentError(f"initial_alphabet: {character!r} must be one character")
    return characters


def byte_count(size: int | str | None) -> int | None:
    if size is None:
        return None
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", size, re.IGNORECASE)
        if match is None or match[2].lower() not in _UNITS:
            raise ArgumentError(f"max_memory={size!r}: must be such as '2GB', '512MiB' or a number of bytes")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**63:
        raise ArgumentError(f"max_memory={size!r}: must be a positive number of bytes")
    return size
