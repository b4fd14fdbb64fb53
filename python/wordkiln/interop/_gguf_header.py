"""The head of a GGUF file: metadata and the table of tensors, read within limits.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library's own reader makes two numpy arrays
of each string, which takes seconds for a vocabulary, and trusts the counts that it reads.
"""

from __future__ import annotations

import dataclasses
import mmap
from typing import Any

import numpy as np

from wordkiln.errors import FormatError
from wordkiln.interop._layout import Shape, label
from wordkiln.tokenizer._gguf import read_strings

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_KEYS = 2**12
_MAX_TENSORS = 2**16
_MAX_NAME = 2**16  # of a key or tensor, as the format has it
_MAX_ITEMS = 2**24
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**40
_MAX_ALIGNMENT = 2**20
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9

Bytes = bytes | mmap.mmap


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An entry of the table.

    Attributes:
        shape: as numpy has it, the last dimension the one that lies together.
        encoding: its number in ggml.
        begin: its first byte in the file.
    """

    shape: Shape
    encoding: int
    begin: int


@dataclasses.dataclass(frozen=True)
class Header:
    """Metadata (arrays of numbers as numpy arrays), and name -> tensor."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(data: Bytes) -> Header:
    """The head of the file that `data` maps.

    Raises:
        FormatError: truncated, of another version, a count or size beyond its limit, a name that stands twice.
    """
    reader = _Reader(data)
    if reader.bytes(4) != _MAGIC:
        raise FormatError("no GGUF file: it does not begin with GGUF")
    version = reader.number("<u4")
    if version not in _VERSIONS:
        raise FormatError(f"GGUF version {version}: must be one of {', '.join(map(str, _VERSIONS))}, little endian")
    tensors = reader.count("tensors", _MAX_TENSORS)
    metadata: dict[str, Any] = {}
    for _ in range(reader.count("keys", _MAX_KEYS)):
        name = reader.string(_MAX_NAME)
        if name in metadata:
            raise FormatError(f"{label(name)} stands twice in the metadata")
        metadata[name] = reader.value(name, reader.number("<u4"))
    table: dict[str, Tensor] = {}
    for _ in range(tensors):
        name = reader.string(_MAX_NAME)
        if name in table:
            raise FormatError(f"tensor {label(name)} stands twice")
        table[name] = reader.tensor(name)
    start = _aligned(reader.at, metadata)
    return Header(metadata, {name: dataclasses.replace(one, begin=start + one.begin) for name, one in table.items()})


def _aligned(at: int, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(f"general.alignment={alignment!r}: must be a power of two up to {_MAX_ALIGNMENT}")
    return -(-at // alignment) * alignment


class _Reader:
    """Values one after another; what would lie beyond the end is an error before it is allocated."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self.at = 0

    def bytes(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise FormatError(f"truncated: {size} bytes wanted at byte {self.at} of {len(self._data)}")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self.bytes(kind.itemsize), kind)[0].item()

    def count(self, what: str, limit: int) -> int:
        count: int = self.number("<u8")
        if count > limit:
            raise FormatError(f"{count} {what}: must be at most {limit}")
        return count

    def string(self, limit: int) -> str:
        size: int = self.number("<u8")
        if size > limit:
            raise FormatError(f"a string of {size} bytes at byte {self.at}: must be at most {limit}")
        return self.bytes(size).decode("utf-8", "replace")

    def value(self, name: str, kind: int) -> Any:
        if kind == _BOOL:
            return self.number("<u1") != 0
        if kind == _STRING:
            return self.string(len(self._data))
        if kind == _ARRAY:
            return self._array(name)
        if kind not in _SCALARS:
            raise FormatError(f"{label(name)}: type {kind} is none of GGUF's")
        return self.number(_SCALARS[kind])

    def _array(self, name: str) -> Any:
        kind = self.number("<u4")
        count = self.count(f"items of {label(name)}", _MAX_ITEMS)
        if kind == _STRING:
            strings, self.at = read_strings(self._data, self.at, count)
            return strings
        dtype = np.dtype("?" if kind == _BOOL else _SCALARS.get(kind, "V0"))
        if not dtype.itemsize:
            raise FormatError(f"{label(name)}: arrays of type {kind} are not read")
        return np.frombuffer(self.bytes(count * dtype.itemsize), dtype)

    def tensor(self, name: str) -> Tensor:
        dimensions = self.number("<u4")
        if dimensions > _MAX_DIMENSIONS:
            raise FormatError(f"{label(name)}: {dimensions} dimensions: must be at most {_MAX_DIMENSIONS}")
        shape = tuple(self.count(f"in a dimension of {label(name)}", _MAX_SIZE) for _ in range(dimensions))
        kind = self.number("<u4")
        return Tensor(shape[::-1], kind, self.count(f"bytes before {label(name)}", len(self._data)))
