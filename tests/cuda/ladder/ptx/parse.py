"""PTX text to kernels: parameters, registers, shared variables, instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BITS = (
    {"pred": 1}
    | {f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)}
    | {"f16": 16, "f32": 32, "f64": 64}
)

_PIECE = re.compile(
    r"(?:\s|//[^\n]*)*(?:(?P<label>[\w$]+):|(?P<open>\{)|(?P<close>\})|(?P<text>[^;{}]*(?:\{[^{}]*\}[^;{}]*)*);)"
)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)[^{;]*(?=\{)", re.DOTALL)
_VARIABLE = re.compile(r"\.(\w+)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_NAME = re.compile(r"[%\w$]+")


class UnknownPtxError(Exception):
    """A statement or an instruction that the interpreter does not know."""


@dataclass(frozen=True)
class Instruction:
    guard: str | None  # the predicate's register
    negated: bool
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    text: str


@dataclass
class Kernel:
    name: str
    parameters: dict[str, int] = field(default_factory=dict)  # offsets
    parameter_bytes: int = 0
    registers: dict[str, str] = field(default_factory=dict)  # types
    shared: dict[str, int] = field(default_factory=dict)  # offsets
    shared_bytes: int = 0  # of the variables with a size; the launch's come behind them
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def entries(text: str) -> list[str]:
    """The mangled names of a file's kernels."""
    return [match[1] for match in _ENTRY.finditer(text)]


def parse(text: str, name: str) -> Kernel:
    """One kernel of a file."""
    head = next(match for match in _ENTRY.finditer(text) if match[1] == name)
    kernel = Kernel(name)
    for _, alignment, kind, parameter, count in _VARIABLE.findall(head[2]):
        size = BITS[kind] // 8
        offset = aligned(kernel.parameter_bytes, int(alignment or size))
        kernel.parameters[parameter] = offset
        kernel.parameter_bytes = offset + size * int(count or 1)
    _Body(kernel).read(text, head.end())
    kernel.shared_bytes = aligned(kernel.shared_bytes, 128)
    dynamic = re.findall(r"\.extern\s+\.shared\s+(?:\.align\s+\d+\s+)?\.\w+\s+([\w$]+)\[\]", text)
    kernel.shared |= dict.fromkeys(dynamic, kernel.shared_bytes)
    return kernel


class _Body:
    """Reads what stands between a kernel's braces; registers of inner braces get names of their own."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, str]] = []
        self.opened = 0

    def read(self, text: str, at: int) -> None:
        while True:
            piece = _PIECE.match(text, at)
            if piece is None:
                raise UnknownPtxError(f"{self.kernel.name}: {text[at : at + 80].strip()!r}")
            at = piece.end()
            if piece["label"]:
                self.kernel.labels[piece["label"]] = len(self.kernel.code)
            elif piece["open"]:
                self.scopes.append({})
                self.opened += 1
            elif piece["close"]:
                self.scopes.pop()
                if not self.scopes:
                    return
            elif piece["text"].strip():
                self.statement(piece["text"].strip())

    def statement(self, text: str) -> None:
        directive = text.split(None, 1)[0]
        if directive == ".reg":
            self.declare(*re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text, re.DOTALL).groups())
        elif directive == ".shared":
            self.reserve(text)
        elif directive.startswith("."):
            if directive not in (".loc", ".pragma", ".maxntid", ".minnctapersm"):
                raise UnknownPtxError(f"{self.kernel.name}: directive {text!r}")
        else:
            self.kernel.code.append(self.instruction(text))

    def declare(self, kind: str, names: str) -> None:
        for name in re.split(r"\s*,\s*", names.strip()):
            many = re.fullmatch(r"(.*)<(\d+)>", name)
            for one in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
                own = one if len(self.scopes) == 1 else f"{one}.{self.opened}"
                self.scopes[-1][one] = own
                self.kernel.registers[own] = kind

    def reserve(self, text: str) -> None:
        _, alignment, kind, name, count = _VARIABLE.match(text).groups()
        size = BITS[kind] // 8
        offset = aligned(self.kernel.shared_bytes, int(alignment or size))
        self.kernel.shared[name] = offset
        self.kernel.shared_bytes = offset + size * int(count or 1)

    def instruction(self, text: str) -> Instruction:
        guard, opcode, rest = re.fullmatch(r"(?:@(!?[%\w$]+)\s+)?(\S+)\s*(.*)", text, re.DOTALL).groups()
        name, *modifiers = opcode.split(".")
        operands = tuple(self.renamed(o.strip()) for o in _OPERAND.findall(rest))
        negated = guard is not None and guard[0] == "!"
        register = None if guard is None else self.renamed(guard.lstrip("!"))
        return Instruction(register, negated, name, tuple(modifiers), operands, " ".join(text.split()))

    def renamed(self, operand: str) -> str:
        def own(name: re.Match[str]) -> str:
            return next((scope[name[0]] for scope in reversed(self.scopes) if name[0] in scope), name[0])

        return _NAME.sub(own, operand)
