"""An upper bound of a kernel's use of the tensor cores, from its machine code. A bound, never a speed.

Each scheduler (a quarter of a multiprocessor) gives a warp's instruction to one pipe. In a round of the main loop a
warp keeps pipe p busy for c_p cycles, and issuing takes one cycle an instruction. Whatever else happens, a round of a
warp takes the scheduler at least max(c_p, issue) cycles, so that the tensor cores are busy for at most
c_tensor / max(c_p, issue) of the time. Waiting, bank conflicts, the work outside the loop and the memory's bandwidth
only lower it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ladder.disassembly import Loop


@dataclass(frozen=True)
class Chip:
    """Of a multiprocessor and cycle: products of 16-bit elements; lanes by pipe; bytes of shared memory."""

    name: str
    tensor: float
    lanes: dict[str, int]
    shared_bytes: int = 128


# Products: A100 1024 ("NVIDIA A100 Tensor Core GPU Architecture", A100 SM architecture); H100 SXM 989.4 TFLOPS of 132
# multiprocessors at 1.83 GHz ("NVIDIA H100 Tensor Core GPU Architecture", peak rates) are 2048. mma.sync reaches about
# 0.62 of H100's, which takes wgmma for the rest (Luo et al. 2024, arXiv 2402.13499, tensor cores).
# Lanes: CUDA programming guide, "Throughput of Native Arithmetic Instructions".
A100 = Chip("A100", 1024, {"float": 64, "whole": 64, "functions": 16})
H100 = Chip("H100", 2048 * 0.62, {"float": 128, "whole": 64, "functions": 16})
CHIPS = {"sm_80": A100, "sm_90": H100}

_PRODUCTS = 16 * 8 * 16  # of an HMMA.16816


def _words(name: str) -> int:
    """How many times 128 bytes a warp's shared-memory instruction moves."""
    if name.endswith(".4") or ".128" in name:
        return 4
    return 2 if name.endswith(".2") or ".64" in name else 1


def cycles(loop: Loop, chip: Chip) -> dict[str, float]:
    """Of a scheduler for one warp's round, by pipe."""
    busy = {pipe: loop.count(pipe) * 32 / (lanes / 4) for pipe, lanes in chip.lanes.items()}
    busy["tensor"] = loop.count("tensor") * _PRODUCTS / (chip.tensor / 4)
    # One shared memory serves four schedulers, a quarter of its time each.
    words = sum(_words(i.name) for i in loop.instructions if i.goes_to("shared"))
    busy["shared"] = words * 128 / (chip.shared_bytes / 4)
    busy["issue"] = len(loop.instructions)
    return busy


def bound(loop: Loop, chip: Chip) -> tuple[float, str]:
    """The most that the tensor cores can be busy, and the pipe that says so."""
    busy = cycles(loop, chip)
    worst = max(busy, key=busy.__getitem__)
    return busy["tensor"] / busy[worst], worst
