"""A text that is given piece by piece while it is written."""

from __future__ import annotations

from collections.abc import Iterator

from wordkiln.errors import ArgumentError
from wordkiln.generation._row import Completion, FinishReason, Row


class TextStream(Iterator[str]):
    """An iterator of the pieces of one text, whole characters each. Ctrl-C ends it behind what was written."""

    def __init__(self, row: Row, writing: Iterator[list[str]]) -> None:
        self._row = row
        self._writing = writing
        self._given = self._giving = 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it goes on, then "end", "stop", "length", "interrupted" or "error"."""
        return self._row.finish_reason

    @property
    def completion(self) -> Completion | None:
        """The whole text with its ids and log-probabilities; None while it goes on."""
        return None if self._row.finish_reason is None else self._row.completion()

    def __next__(self) -> str:
        """The next non-empty piece.

        Raises:
            ArgumentError: the model gave logits that cannot be sampled, once all pieces before have been given.
        """
        # A piece counts as given when the next one is asked for: Ctrl-C may come before the caller has it.
        self._given = self._giving
        try:
            for (piece,) in self._writing:
                if piece:
                    self._giving = self._given + len(piece)
                    return piece
        except KeyboardInterrupt:
            self._row.interrupt()
            self._writing = iter(())
            if rest := self._row.text[self._given :]:
                self._giving = self._given + len(rest)
                return rest
        if self._row.error is not None:
            raise ArgumentError(self._row.error)
        raise StopIteration
