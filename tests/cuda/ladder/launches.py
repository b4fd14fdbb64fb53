"""How the host launches each kernel: threads and shared memory, as its own code asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import test_cross_entropy
import test_recurrent
import test_recurrent_cell
import torch
from attention_cases import CHANGES, arguments_for, draw, run, run_backward

from ladder import toolkit
from ladder.ptx import entries
from wordkiln import ops


@dataclass(frozen=True)
class Launch:
    threads: int
    shared_bytes: int


class Monkeypatch:
    """What the tests' helpers want of pytest's."""

    @staticmethod
    def setattr(owner: object, name: str, value: object) -> None:
        setattr(owner, name, value)

    @staticmethod
    def setitem(owner: dict[str, object], name: str, value: object) -> None:
        owner[name] = value


TYPES = (torch.bfloat16, torch.float16, torch.float32)


def _attention(simt: ModuleType) -> None:
    """Every type, size of a head, and with and without something between the products and the softmax."""
    for dtype in TYPES:
        for size in (32, 64, 128) if dtype == torch.float32 else (32, 64, 128, 256):
            for queries in (1, 17):  # decoding, and not
                for change in ("plain", "all"):
                    shape = (1, 1, 1, queries, 5, size)
                    arguments = arguments_for(shape, CHANGES[change], dtype)
                    q, k, v = draw(shape, dtype)
                    out, lse = run(simt, Monkeypatch, q, k, v, arguments)
                    run_backward(simt, Monkeypatch, q, k, v, out, lse, out, lse, arguments)


def _recurrent(simt: ModuleType) -> None:
    """Every type, kind and depth of the persistent kernel, and a step a launch of one tile of rows and of more."""
    test_recurrent.take_kernels(simt, Monkeypatch)
    for dtype in TYPES:
        for kind in ("lstm", "gru"):
            for resident_blocks, batch, hidden in ((200, 1, 8), (200, 1, 257), (200, 1, 513), (200, 1, 1025),
                                                   (0, 1, 8), (0, 17, 8)):  # fmt: skip
                simt.set_schedule(resident_blocks=resident_blocks)
                inputs = test_recurrent.draw(kind, (1, batch, 1, hidden))
                test_recurrent.all_of(ops, kind, inputs, dtype)


def _cell(simt: ModuleType) -> None:
    test_recurrent_cell.take_kernels(simt, Monkeypatch)
    for dtype in TYPES:
        for kind in ("lstm", "gru"):
            test_recurrent_cell.all_of(ops, kind, test_recurrent_cell.draw(kind, (1, 1, 1, 8)), dtype, "both")


def _loss(simt: ModuleType) -> None:
    test_cross_entropy.take_kernel(simt, Monkeypatch)
    for dtype in TYPES:
        inputs = test_cross_entropy.draw((2, 8, 8), dtype, {})
        test_cross_entropy.loss_and_gradients(ops, *inputs, dtype, {})


# One a family of kernels; what none of them launches is an error of `of_module`.
COVERING: list[Callable[[ModuleType], None]] = [_attention, _recurrent, _cell, _loss]


def recorded(simt: ModuleType) -> dict[str, Launch]:
    """The launches of all covering calls by the kernels' mangled names; nothing runs."""
    seen: dict[str, Launch] = {}

    def note(name: str, _blocks: int, threads: int, shared_bytes: int, _cooperative: bool, _parameters: bytes) -> None:
        launch = Launch(threads, shared_bytes)
        if seen.setdefault(name, launch) != launch:
            raise RuntimeError(f"{name} is launched in two ways: {seen[name]} and {launch}")

    simt.run_launches(note)
    try:
        for call in COVERING:
            call(simt)
    finally:
        simt.run_launches(None)
    return seen


def of_module(simt: ModuleType, module: Path, folder: Path) -> Iterator[tuple[str, Launch]]:
    """Every kernel of the built module with its launch. Raises LookupError for one that no covering call launches."""
    launches = recorded(simt)
    for path in toolkit.extract(module, "ptx", folder):
        for name in entries(path.read_text()):
            if name not in launches:
                raise LookupError(f"no call in ladder/launches.py launches {name}")
            yield name, launches[name]
