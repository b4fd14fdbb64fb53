"""`wordkiln tokenizer compare`: what two tokenizers make of the same files."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from wordkiln.errors import PathError
from wordkiln.tokenizer import Tokenizer

_SUFFIXES = (".txt", ".jsonl", ".md", ".py")
# Bytes of a line that tell its script.
_LOOKED_AT = 256


@dataclass(frozen=True)
class Figures:
    """A tokenizer on one text."""

    name: str
    num_bytes: int
    num_tokens: int
    used: int
    seconds: float

    @property
    def bytes_per_token(self) -> float:
        """Higher is shorter."""
        return self.num_bytes / max(self.num_tokens, 1)

    @property
    def megabytes_per_second(self) -> float:
        """Of the faster of two passes."""
        return self.num_bytes / max(self.seconds, 1e-9) / 1e6


def files_of(corpus: Sequence[Path]) -> list[Path]:
    """The files to compare on; in folders those with text.

    Raises:
        PathError: There is none.
    """
    files: list[Path] = []
    for path in corpus:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise PathError(f"{path}: no such file or folder")
    if not files:
        raise PathError(f"{', '.join(map(str, corpus))}: no {', '.join(_SUFFIXES)} file")
    return files


def by_script(files: Sequence[Path]) -> dict[str, list[bytes]]:
    """The lines of all files by the script that most letters of a line's beginning are in, the commonest first."""
    lines: dict[str, list[bytes]] = {}
    for file in files:
        for line in _read(file).splitlines(keepends=True):
            start = line[:_LOOKED_AT].decode("utf-8", "ignore")
            scripts = Counter(filter(None, map(_script, start)))
            lines.setdefault(scripts.most_common(1)[0][0] if scripts else "no letters", []).append(line)
    return dict(sorted(lines.items(), key=lambda item: -sum(map(len, item[1]))))


@lru_cache(maxsize=1 << 16)
def _script(char: str) -> str | None:
    """The first word of a letter's Unicode name: LATIN, CYRILLIC, CJK, HANGUL, THAI, ..."""
    return unicodedata.name(char, "unnamed").split()[0].lower() if char.isalpha() else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PathError(f"{file}: cannot be read: {error.strerror or error}") from error


def measure(tokenizer: Tokenizer, files: Sequence[Path], scripts: dict[str, list[bytes]]) -> list[Figures]:
    """Figures for each file, for the lines of each script if there are several, then for all files together."""
    seen = np.zeros(tokenizer.vocab_size, bool)
    rows = [_measure(file.name, tokenizer, [_read(file)], seen) for file in files]
    num_bytes, num_tokens = sum(row.num_bytes for row in rows), sum(row.num_tokens for row in rows)
    total = Figures("all", num_bytes, num_tokens, int(seen.sum()), sum(row.seconds for row in rows))
    if len(scripts) > 1:
        rows += [_measure(f"lines: {script}", tokenizer, lines, seen) for script, lines in scripts.items()]
    return [*rows, total]


def _measure(name: str, tokenizer: Tokenizer, texts: Sequence[bytes], seen: np.ndarray) -> Figures:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        ids, _ = tokenizer.encode_flat(texts, disallowed_special=())
        seconds.append(time.perf_counter() - start)
    seen[ids] = True
    return Figures(name, sum(map(len, texts)), len(ids), len(np.unique(ids)), min(seconds))


def table(names: Sequence[str], tokenizers: Sequence[Tokenizer], files: Sequence[Path]) -> str:
    """Bytes per token, the part of the vocabulary in use, and speed, a line for each file and each script."""
    scripts = by_script(files)
    columns = [measure(tokenizer, files, scripts) for tokenizer in tokenizers]
    width = max(len(row.name) for row in columns[0])
    lines = [
        f"{name}: {tokenizer.vocab_size:,} ids, pattern {tokenizer.pattern!r}"
        for name, tokenizer in zip(names, tokenizers, strict=True)
    ]
    head = f"{'':{width}}  {'bytes':>12}" + "".join(
        f"  {label:>{max(len(label), 8)}}" for label in [f"{kind} {name}" for kind in _KINDS for name in names]
    )
    lines += ["", head]
    for rows in zip(*columns, strict=True):
        values = [f"{row.bytes_per_token:.3f}" for row in rows]
        values += [
            f"{100 * row.used / max(tok.vocab_size, 1):.1f} %" for row, tok in zip(rows, tokenizers, strict=True)
        ]
        values += [f"{row.megabytes_per_second:.1f}" for row in rows]
        labels = [f"{kind} {name}" for kind in _KINDS for name in names]
        cells = (f"  {value:>{max(len(label), 8)}}" for value, label in zip(values, labels, strict=True))
        lines.append(f"{rows[0].name:{width}}  {rows[0].num_bytes:>12,}" + "".join(cells))
    return "\n".join(lines)


_KINDS = ("bytes/token", "vocabulary used", "MB/s")
