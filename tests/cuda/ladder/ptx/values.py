"""Typed operands: a register is an array with one unsigned element a lane; an instruction reads it as its own type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ladder.ptx.parse import BITS, UnknownPtxError

Array = np.ndarray
Lanes = Array | slice  # numbers, or all
Reader = Callable[[Lanes], Array]
Writer = Callable[[Lanes, Array], None]

UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def dtype_of(kind: str) -> type:
    if kind in FLOATS:
        return FLOATS[kind]
    if kind[0] == "s":
        return {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}[BITS[kind]]
    return UNSIGNED[BITS[kind]]


def bits_of(value: Array) -> Array:
    """The same bits, unsigned."""
    return value if value.dtype == np.bool_ else value.view(UNSIGNED[value.dtype.itemsize * 8])


def wide_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow_bfloat16(value: Array) -> Array:
    """To nearest, ties to even; uint16."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


class Values:
    """The registers and constants of a launch of `lanes` threads."""

    def __init__(
        self, lanes: int, registers: dict[str, str], special: dict[str, Array], symbols: dict[str, int]
    ) -> None:
        self._registers = {name: np.zeros(lanes, UNSIGNED[BITS[kind]]) for name, kind in registers.items()}
        self._registers |= special
        self._symbols = symbols
        self._lanes = lanes

    def reader(self, operand: str, kind: str) -> Reader:
        dtype = dtype_of(kind)
        register = self._registers.get(operand)
        if register is None:
            constant = np.full(self._lanes, self._constant(operand, kind))
            return lambda at: constant[at]
        if register.dtype.itemsize == np.dtype(dtype).itemsize:
            typed = register.view(dtype)
            return lambda at: typed[at]
        if register.dtype.itemsize < np.dtype(dtype).itemsize or dtype in FLOATS.values():
            raise UnknownPtxError(f"register {operand} read as {kind}")
        return lambda at: register[at].astype(UNSIGNED[BITS[kind]]).view(dtype)

    def negatable(self, operand: str) -> Reader:
        """A predicate, or `!` and a predicate."""
        read = self.reader(operand.lstrip("!"), "pred")
        return (lambda at: ~read(at)) if operand[0] == "!" else read

    def writer(self, operand: str, kind: str) -> Writer:
        """Wider registers get the value extended as its type says; `_` is nowhere."""
        if operand == "_":
            return lambda at, value: None
        register = self._registers[operand]
        dtype = np.dtype(dtype_of(kind))
        if register.dtype.itemsize == dtype.itemsize:
            typed = register.view(dtype)

            def write(at: Lanes, value: Array) -> None:
                assert value.dtype == dtype, (operand, kind, value.dtype)
                typed[at] = value

            return write
        if register.dtype.itemsize < dtype.itemsize or dtype.kind == "f":
            raise UnknownPtxError(f"register {operand} written as {kind}")
        wide = np.dtype(f"{dtype.kind}{register.dtype.itemsize}")

        def extend(at: Lanes, value: Array) -> None:
            register.view(wide)[at] = value.astype(dtype).astype(wide)

        return extend

    def address(self, operand: str) -> Reader:
        """`[register+offset]` or `[symbol+offset]` as int64."""
        base, _, offset = operand.strip("[] ").partition("+")
        shift = int(offset or "0", 0)
        if base in self._symbols or base.lstrip("-").isdigit():
            constant = np.full(self._lanes, self._symbols.get(base, 0) + shift)
            return lambda at: constant[at]
        register = self._registers[base]
        return lambda at: register[at].astype(np.int64) + shift

    def _constant(self, operand: str, kind: str) -> np.generic:
        dtype, bits = dtype_of(kind), UNSIGNED[BITS[kind]]
        if operand in self._symbols:
            return bits(self._symbols[operand]).view(dtype)
        if operand[:2] in ("0f", "0F"):
            return np.uint32(int(operand[2:], 16)).view(dtype)
        if operand[:2] in ("0d", "0D"):
            return np.uint64(int(operand[2:], 16)).view(dtype)
        if kind == "pred":
            return np.bool_(int(operand))
        try:
            number = int(operand.removesuffix("U"), 0)
        except ValueError:
            raise UnknownPtxError(f"operand {operand!r}") from None
        return bits(number & (1 << BITS[kind]) - 1).view(dtype)
