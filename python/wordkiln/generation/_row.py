"""One text that is being written: ids in, text out, and when it is over."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from wordkiln.generation._stop import StopMatcher

FinishReason = Literal["stop", "length", "end", "interrupted"]


class TextDecoder(Protocol):
    """A tokenizer's `decode_stream()`."""

    def push(self, token_id: int, /) -> str:
        """The whole characters that `token_id` completes."""
        ...

    def finish(self) -> str:
        """What is left when no id will come."""
        ...


@dataclasses.dataclass(frozen=True)
class Completion:
    """A text that a model wrote.

    Attributes:
        text: what was written: without the prompt, the end token, and the stop string.
        ids: every token that was chosen, those of a stop string and the end token included.
        logprobs: the natural log-probability of each of `ids` under the model itself (no temperature, top_k, top_p).
        finish_reason: "end": the model chose the end token; "stop": a stop string came; "length": max_new_tokens;
            "interrupted": Ctrl-C, in a stream alone.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Row:
    """A text that is being written.

    Attributes:
        text: what may be shown so far.
        finish_reason: None while it goes on.
    """

    def __init__(self, decoder: TextDecoder, stops: tuple[str, ...], end_id: int | None, max_new_tokens: int) -> None:
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._end_id = end_id
        self._max_new_tokens = max_new_tokens
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._pieces: list[str] = []
        self.finish_reason: FinishReason | None = None

    def push(self, token_id: int, logprob: float) -> str:
        """Take the next token; the text that may be shown by it."""
        self._ids.append(token_id)
        self._logprobs.append(logprob)
        if token_id == self._end_id:
            return self.finish("end")
        shown = self._show(self._decoder.push(token_id))
        if self._matcher.found:
            self.finish_reason = "stop"
        elif len(self._ids) == self._max_new_tokens:
            shown += self.finish("length")
        return shown

    def finish(self, reason: FinishReason) -> str:
        """End the text here; what of it had been held back."""
        if self.finish_reason is not None:
            return ""
        shown = self._show(self._decoder.finish())
        self.finish_reason = "stop" if self._matcher.found else reason
        rest = self._matcher.finish()
        self._pieces.append(rest)
        return shown + rest

    @property
    def text(self) -> str:
        """What may be shown so far."""
        return "".join(self._pieces)

    def completion(self) -> Completion:
        """The finished text."""
        assert self.finish_reason is not None
        return Completion(self.text, self._ids, self._logprobs, self.finish_reason)

    def _show(self, piece: str) -> str:
        shown = self._matcher.push(piece)
        self._pieces.append(shown)
        return shown
