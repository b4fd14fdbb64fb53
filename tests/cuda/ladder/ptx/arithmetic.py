"""Instructions that turn registers into registers, lane by lane.

Each builder gets an instruction and the registers and returns what runs it. Rounding: products and sums of float32 are
numpy's, which are IEEE's; fma rounds twice (float64, then float32), and `approx` functions are numpy's exact ones, so
results differ from a GPU's by the few ulp that the PTX manual allows there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ladder.ptx.parse import BITS, Instruction, UnknownPtxError
from ladder.ptx.values import Array, Lanes, Values, bits_of, dtype_of, narrow_bfloat16

Run = Callable[[Lanes], None]
Builder = Callable[[Instruction, Values], Run]

TINY = np.finfo(np.float32).tiny


def flushed(value: Array) -> Array:
    return np.where(np.abs(value) < TINY, np.copysign(value.dtype.type(0), value), value)


def elementwise(function: Callable[..., Array], count: int) -> Builder:
    """`count` sources of the instruction's last type to one destination of that type."""

    def build(ins: Instruction, values: Values) -> Run:
        kind = ins.modifiers[-1]
        write = values.writer(ins.operands[0], kind)
        reads = [values.reader(operand, kind) for operand in ins.operands[1 : count + 1]]
        if len(ins.operands) != count + 1:
            raise UnknownPtxError("the number of operands")
        if "ftz" in ins.modifiers:
            return lambda at: write(at, flushed(function(*(flushed(read(at)) for read in reads))))
        return lambda at: write(at, function(*(read(at) for read in reads)))

    return build


def divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b)).astype(a.dtype)
    signed = np.where((a < 0) != (b < 0), -quotient.astype(np.int64), quotient) if a.dtype.kind == "i" else quotient
    return np.where(b == 0, -1, signed).astype(a.dtype)


def smaller(a: Array, b: Array) -> Array:
    return np.fmin(a, b)  # of a number and NaN the number, as PTX says


def larger(a: Array, b: Array) -> Array:
    return np.fmax(a, b)


def fused(a: Array, b: Array, c: Array) -> Array:
    return (a.astype(np.float64) * b + c).astype(a.dtype)


def fuse(ins: Instruction, values: Values) -> Run:
    return elementwise(fused_down if "rm" in ins.modifiers else fused, 3)(ins, values)


def fused_down(a: Array, b: Array, c: Array) -> Array:
    """Rounded to the smaller neighbour, as the exponential function's reduction wants."""
    exact = a.astype(np.float64) * b + c
    near = exact.astype(a.dtype)
    return np.where(near > exact, np.nextafter(near, a.dtype.type(-np.inf)), near)


def product(ins: Instruction, values: Values) -> Run:
    """mul and mad of whole numbers: lo, hi or wide; mul of floats."""
    kind, adds = ins.modifiers[-1], ins.opcode == "mad"
    if kind[0] == "f":
        return elementwise(np.multiply, 2)(ins, values)
    part = ins.modifiers[0]
    if part != "lo" and BITS[kind] > 32:
        raise UnknownPtxError("a product of more than 64 bits")
    wide = kind if part == "lo" else f"{kind[0]}{BITS[kind] * 2}"
    result = wide if part == "wide" else kind
    a, b = (values.reader(operand, kind) for operand in ins.operands[1:3])
    c = values.reader(ins.operands[3], result) if adds else None
    write = values.writer(ins.operands[0], result)

    def run(at: Lanes) -> None:
        x = a(at).astype(dtype_of(wide)) * b(at).astype(dtype_of(wide))
        if part == "hi":
            x = (x >> BITS[kind]).astype(dtype_of(kind))
        write(at, x if c is None else x + c(at))

    return run


def shift(ins: Instruction, values: Values) -> Run:
    """shl, shr: amounts beyond the width shift everything out."""
    bits = BITS[ins.modifiers[-1]]
    kind = f"u{bits}" if ins.modifiers[-1][0] != "s" else ins.modifiers[-1]
    write, value = values.writer(ins.operands[0], kind), values.reader(ins.operands[1], kind)
    amount = values.reader(ins.operands[2], "u32")

    def run(at: Lanes) -> None:
        x, n = value(at), amount(at)
        clamped = np.minimum(n, bits - 1).astype(x.dtype)
        if ins.opcode == "shl":
            write(at, np.where(n < bits, x << clamped, 0).astype(x.dtype))
        else:
            write(at, np.where((n < bits) | (kind[0] == "s"), x >> clamped, 0).astype(x.dtype))

    return run


def bit_field(ins: Instruction, values: Values) -> Run:
    """Bfi puts the low `length` bits of one word into another from `first` on; bfe takes such a field out, unsigned."""
    first, length = (values.reader(operand, "u32") for operand in ins.operands[-2:])
    sources = [values.reader(operand, "u32") for operand in ins.operands[1:-2]]
    write = values.writer(ins.operands[0], "u32")

    def run(at: Lanes) -> None:
        start = first(at).astype(np.uint64) & np.uint64(255)
        mask = (np.uint64(1) << (length(at).astype(np.uint64) & np.uint64(255))) - np.uint64(1)
        words = [read(at).astype(np.uint64) for read in sources]
        if ins.opcode == "bfe":
            write(at, (words[0] >> start & mask).astype(np.uint32))
        else:
            write(at, (words[1] & ~(mask << start) | (words[0] & mask) << start).astype(np.uint32))

    return run


_COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def compare(ins: Instruction, values: Values) -> Run:
    kind, name = ins.modifiers[-1], ins.modifiers[0]
    unordered = kind[0] == "f" and name[-1] == "u"  # true where one is NaN
    test = _COMPARISONS[name[:-1] if unordered else name]
    a, b = (values.reader(operand, kind) for operand in ins.operands[1:3])
    write = values.writer(ins.operands[0], "pred")
    combine = next((_COMBINATIONS[m] for m in ins.modifiers if m in _COMBINATIONS), None)
    other = None if combine is None else values.negatable(ins.operands[3])

    def run(at: Lanes) -> None:
        x, y = a(at), b(at)
        result = test(x, y)
        if kind[0] == "f" and name == "ne":
            result = result & ~(np.isnan(x) | np.isnan(y))
        if unordered:
            result = result | np.isnan(x) | np.isnan(y)
        write(at, result if combine is None else combine(result, other(at)))

    return run


def select(ins: Instruction, values: Values) -> Run:
    kind = ins.modifiers[-1]
    write, condition = values.writer(ins.operands[0], kind), values.reader(ins.operands[3], "pred")
    yes, no = (values.reader(operand, kind) for operand in ins.operands[1:3])
    return lambda at: write(at, np.where(condition(at), yes(at), no(at)))


def move(ins: Instruction, values: Values) -> Run:
    """Mov and cvta, and mov between a register and its parts in braces."""
    kind, (to, source) = ins.modifiers[-1], ins.operands
    if source[0] == "{" or to[0] == "{":
        return _parts(to, source, kind, values)
    write, read = values.writer(to, kind), values.reader(source, kind)
    return lambda at: write(at, read(at))


def _parts(to: str, source: str, kind: str, values: Values) -> Run:
    names = [name.strip() for name in (to if to[0] == "{" else source).strip("{}").split(",")]
    bits = BITS[kind] // len(names)
    whole, part = f"u{BITS[kind]}", f"u{bits}"
    if to[0] == "{":
        read, writes = values.reader(source, whole), [values.writer(name, part) for name in names]

        def split(at: Lanes) -> None:
            value = read(at)
            for i, write in enumerate(writes):
                write(at, (value >> i * bits).astype(dtype_of(part)))

        return split
    write, reads = values.writer(to, whole), [values.reader(name, part) for name in names]

    def join(at: Lanes) -> None:
        words = [read(at).astype(dtype_of(whole)) << i * bits for i, read in enumerate(reads)]
        write(at, np.bitwise_or.reduce(words))

    return join


_ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(ins: Instruction, values: Values) -> Run:
    to, source = ins.modifiers[-2:]
    if to in ("bf16x2", "f16x2"):
        return _pack(ins, values, to)
    if to == "bf16":
        write, read = values.writer(ins.operands[0], "u16"), values.reader(ins.operands[1], source)
        return lambda at: write(at, narrow_bfloat16(read(at)))
    if "bf16" in source:
        raise UnknownPtxError(f"conversion from {source}")
    write, read, dtype = values.writer(ins.operands[0], to), values.reader(ins.operands[1], source), dtype_of(to)
    if source[0] == "f" and to[0] != "f":
        rounding, limits = _ROUNDINGS[ins.modifiers[0]], np.iinfo(dtype)
        return lambda at: write(at, np.nan_to_num(np.clip(rounding(read(at)), limits.min, limits.max)).astype(dtype))
    if "sat" in ins.modifiers:  # to [0, 1], NaN to 0
        return lambda at: write(at, np.nan_to_num(np.clip(read(at), 0, 1)).astype(dtype))
    return lambda at: write(at, read(at).astype(dtype))


def _pack(ins: Instruction, values: Values, to: str) -> Run:
    write = values.writer(ins.operands[0], "u32")
    high, low = (values.reader(operand, "f32") for operand in ins.operands[1:3])
    narrow = narrow_bfloat16 if to == "bf16x2" else lambda x: bits_of(x.astype(np.float16))
    return lambda at: write(at, narrow(low(at)) | narrow(high(at)).astype(np.uint32) << np.uint32(16))


_ROUND = {"rn", "ftz", "approx", "full", "f32", "f64"}
_WHOLE = {f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64)}
_COMPARED = {*_COMPARISONS, *(f"{c}u" for c in ("lt", "le", "gt", "ge", "eq", "ne")), *_COMBINATIONS}

# By name: the builder and the modifiers that it knows.
TABLE: dict[str, tuple[Builder, set[str]]] = {
    "add": (elementwise(np.add, 2), _ROUND | _WHOLE),
    "sub": (elementwise(np.subtract, 2), _ROUND | _WHOLE),
    "mul": (product, _ROUND | _WHOLE | {"lo", "hi", "wide"}),
    "mad": (product, _WHOLE | {"lo", "wide"}),
    "fma": (fuse, {"rn", "rm", "ftz", "f32"}),
    "div": (elementwise(divide, 2), _ROUND | _WHOLE),
    "rem": (elementwise(lambda a, b: a - divide(a, b) * b, 2), _WHOLE),
    "min": (elementwise(smaller, 2), _ROUND | _WHOLE),
    "max": (elementwise(larger, 2), _ROUND | _WHOLE),
    "neg": (elementwise(np.negative, 1), _ROUND | _WHOLE),
    "abs": (elementwise(np.abs, 1), _ROUND | _WHOLE),
    "copysign": (elementwise(lambda sign, x: np.copysign(x, sign), 2), {"f32"}),
    "rcp": (elementwise(lambda x: np.float32(1) / x, 1), {"rn", "approx", "ftz", "f32"}),
    "sqrt": (elementwise(np.sqrt, 1), _ROUND),
    "rsqrt": (elementwise(lambda x: np.float32(1) / np.sqrt(x), 1), {"approx", "ftz", "f32"}),
    "ex2": (elementwise(np.exp2, 1), {"approx", "ftz", "f32"}),
    "lg2": (elementwise(np.log2, 1), {"approx", "ftz", "f32"}),
    "tanh": (elementwise(np.tanh, 1), {"approx", "f32"}),
    "and": (elementwise(np.bitwise_and, 2), _WHOLE | {"pred"}),
    "or": (elementwise(np.bitwise_or, 2), _WHOLE | {"pred"}),
    "xor": (elementwise(np.bitwise_xor, 2), _WHOLE | {"pred"}),
    "not": (elementwise(np.bitwise_not, 1), _WHOLE | {"pred"}),
    "bfi": (bit_field, {"b32"}),
    "bfe": (bit_field, {"u32"}),
    "shl": (shift, _WHOLE),
    "shr": (shift, _WHOLE),
    "setp": (compare, _ROUND | _WHOLE | _COMPARED),
    "selp": (select, _ROUND | _WHOLE),
    "mov": (move, _ROUND | _WHOLE | {"pred"}),
    "cvta": (move, {"to", "global", "shared", "param", "u64", "u32"}),
    "cvt": (convert, _ROUND | _WHOLE | {"u8", "s8", "f16", "bf16", "bf16x2", "f16x2", "sat", *_ROUNDINGS}),
}
