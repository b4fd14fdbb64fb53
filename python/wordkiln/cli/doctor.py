"""`wordkiln doctor`: what slows this installation down, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    good: bool
    text: str


def doctor() -> None:
    """Look at what decides how fast this machine trains and generates, and say what to change.

    Exit code 0 whatever is found: nothing here is needed for right results.

    [bold]Example[/bold]

    wordkiln doctor
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in examine():
        mark = "[green]ok[/green]" if finding.good else "[yellow]look[/yellow]"
        table.add_row(mark, f"[bold]{finding.name}[/bold]", finding.text)
    Console().print(table)


def examine() -> Iterator[Finding]:
    """Everything that is looked at."""
    yield _instruction_set()
    yield _threads()
    yield _torch()
    if importlib.util.find_spec("torch") is not None:
        yield _openmp()
        yield _freed_memory()
        yield _gpu()
    yield _huge_pages()


def _instruction_set() -> Finding:
    from wordkiln.runtime import instruction_sets

    current, available = instruction_sets()
    best = available[-1]
    if current == best:
        return Finding("instruction set", True, f"{current}, the best that this processor has")
    return Finding("instruction set", False, f"{current}, though this processor has {best}: unset WORDKILN_ISA")


def _threads() -> Finding:
    from wordkiln import get_num_threads

    threads, cores = get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    if threads > cores:
        text = f"{threads}, but this process may use {cores} cores: set WORDKILN_NUM_THREADS={cores}"
        return Finding("threads", False, text)
    return Finding("threads", True, f"{threads} of {cores} cores")


def _torch() -> Finding:
    from importlib.metadata import version

    if importlib.util.find_spec("torch") is None:
        return Finding("torch", False, "not installed: models run, training needs pip install 'wordkiln[train]'")
    return Finding("torch", True, version("torch"))


def _openmp() -> Finding:
    """Two copies of OpenMP in a process have a pool of threads each, and these wait for one another's cores."""
    from wordkiln import ops  # noqa: F401  (torch brings its own copy; our kernels must have found it)

    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return Finding("OpenMP", True, "cannot be seen on this system")
    names = ("libgomp", "libomp", "libiomp")
    paths = {line.split()[-1] for line in maps.splitlines() if any(f"/{name}" in line for name in names)}
    if len(paths) > 1:
        text = f"{len(paths)} copies are loaded ({', '.join(sorted(paths))}): import torch before all else"
        return Finding("OpenMP", False, text)
    return Finding("OpenMP", True, "one pool of threads, shared with torch")


def _freed_memory() -> Finding:
    from wordkiln._allocator import keep_freed_memory

    if keep_freed_memory():
        text = "the trainer keeps it (keep_memory=True); in a loop of your own: wordkiln.training.keep_freed_memory()"
        return Finding("freed memory", True, text)
    return Finding("freed memory", False, "this C library gives it back after every step; nothing to do here")


def _gpu() -> Finding:
    import torch

    from wordkiln.ops import _cuda

    if not torch.cuda.is_available():
        return Finding("GPU", True, "none that torch can use")
    name = torch.cuda.get_device_name()
    lacks = _cuda.device_lacks(torch.cuda.current_device())
    if lacks is not None:
        return Finding("GPU", False, f"{name}, on plain torch alone: no kernels for {lacks}")
    return Finding("GPU", True, f"{name}, with kernels of its own: wordkiln train --device cuda")


def _huge_pages() -> Finding:
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return Finding("huge pages", True, "none on this system")
    if "[never]" in setting:
        text = "off: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root) makes large weights faster"
        return Finding("huge pages", False, text)
    return Finding("huge pages", True, setting[setting.find("[") + 1 : setting.find("]")])
