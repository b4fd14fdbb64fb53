"""Runs a few calls of one family of kernels on a module and says what is wrong, if anything: for planted bugs.

python -m ladder.trial FAMILY SIMT [PTX FILE...]    prints "-" or the first complaint; without arguments the families
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import test_cross_entropy
import test_recurrent
import test_recurrent_cell
import torch
from attention_cases import CHANGES, assert_matches
from conftest import SCHEDULES
from test_attention_backward import assert_gradients_match

from ladder.launches import Monkeypatch
from ladder.ptx import KernelError
from ladder.runner import PtxRunner
from ladder.toolkit import load_simt

Call = Callable[[ModuleType], None]


def forward(shape: tuple[int, ...], change: str, dtype: torch.dtype = torch.bfloat16) -> Call:
    return lambda simt: assert_matches(simt, Monkeypatch, shape, CHANGES[change], dtype)


def backward(shape: tuple[int, ...], change: str, dtype: torch.dtype = torch.bfloat16) -> Call:
    return lambda simt: assert_gradients_match(simt, Monkeypatch, shape, CHANGES[change], dtype)


def recurrent(kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Call:
    def call(simt: ModuleType) -> None:
        test_recurrent.take_kernels(simt, Monkeypatch)
        test_recurrent.assert_matches(kind, shape, dtype, test_recurrent.lengths_of(shape))

    return call


def cell(kind: str, shape: tuple[int, ...], option: str) -> Call:
    def call(simt: ModuleType) -> None:
        test_recurrent_cell.take_kernels(simt, Monkeypatch)
        lengths = test_recurrent_cell.lengths_of(shape)
        test_recurrent_cell.assert_matches(kind, shape, torch.bfloat16, option, lengths)

    return call


def loss(shape: tuple[int, ...], options: str) -> Call:
    def call(simt: ModuleType) -> None:
        test_cross_entropy.take_kernel(simt, Monkeypatch)
        test_cross_entropy.assert_matches(shape, torch.bfloat16, test_cross_entropy.OPTIONS[options])

    return call


@dataclass(frozen=True)
class Family:
    """Kernels that are compiled, launched and mutated together. `sources`: below csrc/cuda."""

    sources: list[str]
    calls: list[Call]
    resident_blocks: int = 64


_ATTENTION, _FLOAT32 = "attention/{}_bfloat16.cu", [f"attention/{way}_float32.cu" for way in ("forward", "backward")]
_RECURRENT = [f"recurrent/{way}_bfloat16.cu" for way in ("forward", "backward")]
# Small, with more than one tile of keys, queries and rows, cut tiles, grouped heads, a row without a key, lengths.
FAMILIES = {
    "forward": Family(
        [_ATTENTION.format("forward")],
        [
            forward((1, 2, 1, 140, 130, 64), "causal"),
            forward((2, 1, 1, 20, 100, 32), "lengths"),
            forward((1, 1, 1, 33, 70, 32), "dropout"),
        ],
    ),
    "decode": Family(
        [_ATTENTION.format("decode")],
        # One round of keys a split, cut; then several.
        [forward((1, 4, 2, 2, 130, 64), "causal"), forward((8, 4, 4, 1, 70, 64), "lengths")],
    ),
    "backward": Family(
        [_ATTENTION.format("forward"), _ATTENTION.format("backward")],
        [backward((1, 2, 1, 70, 140, 32), "causal"), backward((2, 1, 1, 20, 70, 64), "lengths")],
    ),
    "float32": Family(
        _FLOAT32,
        [
            forward((1, 2, 1, 70, 130, 64), "causal", torch.float32),
            backward((1, 2, 1, 20, 70, 32), "all", torch.float32),
        ],
    ),
    "float32_decode": Family(
        ["attention/decode_float32.cu"], [forward((8, 4, 4, 1, 70, 64), "lengths", torch.float32)]
    ),
    # Two blocks of three tiles of rows each; units that fill no block.
    "persistent": Family(
        _RECURRENT, [recurrent("lstm", (3, 35, 3, 9)), recurrent("gru", (3, 20, 3, 41))], resident_blocks=7
    ),
    # Units for more than one warp's quarter of the depth.
    "quarters": Family(_RECURRENT, [recurrent("lstm", (2, 3, 3, 72))]),
    "step": Family(_RECURRENT, [recurrent("lstm", (3, 35, 3, 9)), recurrent("gru", (3, 5, 3, 41))], resident_blocks=0),
    # More units than a block has threads; a draw.
    "cell": Family(["recurrent/cell.cu"], [cell("lstm", (2, 2, 2, 300), "both"), cell("gru", (3, 4, 3, 70), "both")]),
    "loss": Family(["cross_entropy/softmax_gradient.cu"], [loss((3, 2500, 8), "all"), loss((7, 13, 5), "smoothing")]),
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
        simt.set_schedule(order, seed, copies, FAMILIES[family].resident_blocks)
        if found := complaint(FAMILIES[family].calls, simt):
            return found
    return None


def in_ptx(family: str, simt: ModuleType, files: list[Path]) -> str | None:
    runner = PtxRunner(files)
    simt.set_schedule(resident_blocks=FAMILIES[family].resident_blocks)
    simt.run_launches(runner)
    try:
        for schedule in PTX_SCHEDULES:
            runner.schedule = schedule
            if found := complaint(FAMILIES[family].calls, simt):
                return found
    finally:
        simt.run_launches(None)
    return None


def main(family: str, simt: str, *ptx: str) -> None:
    module = load_simt(Path(simt))
    print((in_ptx(family, module, [Path(file) for file in ptx]) if ptx else on_fibers(family, module)) or "-")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 1 else print(*FAMILIES)
