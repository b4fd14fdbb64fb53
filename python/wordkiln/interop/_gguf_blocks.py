"""GGUF's plain encodings as float32: unquantised values, and blocks of 32 with one scale.

The definition of what the kernels make of them, bit for bit (csrc/cpu/kernels/encoded_rows.h), and what the export and
the reference read. The library `gguf`, which knows all encodings, takes 0.27 s to import.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wordkiln.runtime.architecture import Encoding

Bytes = NDArray[np.uint8]
Array = NDArray[np.float32]

_VALUES = 32  # of a block

F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
# Encoding -> values of a block, its bytes.
SIZES = {F32: (1, 4), F16: (1, 2), BF16: (1, 2), Q4_0: (_VALUES, 18), Q4_1: (_VALUES, 20), Q8_0: (_VALUES, 34)}
# Those that the kernels take as they are; float32 they take as numbers.
KERNELS: dict[int, Encoding] = {F16: "float16", BF16: "bfloat16", Q4_0: "q4_0", Q4_1: "q4_1", Q8_0: "q8_0"}
_PLAIN = {F32: "<f4", F16: "<f2", BF16: "<u2"}


def decode(rows: Bytes, encoding: int) -> Array:
    """Bytes [..., W] of an encoding in `SIZES` -> float32 [..., n]; for F32 a view of them."""
    if encoding in _PLAIN:
        return _plain(rows, encoding)
    return _DECODERS[encoding](rows.reshape(-1, SIZES[encoding][1])).reshape(*rows.shape[:-1], -1)


def _plain(rows: Bytes, encoding: int) -> Array:
    values = rows.view(_PLAIN[encoding])
    if encoding == BF16:  # the bits are the upper half of a float32's
        bits: NDArray[np.uint32] = np.left_shift(values, 16, dtype=np.uint32)
        return bits.view(np.float32)
    return np.asarray(values, np.float32)


def _q4_0(blocks: Bytes) -> Array:
    return (_nibbles(blocks[:, 2:]) - 8) * _halves(blocks[:, :2])


def _q4_1(blocks: Bytes) -> Array:
    return _nibbles(blocks[:, 4:]) * _halves(blocks[:, :2]) + _halves(blocks[:, 2:4])


def _q8_0(blocks: Bytes) -> Array:
    return blocks[:, 2:].view(np.int8) * _halves(blocks[:, :2])


def _halves(columns: Bytes) -> Array:
    """float16 numbers that stand in columns of bytes."""
    return columns.copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Array:
    """The lower halves of 16 bytes are values 0 to 15, the upper ones 16 to 31."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


_DECODERS: dict[int, Callable[[Bytes], Array]] = {Q4_0: _q4_0, Q4_1: _q4_1, Q8_0: _q8_0}
