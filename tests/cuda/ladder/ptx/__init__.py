"""Runs the PTX that nvcc emitted, on numpy: what the built module really holds, without a GPU."""

from ladder.ptx.machine import Machine
from ladder.ptx.memory import KernelError
from ladder.ptx.parse import Kernel, UnknownPtxError, entries, parse

__all__ = ["Kernel", "KernelError", "Machine", "UnknownPtxError", "entries", "parse"]
