"""Rung 3: what the machine code of a kernel's main loop consists of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ladder import toolkit

_FUNCTION = re.compile(r"^\s+Function : (\S+)", re.MULTILINE)
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", re.MULTILINE)
_TARGET = re.compile(r"\b0x([0-9a-f]+)$")
# A counter that is compared with a constant, and the constant that it grows by.
_LIMIT = re.compile(r"U?P\d, U?PT, (U?R\d+), 0x([0-9a-f]+), U?PT$")
_STEP = r"{0}, {0}(?:\.reuse)?, 0x([0-9a-f]+)(?:, U?RZ)?$"

# The pipe that an instruction goes to, by its name; what is not here costs its issue alone.
PIPES = {
    "tensor": r"HMMA",
    "functions": r"MUFU",
    "shared": r"LDSM|LDS|STS|STSM|LDGSTS|SHFL",
    "float": r"FADD|FMUL|FFMA|IMAD",
    "whole": r"FMNMX|FSEL|FSETP|F2FP|PRMT|IADD|LEA|LOP|SHF|ISETP|SEL|IMNMX|VIMNMX|VIADD|PLOP|IABS|CS2R|R2P|P2R",
    "global": r"LDG|STG|RED|ATOM",
    "local": r"LDL|STL",
}


_KEPT = re.compile(r"HMMA|LDSM|LDGSTS|BAR|EXIT")


@dataclass(frozen=True)
class Instruction:
    address: int
    guarded: bool  # by a predicate
    name: str  # with its modifiers
    operands: str

    def goes_to(self, pipe: str) -> bool:
        return re.match(PIPES[pipe], self.name) is not None


@dataclass(frozen=True)
class Loop:
    """`tensor_share`: of the instructions; `products_per_load`: HMMA by LDSM."""

    instructions: list[Instruction]

    def count(self, pipe: str) -> int:
        return sum(i.goes_to(pipe) for i in self.instructions)

    @property
    def tensor_share(self) -> float:
        return self.count("tensor") / len(self.instructions)

    @property
    def products_per_load(self) -> float:
        loads = sum(i.name.startswith("LDSM") for i in self.instructions)
        return self.count("tensor") / loads if loads else 0.0

    @property
    def narrow_copies(self) -> int:
        """Asynchronous copies of less than 16 bytes."""
        return sum(i.name.startswith("LDGSTS") and "128" not in i.name for i in self.instructions)

    @property
    def pipes(self) -> Counter[str]:
        return Counter({pipe: self.count(pipe) for pipe in PIPES})


def parse(text: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Kernels of what `cuobjdump -sass` prints, by mangled name."""
    heads = list(_FUNCTION.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends[: len(heads)], strict=True):
        part = text[head.end() : end]
        yield head[1], [Instruction(int(m[1], 16), bool(m[2]), m[3], m[4]) for m in _LINE.finditer(part)]


def disassemble(cubin: Path) -> dict[str, list[Instruction]]:
    return dict(parse(toolkit.tool("cuobjdump", "-sass", cubin)))


def main_loop(code: list[Instruction]) -> Loop:
    """The loop with the most tensor-core instructions (of nested ones the inner); without any, the longest.

    A loop is what lies between a branch back and its target, less what a branch in it jumps over and that neither
    multiplies, copies nor meets: masks, which most rounds skip. A loop in it that multiplies stands there as often as
    it runs. A kernel without a loop is its own.
    """
    loops = [code[first : last + 1] for last, first in _branches(code) if first <= last]
    if not loops:
        return Loop(code)
    products = [Loop(loop).count("tensor") for loop in loops]
    tensor = max(products) > 0
    size = min if tensor else max
    found = size((loop for loop, n in zip(loops, products, strict=True) if n == max(products)), key=len)
    return Loop(_with_rounds(_usual_path(found)))


def _branches(code: list[Instruction]) -> Iterator[tuple[int, int]]:
    """Places of branches and of their targets."""
    place = {i.address: at for at, i in enumerate(code)}
    for at, branch in enumerate(code):
        target = _TARGET.search(branch.operands)
        if branch.name.startswith("BRA") and target and int(target[1], 16) in place:
            yield at, place[int(target[1], 16)]


def _with_rounds(path: list[Instruction]) -> list[Instruction]:
    """The path with its inner loops that multiply as often as they run."""
    for last, first in _branches(path):
        inner = path[first : last + 1]
        if 0 < first <= last and Loop(inner).count("tensor"):
            return path[:first] + inner * _rounds(inner) + _with_rounds(path[last + 1 :])
    return path


def _rounds(loop: list[Instruction]) -> int:
    """How often a loop runs whose counter goes from 0 to a constant by a constant."""
    for compare in loop:
        if limit := "ISETP" in compare.name and _LIMIT.match(compare.operands):
            step = re.compile(_STEP.format(limit[1]))
            for i in loop:
                if found := step.match(i.operands):
                    return int(limit[2], 16) // int(found[1], 16)
    raise ValueError(f"the loop at {loop[0].address:#x}: no counter that goes to a constant by a constant")


def _usual_path(loop: list[Instruction]) -> list[Instruction]:
    """The fewest instructions from the first to the last, over the branches that skip none of _KEPT."""
    targets = dict(_branches(loop))
    following, cost = [0] * len(loop), [0] * (len(loop) + 1)
    for at in reversed(range(len(loop))):
        target = targets.get(at, 0)
        may_jump = target > at and not any(_KEPT.match(i.name) for i in loop[at + 1 : target])
        must_jump = target > at and not loop[at].guarded
        jumps = must_jump or (may_jump and cost[target] < cost[at + 1])
        following[at] = target if jumps else at + 1
        cost[at] = 1 + cost[following[at]]
    path, at = [], 0
    while at < len(loop):
        path.append(loop[at])
        at = following[at]
    return path
