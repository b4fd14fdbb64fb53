"""The process that chat templates are rendered in: kept for the next, as starting it takes longer than most of them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from wordkiln.errors import ArgumentError


class _Worker:
    """One process (`_chat_worker.py`), which may take `memory` bytes.

    Attributes:
        is_used: whether it has rendered something.
    """

    def __init__(self, memory: int) -> None:
        # -P: the folder of the script, which is ours, has modules whose names others use too.
        command = [sys.executable, "-P", str(Path(__file__).with_name("_chat_worker.py")), str(memory)]
        pipe = subprocess.PIPE
        try:
            # A session of its own: a terminal's Ctrl-C is not meant for it.
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise ArgumentError(f"chat template: {sys.executable} cannot be started: {error.strerror}") from error
        self.is_used = False

    def ask(self, request: bytes) -> bytes:
        """The line that it answers; nothing where it died."""
        self.is_used = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return b""
        return self._process.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Kill it where it lives; its exit code, and what it said last."""
        self._process.kill()
        said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
        return self._process.returncode, said[-1][:300] if said else ""

    def disown(self) -> None:
        """In a forked process, whose parent it serves: it must see that the parent's end is closed."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.returncode = 0  # not for this one to wait for


_idle: list[_Worker] = []  # at most one
_lock = threading.Lock()


def answer(request: bytes, seconds: float, memory: int) -> dict[str, Any]:
    """What a worker makes of a request (see there), which gives it so many seconds.

    A worker stays after a text. After an error it is ended, and one that had rendered before is not believed: what
    another template left in its memory must not count.

    Raises:
        ArgumentError: the time was over, or it died.
    """
    with _lock:
        idle = _idle.pop() if _idle else None
    worker = idle or _Worker(memory)
    was_used = worker.is_used
    try:
        line = worker.ask(request)
    except BaseException:
        worker.end()
        raise
    found = _parsed(line)
    if "text" in found:
        _keep(worker)
        return found
    code, said = worker.end()
    if code == -signal.SIGALRM:
        raise ArgumentError(f"chat template: was stopped after {seconds:g} seconds")
    if was_used:
        return answer(request, seconds, memory)
    if not found:
        raise ArgumentError(f"chat template: could not be rendered: {said or f'exit code {code}'}")
    return found


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return found


def _keep(worker: _Worker) -> None:
    with _lock:
        if not _idle:
            _idle.append(worker)
            return
    worker.end()


def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


def _disown_idle() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one
    while _idle:
        _idle.pop().disown()


atexit.register(_end_idle)
os.register_at_fork(after_in_child=_disown_idle)
