"""The kernels of `csrc`, on numpy arrays. Callers give float32; this is where it becomes addresses."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wordkiln import _kernels
from wordkiln.errors import ArgumentError

Array = NDArray[np.float32]
DType = Literal["float32", "bfloat16", "int8"]


def check_dtype(dtype: str) -> None:
    """Refuse another dtype of weights than those there are.

    Raises:
        ArgumentError: it is none of them.
    """
    if dtype not in ("float32", "bfloat16", "int8"):
        raise ArgumentError(f"dtype={dtype!r}: must be 'float32', 'bfloat16' or 'int8'")


class RecurrentStep:
    """One step of stacked recurrent layers on packed weights.

    Args:
        kind: "lstm" (gates i, f, g, o), "gru" (r, z, n) or "tanh".
        dtype: of the packed weights.
        layers: weight_ih [GH, I], weight_hh [GH, H], bias_ih and bias_hh [GH] of each.
    """

    def __init__(self, kind: str, dtype: DType, layers: list[tuple[Array, ...]]) -> None:
        self._native = _kernels.RecurrentStep(kind, dtype)
        for weight_ih, weight_hh, bias_ih, bias_hh in layers:
            biases = _address(bias_ih), _address(bias_hh)
            sizes = weight_ih.shape[1], weight_hh.shape[1]
            self._native.add_layer(_address(weight_ih), _address(weight_hh), *biases, *sizes)

    def __call__(self, x: Array, h: Array, c: Array | None) -> None:
        """Advance x [B, I]: h, and c of an LSTM, [layers, B, H] and contiguous, are overwritten."""
        self._native.step(_address(x), _address(h), _address(c), len(x))

    def read(self, x: Array, h: Array, c: Array | None) -> Array:
        """Advance by T steps x [T, B, I], h and c as above: the last layer's outputs [T, B, H].

        What is kept for the time of the call grows with T * B. Sums may be in another order than those of steps.
        """
        x = np.ascontiguousarray(x)
        steps, batch, _ = x.shape
        out = np.empty((steps, batch, h.shape[2]), np.float32)
        self._native.read(_address(x), _address(h), _address(c), _address(out), steps, batch)
        return out


class PackedLinear:
    """`x @ weight.T` on packed weights.

    Args:
        weight: [outputs, inputs].
        dtype: of the packed weights.
    """

    def __init__(self, weight: Array, dtype: DType) -> None:
        weight = np.ascontiguousarray(weight)
        outputs, inputs = weight.shape
        self._native = _kernels.PackedLinear(_address(weight), 0, outputs, inputs, dtype)

    def __call__(self, x: Array) -> Array:
        """[rows, inputs] -> [rows, outputs]."""
        x = np.ascontiguousarray(x)
        out = np.empty((len(x), self._native.outputs), np.float32)
        self._native(_address(x), _address(out), len(x))
        return out

    def rows(self, ids: NDArray[np.int64]) -> Array:
        """The weights of outputs `ids`, of any shape, as they are stored: [..., inputs]."""
        ids = np.ascontiguousarray(ids, np.int64)
        out = np.empty((*ids.shape, self._native.inputs), np.float32)
        self._native.rows(ids.ctypes.data, _address(out), ids.size)
        return out


def instruction_sets() -> tuple[str, list[str]]:
    """The instruction set that the kernels use (``WORDKILN_ISA`` chooses), and all that this machine can run."""
    return _kernels.current_isa(), _kernels.available_isas()


def _address(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data
