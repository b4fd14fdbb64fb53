"""Tokens as coloured pieces of text."""

from __future__ import annotations

import os
import sys
from typing import Any

# Backgrounds that dark and light terminals both show, with black text; neighbours differ.
_BACKGROUNDS = (152, 223, 183, 217, 189)
_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "→", "\x1b": "␛"}


def show(tokens: list[bytes], ids: list[int], file: Any, color: bool | None) -> None:
    """Print the tokens in one line of text; a line break is shown, and made."""
    file = sys.stdout if file is None else file
    if color is None:
        color = "NO_COLOR" not in os.environ and bool(getattr(file, "isatty", bool)())
    pieces = [_readable(token) for token in tokens]
    if color:
        text = "".join(_colored(piece, number) for number, piece in enumerate(pieces))
    else:
        text = "|".join(piece + "\n" if piece.endswith("↵") else piece for piece in pieces)
    size = sum(map(len, tokens))
    summary = f"{len(ids)} tokens, {size} bytes" + (f", {size / len(ids):.2f} bytes per token" if ids else "")
    write(file, f"{text}\n{summary}\n")


def write(file: Any, text: str) -> None:
    """Print text whatever the encoding of `file`: what it cannot say is written as an escape."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _colored(piece: str, number: int) -> str:
    background = _BACKGROUNDS[number % len(_BACKGROUNDS)]
    # A colour that runs over a line break fills the rest of the line on many terminals.
    lines = piece.replace("↵", "↵\n").split("\n")
    return "\n".join(f"\x1b[30;48;5;{background}m{line}\x1b[0m" if line else "" for line in lines)


def _readable(token: bytes) -> str:
    """The token's text, with escapes for bytes that are no whole character and signs for controls."""
    text = token.decode("utf-8", "backslashreplace")
    return "".join(_VISIBLE.get(char) or (char if char.isprintable() else _escaped(char)) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
