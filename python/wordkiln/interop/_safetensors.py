"""safetensors files read lazily: one tensor at a time, from a memory map that lives as long as the array."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln._json_files import parse_json, read_json
from wordkiln.errors import FormatError, PathError
from wordkiln.interop._layout import Shape, label
from wordkiln.models import _checks
from wordkiln.runtime.architecture import EncodedMatrix, Encoding

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# bfloat16, which numpy does not know, is read as its bits.
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_ENCODINGS: dict[str, Encoding] = {"F16": "float16", "BF16": "bfloat16"}
_HEADER_LIMIT = 2**25  # bytes; 1024 layers need about 2**20
_INDEX_LIMIT = 2**25
_MAX_SHARDS = 2**10
_MAX_NAME = 200  # of a file
_MAX_SIZE = 2**40
_MAX_DIMENSIONS = 8


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A tensor as the header has it, checked."""

    dtype: str
    shape: Shape
    begin: int
    end: int

    @classmethod
    def of(cls, path: Path, name: str, value: Any) -> _Entry:
        where = f"{path}: {label(name)}"
        value = value if isinstance(value, dict) else {}
        dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
        if not isinstance(dtype, str):
            raise FormatError(f"{where}: dtype={_checks.shown(dtype)}: must be a name")
        if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
            raise FormatError(f"{where}: shape={_checks.shown(shape)}: must be at most {_MAX_DIMENSIONS} sizes")
        if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise FormatError(f"{where}: data_offsets={_checks.shown(offsets)}: must be a begin and an end")
        size = math.prod(shape) * np.dtype(_DTYPES.get(dtype, "u1")).itemsize
        if dtype in _DTYPES and offsets[1] - offsets[0] != size:
            raise FormatError(f"{where}: data_offsets={offsets}: {dtype} {shape} takes {size} bytes")
        return cls(_checks.shown(dtype).strip("'"), tuple(shape), *offsets)


class SafetensorsFile:
    """One file: its header, checked.

    Attributes:
        path: of the file.
        shapes: name -> shape.

    Raises:
        PathError: it cannot be read.
        FormatError: truncated, tensors that overlap or lie beyond the end, names that stand twice, a wrong header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._identity = identity(file.fileno())
                header, self._start = _read_header(file, self._identity[0], path)
        except OSError as error:
            raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
        header.pop("__metadata__", None)
        self._entries = {name: _Entry.of(path, name, value) for name, value in header.items()}
        _check_places(path, self._entries, self._identity[0] - self._start)
        self.shapes: dict[str, Shape] = {name: entry.shape for name, entry in self._entries.items()}

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """See `TensorFile`."""
        return _widened(self._array(name)[index], self._entries[name].dtype)

    def encoded(self, name: str, rows: slice) -> EncodedMatrix | None:
        """See `TensorFile`."""
        encoding = _ENCODINGS.get(self._entries[name].dtype)
        return None if encoding is None else EncodedMatrix(self._array(name)[rows].view(np.uint8), encoding)

    def _array(self, name: str) -> NDArray[Any]:
        """A tensor as a view of the file."""
        entry = self._entries[name]
        try:
            with open(self.path, "rb") as file:
                if identity(file.fileno()) != self._identity:
                    raise FormatError(f"{self.path}: has changed since it was opened")
                begin = self._start + entry.begin
                return np.asarray(np.memmap(file, _DTYPES[entry.dtype], "r", begin, entry.shape))
        except OSError as error:
            raise PathError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def check_dtypes(self, names: Iterable[str]) -> None:
        """Refuse those of `names` that `read` cannot read."""
        for name in names:
            dtype = self._entries[name].dtype
            if dtype not in _DTYPES:
                raise FormatError(f"{self.path}: {name}: dtype {dtype}: must be one of {', '.join(_DTYPES)}")


class Sharded:
    """Several files as one.

    Attributes:
        path: of the index.
        shapes: name -> shape.
    """

    def __init__(self, path: Path, files: dict[str, SafetensorsFile]) -> None:
        self.path = path
        self._files = files
        self.shapes = {name: file.shapes[name] for name, file in files.items()}

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """See `TensorFile`."""
        return self._files[name].read(name, index)

    def encoded(self, name: str, rows: slice) -> EncodedMatrix | None:
        """See `TensorFile`."""
        return self._files[name].encoded(name, rows)

    def check_dtypes(self, names: Iterable[str]) -> None:
        """See `SafetensorsFile`."""
        for name in names:
            self._files[name].check_dtypes([name])


def open_weights(directory: Path) -> SafetensorsFile | Sharded:
    """model.safetensors, or the shards that model.safetensors.index.json names.

    Raises:
        PathError: there is neither; a shard is missing.
        FormatError: a file is malformed; a shard's name leads out of the directory; the index does not fit the shards.
    """
    if (directory / WEIGHTS).exists():
        return SafetensorsFile(_inside(directory, WEIGHTS))
    if (directory / INDEX).exists():
        return _open_shards(directory)
    pickles = sorted(file.name for file in directory.glob("*.bin")) + sorted(
        file.name for file in directory.glob("*.pt*")
    )
    if pickles:
        raise PathError(
            f"{directory}: holds {pickles[0]}, a pickle, which can run code when it is read: safetensors is needed. "
            "Where you trust the file: transformers.AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    raise PathError(f"{directory}: holds no {WEIGHTS}, so it is not a directory of a finished model")


def _widened(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """float32 of what `_DTYPES` reads."""
    if dtype == "BF16":
        # The bits are the upper half of a float32's.
        bits: NDArray[np.uint32] = np.left_shift(array, 16, dtype=np.uint32)
        return np.asarray(bits).view(np.float32)
    return np.asarray(array, np.float32)


def _open_shards(directory: Path) -> Sharded:
    path = directory / INDEX
    weight_map = read_json(path, _INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{path}: weight_map={_checks.shown(weight_map)}: must be an object of names and files")
    names = dict.fromkeys(map(_checks.shown, weight_map.values()))
    if len(names) > _MAX_SHARDS:
        raise FormatError(f"{path}: weight_map: {len(names)} files: must be at most {_MAX_SHARDS}")
    shards: dict[str, SafetensorsFile] = {}
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise FormatError(f"{path}: weight_map: {_checks.shown(name)}: must be the name of a .safetensors file")
        if name not in shards:
            shards[name] = SafetensorsFile(_inside(directory, name))
    for name, shard in weight_map.items():
        if name not in shards[shard].shapes:
            raise FormatError(f"{path}: weight_map: {label(name)} is not in {shard}")
    for shard, file in shards.items():
        for name in file.shapes:
            if weight_map.get(name) != shard:
                raise FormatError(f"{path}: weight_map: does not name {label(name)} of {shard}")
    return Sharded(path, {name: shards[shard] for name, shard in weight_map.items()})


def _inside(directory: Path, name: str) -> Path:
    """A file of the directory, where no link leads out of it."""
    if Path(name).name != name or "\\" in name or "\0" in name or len(name) > _MAX_NAME:
        raise FormatError(f"{directory}: {_checks.shown(name)}: must be a file's name, without a path")
    path, root = directory / name, directory.resolve()
    if not path.is_file():  # a pipe would be waited for without end
        raise PathError(f"{path}: {'is no file' if path.exists() else 'is missing'}")
    # Hugging Face's cache: snapshots/REVISION/NAME links to blobs/HASH.
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(path.resolve().is_relative_to(allowed) for allowed in roots):
        raise FormatError(f"{path}: is a link out of the directory, to {path.resolve()}")
    return path


def identity(descriptor: int) -> tuple[int, int, int]:
    """Size, time of change and number of an open file: whether it is still the one that was checked."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read_header(file: Any, file_size: int, path: Path) -> tuple[dict[str, Any], int]:
    """The JSON behind 8 bytes of length (little endian), and where the data begins."""
    size = int.from_bytes(file.read(8), "little")
    if file_size < 8 or size > min(_HEADER_LIMIT, file_size - 8):
        raise FormatError(f"{path}: truncated or no safetensors file: its header would be {size} bytes long")
    return parse_json(file.read(size), f"{path}: header"), 8 + size


def _check_places(path: Path, entries: dict[str, _Entry], data_size: int) -> None:
    """Every byte of the data belongs to one tensor, as in all that safetensors writes."""
    reached, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            what = "overlap" if entry.begin < reached else "leave a hole"
            raise FormatError(
                f"{path}: {before} and {label(name)} {what} at byte {min(entry.begin, reached)} of the data"
            )
        reached, before = entry.end, label(name)
    if reached != data_size:
        raise FormatError(f"{path}: truncated or too long: {data_size} bytes of data, {reached} of them in tensors")


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_SIZE for value in values)
