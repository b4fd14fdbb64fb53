"""Runs the PTX that nvcc emitted, on numpy: what the built module really holds, without a GPU."""

from ladder.ptx.machine import Machine
from ladder.ptx.memory import Fault
from ladder.ptx.parse import Kernel, UnknownPtxError, entries, parse

__all__ = ["Fault", "Kernel", "Machine", "UnknownPtxError", "entries", "parse"]
