"""A text that is given piece by piece while it is written."""

from __future__ import annotations

from collections.abc import Iterator

from wordkiln.generation._row import FinishReason, Row


class TextStream(Iterator[str]):
    """An iterator of the pieces of one text, whole characters each. Ctrl-C ends it behind what was written."""

    def __init__(self, row: Row, writing: Iterator[str]) -> None:
        self._row = row
        self._writing = writing
        self._given = 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it goes on, then "end", "stop", "length" or "interrupted"."""
        return self._row.finish_reason

    def __next__(self) -> str:
        """The next non-empty piece."""
        try:
            for piece in self._writing:
                if piece:
                    self._given += len(piece)
                    return piece
        except KeyboardInterrupt:
            self._row.finish("interrupted")
            # The interrupt may have come between a piece's making and its giving.
            if rest := self._row.text[self._given :]:
                self._given += len(rest)
                return rest
        raise StopIteration
