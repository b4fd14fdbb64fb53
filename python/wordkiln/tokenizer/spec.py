"""The plain definition of byte-level BPE, to read and to test against: no speed, no cleverness.

A text is cut into pre-tokens, each the leftmost match of a regex where the one before ended. A pre-token starts as one
id for each of its bytes. A merge replaces two ids side by side by one new id. Training finds the merges, encoding
applies them, and nothing ever crosses the border of a pre-token.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

Merge = tuple[int, int]

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_START, _UPPER, _LOWER = (
    r"[^\r\n\p{L}\p{N}]?",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)

REGEXES = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": f"{_WORD_START}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_WORD_START}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "whitespace": r" ?\S+|\s+(?!\S)|\s+",
}
"""What cuts a text, by pattern. Besides these, "bytes" cuts before each byte and "none" nowhere."""

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]

BYTE_ORDER = bytes([*_VISIBLE, *sorted(set(range(256)) - set(_VISIBLE))])
"""The byte of each of the first 256 ids: visible Latin-1 characters first (GPT-2's order)."""


def train(pieces: Mapping[bytes, int], merges: int, min_frequency: int = 1) -> list[Merge]:
    """At most `merges` merges of pre-tokens given with their counts: always the pair that is most frequent now.

    Of equally frequent pairs the one with the smallest ids is taken, the left one compared first. A pair is counted at
    each place where it stands, also where places overlap (twice in "aaa").
    """
    texts = [([BYTE_ORDER.index(byte) for byte in piece], count) for piece, count in pieces.items()]
    found: list[Merge] = []
    while len(found) < merges:
        counts: Counter[Merge] = Counter()
        for ids, count in texts:
            for pair in itertools.pairwise(ids):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < min_frequency:
            break
        texts = [(_replace(ids, best, 256 + len(found)), count) for ids, count in texts]
        found.append(best)
    return found


def encode(piece: bytes, merges: Sequence[Merge]) -> list[int]:
    """The ids of one pre-token: all merges in their order, each wherever its pair stands, from left to right."""
    ids = [BYTE_ORDER.index(byte) for byte in piece]
    for rank, pair in enumerate(merges):
        ids = _replace(ids, pair, 256 + rank)
    return ids


def decode(ids: Sequence[int], merges: Sequence[Merge]) -> bytes:
    """The bytes that the ids were made of."""
    return b"".join(_token(id, merges) for id in ids)


def _token(id: int, merges: Sequence[Merge]) -> bytes:
    if id < 256:
        return BYTE_ORDER[id : id + 1]
    left, right = merges[id - 256]
    return _token(left, merges) + _token(right, merges)


def _replace(ids: list[int], pair: Merge, new: int) -> list[int]:
    replaced = []
    at = 0
    while at < len(ids):
        if tuple(ids[at : at + 2]) == pair:
            replaced.append(new)
            at += 2
        else:
            replaced.append(ids[at])
            at += 1
    return replaced
