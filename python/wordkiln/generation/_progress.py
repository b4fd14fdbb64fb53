"""How far a long job has come: a bar on the terminal, or a caller's own function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = bool | Callable[[int, int | None, int], object]


@contextlib.contextmanager
def reporter(progress: Progress, total: int | None) -> Iterator[Callable[[int, int], object] | None]:
    """Takes (texts that have ended, tokens written).

    Args:
        progress: True: a bar on standard error where that is a terminal; a function: called with
            (texts that have ended, `total`, tokens written); False: nothing.
        total: how many texts there will be, or None.
    """
    if callable(progress):
        yield lambda ended, tokens: progress(ended, total, tokens)
    elif progress:
        with _bar(total) as report:
            yield report
    else:
        yield None


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int, int], object]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tokens]:,} tokens"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, tokens=0)
        yield lambda ended, tokens: bar.update(task, completed=ended, tokens=tokens)
