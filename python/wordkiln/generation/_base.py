"""What the methods of a `LanguageModel` stand on: the model, the tokenizer, and rows that are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wordkiln.errors import ArgumentError, Interrupted
from wordkiln.generation._prompt import PromptReader, RowMaker, TextTokenizer
from wordkiln.generation._recommended import with_recommended
from wordkiln.generation._row import Completion, Row
from wordkiln.generation._settings import SETTING_NAMES, Settings
from wordkiln.generation._stream import TextStream
from wordkiln.generation._writer import write
from wordkiln.generation.protocol import StepModel


class ModelBase:
    """See `LanguageModel`."""

    def __init__(
        self,
        model: StepModel[Any],
        tokenizer: TextTokenizer,
        *,
        end_ids: Iterable[int] | None = None,
        beginning: Sequence[int] | None = None,
        chat_template: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer.vocab_size > model.vocab_size:
            raise ArgumentError(
                f"tokenizer: has {tokenizer.vocab_size} tokens, but the model's vocab_size is {model.vocab_size}: "
                "it is not the tokenizer of this model"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.end_id = tokenizer.end_id if model.eos_token_id is None else model.eos_token_id
        self.end_ids = frozenset([self.end_id] if end_ids is None and self.end_id is not None else end_ids or ())
        self._reader = PromptReader(tokenizer, model.max_positions, self.end_id, beginning)
        self._template = chat_template
        self.recommended = dict(recommended or {})

    def _maker(self, settings: Any) -> tuple[RowMaker, Settings]:
        combined = with_recommended(settings, self.recommended, SETTING_NAMES)
        checked = Settings.check(combined, self.model.vocab_size)
        return RowMaker(self.model, self.tokenizer, self._reader, self.end_ids, checked), checked

    def _written(self, rows: list[Row]) -> list[Completion]:
        try:
            for _ in write(self.model, rows) if rows else ():
                pass
            return [row.completion() for row in rows]
        except KeyboardInterrupt:
            for row in rows:
                row.interrupt()
            raise Interrupted([row.completion() for row in rows]) from None

    def _stream(self, row: Row) -> TextStream:
        return TextStream(row, write(self.model, [row]))


def only(completions: list[Completion]) -> Completion:
    """The completion of the one row there is.

    Raises:
        ArgumentError: it could not go on.
    """
    (completion,) = completions
    if completion.error is not None:
        raise ArgumentError(completion.error)
    return completion
