"""Rung 5: launches of the kernels' host code go to the PTX interpreter, with the process's own memory."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

import torch

from ladder.ptx import Kernel, Machine, entries, parse


def live_buffers() -> list[tuple[int, int]]:
    """Addresses and sizes of the storages of all tensors: what a kernel may touch."""
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu"]
    return [(storage.data_ptr(), storage.nbytes()) for storage in storages if storage.nbytes()]


class PtxRunner:
    """Takes the place of the CPU executor's fibers: `simt.run_launches(PtxRunner(files))`, of PTX.

    `schedule`: what Machine takes.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        texts = [path.read_text() for path in files]
        self._texts = {name: text for text in texts for name in entries(text)}
        self._kernels: dict[str, Kernel] = {}
        self.schedule: dict[str, bool] = {}
        self.launched: list[str] = []

    def __call__(
        self, name: str, blocks: int, threads: int, shared_bytes: int, cooperative: bool, parameters: bytes
    ) -> None:
        if name not in self._kernels:
            self._kernels[name] = parse(self._texts[name], name)
        machine = Machine(live_buffers(), **self.schedule)
        machine.launch(self._kernels[name], blocks, threads, shared_bytes, cooperative, parameters)
        self.launched.append(name)
