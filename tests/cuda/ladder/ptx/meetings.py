"""Instructions that touch memory or other lanes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ladder.ptx.arithmetic import Run
from ladder.ptx.memory import AsyncCopies, GlobalMemory, KernelError, SharedMemory
from ladder.ptx.parse import BITS, Instruction, UnknownPtxError
from ladder.ptx.values import Array, Lanes, Values, dtype_of, wide_bfloat16


@dataclass
class State:
    """What instructions work on besides registers."""

    memory: GlobalMemory
    shared: SharedMemory
    copies: AsyncCopies
    parameters: Array  # bytes
    block: Array  # of each lane
    lanes: Array = field(init=False)  # all
    written: int = 0  # stores to global memory so far

    def __post_init__(self) -> None:
        self.lanes = np.arange(len(self.block))


Builder = Callable[[Instruction, Values, State], Run]

_SPACES = ("param", "shared", "global")


def names(operand: str) -> list[str]:
    """`{a, b}` or `a`."""
    return [name.strip() for name in operand.strip("{}").split(",")]


def _space(ins: Instruction) -> str:
    found = [m for m in ins.modifiers if m in _SPACES]
    if len(found) != 1:
        raise UnknownPtxError("generic addresses")
    return found[0]


def load(ins: Instruction, values: Values, state: State) -> Run:
    kind, space = ins.modifiers[-1], _space(ins)
    size, bits = BITS[kind] // 8, f"u{BITS[kind]}"
    writes = [values.writer(name, kind) for name in names(ins.operands[0])]
    address, dtype = values.address(ins.operands[1]), dtype_of(kind)

    def words(at: Lanes) -> list[Array]:
        where = address(at)
        if space == "shared":
            return state.shared.load(state.block[at], where, size, len(writes))
        if space == "global":
            return state.memory.load(where, size, len(writes))
        if (where < 0).any() or (where + size * len(writes) > len(state.parameters)).any():
            raise KernelError("outside the kernel's parameters")
        each = where[:, None] + np.arange(size)
        return [state.parameters[each + i * size].view(dtype_of(bits))[:, 0] for i in range(len(writes))]

    def run(at: Lanes) -> None:
        for write, word in zip(writes, words(at), strict=True):
            write(at, word.view(dtype))

    return run


def store(ins: Instruction, values: Values, state: State) -> Run:
    kind, space = ins.modifiers[-1], _space(ins)
    size = BITS[kind] // 8
    reads = [values.reader(name, f"u{BITS[kind]}") for name in names(ins.operands[1])]
    address = values.address(ins.operands[0])

    def run(at: Lanes) -> None:
        words = [read(at) for read in reads]
        if space == "shared":
            state.shared.store(state.block[at], address(at), size, words)
        else:
            state.memory.store(address(at), size, words)
            state.written += 1

    return run


def add_atomically(ins: Instruction, values: Values, state: State) -> Run:
    """`red` and `atom` with add: lanes one after the other, each atom gets what was there before it."""
    kind = ins.modifiers[-1]
    if _space(ins) != "global" or "add" not in ins.modifiers:
        raise UnknownPtxError("an atomic operation other than an addition to global memory")
    to = values.writer(ins.operands[0] if ins.opcode == "atom" else "_", kind)
    address, value = values.address(ins.operands[-2]), values.reader(ins.operands[-1], kind)
    size, bits = BITS[kind] // 8, f"u{BITS[kind]}"

    def run(at: Lanes) -> None:
        where, amount = address(at), value(at)
        before = np.empty_like(amount)
        for i in range(len(where)):
            before[i] = state.memory.load(where[i : i + 1], size, 1)[0].view(amount.dtype)[0]
            total = (before[i : i + 1] + amount[i : i + 1]).view(dtype_of(bits))
            state.memory.store(where[i : i + 1], size, [total])
        to(at, before)
        state.written += 1

    return run


def copy_async(ins: Instruction, values: Values, state: State) -> Run:
    if ins.modifiers == ("async", "commit_group"):
        return lambda at: state.copies.commit(state.lanes[at])
    if ins.modifiers == ("async", "wait_group"):
        keep = int(ins.operands[0])
        return lambda at: state.copies.wait(state.lanes[at], keep)
    if ins.modifiers != ("async", "cg", "shared", "global") or ins.operands[2] != "16" or len(ins.operands) != 4:
        raise UnknownPtxError("a copy other than of 16 bytes or none")
    to, source = values.address(ins.operands[0]), values.address(ins.operands[1])
    count = values.reader(ins.operands[3], "u32")

    def run(at: Lanes) -> None:
        size = count(at)
        if ((size != 0) & (size != 16)).any():
            raise KernelError("cp.async of a part of 16 bytes")
        state.copies.start(state.lanes[at], to(at).copy(), source(at).copy(), size == 16)

    return run


# --- a warp's instructions: the lanes that run them are whole warps, in order ---


def shuffle(ins: Instruction, values: Values, state: State) -> Run:
    mode = ins.modifiers[1]
    to, _, inside = ins.operands[0].partition("|")
    write, write_inside = values.writer(to, "b32"), values.writer(inside or "_", "pred")
    value, other, clamp, mask = (values.reader(operand, "u32") for operand in ins.operands[1:5])
    lane = np.arange(32)

    def run(at: Lanes) -> None:
        check_mask(mask(at))
        x, b, c = (read(at).reshape(-1, 32) for read in (value, other, clamp))
        b, segment, limit = b.astype(np.int64) & 31, (c >> 8 & 31).astype(np.int64), (c & 31).astype(np.int64)
        highest, lowest = lane & segment | limit & ~segment, lane & segment
        source = {"bfly": lane ^ b, "down": lane + b, "up": lane - b, "idx": lowest | b & ~segment}[mode]
        valid = source >= highest if mode == "up" else source <= highest
        write(at, np.take_along_axis(x, np.where(valid, source, lane), 1).ravel())
        write_inside(at, valid.ravel())

    return run


def check_mask(mask: Array) -> None:
    if (mask != 0xFFFFFFFF).any():
        raise KernelError("a warp's instruction for some of its lanes only")


def load_matrices(ins: Instruction, values: Values, state: State) -> Run:
    """Four 8 x 8 matrices; lane i names row i % 8 of matrix i / 8 and gets the pair (i / 4, i % 4 * 2)."""
    if not {"sync", "aligned", "m8n8", "x4", "shared", "b16"} <= set(ins.modifiers):
        raise UnknownPtxError("the shape")
    writes = [values.writer(name, "u32") for name in names(ins.operands[0])]
    address, transposed = values.address(ins.operands[1]), "trans" in ins.modifiers

    def run(at: Lanes) -> None:
        words = state.shared.load(state.block[at], address(at), 8, 1)  # for the error at 8
        words += state.shared.load(state.block[at], address(at) + 8, 8, 1)
        if (address(at) % 16).any():
            raise KernelError("ldmatrix: a row's address is no multiple of 16")
        rows = np.stack(words, 1).view(np.uint16).reshape(-1, 4, 8, 8)
        pairs = np.ascontiguousarray(rows.swapaxes(2, 3) if transposed else rows).view(np.uint32).reshape(-1, 4, 32)
        for i, write in enumerate(writes):
            write(at, pairs[:, i].ravel())

    return run


# Rows and columns of the elements in a lane's words: PTX ISA, "Matrix Fragments for mma.m16n8k16".
_ROW, _PAIR = np.arange(32) // 4, np.arange(32) % 4 * 2


def multiply(ins: Instruction, values: Values, state: State) -> Run:
    types = ins.modifiers[5:]
    if ins.modifiers[:5] != ("sync", "aligned", "m16n8k16", "row", "col") or types not in (
        ("f32", "bf16", "bf16", "f32"),
        ("f32", "f16", "f16", "f32"),
    ):
        raise UnknownPtxError("the shape or the types")
    widen = wide_bfloat16 if types[1] == "bf16" else (lambda x: x.view(np.float16).astype(np.float32))
    writes = [values.writer(name, "f32") for name in names(ins.operands[0])]
    a, b = ([values.reader(name, "u32") for name in names(operand)] for operand in ins.operands[1:3])
    c = [values.reader(name, "f32") for name in names(ins.operands[3])]

    def halves(word: Array) -> tuple[Array, Array]:
        pair = np.ascontiguousarray(word).view(np.uint16).reshape(-1, 32, 2)
        return widen(np.ascontiguousarray(pair[..., 0])), widen(np.ascontiguousarray(pair[..., 1]))

    def run(at: Lanes) -> None:
        count = len(state.lanes[at]) // 32
        left, right = np.empty((count, 16, 16), np.float32), np.empty((count, 16, 8), np.float32)
        for i, read in enumerate(a):
            row, column = _ROW + i % 2 * 8, _PAIR + i // 2 * 8
            left[:, row, column], left[:, row, column + 1] = halves(read(at))
        for i, read in enumerate(b):
            right[:, _PAIR + i * 8, _ROW], right[:, _PAIR + i * 8 + 1, _ROW] = halves(read(at))
        products = left @ right
        for i, (write, read) in enumerate(zip(writes, c, strict=True)):
            own = products[:, _ROW + i // 2 * 8, _PAIR + i % 2]
            write(at, read(at) + own.ravel())

    return run


def nothing(ins: Instruction, values: Values, state: State) -> Run:
    """Fences: the interpreter's memory has one order."""
    return lambda at: None


_TYPES = {f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)} | {"f32", "f64"}
_ORDER = {"relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "volatile", "sc"}

TABLE: dict[str, tuple[Builder, set[str]]] = {
    "ld": (load, _TYPES | _ORDER | {*_SPACES, "v2", "v4", "cg", "ca", "nc"}),
    "st": (store, _TYPES | _ORDER | {"shared", "global", "v2", "v4"}),
    "red": (add_atomically, _ORDER | {"global", "add", "u32", "s32", "f32"}),
    "atom": (add_atomically, _ORDER | {"global", "add", "u32", "s32", "f32"}),
    "cp": (copy_async, {"async", "cg", "shared", "global", "commit_group", "wait_group"}),
    "fence": (nothing, _ORDER),
    "membar": (nothing, {"gl", "cta"}),
}
WARP_TABLE: dict[str, tuple[Builder, set[str]]] = {
    "shfl": (shuffle, {"sync", "bfly", "down", "up", "idx", "b32"}),
    "ldmatrix": (load_matrices, {"sync", "aligned", "m8n8", "x4", "trans", "shared", "b16"}),
    "mma": (multiply, {"sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "f16"}),
}
