"""Token shards on disk: raw little-endian integers, at most so many in a file."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from wordkiln.errors import ArgumentError, FormatError

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}

_READ_TOKENS = 1 << 22


def shard_name(split: str, index: int) -> str:
    """The file name of a split's shard."""
    return f"{split}-{index:05d}.bin"


class ShardWriter:
    """Appends ids to the shards of one split and counts them."""

    def __init__(
        self, folder: Path, split: str, dtype: str, token_lengths: npt.NDArray[np.uint32], shard_tokens: int
    ) -> None:
        self.shards: list[dict[str, Any]] = []
        self._folder = folder
        self._split = split
        self._dtype = DTYPES[dtype]
        self._token_lengths = token_lengths
        self._limit = shard_tokens
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Add `ids` [N], which may go to several shards."""
        while len(ids):
            if self._file is None:
                self._open()
            shard = self.shards[-1]
            part, ids = np.split(ids, [self._limit - shard["tokens"]])
            content = part.astype(self._dtype).tobytes()
            assert self._file is not None
            self._file.write(content)
            self._hash.update(content)
            shard["tokens"] += len(part)
            shard["bytes"] += int(self._token_lengths[part].sum(dtype=np.int64))
            if shard["tokens"] == self._limit:
                self.close()

    def close(self) -> None:
        """Finish the shard being written."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.shards[-1]["sha256"] = self._hash.hexdigest()

    def _open(self) -> None:
        name = shard_name(self._split, len(self.shards))
        self._file = open(self._folder / name, "xb")  # noqa: SIM115 (closed by close(), over many calls)
        self._hash = hashlib.sha256()
        self.shards.append({"file": name, "tokens": 0, "bytes": 0})


class Split:
    """The tokens of one split, over memory-mapped shards.

    Attributes:
        name: "train" or "valid".
        num_tokens: ids in the split, end-of-document ids included.
        num_bytes: UTF-8 bytes of its text; end-of-document ids count 0.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        tokens: Sequence[int],
        num_bytes: int,
        dtype: str,
        token_lengths: npt.NDArray[np.uint32],
    ) -> None:
        self.name = name
        self.num_tokens = sum(tokens)
        self.num_bytes = num_bytes
        self._maps = [
            np.memmap(path, DTYPES[dtype], "r", shape=(count,)) for path, count in zip(paths, tokens, strict=True)
        ]
        self._paths = list(paths)
        self._starts = np.cumsum([0, *tokens]).tolist()
        self._token_lengths = token_lengths

    def __len__(self) -> int:
        return self.num_tokens

    def ids(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The ids from `start` up to `stop` as a new array [stop - start] of uint16 or uint32.

        Raises:
            ArgumentError: not 0 <= start <= stop <= num_tokens.
            FormatError: a shard holds an id beyond the vocabulary.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise ArgumentError(
                f"start={start}, stop={stop}: must be 0 <= start <= stop <= {self.num_tokens} ({self.name} tokens)"
            )
        parts = []
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            part = np.array(self._maps[shard][start - self._starts[shard] : end - self._starts[shard]])
            if part.max() >= len(self._token_lengths):
                raise FormatError(
                    f"{self._paths[shard]}: id {part.max()} is beyond the vocabulary of {len(self._token_lengths)}"
                )
            parts.append(part)
            start, shard = end, shard + 1
        if not parts:
            return np.zeros(0, self._maps[0].dtype if self._maps else np.dtype("<u2"))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def count_bytes(self, start: int, stop: int) -> int:
        """UTF-8 bytes of the text that the ids from `start` up to `stop` stand for."""
        total = 0
        for begin in range(start, stop, _READ_TOKENS):
            ids = self.ids(begin, min(stop, begin + _READ_TOKENS))
            total += int(self._token_lengths[ids].sum(dtype=np.int64))
        return total
