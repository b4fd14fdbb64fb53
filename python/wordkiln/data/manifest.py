"""`manifest.json` of a data set: written once, and checked field by field and file by file before anything is read."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordkiln._json_files import read_json
from wordkiln.data.shards import DTYPES, shard_name
from wordkiln.errors import FormatError

MANIFEST_FILE = "manifest.json"
TOKEN_LENGTHS_FILE = "token_lengths.bin"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "wordkiln-tokens"
VERSION = 1

_MAX_MANIFEST_BYTES = 16 << 20
_MAX_VOCAB_SIZE = 1 << 31
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One file of token ids."""

    file: str
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a data set directory holds. `fingerprint` is the sha256 of the manifest file."""

    tokenizer_fingerprint: str
    vocab_size: int
    dtype: str
    splits: dict[str, tuple[Shard, ...]]
    fingerprint: str


def write_manifest(
    folder: Path, *, tokenizer_fingerprint: str, vocab_size: int, dtype: str, splits: dict[str, Any]
) -> None:
    """Write the manifest of the files in `folder`."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "vocab_size": vocab_size,
        "dtype": dtype,
        "splits": splits,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest and the sizes of all files that it names.

    Raises:
        PathError: there is no data set in `folder`.
        FormatError: a field is missing or wrong, or a file has not the size that the manifest gives it.
    """
    path = folder / MANIFEST_FILE
    content = read_json(path, _MAX_MANIFEST_BYTES, missing="no data set here")
    if content.get("format") != FORMAT:
        raise FormatError(f"{path}: format={content.get('format')!r}: must be {FORMAT!r}")
    if content.get("version") != VERSION:
        raise FormatError(f"{path}: version={content.get('version')!r}: this release reads version {VERSION}")
    fingerprint = content.get("tokenizer_fingerprint")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise FormatError(f"{path}: tokenizer_fingerprint={fingerprint!r}: must be a string")
    dtype = content.get("dtype")
    if dtype not in DTYPES:
        raise FormatError(f"{path}: dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    limit = min(_MAX_VOCAB_SIZE, 1 << 8 * DTYPES[dtype].itemsize)
    vocab_size = _integer(path, content, "vocab_size", 1, limit)
    splits = content.get("splits")
    if not isinstance(splits, dict) or set(splits) != {"train", "valid"}:
        raise FormatError(f"{path}: splits: must be an object of train and valid")
    _check_size(folder / TOKEN_LENGTHS_FILE, vocab_size * 4)
    return Manifest(
        fingerprint,
        vocab_size,
        dtype,
        {name: _read_shards(path, name, splits[name], DTYPES[dtype].itemsize) for name in ("train", "valid")},
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _read_shards(path: Path, split: str, content: object, itemsize: int) -> tuple[Shard, ...]:
    shards = content.get("shards") if isinstance(content, dict) else None
    if not isinstance(shards, list) or not shards:
        raise FormatError(f"{path}: splits.{split}.shards: must be a list of at least one shard")
    return tuple(_read_shard(path, split, index, shard, itemsize) for index, shard in enumerate(shards))


def _read_shard(path: Path, split: str, index: int, content: object, itemsize: int) -> Shard:
    where = f"splits.{split}.shards[{index}]"
    if not isinstance(content, dict):
        raise FormatError(f"{path}: {where}: must be an object")
    # A manifest may come from anywhere: names are compared, never followed.
    if content.get("file") != shard_name(split, index):
        raise FormatError(f"{path}: {where}.file={content.get('file')!r}: must be {shard_name(split, index)!r}")
    tokens = _integer(path, content, "tokens", 1, 1 << 40, where + ".")
    num_bytes = _integer(path, content, "bytes", 0, 1 << 50, where + ".")
    sha256 = content.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise FormatError(f"{path}: {where}.sha256={sha256!r}: must be 64 hexadecimal digits")
    _check_size(path.parent / content["file"], tokens * itemsize)
    return Shard(content["file"], tokens, num_bytes, sha256)


def _integer(path: Path, content: dict[str, Any], field: str, low: int, high: int, prefix: str = "") -> int:
    value = content.get(field)
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{path}: {prefix}{field}={value!r}: must be an integer from {low} to {high}")
    return value


def _check_size(path: Path, expected: int) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path}: not a regular file")
    if status.st_size != expected:
        raise FormatError(f"{path}: has {status.st_size} bytes, the manifest needs {expected}")
