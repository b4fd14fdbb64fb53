"""Threads in numbers: each has a counter of its own, and those that stand at the same instruction run it together."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ladder.ptx import arithmetic, meetings
from ladder.ptx.memory import AsyncCopies, GlobalMemory, KernelError, SharedMemory
from ladder.ptx.parse import Instruction, Kernel, UnknownPtxError
from ladder.ptx.values import Array, Lanes, Reader, Values

READY, AT_WARP, AT_BLOCK, DONE, WAITING = range(5)  # WAITING: has read what another thread will write
_STATES = {
    AT_WARP: "in a warp's instruction",
    AT_BLOCK: "at the block's barrier",
    DONE: "returned",
    WAITING: "in a loop",
}
_LANES = 1024  # of independent blocks that run together
_NO_MASK = {"bar.warp.sync -1", "bar.warp.sync 0xffffffff"}


@dataclass(frozen=True)
class Decoded:
    what: str  # "plain", "warp", "block", "branch", "return" or "acquire"
    run: Callable[[Lanes], None]
    guard: Reader | None
    target: int
    ins: Instruction


class Machine:
    """One GPU. `early`: cp.async lands at once, not when waited for; `warp_ahead`: one warp as far as it gets."""

    def __init__(self, buffers: Iterable[tuple[int, int]], early: bool = False, warp_ahead: bool = False) -> None:
        self.memory = GlobalMemory(buffers)
        self.counts: collections.Counter[str] = collections.Counter()  # of instructions that warps ran, by name
        self._early, self._warp_ahead = early, warp_ahead

    def launch(
        self, kernel: Kernel, blocks: int, threads: int, shared: int, cooperative: bool, parameters: bytes
    ) -> None:
        """Runs a kernel to its end. Raises KernelError and UnknownPtxError."""
        if len(parameters) != kernel.parameter_bytes:
            raise KernelError(f"{kernel.name}: {len(parameters)} bytes of parameters, not {kernel.parameter_bytes}")
        together = blocks if cooperative else max(1, _LANES // threads)
        for first in range(0, blocks, together):
            resident = np.arange(first, min(first + together, blocks))
            grid = _Grid(self, kernel, resident, blocks, threads, shared, np.frombuffer(parameters, np.uint8))
            with np.errstate(all="ignore"):
                grid.run()


class _Grid:
    def __init__(
        self, machine: Machine, kernel: Kernel, blocks: Array, count: int, threads: int, shared: int, parameters: Array
    ) -> None:
        self._kernel, self._threads, self._counts = kernel, threads, machine.counts
        self._warp_ahead = machine._warp_ahead
        lanes = len(blocks) * threads
        block = np.repeat(np.arange(len(blocks)), threads)
        self._warp = np.arange(lanes) // 32
        self._warps = lanes // 32
        memory = SharedMemory(len(blocks), kernel.shared_bytes + shared)
        copies = AsyncCopies(memory, machine.memory, block, machine._early)
        self._state = meetings.State(machine.memory, memory, copies, parameters, block)
        thread = np.tile(np.arange(threads), len(blocks))
        special = {"%tid.x": thread, "%ctaid.x": blocks[block], "%nctaid.x": count, "%ntid.x": threads}
        special |= {"%laneid": thread % 32}
        words = {name: np.broadcast_to(np.asarray(x, np.uint32), lanes) for name, x in special.items()}
        symbols = kernel.parameters | kernel.shared
        self._values = Values(lanes, kernel.registers, words, symbols)
        self._pc, self._at = np.zeros(lanes, np.int64), np.zeros(lanes, np.int8)
        self._code = [self._decode(ins) for ins in kernel.code]
        self._leaders = set(kernel.labels.values())
        self._focus = self._now = 0
        self._written_before = -1

    def run(self) -> None:
        while True:
            ready = self._ready()
            if ready is None:
                return
            pc = int(self._pc[ready].min())
            lanes = ready[self._pc[ready] == pc]
            at = slice(None) if len(lanes) == len(self._pc) else lanes
            try:
                self._go_on(pc, at)
            except (KernelError, UnknownPtxError) as error:
                text = f"{error} ({self._kernel.name}, instruction {self._now}: {self._code[self._now].ins.text})"
                raise type(error)(text) from None

    def _decode(self, ins: Instruction) -> Decoded:
        guard = None if ins.guard is None else self._values.negatable("!" * ins.negated + ins.guard)
        if ins.opcode == "bra":
            return Decoded("branch", lambda at: None, guard, self._kernel.labels[ins.operands[0]], ins)
        if ins.opcode in ("ret", "exit"):
            return Decoded("return", lambda at: None, guard, -1, ins)
        if (
            ins.opcode in ("bar", "barrier")
            and ins.modifiers in (("sync",), ("cta", "sync"))
            and ins.operands == ("0",)
        ):
            return Decoded("block", lambda at: None, guard, -1, ins)
        if ins.text in _NO_MASK:
            return Decoded("warp", lambda at: None, guard, -1, ins)
        return Decoded(self._kind(ins), self._builder(ins), guard, -1, ins)

    @staticmethod
    def _kind(ins: Instruction) -> str:
        if ins.opcode in meetings.WARP_TABLE:
            return "warp"
        return "acquire" if ins.opcode == "ld" and {"acquire", "volatile"} & set(ins.modifiers) else "plain"

    def _builder(self, ins: Instruction) -> Callable[[Lanes], None]:
        tables = (arithmetic.TABLE, meetings.TABLE, meetings.WARP_TABLE)
        table = next((table for table in tables if ins.opcode in table), None)
        if table is None:
            raise UnknownPtxError(f"instruction {ins.text!r} of {self._kernel.name}")
        build, modifiers = table[ins.opcode]
        unknown = set(ins.modifiers) - modifiers
        if unknown:
            raise UnknownPtxError(f"modifier {sorted(unknown)} of {ins.text!r} of {self._kernel.name}")
        try:
            arguments = (ins, self._values) if table is arithmetic.TABLE else (ins, self._values, self._state)
            return build(*arguments)
        except (UnknownPtxError, KeyError, IndexError, ValueError) as error:
            raise UnknownPtxError(f"{error} in {ins.text!r} of {self._kernel.name}") from error

    # --- who runs next ---

    def _ready(self) -> Array | None:
        """The lanes that may run, or None at the end."""
        while True:
            ready = np.flatnonzero(self._at == READY)
            if len(ready):
                return self._one_warp(ready) if self._warp_ahead else ready
            if (self._at == DONE).all():
                return None
            if not self._open_barriers() and not self._wake():
                self._tell_deadlock()

    def _one_warp(self, ready: Array) -> Array:
        own = ready[self._warp[ready] == self._focus]
        if len(own):
            return own
        self._focus = int(self._warp[ready[-1]])  # the last: not the order of the lanes
        return ready[self._warp[ready] == self._focus]

    def _open_barriers(self) -> bool:
        opened = False
        at, pc = self._at.reshape(-1, self._threads), self._pc.reshape(-1, self._threads)
        for i in np.flatnonzero((at == AT_BLOCK).all(1)):
            if (pc[i] == pc[i][0]).all():
                at[i], opened = READY, True
                pc[i] += 1
        return opened

    def _wake(self) -> bool:
        """Threads that wait for another's store look again, if there was one."""
        waiting = self._at == WAITING
        if not waiting.any() or self._state.written == self._written_before:
            return False
        self._written_before = self._state.written
        self._at[waiting] = READY
        return True

    def _tell_deadlock(self) -> None:
        text = f"deadlock in {self._kernel.name}: threads wait for each other"
        for state, what in _STATES.items():
            for pc in np.unique(self._pc[self._at == state]):
                lanes = np.flatnonzero((self._at == state) & (self._pc == pc))
                place = "" if state == DONE else f" at instruction {pc}: {self._code[pc].ins.text}"
                text += f"\n  {len(lanes)} threads, the first is {lanes[0]}: {what}{place}"
        raise KernelError(text)

    # --- from one meeting to the next ---

    def _go_on(self, pc: int, at: Lanes) -> None:
        """Until the lanes part, wait, or come to where others may stand."""
        whole = False
        while True:
            step = self._code[pc]
            self._now = pc
            if step.what == "warp" and not whole:
                at = self._gathered(pc, at)
                if len(self._pc[at]) == 0:
                    return
                whole = True
            if step.what in ("branch", "return", "block"):
                self._leave(step, pc, at)
                return
            self._execute(step, at)
            pc += 1
            if step.what == "acquire" or pc in self._leaders:
                self._pc[at] = pc
                self._at[at] = WAITING if step.what == "acquire" else READY
                return

    def _execute(self, step: Decoded, at: Lanes) -> None:
        lanes = self._guarded(step, at)
        if step.what == "warp" and len(self._pc[lanes]) not in (0, len(self._pc[at])):
            raise KernelError("a warp's instruction for some of its lanes only")
        if len(self._pc[lanes]):
            self._counts[step.ins.opcode] += -(-len(self._pc[lanes]) // 32)
            step.run(lanes)

    def _guarded(self, step: Decoded, at: Lanes) -> Lanes:
        if step.guard is None:
            return at
        passes = step.guard(at)
        return at if passes.all() else self._state.lanes[at][passes]

    def _gathered(self, pc: int, at: Lanes) -> Lanes:
        """The whole warps among the lanes that stand here; the others wait for the rest of their warp."""
        self._pc[at] = pc
        here = np.flatnonzero((self._pc == pc) & (self._at <= AT_WARP))
        full = np.bincount(self._warp[here], minlength=self._warps)[self._warp[here]] == 32
        self._at[here] = np.where(full, READY, AT_WARP)
        return slice(None) if full.all() and len(here) == len(self._pc) else here[full]

    def _leave(self, step: Decoded, pc: int, at: Lanes) -> None:
        self._pc[at] = pc + (step.what == "branch")
        lanes = self._guarded(step, at)
        if step.what == "branch":
            self._pc[lanes] = step.target
        elif step.what == "block":
            if len(self._pc[lanes]) != len(self._pc[at]):
                raise KernelError("a barrier for some threads only")
            self._at[at] = AT_BLOCK
        else:
            self._state.copies.check_none_left(self._state.lanes[lanes])
            self._pc[at] = pc + 1
            self._at[lanes] = DONE
