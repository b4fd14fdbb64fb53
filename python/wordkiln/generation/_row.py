"""One text that is being written: tokens in, text out, and when it is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from wordkiln.errors import ArgumentError
from wordkiln.generation._constraint import ConstraintMatcher
from wordkiln.generation._params import SamplingParams
from wordkiln.generation._stop import StopMatcher

FinishReason = Literal["stop", "length", "end", "interrupted", "error"]


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
        text: what was written: without the prompt, the end token, and what stopped it.
        ids: every token that was chosen, those of a stop string and the end token included.
        logprobs: the natural log-probability of each of `ids` under the model itself (no temperature, no other stage).
        finish_reason: "end": the model chose the end token, or a constraint left nothing else; "stop": a stop string or
            stop id came; "length": max_new_tokens; "interrupted": Ctrl-C; "error": see `error`.
        top_logprobs: for each of `ids` the most probable tokens and their log-probabilities, best first; None where
            `logprobs` was not asked for.
        prompt_logprobs: of each token of the prompt after those before it, None for the first; None where it was not
            asked for.
        error: why the text could not go on, where `finish_reason` is "error".
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    top_logprobs: list[dict[int, float]] | None = None
    prompt_logprobs: list[float | None] | None = None
    error: str | None = None


class Token(NamedTuple):
    """A token that was chosen, its log-probability, and the most probable ones where they were asked for."""

    id: int
    logprob: float
    top: dict[int, float]


@dataclasses.dataclass(frozen=True)
class Ending:
    """What ends a text.

    Attributes:
        max_new_tokens: most tokens.
        stops: strings.
        end_ids: tokens by which the model ends a text.
        stop_ids: tokens by which the caller does.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()


class Row:
    """A text that is being written.

    Attributes:
        prompt: ids that it goes on from.
        params: how its tokens are chosen.
        matcher: where it stands in its constraint, if it has one.
        prompt_logprobs: see `Completion`.
        finish_reason: None while it goes on.
        error: why it could not go on.
    """

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        ending: Ending,
        new_decoder: Callable[[], TextDecoder],
        matcher: ConstraintMatcher | None = None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.matcher = matcher
        self.prompt_logprobs: list[float | None] | None = None
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self._ending = ending
        self._new_decoder = new_decoder
        # One list, so that Ctrl-C cannot leave an id without its log-probability.
        self._tokens: list[Token] = []
        self._begin_text()

    def push(self, token: Token) -> str:
        """Take the next token; the text that may be shown by it."""
        self._tokens.append(token)
        shown = self._read(token.id)
        if self.matcher is None or self.finish_reason is not None:
            return shown
        try:
            self.matcher.commit(token.id)
        except ArgumentError as error:
            return shown + self.fail(str(error))
        # An end token could say no more than that, and not every model has one.
        return shown + self.finish("end") if self.matcher.is_finished else shown

    def finish(self, reason: FinishReason) -> str:
        """End the text here; what of it had been held back."""
        if self.finish_reason is not None:
            return ""
        shown = self._show(self._decoder.finish())
        self.finish_reason = "stop" if self._matcher.found else reason
        rest = self._matcher.finish()
        self._pieces.append(rest)
        return shown + rest

    def interrupt(self) -> None:
        """End the text where Ctrl-C came, be it in the middle of `push`: it is read again from its tokens."""
        if self.finish_reason is None:
            self._begin_text()
            for token in self._tokens:
                self._read(token.id)
            self.finish("interrupted")

    def fail(self, error: str) -> str:
        """End the text because of `error`; what of it had been held back."""
        self.error = error
        return self.finish("error")

    @property
    def text(self) -> str:
        """What may be shown so far."""
        return "".join(self._pieces)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def completion(self) -> Completion:
        """The finished text."""
        assert self.finish_reason is not None
        return Completion(
            self.text,
            [token.id for token in self._tokens],
            [token.logprob for token in self._tokens],
            self.finish_reason,
            [token.top for token in self._tokens] if self.params.logprobs else None,
            self.prompt_logprobs,
            self.error,
        )

    def _begin_text(self) -> None:
        self._decoder = self._new_decoder()
        self._matcher = StopMatcher(self._ending.stops)
        self._pieces: list[str] = []
        self._read_ids = 0

    def _read(self, token_id: int) -> str:
        self._read_ids += 1
        if token_id in self._ending.stop_ids:
            return self.finish("stop")
        if token_id in self._ending.end_ids:
            return self.finish("end")
        shown = self._show(self._decoder.push(token_id))
        if self._matcher.found:
            self.finish_reason = "stop"
        elif self._read_ids == self._ending.max_new_tokens:
            shown += self.finish("length")
        return shown

    def _show(self, piece: str) -> str:
        shown = self._matcher.push(piece)
        self._pieces.append(shown)
        return shown
