"""Texts made to hurt a tokenizer, the same on every run."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable
from functools import cache

from corpus import MEGABYTE, documents


def hostile(case: str, megabytes: int = 1) -> str:
    """One of the HOSTILE texts, `megabytes` long in UTF-8 (but for a part of a character)."""
    return "".join(HOSTILE[case](random.Random(f"{case} {part}")) for part in range(megabytes))


def _of(alphabet: str) -> Callable[[random.Random], str]:
    size = sum(len(character.encode()) for character in alphabet) / len(alphabet)
    return lambda rng: "".join(rng.choices(alphabet, k=int(MEGABYTE / size)))


def _of_clusters(*clusters: str) -> Callable[[random.Random], str]:
    size = sum(len(cluster.encode()) for cluster in clusters) / len(clusters)
    return lambda rng: "".join(rng.choices(clusters, k=int(MEGABYTE / size)))


def _base64(rng: random.Random) -> str:
    return base64.b64encode(rng.randbytes(MEGABYTE * 3 // 4)).decode()


def _unique_words(rng: random.Random) -> str:
    letters = "".join(rng.choices(LETTERS, k=MEGABYTE * 9 // 10))
    return "".join(letters[i : i + 9] + " " for i in range(0, len(letters), 9))


def _chinese(rng: random.Random) -> str:
    """Real Chinese without anything between the characters: one pre-token."""
    characters = _han()
    start = rng.randrange(len(characters))
    return (characters[start:] + characters[:start])[: MEGABYTE // 3]


@cache
def _han() -> str:
    return "".join(re.findall("[\u4e00-\u9fff]+", "".join(documents("multilingual"))))


LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = "".join(map(chr, range(0x300, 0x370)))
HOSTILE: dict[str, Callable[[random.Random], str]] = {
    "one letter": lambda rng: "a" * MEGABYTE,
    "two letters": lambda rng: "ab" * (MEGABYTE // 2),
    "spaces": lambda rng: " " * MEGABYTE,
    "newlines": lambda rng: "\n" * MEGABYTE,
    "dashes": lambda rng: "-" * MEGABYTE,
    "digits": _of("0123456789"),
    "punctuation": _of("!@#$%^&*()-_=+[]{};:,.<>/?|~`"),
    "emoji, joiners": _of_clusters("👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "❤️", "🇩🇪", "क्षि", "ล้ำ", "e\u0301", "\u200d", "\ufe0f"),
    "combining marks": lambda rng: "".join("a" + "".join(rng.choices(MARKS, k=50)) for _ in range(MEGABYTE // 101)),
    "base64": _base64,
    "random lower case": _of(LETTERS),
    "random upper case": _of(LETTERS.upper()),
    "unique words": _unique_words,
    "random Latin-1": _of("".join(map(chr, range(256)))),
    "Chinese": _chinese,
}
