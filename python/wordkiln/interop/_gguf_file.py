"""A GGUF file as tensors: dequantised one at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.errors import DependencyError, FormatError, PathError
from wordkiln.interop import _gguf_header
from wordkiln.interop._layout import Shape
from wordkiln.interop._safetensors import identity

_PLAIN = {0: "<f4", 1: "<f2"}


class GgufFile:
    """One file.

    Attributes:
        metadata: its keys and values; arrays of numbers are numpy arrays.
        shapes: name -> shape.

    Raises:
        PathError: it cannot be read.
        FormatError: malformed: see `read_header`; a tensor beyond the end; tensors that overlap.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open(path, "rb") as file:
                self._identity = identity(file.fileno())
                size = self._identity[0]
                if size == 0:
                    raise FormatError(f"{path}: is empty")
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                    header = _gguf_header.read_header(view)
        except OSError as error:
            raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.metadata = header.metadata
        self._tensors = header.tensors
        self.shapes: dict[str, Shape] = {name: tensor.shape for name, tensor in header.tensors.items()}
        self._check_places(size)

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """See `TensorFile`; `index` is of rows."""
        tensor = self._tensors[name]
        block, width = _block(tensor.type)
        shape = (*tensor.shape[:-1], tensor.shape[-1] // block * width)
        plain = _PLAIN.get(tensor.type)
        if plain is not None:
            shape = tensor.shape
        try:
            with open(self._path, "rb") as file:
                if identity(file.fileno()) != self._identity:
                    raise FormatError(f"{self._path}: has changed since it was opened")
                array: NDArray[Any] = np.memmap(file, plain or "u1", "r", tensor.begin, shape)
        except OSError as error:
            raise PathError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        rows = array[index]
        return np.asarray(rows, np.float32) if plain else _dequantised(np.asarray(rows), tensor.type)

    def check_dtypes(self, names: Iterable[str]) -> None:
        """Refuse those of `names` whose encoding `read` cannot read."""
        for name in names:
            _check_encoding(name, self._tensors[name].type)

    def _check_places(self, size: int) -> None:
        reached, before = 0, ""
        for name, tensor in sorted(self._tensors.items(), key=lambda item: item[1].begin):
            block, width = _block(tensor.type)
            if not tensor.shape or tensor.shape[-1] % block:
                raise FormatError(f"{name[:80]}: shape {list(tensor.shape)}: rows must be blocks of {block}")
            if tensor.begin < reached:
                raise FormatError(f"{before} and {name[:80]} overlap at byte {tensor.begin}")
            reached, before = tensor.begin + math.prod(tensor.shape) // block * width, name[:80]
            if reached > size:
                raise FormatError(f"truncated: {before} ends at byte {reached} of {size}")


def _block(kind: int) -> tuple[int, int]:
    """How many values a block of an encoding holds, and its bytes."""
    if kind in _PLAIN:
        return 1, np.dtype(_PLAIN[kind]).itemsize
    library = _library()
    try:
        block, width = library.GGML_QUANT_SIZES[library.GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise FormatError(f"a tensor of encoding {kind}, which the gguf library does not know") from None
    return int(block), int(width)


def _check_encoding(name: str, kind: int) -> None:
    _, width = _block(kind)
    try:
        _dequantised(np.zeros((1, width), np.uint8), kind)
    except NotImplementedError:
        label = _library().GGMLQuantizationType(kind).name
        raise FormatError(f"{name[:80]}: encoding {label}, which the gguf library cannot turn into float32") from None


def _dequantised(rows: NDArray[np.uint8], kind: int) -> NDArray[Any]:
    library = _library()
    array: NDArray[Any] = library.quants.dequantize(rows, library.GGMLQuantizationType(kind))
    return array


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise DependencyError(
            "quantised GGUF files are read by gguf, which is not installed: pip install 'wordkiln[gguf]'"
        ) from None
    return gguf
