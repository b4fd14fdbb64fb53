"""Runs a few calls of one family of kernels on a module and says what is wrong, if anything: for planted bugs.

python -m ladder.trial FAMILY SIMT [PTX FILE...]    prints "-" or the first complaint
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from attention_cases import CHANGES, assert_matches
from conftest import SCHEDULES
from test_attention_backward import assert_gradients_match

from ladder.launches import Monkeypatch
from ladder.ptx import KernelError
from ladder.runner import PtxRunner
from ladder.toolkit import load_simt

Call = Callable[[ModuleType], None]


def forward(shape: tuple[int, ...], change: str) -> Call:
    return lambda simt: assert_matches(simt, Monkeypatch, shape, CHANGES[change], torch.bfloat16)


def backward(shape: tuple[int, ...], change: str) -> Call:
    return lambda simt: assert_gradients_match(simt, Monkeypatch, shape, CHANGES[change], torch.bfloat16)


# Small, with more than one tile of keys and of queries, cut tiles, grouped heads, and a row without a key.
CALLS: dict[str, list[Call]] = {
    "forward": [
        forward((1, 2, 1, 140, 130, 64), "causal"),
        forward((2, 1, 1, 20, 100, 32), "lengths"),
        forward((1, 1, 1, 33, 70, 32), "dropout"),
    ],
    "decode": [forward((1, 4, 2, 2, 130, 64), "causal"), forward((2, 2, 1, 3, 70, 64), "lengths")],
    "backward": [backward((1, 2, 1, 70, 140, 32), "causal"), backward((2, 1, 1, 20, 70, 64), "lengths")],
}
PTX_SCHEDULES: list[dict[str, bool]] = [{}, {"early": True, "warp_ahead": True}]


def complaint(calls: list[Call], simt: ModuleType) -> str | None:
    for call in calls:
        try:
            call(simt)
        except AssertionError:
            return "wrong result"
        except (RuntimeError, KernelError) as error:  # simt::Error, launch errors
            return str(error).splitlines()[0]
    return "bank conflicts" if simt.take_counters()["bank_conflicts"] else None


def on_fibers(family: str, simt: ModuleType) -> str | None:
    for order, seed, copies in SCHEDULES:
        simt.set_schedule(order, seed, copies)
        if found := complaint(CALLS[family], simt):
            return found
    return None


def in_ptx(family: str, simt: ModuleType, files: list[Path]) -> str | None:
    runner = PtxRunner(files)
    simt.run_launches(runner)
    try:
        for schedule in PTX_SCHEDULES:
            runner.schedule = schedule
            if found := complaint(CALLS[family], simt):
                return found
    finally:
        simt.run_launches(None)
    return None


def main(family: str, simt: str, *ptx: str) -> None:
    module = load_simt(Path(simt))
    print((in_ptx(family, module, [Path(file) for file in ptx]) if ptx else on_fibers(family, module)) or "-")


if __name__ == "__main__":
    main(*sys.argv[1:])
