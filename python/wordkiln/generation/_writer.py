"""The loop that every text is written by: rows share the model's steps, join the batch and leave it between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.generation._chooser import Chooser
from wordkiln.generation._row import Row
from wordkiln.generation.protocol import StepModel

Logits = NDArray[np.float32]


class Writer:
    """A batch of rows and the model's state of them.

    Attributes:
        rows: those that are being written.
    """

    def __init__(self, model: StepModel[Any]) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._chooser = Chooser(model.vocab_size)
        self._state: Any = None
        self._logits: Logits | None = None
        # Ids that were chosen and not read yet: a text is shown before the model's next step, not behind it.
        self._chosen: NDArray[np.int32] | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows; they are written from the next step on."""
        self._read_chosen()
        state, logits = self._begin(rows)
        if self.rows:
            assert self._logits is not None
            state, logits = self._model.join([self._state, state]), np.concatenate([self._logits, logits])
        self._state, self._logits = state, logits
        self._chooser.add(rows)
        self.rows = [*self.rows, *rows]

    def step(self) -> list[str]:
        """Write one token in every row; what each row shows by it. Rows that end leave the batch."""
        self._read_chosen()
        assert self._logits is not None
        tokens = self._chooser.choose(self._logits)
        shown = [
            row.fail(token) if isinstance(token, str) else row.push(token)
            for row, token in zip(self.rows, tokens, strict=True)
        ]
        going = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        self._chosen = np.array([token.id for token in tokens if not isinstance(token, str)], np.int32)
        if len(going) < len(self.rows):
            self._keep(going, tokens)
        return shown

    def _keep(self, going: list[int], tokens: Sequence[Any]) -> None:
        self.rows = [self.rows[index] for index in going]
        self._chooser.select(going)
        self._chosen = np.array([tokens[index].id for index in going], np.int32)
        self._state = self._model.select(self._state, going) if going else None

    def _read_chosen(self) -> None:
        if self.rows and self._chosen is not None:
            self._logits = self._model.step(self._state, self._chosen)
        self._chosen = None

    def _begin(self, rows: Sequence[Row]) -> tuple[Any, Logits]:
        """State and logits of new rows; a prompt that several in a row share is read once."""
        prompts: list[list[int]] = []
        prompt_of_row = []
        for row in rows:
            if not prompts or prompts[-1] is not row.prompt:
                prompts.append(row.prompt)
            prompt_of_row.append(len(prompts) - 1)
        state, logits = self._model.begin(prompts)
        if len(prompts) < len(rows):
            state, logits = self._model.select(state, prompt_of_row), logits[prompt_of_row]
        return state, logits


def write(model: StepModel[Any], rows: Sequence[Row]) -> Iterator[list[str]]:
    """Write `rows` to their ends; gives what each step shows."""
    writer = Writer(model)
    writer.add(rows)
    while writer.rows:
        yield writer.step()
