"""Rung 6: planted bugs, each of which some rung must catch.

python -m ladder.mutants [--write] [NAME...]      needs the builds of `make cuda-check`; --write: the table

A mutant is a change of one place of one source. Its source file is compiled again with the commands of each build and
linked with that build's other objects; then `ladder.trial` runs. One that no longer applies is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ladder import toolkit
from ladder.toolkit import ROOT

WORK = ROOT / "target" / "cuda-mutants"
LIST = Path(__file__).with_name("mutants.toml")
TABLE = Path(__file__).with_name("mutants.tsv")
RUNGS = ("executor", "races", "sanitizers", "ptx")
BUILDS = {"executor": "simt", "races": "simt-races", "sanitizers": "simt-sanitize"}
LIMIT = 240  # seconds, for a bug that never ends


@dataclass(frozen=True)
class Mutant:
    name: str
    family: str  # of trial.CALLS; its kernels of bfloat16 are compiled
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


def rebuilt(copy: Path, build: Path, family: str) -> Path:
    """The build's module with the family's kernels compiled from `copy`."""
    own = f"attention/{family}_bfloat16.cu"
    commands = _run([shutil.which("ninja"), "-t", "commands", "_simt"], build).stdout.splitlines()
    compiling = next(command for command in commands if f" -c {ROOT / 'csrc' / 'cuda' / own}" in command)
    linking = commands[-1]
    thing = next(word for word in compiling.split() if word.endswith(f"{own}.o"))
    module = next(word for word in linking.split() if "_simt" in word and word.endswith(".so"))
    WORK.mkdir(parents=True, exist_ok=True)
    new = WORK / f"{build.name}.o", WORK / f"{build.name}.so"
    # The bug's object goes first: of the tile's inline functions that others hold too the linker takes the first.
    link = linking.replace(thing, "", 1).replace(f"-o {module}", f"-o {new[1]} {new[0]}", 1)
    for command in (compiling.replace(f"{ROOT}/csrc", str(copy)).replace(f"-o {thing}", f"-o {new[0]}"), link):
        result = _run(command, build)
        if result.returncode != 0:
            raise RuntimeError(f"{command}\n{result.stdout}{result.stderr}")
    return new[1]


def ptx_of(copy: Path, family: str) -> list[Path]:
    """The PTX of what the family's calls launch: gradients need the forward pass first."""
    made = []
    for name in {"backward": ["forward", "backward"]}.get(family, [family]):
        made.append(WORK / f"{name}.ptx")
        options = ["-std=c++20", "-arch=compute_80", f"-I{copy}", f"-I{copy / 'include'}", "-ptx", "-o", made[-1]]
        toolkit.tool("nvcc", *options, copy / "cuda" / "attention" / f"{name}_bfloat16.cu")
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
    return errors[0].split("ERROR: ")[-1] if errors else f"ends with {result.returncode}"


def verdicts(mutant: Mutant, rungs: list[str]) -> dict[str, str]:
    copy = mutated(mutant)
    found = {}
    for rung in rungs:
        build = BUILDS.get(rung, BUILDS["executor"])
        module = rebuilt(copy, ROOT / "target" / build, mutant.family)
        ptx = ptx_of(copy, mutant.family) if rung == "ptx" else []
        found[rung] = verdict(mutant.family, module, ptx, rung == "sanitizers")
    return found


def brief(text: str) -> str:
    """What the table says of a verdict: no addresses, threads or lines."""
    known = ("race", "deadlock", "bank conflicts", "wrong result", "outside", "less shared memory", "overflow",
             "never ends", "never waited", "some of its lanes", "some threads")  # fmt: skip
    return next((word for word in known if word in text), text if len(text) < 30 else text[:30])


def main(*arguments: str) -> int:
    names = [name for name in arguments if name != "--write"]
    rungs = [rung for rung in RUNGS if rung not in BUILDS or (ROOT / "target" / BUILDS[rung]).exists()]
    missed, lines = [], ["\t".join(["planted bug", *rungs])]
    for mutant in [m for m in MUTANTS if not names or m.name in names]:
        found = verdicts(mutant, rungs)
        print(mutant.name, *(f"   {rung}: {text}" for rung, text in found.items()), sep="\n", flush=True)
        lines.append("\t".join([mutant.name, *(brief(text) for text in found.values())]))
        missed += [mutant.name] if all(text == "-" for text in found.values()) else []
    if "--write" in arguments:
        TABLE.write_text("\n".join(lines) + "\n")
    print(f"not caught: {missed}" if missed else f"{len(lines) - 1} planted bugs, all caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
