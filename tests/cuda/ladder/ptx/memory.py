"""Global and shared memory: every access is checked for bounds and alignment before it is made."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_PAGE = 4096  # the view of all memory cannot begin at a null pointer


class KernelError(Exception):
    """What is wrong with the kernel."""


def _check_alignment(addresses: np.ndarray, size: int) -> None:
    if (addresses % size).any():
        raise KernelError(f"an address of {size} bytes is no multiple of {size}")


class GlobalMemory:
    """The buffers of the process that the kernel may touch, as (address, bytes)."""

    def __init__(self, buffers: Iterable[tuple[int, int]]) -> None:
        self._begins, self._ends = self._merged(sorted(set(buffers)))
        everything = np.ctypeslib.as_array((ctypes.c_uint8 * (1 << 47)).from_address(_PAGE))
        self._views = {size: everything.view(kind) for size, kind in _UNSIGNED.items()}

    @staticmethod
    def _merged(buffers: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        begins, ends = [0], [0]
        for begin, size in buffers:
            if begin < ends[-1]:  # two tensors of one storage
                ends[-1] = max(ends[-1], begin + size)
            else:
                begins.append(begin)
                ends.append(begin + size)
        return np.array(begins, np.int64), np.array(ends, np.int64)

    def check(self, addresses: np.ndarray, size: int) -> None:
        _check_alignment(addresses, size)
        buffer = np.searchsorted(self._begins, addresses, "right") - 1
        outside = addresses + size > self._ends[buffer]
        if outside.any():
            raise KernelError(f"global memory outside every buffer: {hex(int(addresses[outside][0]))}, {size} bytes")

    def load(self, addresses: np.ndarray, size: int, count: int) -> list[np.ndarray]:
        self.check(addresses, size * count)
        at = (addresses - _PAGE) // size
        return [self._views[size][at + i] for i in range(count)]

    def store(self, addresses: np.ndarray, size: int, values: list[np.ndarray]) -> None:
        self.check(addresses, size * len(values))
        at = (addresses - _PAGE) // size
        for i, value in enumerate(values):
            self._views[size][at + i] = value


class SharedMemory:
    """The shared memory of all resident blocks. Starts as NaN of every type."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self._stride = -(-size // 128) * 128 + 128
        self._bytes = np.full(blocks * self._stride, 0xFF, np.uint8)
        self._views = {size: self._bytes.view(kind) for size, kind in _UNSIGNED.items()}

    def _place(self, block: np.ndarray, addresses: np.ndarray, size: int) -> np.ndarray:
        _check_alignment(addresses, size)
        if (addresses < 0).any() or (addresses + size > self.size).any():
            raise KernelError(f"shared memory outside its {self.size} bytes: {int(addresses.max())}, {size} bytes")
        return block * self._stride + addresses

    def load(self, block: np.ndarray, addresses: np.ndarray, size: int, count: int) -> list[np.ndarray]:
        at = self._place(block, addresses, size * count) // size
        return [self._views[size][at + i] for i in range(count)]

    def store(self, block: np.ndarray, addresses: np.ndarray, size: int, values: list[np.ndarray]) -> None:
        at = self._place(block, addresses, size * len(values)) // size
        for i, value in enumerate(values):
            self._views[size][at + i] = value


class AsyncCopies:
    """cp.async: copies land when waited for, or at once where `early`; a test runs both."""

    def __init__(self, shared: SharedMemory, memory: GlobalMemory, block: np.ndarray, early: bool) -> None:
        self._shared, self._memory, self._block, self._early = shared, memory, block, early
        self._groups = np.zeros(len(block), np.int64)
        self._pending: list[tuple[np.ndarray, ...]] = []  # lanes, their groups, to, from, valid

    def start(self, lanes: np.ndarray, to: np.ndarray, source: np.ndarray, valid: np.ndarray) -> None:
        self._shared._place(self._block[lanes], to, 16)
        self._memory.check(source[valid], 16)
        copy = (lanes, self._groups[lanes], to, source, valid)
        if self._early:
            self._land(copy)
        self._pending.append(copy)

    def commit(self, lanes: np.ndarray) -> None:
        self._groups[lanes] += 1

    def wait(self, lanes: np.ndarray, keep: int) -> None:
        waits = np.zeros(len(self._groups), bool)
        waits[lanes] = True
        left = []
        for copy in self._pending:
            done = waits[copy[0]] & (copy[1] < self._groups[copy[0]] - keep)
            self._land(tuple(part[done] for part in copy))
            if not done.all():
                left.append(tuple(part[~done] for part in copy))
        self._pending = left

    def check_none_left(self, lanes: np.ndarray) -> None:
        if any(np.isin(copy[0], lanes).any() for copy in self._pending):
            raise KernelError("a thread returns with cp.async copies that it never waited for")

    def _land(self, copy: tuple[np.ndarray, ...]) -> None:
        lanes, _, to, source, valid = copy
        words = [np.zeros(len(lanes), np.uint64) for _ in range(2)]
        for word, read in zip(words, self._memory.load(source[valid], 8, 2), strict=True):
            word[valid] = read
        self._shared.store(self._block[lanes], to, 8, words)
