"""Rung 2: conflicts of shared memory's banks, as cuxray reads them out of the machine code.

What it cannot trace it counts: addresses that an exclusive or makes of the lane, as the tiles of attention are swapped
by. Those the executor counts while the kernels run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladder import toolkit
from ladder.resources import short

ARCHITECTURE = "sm_80"  # all machine code comes from one PTX: one architecture shows the addresses of all


@dataclass(frozen=True)
class Accesses:
    """Of one kernel to shared memory; `unknown` are those to any memory that could not be traced."""

    clean: int
    conflicting: int
    ways: int  # the most threads of a warp that one bank serves one after the other
    unknown: int


def of_module(module: Path, folder: Path) -> dict[str, Accesses]:
    """By mangled name."""
    cubins = [cubin for cubin in toolkit.extract(module, "elf", folder) if ARCHITECTURE in cubin.name]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(item for items in threads.map(_of_cubin, cubins) for item in items)


def _of_cubin(cubin: Path) -> list[tuple[str, Accesses]]:
    return list(parse(json.loads(_report(cubin))))


def _report(cubin: Path) -> str:
    """CUXRAY_NO_FETCH: it takes NVIDIA's tools from the PATH, not from the network."""
    environment = os.environ | {
        "CUXRAY_NO_FETCH": "1",
        "PATH": f"{toolkit.folder() / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(Path(sys.executable).with_name("cuxray")), "report", "--fast", "--no-cache", "--json", str(cubin)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"cuxray: {result.stdout}{result.stderr}")
    return result.stdout


def parse(report: dict[str, Any]) -> Iterator[tuple[str, Accesses]]:
    """Kernels of what `cuxray report --json` prints, by mangled name."""
    for unit in report["units"]:
        for kernel in unit["kernels"]:
            access = kernel["access"]
            shared = [site for site in access["by_site"] if site["space"] == "shared"]
            conflicting = sum(site["count"] for site in shared if site["conflict_ways"] > 1)
            clean = sum(site["count"] for site in shared) - conflicting
            ways = max((site["conflict_ways"] for site in shared), default=1)
            yield kernel["name"], Accesses(clean, conflicting, ways, access["unanalyzed_count"])


def faults(found: dict[str, Accesses]) -> list[str]:
    """Kernels with a conflict. Those of float32 may: they write their results with four of them, once a block."""
    return [
        f"{short(name)}: {a.conflicting} accesses to shared memory with conflicts, up to {a.ways} ways"
        for name, a in found.items()
        if a.conflicting and "<float" not in short(name)
    ]


def table(found: dict[str, Accesses]) -> str:
    """One line a kernel that reaches shared memory by its lanes' addresses."""
    lines = [
        "\t".join([short(name), *map(str, (a.clean, a.conflicting, a.ways, a.unknown))])
        for name, a in found.items()
        if a.clean + a.conflicting
    ]
    return "\n".join(["\t".join(["kernel", "clean", "conflicting", "ways", "unknown"]), *sorted(lines)]) + "\n"
