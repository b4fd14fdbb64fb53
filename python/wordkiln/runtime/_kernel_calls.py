"""The kernels of `csrc`, on numpy arrays. Callers give float32; this is where it becomes addresses and strides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordkiln import _kernels

Array = NDArray[np.float32]


def attention(q: Array, k: Array, v: Array, key_lengths: NDArray[np.int64] | None, scale: float) -> Array:
    """Causal attention of new tokens over a cache.

    Args:
        q: [B, S, H, D], the last dimension contiguous.
        k: [B, Hkv, K, D] likewise; a view of a larger cache will do.
        v: as `k`.
        key_lengths: int64 [B], keys of each row, or None: K.
        scale: factor of q k.

    Returns:
        [B, S, H, D]: query i of a row sees its keys 0 to i + keys - S.
    """
    batch, queries, heads, head_size = q.shape
    kv_heads, keys = k.shape[1:3]
    out = np.empty((batch, queries, heads, head_size), np.float32)
    log_sums = np.empty((batch, heads, queries), np.float32)
    q_strides, out_strides = (_strides(array.transpose(0, 2, 1, 3)) for array in (q, out))
    _kernels.attention_forward(
        "float32",
        q.ctypes.data,
        k.ctypes.data,
        v.ctypes.data,
        out.ctypes.data,
        log_sums.ctypes.data,
        0 if key_lengths is None else key_lengths.ctypes.data,
        sizes=(batch, heads, kv_heads, queries, keys, head_size),
        q_strides=q_strides,
        k_strides=_strides(k),
        v_strides=_strides(v),
        out_strides=out_strides,
        causal=True,
        scale=scale,
    )
    return out


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


def _strides(array: Array) -> tuple[int, int, int]:
    """Of the first three dimensions, in elements."""
    batch, head, row = (stride // array.itemsize for stride in array.strides[:3])
    return batch, head, row
