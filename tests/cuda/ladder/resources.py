"""Rung 2: registers, stack, shared memory and occupancy of every kernel."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ladder import toolkit
from ladder.launches import Launch

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")

_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one architecture; `stack` is 0 where nothing spills."""

    registers: int
    stack: int
    shared: int  # beyond the launch's


@functools.cache
def short(name: str) -> str:
    """`attention_forward<Bfloat16, 64, true>` of a mangled name."""
    full = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    plain = re.sub(r"\([^()]*\)$", "", full).removeprefix("void ")
    return re.sub(r"[\w]+::", "", plain).replace("_kernel", "")


def usages(module: Path, folder: Path) -> dict[str, dict[str, Usage]]:
    """By mangled name and architecture."""
    found: dict[str, dict[str, Usage]] = {}
    for cubin in toolkit.extract(module, "elf", folder):
        architecture = re.search(r"sm_\d+", cubin.name)[0]
        for name, *numbers in _USAGE.findall(toolkit.tool("cuobjdump", "-res-usage", cubin)):
            registers, stack, shared, local = map(int, numbers)
            found.setdefault(name, {})[architecture] = Usage(registers, stack + local, shared)
    return found


def resident_blocks(questions: list[tuple[str, Usage, Launch]], folder: Path) -> list[int]:
    """Blocks a multiprocessor by NVIDIA's cuda_occupancy.h."""
    program = folder / "occupancy"
    source = Path(__file__).with_name("occupancy.cpp")
    place = toolkit.folder()
    options = ["-std=c++20", f"-I{place / 'include'}", f"-I{place / 'include' / 'cccl'}", "-o", program]
    libraries = [f"-L{place / 'lib'}", "-lcudart_static", "-ldl", "-lpthread", "-lrt"]
    subprocess.run(["g++", *options, source, *libraries], check=True)
    lines = [
        f"{architecture.removeprefix('sm_')} {use.registers} {use.shared} {launch.shared_bytes} {launch.threads}"
        for architecture, use, launch in questions
    ]
    answer = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True)
    return [int(line) for line in answer.stdout.split()]


def table(module: Path, launches: list[tuple[str, Launch]], folder: Path) -> str:
    """One line a kernel; per architecture registers a thread, bytes of stack a thread, and blocks a multiprocessor."""
    found = usages(module, folder)
    questions = [(a, found[name][a], launch) for name, launch in launches for a in ARCHITECTURES]
    blocks = iter(resident_blocks(questions, folder))
    lines = []
    for name, launch in launches:
        cells = [f"{found[name][a].registers}/{found[name][a].stack}/{next(blocks)}" for a in ARCHITECTURES]
        lines.append("\t".join([short(name), str(launch.threads), str(launch.shared_bytes), *cells]))
    return "\n".join(["\t".join(["kernel", "threads", "shared", *ARCHITECTURES]), *sorted(lines)]) + "\n"
