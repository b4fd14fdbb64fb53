"""Many prompts through one batch: as rows end others take their places, and what is written stays in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wordkiln.errors import ArgumentError, Interrupted
from wordkiln.generation._prompt import RowMaker
from wordkiln.generation._row import Completion, Row
from wordkiln.generation._writer import Writer
from wordkiln.generation.protocol import StepModel

Report = Callable[[int, int], object]


class BatchRun:
    """Writes rows, at most `max_batch_size` at a time.

    Args:
        model: what writes.
        groups: the rows of each prompt, made when their turn comes.
        max_batch_size: most rows at a time.
    """

    def __init__(self, model: StepModel[Any], groups: Iterator[list[Row]], max_batch_size: int) -> None:
        self._writer = Writer(model)
        self._groups = groups
        self._next: list[Row] | None = None
        self._max_batch_size = max_batch_size
        # Joining a batch may copy its state: several rows at once share the cost.
        self._join_from = max(1, max_batch_size // 4)
        self._begun: deque[Row] = deque()
        self._ended = self._tokens = 0

    def completions(self, report: Report | None = None) -> Iterator[Completion]:
        """Each row's, in order, as soon as it and those before it are there.

        Args:
            report: called with (rows that have ended, tokens written) after every step.

        Raises:
            Interrupted: Ctrl-C; with the rows that were begun and have not been given.
        """
        try:
            self._next = next(self._groups, None)
            while self._step(report):
                while self._begun and self._begun[0].finish_reason is not None:
                    yield self._begun.popleft().completion()
        except KeyboardInterrupt:
            raise Interrupted(self._interrupted()) from None

    def all(self, report: Report | None = None) -> list[Completion]:
        """As `completions`, every row's at the end.

        Raises:
            Interrupted: Ctrl-C; with the rows that were begun.
        """
        try:
            self._next = next(self._groups, None)
            while self._step(report):
                pass
            return [row.completion() for row in self._begun]
        except KeyboardInterrupt:
            raise Interrupted(self._interrupted()) from None

    def _step(self, report: Report | None) -> bool:
        """Let rows in and write one token in every row; False when nothing was left to do."""
        if self._next is None and not self._writer.rows:
            return False
        self._admit()
        if self._writer.rows:
            size = len(self._writer.rows)
            self._writer.step()
            self._tokens += size
            self._ended += size - len(self._writer.rows)
        if report is not None:
            report(self._ended, self._tokens)
        return True

    def _admit(self) -> None:
        free = self._max_batch_size - len(self._writer.rows)
        if self._writer.rows and free < self._join_from:
            return
        new: list[Row] = []
        while self._next is not None and len(new) + len(self._next) <= free:
            self._begun += self._next
            going = [row for row in self._next if row.finish_reason is None]
            self._ended += len(self._next) - len(going)
            new += going
            self._next = next(self._groups, None)
        if new:
            self._writer.add(new)

    def _interrupted(self) -> list[Completion]:
        for row in self._begun:
            row.interrupt()
        return [row.completion() for row in self._begun]


def rows_of(maker: RowMaker, prompts: Iterable[str], seeds: Iterator[int], n: int) -> Iterator[list[Row]]:
    """The rows of each prompt; those of one that cannot be written have failed already."""
    for index, (text, seed) in enumerate(zip(prompts, seeds, strict=False)):
        try:
            yield maker.of_text(text, seed, n, f"prompts[{index}]")
        except ArgumentError as error:
            yield [maker.failed(error) for _ in range(n)]
