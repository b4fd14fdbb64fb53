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
from wordkiln.interop import _gguf_blocks, _gguf_header
from wordkiln.interop._layout import Shape, label
from wordkiln.interop._safetensors import identity
from wordkiln.runtime.architecture import EncodedMatrix


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
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                    header = _gguf_header.read_header(data)
        except OSError as error:
            raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.metadata = header.metadata
        self._tensors = header.tensors
        self.shapes: dict[str, Shape] = {name: tensor.shape for name, tensor in header.tensors.items()}
        self._check_places(size)

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """See `TensorFile`; `index` is of rows."""
        encoding = self._tensors[name].encoding
        array = self._bytes(name)
        if array.ndim == 1:  # its bytes lie along the dimension that the index is of
            return _decoded(array, encoding)[index]
        return _decoded(array[index], encoding)

    def encoded(self, name: str, rows: slice) -> EncodedMatrix | None:
        """See `TensorFile`."""
        encoding = _gguf_blocks.KERNELS.get(self._tensors[name].encoding)
        return None if encoding is None else EncodedMatrix(self._bytes(name)[rows], encoding)

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        """A tensor as a view of the file, [..., bytes of a row]."""
        tensor = self._tensors[name]
        values, width = _block(tensor.encoding)
        shape = (*tensor.shape[:-1], tensor.shape[-1] // values * width)
        try:
            with open(self._path, "rb") as file:
                if identity(file.fileno()) != self._identity:
                    raise FormatError(f"{self._path}: has changed since it was opened")
                return np.asarray(np.memmap(file, "u1", "r", tensor.begin, shape))
        except OSError as error:
            raise PathError(f"{self._path}: cannot be read: {error.strerror or error}") from error

    def check_dtypes(self, names: Iterable[str]) -> None:
        """Refuse those of `names` whose encoding `read` cannot read."""
        for name in names:
            _check_encoding(name, self._tensors[name].encoding)

    def _check_places(self, size: int) -> None:
        reached, before = 0, ""
        for name, tensor in sorted(self._tensors.items(), key=lambda item: item[1].begin):
            values, width = _block(tensor.encoding)
            if not tensor.shape or tensor.shape[-1] % values:
                raise FormatError(f"{label(name)}: shape {list(tensor.shape)}: rows must be blocks of {values}")
            if tensor.begin < reached:
                raise FormatError(f"{before} and {label(name)} overlap at byte {tensor.begin}")
            reached, before = tensor.begin + math.prod(tensor.shape) // values * width, label(name)
            if reached > size:
                raise FormatError(f"truncated: {before} ends at byte {reached} of {size}")


def _block(encoding: int) -> tuple[int, int]:
    """How many values a block of an encoding holds, and its bytes."""
    if encoding in _gguf_blocks.SIZES:
        return _gguf_blocks.SIZES[encoding]
    library = _library(encoding)
    try:
        values, width = library.GGML_QUANT_SIZES[library.GGMLQuantizationType(encoding)]
    except (ValueError, KeyError):
        raise FormatError(f"a tensor of encoding {encoding}, which the gguf library does not know") from None
    return int(values), int(width)


def _check_encoding(name: str, encoding: int) -> None:
    try:
        _decoded(np.zeros((1, _block(encoding)[1]), np.uint8), encoding)
    except NotImplementedError:
        known = _library(encoding).GGMLQuantizationType(encoding).name
        raise FormatError(f"{label(name)}: encoding {known}, which the gguf library cannot turn into float32") from None


def _decoded(rows: NDArray[np.uint8], encoding: int) -> NDArray[np.float32]:
    if encoding in _gguf_blocks.SIZES:
        return _gguf_blocks.decode(rows, encoding)
    library = _library(encoding)
    array: NDArray[np.float32] = library.quants.dequantize(rows, library.GGMLQuantizationType(encoding))
    return array


def _library(encoding: int) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise DependencyError(
            f"encoding {encoding} of a GGUF file is read by gguf, which is not installed: pip install 'wordkiln[gguf]'"
        ) from None
    return gguf
