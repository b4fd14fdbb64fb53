"""What a run shows while it trains: a live line in a terminal, a plain line per validation elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressLine:
    """Step, losses, speed and remaining time on stderr.

    Args:
        total: steps of the run.
        start: steps done before.
        shown: False shows nothing at all.
    """

    def __init__(self, total: int, start: int, shown: bool) -> None:
        console = Console(file=sys.stderr)
        self._total = total
        self._plain = console if shown and not console.is_terminal else None
        self._live = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not shown or not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._live.add_task("train", total=total, completed=start, losses="")
        self._bits_per_byte: float | None = None

    def __enter__(self) -> ProgressLine:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, done: int, train_loss: float, tokens_per_second: float) -> None:
        """Show the state after `done` steps."""
        self._live.update(self._task, completed=done, losses=self._losses(train_loss, tokens_per_second))

    def validation(self, done: int, train_loss: float, bits_per_byte: float, tokens_per_second: float) -> None:
        """Show a validation's result."""
        self._bits_per_byte = bits_per_byte
        self.step(done, train_loss, tokens_per_second)
        if self._plain is not None:
            losses = self._losses(train_loss, tokens_per_second)
            self._plain.print(f"step {done:,}/{self._total:,}  {losses}", highlight=False)

    def _losses(self, train_loss: float, tokens_per_second: float) -> str:
        valid = "-" if self._bits_per_byte is None else f"{self._bits_per_byte:.3f}"
        return f"loss {train_loss:.3f}  valid {valid} bits/byte  {tokens_per_second:,.0f} tokens/s"
