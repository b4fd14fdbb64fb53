"""Rung 6: planted bugs, each of which some rung must catch.

python -m ladder.mutants [--write] [--first] [NAME...]      needs the builds of `make cuda-check`
--write: their rows of the table; --first: no further rung for one that was noticed

A mutant is a change of one place of one source. Its family's sources are compiled again with the commands of each build
and linked with that build's other objects; then `ladder.trial` runs. One that no longer applies is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ladder import toolkit
from ladder.toolkit import ROOT
from ladder.trial import FAMILIES

WORK = ROOT / "target" / "cuda-mutants"
LIST = Path(__file__).with_name("mutants.toml")
TABLE = Path(__file__).with_name("mutants.tsv")
BUILD = ROOT / "target" / "cuda"
TARGETS = {"executor": "_simt", "races": "_simt_races", "sanitizers": "_simt_sanitize", "ptx": "_simt"}
LIMIT = 240  # seconds, for a bug that never ends


@dataclass(frozen=True)
class Mutant:
    name: str
    family: str  # of trial.FAMILIES
    file: str  # below csrc/cuda
    old: str
    new: str


MUTANTS = [Mutant(**fields) for fields in tomllib.loads(LIST.read_text())["mutant"]]


def mutated(mutant: Mutant) -> Path:
    """A copy of csrc with the bug."""
    copy = WORK / "csrc"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "csrc", copy)
    path = copy / "cuda" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} times {mutant.old!r}, not once")
    path.write_text(text.replace(mutant.old, mutant.new))
    return copy


def _run(command: str | list[str | Path], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=isinstance(command, str), cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT,
        env=os.environ | environment,
    )  # fmt: skip


def rebuilt(copy: Path, target: str, family: str) -> Path:
    """A build's module with the family's kernels compiled from `copy`."""
    *commands, link = _run([shutil.which("ninja"), "-t", "commands", target], BUILD).stdout.splitlines()
    module = re.search(r"-o (\S+\.so)", link)[1]
    folder = WORK / target
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for number, source in enumerate(FAMILIES[family].sources):
        compiling = next(command for command in commands if command.endswith(f"-c {ROOT}/csrc/cuda/{source}"))
        thing, own = re.search(r"-o (\S+\.o)", compiling)[1], folder / f"{number}.o"
        _build(compiling.replace(f"{ROOT}/csrc", str(copy)).replace(f"-o {thing}", f"-o {own}"))
        link = link.replace(f" {thing}", "", 1)
        objects.append(str(own))
    # The bug's objects go first: of inline functions that others hold too the linker takes the first.
    new = folder / "_simt.so"
    _build(link.replace(f"-o {module}", f"-o {new} {' '.join(objects)}", 1))
    return new


def _build(command: str) -> None:
    result = _run(command, BUILD)
    if result.returncode != 0:
        raise RuntimeError(f"{command}\n{result.stdout}{result.stderr}")


def ptx_of(copy: Path, family: str) -> list[Path]:
    made = []
    for number, source in enumerate(FAMILIES[family].sources):
        made.append(WORK / f"{number}.ptx")
        options = ["-std=c++20", "-arch=compute_80", f"-I{copy}", f"-I{copy / 'include'}", "-ptx", "-o", made[-1]]
        toolkit.tool("nvcc", *options, copy / "cuda" / source)
    return made


def verdict(family: str, module: Path, ptx: list[Path], sanitized: bool) -> str:
    environment = {"PYTHONPATH": f"{ROOT / 'tests' / 'cuda'}", "OMP_NUM_THREADS": "1"}
    if sanitized:
        libraries = [
            _run(["g++", f"-print-file-name={name}.so"], ROOT).stdout.strip() for name in ("libasan", "libstdc++")
        ]
        environment |= {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "ladder.trial", family, module, *ptx]
    try:
        result = _run(command, ROOT / "tests" / "cuda", **environment)
    except subprocess.TimeoutExpired:
        return "never ends"
    if result.returncode == 0:
        return result.stdout.strip().splitlines()[-1]
    errors = [line for line in result.stderr.splitlines() if "ERROR: " in line or "runtime error" in line]
    if not errors and result.returncode > 0:  # no signal: the trial did not come to the bug
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stderr}")
    return errors[0].split("ERROR: ")[-1] if errors else f"ends with {result.returncode}"


def verdicts(mutant: Mutant, first: bool = False) -> dict[str, str]:
    """What each rung says; `first`: none behind the first that notices."""
    copy, found = mutated(mutant), dict.fromkeys(TARGETS, "not run")
    modules: dict[str, Path] = {}
    for rung, target in TARGETS.items():
        if target not in modules:
            modules[target] = rebuilt(copy, target, mutant.family)
        ptx = ptx_of(copy, mutant.family) if rung == "ptx" else []
        found[rung] = verdict(mutant.family, modules[target], ptx, rung == "sanitizers")
        if first and found[rung] != "-":
            break
    return found


def write(rows: dict[str, dict[str, str]]) -> None:
    """Puts these rows into the table, in the list's order."""
    known = [line.split("\t") for line in TABLE.read_text().splitlines()[1:]] if TABLE.exists() else []
    table = {name: cells for name, *cells in known} | {name: [*map(brief, row.values())] for name, row in rows.items()}
    lines = [["planted bug", *TARGETS], *([m.name, *table[m.name]] for m in MUTANTS if m.name in table)]
    TABLE.write_text("".join("\t".join(line) + "\n" for line in lines))


def brief(text: str) -> str:
    """What the table says of a verdict: no addresses, threads or lines."""
    known = ("race", "deadlock", "bank conflicts", "wrong result", "outside", "less shared memory", "overflow",
             "never ends", "never waited", "some of its lanes", "some threads")  # fmt: skip
    return next((word for word in known if word in text), text if len(text) < 30 else text[:30])


def main(*arguments: str) -> int:
    names = [name for name in arguments if not name.startswith("--")]
    rows = {}
    for mutant in [m for m in MUTANTS if not names or m.name in names]:
        rows[mutant.name] = verdicts(mutant, "--first" in arguments)
        print(mutant.name, *(f"   {rung}: {text}" for rung, text in rows[mutant.name].items()), sep="\n", flush=True)
        if "--write" in arguments:
            write(rows)
    missed = [name for name, found in rows.items() if set(found.values()) <= {"-", "not run"}]
    print(f"not caught: {missed}" if missed else f"{len(rows)} planted bugs, all caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
