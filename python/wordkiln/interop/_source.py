"""The weights of an opened file, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wordkiln.interop._layout import Part, Plan
from wordkiln.runtime.architecture import EncodedMatrix

Array = NDArray[np.float32]


class TensorFile(Protocol):
    """One file or several, as tensors by name."""

    def read(self, name: str, index: tuple[slice, ...]) -> NDArray[Any]:
        """Part of a tensor, as float32; perhaps a read-only view of the file."""
        ...

    def encoded(self, name: str, rows: slice) -> EncodedMatrix | None:
        """Rows of a matrix as they lie in the file; None where they are float32, or of another encoding."""
        ...


class Weights:
    """The `TensorSource` of a plan over a file."""

    def __init__(self, plan: Plan, file: TensorFile) -> None:
        self._plan = plan
        self._file = file

    def names(self) -> Collection[str]:
        """Which tensors there are."""
        return self._plan.keys()

    def read(self, name: str) -> Array:
        """One of them, float32, C-contiguous; read-only where it is a view of the file.

        Raises:
            KeyError: there is none of this name.
            FormatError, PathError: the file has changed since it was opened, or cannot be read any more.
        """
        part = self._plan[name]
        outputs = _outputs(part)
        index = (slice(None), outputs) if part.transposed else (outputs,)
        array = self._file.read(part.tensor, index)
        if part.transposed:
            array = array.T
        if part.pairs_of_heads is not None:
            array = _halves_apart(array, part.pairs_of_heads)
        if part.scale != 1.0:
            array = array * np.float32(part.scale)
        # Where a file's data begins at an odd byte, a view of it would not be aligned.
        return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])

    def encoded(self, name: str) -> EncodedMatrix:
        """A matrix as it lies in the file where the kernels know its encoding, else as float32.

        Raises:
            KeyError, FormatError, PathError: as `read`.
        """
        part = self._plan[name]
        as_it_is = not part.transposed and part.scale == 1.0
        matrix = self._file.encoded(part.tensor, _outputs(part)) if as_it_is else None
        if matrix is None:
            return EncodedMatrix.plain(self.read(name))
        rows = matrix.rows if part.pairs_of_heads is None else _halves_apart(matrix.rows, part.pairs_of_heads)
        return matrix._replace(rows=np.ascontiguousarray(rows))


def _outputs(part: Part) -> slice:
    return slice(*part.outputs) if part.outputs else slice(None)


def pairs_together(array: Array, heads: int) -> Array:
    """Rows of each head from the order 0, 1, 2, ... to 0, D/2, 1, D/2 + 1, ..."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _halves_apart(array: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head from the order 0, D/2, 1, D/2 + 1, ... to 0, 1, 2, ..."""
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
