"""Rungs 2 and 3: compares the built module with the committed tables.

python -m ladder.tables MODULE SIMT [--write]     MODULE: the built _cuda; SIMT: the CPU executor's module
"""

from __future__ import annotations

import sys
from pathlib import Path

from ladder import conflicts, instructions, launches, resources
from ladder.toolkit import ROOT, load_simt

HERE = Path(__file__).parent
FOLDER = ROOT / "target" / "cuda-ladder"


def differences(old: str, new: str) -> list[str]:
    """Lines that one table has and the other has not."""
    before, after = set(old.splitlines()), set(new.splitlines())
    return [f"- {line}" for line in sorted(before - after)] + [f"+ {line}" for line in sorted(after - before)]


def made(module: Path, simt: Path) -> tuple[dict[str, str], list[str]]:
    """The tables by file name, and what no table may allow."""
    known = list(launches.of_module(load_simt(simt), module, FOLDER / "ptx"))
    loops, accesses = instructions.loops(module, FOLDER / "elf"), conflicts.of_module(module, FOLDER / "elf")
    wrong = conflicts.faults(accesses)
    for name, by_architecture in resources.usages(module, FOLDER / "elf").items():
        for architecture, use in by_architecture.items():
            where = f"{resources.short(name)} on {architecture}"
            if use.stack:
                wrong.append(f"{where}: {use.stack} bytes of stack: it spills")
            if loop := loops.get(name, {}).get(architecture):
                wrong += instructions.faults(where, loop)
    tables = {
        "resources.tsv": resources.table(module, known, FOLDER / "elf"),
        "instructions.tsv": instructions.table(loops),
        "conflicts.tsv": conflicts.table(accesses),
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
