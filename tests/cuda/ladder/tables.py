"""Rungs 2 and 3: compares the built module with the committed tables.

python -m ladder.tables MODULE SIMT [--write]     MODULE: the built _cuda; SIMT: the CPU executor's module
"""

from __future__ import annotations

import sys
from pathlib import Path

from ladder import instructions, launches, resources
from ladder.toolkit import ROOT, load_simt

HERE = Path(__file__).parent
FOLDER = ROOT / "target" / "cuda-ladder"

# Accesses to local memory in the main loop, by short name: known spills. None: no kernel may have any.
KNOWN_LOCAL: dict[str, int] = {}


def differences(old: str, new: str) -> list[str]:
    """Lines that one table has and the other has not."""
    before, after = set(old.splitlines()), set(new.splitlines())
    return [f"- {line}" for line in sorted(before - after)] + [f"+ {line}" for line in sorted(after - before)]


def made(module: Path, simt: Path) -> tuple[dict[str, str], list[str]]:
    """The tables by file name, and what no table may allow."""
    known = list(launches.of_module(load_simt(simt), module, FOLDER / "ptx"))
    loops = instructions.loops(module, FOLDER / "elf")
    wrong = []
    for name, by_architecture in loops.items():
        for architecture, loop in by_architecture.items():
            allowed = KNOWN_LOCAL.get(resources.short(name), 0)
            wrong += instructions.faults(f"{resources.short(name)} on {architecture}", loop, allowed)
    tables = {
        "resources.tsv": resources.table(module, known, FOLDER / "elf"),
        "instructions.tsv": instructions.table(loops),
    }
    return tables, wrong


def main(module: str, simt: str, *options: str) -> int:
    tables, wrong = made(Path(module), Path(simt))
    for name, new in tables.items():
        path = HERE / name
        if options == ("--write",):
            path.write_text(new)
        elif changes := differences(path.read_text() if path.exists() else "", new):
            wrong += [f"{name} is not what was built (python -m ladder.tables ... --write, if on purpose):", *changes]
    print("\n".join(wrong) or f"tables: {len(tables['resources.tsv'].splitlines()) - 1} kernels as committed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
