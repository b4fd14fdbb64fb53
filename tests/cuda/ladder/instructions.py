"""Rung 3: the main loops' instructions and what they allow at most."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ladder import toolkit
from ladder.bound import CHIPS, bound
from ladder.disassembly import Loop, disassemble, main_loop
from ladder.resources import short


def loops(module: Path, folder: Path) -> dict[str, dict[str, Loop]]:
    """Main loops by mangled name and architecture, of the architectures that there is a bound for."""
    found: dict[str, dict[str, Loop]] = {}
    for cubin in toolkit.extract(module, "elf", folder):
        architecture = re.search(r"sm_\d+", cubin.name)[0]
        if architecture in CHIPS:
            for name, code in disassemble(cubin).items():
                found.setdefault(name, {})[architecture] = main_loop(code)
    return found


def faults(name: str, loop: Loop) -> Iterable[str]:
    """What no main loop on tensor cores may do."""
    if loop.count("tensor") == 0:
        return
    if loop.narrow_copies:
        yield f"{name}: {loop.narrow_copies} copies of less than 16 bytes in the main loop"
    if loop.count("local"):
        yield f"{name}: {loop.count('local')} accesses to local memory in the main loop"


def table(found: dict[str, dict[str, Loop]]) -> str:
    """One line a kernel that multiplies on tensor cores.

    Per architecture: instructions of the main loop, the percentage of HMMA, HMMA by LDSM, accesses to local memory, and
    the bound in percent with the pipe that sets it.
    """
    lines = []
    for name, by_architecture in found.items():
        cells = []
        for architecture, loop in sorted(by_architecture.items()):
            share, pipe = bound(loop, CHIPS[architecture])
            cells.append(
                f"{len(loop.instructions)}/{100 * loop.tensor_share:.1f}/{loop.products_per_load:.1f}"
                f"/{loop.count('local')}/{100 * share:.0f} {pipe}"
            )
        if all(loop.count("tensor") for loop in by_architecture.values()):
            lines.append("\t".join([short(name), *cells]))
    return "\n".join(["\t".join(["kernel", *CHIPS]), *sorted(lines)]) + "\n"
