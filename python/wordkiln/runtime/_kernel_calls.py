"""The kernels of `csrc`, on numpy arrays. Callers give float32; this is where it becomes addresses and strides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordkiln import _kernels

Array = NDArray[np.float32]


def lstm(gates: Array, weight_hh: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One LSTM layer over T steps.

    Args:
        gates: [T, B, 4H], the input's part of the gates (order i, f, g, o) and both biases; overwritten.
        weight_hh: [4H, H].
        h: [B, H].
        c: [B, H].

    Returns:
        Outputs and cells, each [T, B, H].
    """
    steps, batch, rows = gates.shape
    out = np.empty((steps, batch, rows // 4), np.float32)
    cells = np.empty_like(out)
    h, c = np.ascontiguousarray(h), np.ascontiguousarray(c)
    _kernels.recurrent_forward(
        "float32",
        "lstm",
        gates.ctypes.data,
        weight_hh.ctypes.data,
        bias_new=0,
        h0=h.ctypes.data,
        c0=c.ctypes.data,
        lengths=0,
        out=out.ctypes.data,
        cells=cells.ctypes.data,
        hidden_new=0,
        sizes=(steps, batch, rows // 4),
        keep=True,
    )
    return out, cells


def instruction_sets() -> tuple[str, list[str]]:
    """The instruction set that the kernels use (``WORDKILN_ISA`` chooses), and all that this machine can run."""
    return _kernels.current_isa(), _kernels.available_isas()
