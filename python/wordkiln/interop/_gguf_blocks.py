"""GGUF's plain encodings as float32: unquantised values, and blocks of 32 with one scale.

These are what most small models come in. The library `gguf`, which knows all encodings, takes 0.27 s to import and
twice as long for Q4_1 (106 million values: 0.8 against 0.4 s, Intel Sapphire Rapids, 2026-11-22).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.runtime.architecture import Encoding

Bytes = NDArray[np.uint8]
Array = NDArray[np.float32]

_VALUES = 32  # of a block
_CHUNK = 2048  # blocks at a time, which stay in the cache

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
    blocks = rows.reshape(-1, SIZES[encoding][1])
    out = _from_the_system(len(blocks))
    for start in range(0, len(blocks), _CHUNK):
        _DECODERS[encoding](blocks[start : start + _CHUNK], out[start : start + _CHUNK])
    return out.reshape(*rows.shape[:-1], -1)


def _from_the_system(blocks: int) -> Array:
    """[blocks, _VALUES], given back with the array. malloc keeps what reading threads free: 18 MB at SmolLM2's peak."""
    memory = mmap.mmap(-1, max(1, blocks * _VALUES * 4))
    return np.frombuffer(memory, np.float32, blocks * _VALUES).reshape(blocks, _VALUES)


def _plain(rows: Bytes, encoding: int) -> Array:
    values = rows.view(_PLAIN[encoding])
    if encoding == BF16:  # the bits are the upper half of a float32's
        bits: NDArray[np.uint32] = np.left_shift(values, 16, dtype=np.uint32)
        return bits.view(np.float32)
    return np.asarray(values, np.float32)


def _q4_0(blocks: Bytes, out: Array) -> None:
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _halves(blocks[:, :2])


def _q4_1(blocks: Bytes, out: Array) -> None:
    scale_and_least = _halves(blocks[:, :4])
    _nibbles(blocks[:, 4:], out)
    out *= scale_and_least[:, :1]
    out += scale_and_least[:, 1:]


def _q8_0(blocks: Bytes, out: Array) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _halves(blocks[:, :2]), out=out)


def _halves(columns: Bytes) -> Array:
    """float16 numbers that stand in columns of bytes."""
    return columns.copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, out: Array) -> None:
    """The lower halves of 16 bytes are values 0 to 15, the upper ones 16 to 31."""
    np.bitwise_and(packed, 15, out=out[:, :16], casting="unsafe")
    np.right_shift(packed, 4, out=out[:, 16:], casting="unsafe")


_DECODERS: dict[int, Callable[[Bytes, Any], None]] = {Q4_0: _q4_0, Q4_1: _q4_1, Q8_0: _q8_0}
