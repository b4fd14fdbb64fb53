"""Real vocabularies (WORDKILN_DATA) as the files that the peers read: tiktoken ranks and tokenizer.json."""

from __future__ import annotations

import base64
import json
import lzma
from functools import cache
from itertools import pairwise
from pathlib import Path

import corpus

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
_FOLDER = corpus.DATA / "tokenizer-golden" / "vocab"
_NAMES = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}


def available() -> bool:
    return _FOLDER.is_dir()


def tiktoken_file(vocabulary: str) -> Path:
    """Written once; named as OpenAI names it, since some peers go by the name."""
    path = corpus.FOLDER / f"{_NAMES[vocabulary]}.tiktoken"
    if not path.exists():
        lines = (base64.b64encode(token) + f" {rank}\n".encode() for token, rank in _read(vocabulary).items())
        _write(path, b"".join(lines))
    return path


def json_file(vocabulary: str) -> Path:
    """The same vocabulary as Hugging Face's tokenizer.json, without special tokens. Written once."""
    path = corpus.FOLDER / f"{vocabulary}.tokenizer.json"
    if not path.exists():
        _write(path, json.dumps(_tokenizer_json(vocabulary)).encode())
    return path


@cache
def ranks(vocabulary: str) -> dict[bytes, int]:
    """The bytes of each token and its id."""
    lines = (line.split() for line in tiktoken_file(vocabulary).read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def spelling() -> list[str]:
    """GPT-2's character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _read(vocabulary: str) -> dict[bytes, int]:
    if vocabulary != "gpt2":
        lines = lzma.decompress((_FOLDER / f"{_NAMES[vocabulary]}.tiktoken.xz").read_bytes()).splitlines()
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    byte_of = {character: byte for byte, character in enumerate(spelling())}
    encoder = json.loads(lzma.decompress((_FOLDER / "gpt2_encoder.json.xz").read_bytes()))
    del encoder["<|endoftext|>"]
    tokens = {bytes(byte_of[character] for character in token): rank for token, rank in encoder.items()}
    return dict(sorted(tokens.items(), key=lambda item: item[1]))


def _tokenizer_json(vocabulary: str) -> dict:
    spell = spelling()
    tokens = {token: "".join(spell[byte] for byte in token) for token in ranks(vocabulary)}
    merges = [
        [tokens[left], tokens[right]]
        for token in tokens
        if (pair := _last_pair(token, ranks(vocabulary)))
        for left, right in [pair]
    ]
    if vocabulary == "gpt2":
        splitter = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    else:
        split = {"type": "Split", "pattern": {"Regex": PATTERNS[vocabulary]}, "behavior": "Isolated", "invert": False}
        spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        splitter = {"type": "Sequence", "pretokenizers": [split, spelled]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary != "gpt2",
            "vocab": {tokens[token]: rank for token, rank in ranks(vocabulary).items()},
            "merges": merges,
        },
    }


def _last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that `token` is merged from: what merging its bytes by lower ranks leaves."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= ranks[token]:
            return None
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
