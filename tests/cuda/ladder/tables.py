"""Rungs 2 and 3: compares the built module with the committed tables.

python -m ladder.tables MODULE SIMT [--write]     MODULE: the built _cuda; SIMT: the CPU executor's module
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ladder import instructions, launches, resources
from ladder.toolkit import ROOT, load_simt

HERE = Path(__file__).parent
FOLDER = ROOT / "target" / "cuda-ladder"


@dataclass(frozen=True)
class Spill:
    """The most on any architecture: bytes of a thread's stack, and accesses to it in the main loop."""

    stack: int
    accesses: int


NONE = Spill(0, 0)
# By short name, T for bfloat16 and float16; docs/cuda.md, Spills, says why these are left.
_SPILLS = {
    "attention_forward<T, 64, true>": Spill(8, 1),
    "attention_forward<T, 128, false>": Spill(56, 7),
    "attention_forward<T, 256, true>": Spill(24, 4),
    "attention_key_grad<T, 128, false>": Spill(64, 15),
    "attention_key_grad<T, 128, true>": Spill(96, 20),
}
KNOWN_SPILLS = {
    name.replace("<T,", f"<{kind},"): spill for name, spill in _SPILLS.items() for kind in ("Bfloat16", "Float16")
} | {
    "attention_deltas<float>": Spill(8, 0),
    "attention_key_grad<float, 128, false>": Spill(8, 0),
    "attention_key_grad<float, 128, true>": Spill(40, 0),
    "cell_forward<float, 4>": Spill(8, 0),
}


def differences(old: str, new: str) -> list[str]:
    """Lines that one table has and the other has not."""
    before, after = set(old.splitlines()), set(new.splitlines())
    return [f"- {line}" for line in sorted(before - after)] + [f"+ {line}" for line in sorted(after - before)]


def made(module: Path, simt: Path) -> tuple[dict[str, str], list[str]]:
    """The tables by file name, and what no table may allow."""
    known = list(launches.of_module(load_simt(simt), module, FOLDER / "ptx"))
    loops = instructions.loops(module, FOLDER / "elf")
    wrong = []
    for name, by_architecture in resources.usages(module, FOLDER / "elf").items():
        spill = KNOWN_SPILLS.get(resources.short(name), NONE)
        for architecture, use in by_architecture.items():
            where = f"{resources.short(name)} on {architecture}"
            if use.stack > spill.stack:
                wrong.append(f"{where}: {use.stack} bytes of stack, not {spill.stack}")
            if loop := loops.get(name, {}).get(architecture):
                wrong += instructions.faults(where, loop, spill.accesses)
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
