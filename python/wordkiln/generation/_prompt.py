"""From a prompt to rows that can be written: its ids, whether they fit, and what each of its samples follows."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation._constraint import Constraint
from wordkiln.generation._params import SamplingParams
from wordkiln.generation._row import Ending, Row, TextDecoder
from wordkiln.generation._settings import Seed, Settings, SpecialTokens
from wordkiln.generation.protocol import StepModel

_ENCODE_OPTIONS: dict[SpecialTokens, dict[str, Any]] = {
    "error": {},
    "ids": {"allowed_special": "all"},
    "text": {"disallowed_special": ()},
}


class TextTokenizer(Protocol):
    """What generation needs of a tokenizer: `wordkiln.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_id(self) -> int | None: ...

    def encode(self, text: str, /) -> list[int]: ...

    def decode_stream(self) -> TextDecoder: ...


class PromptReader:
    """Texts to ids that the model goes on from.

    Attributes:
        beginning: ids before every text.
    """

    def __init__(
        self, tokenizer: TextTokenizer, limit: int | None, end_id: int | None, beginning: Sequence[int] | None
    ) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._end_id = end_id
        self.beginning = _beginning(tokenizer) if beginning is None else list(beginning)

    def encode(self, name: str, text: str, special_tokens: SpecialTokens = "error") -> list[int]:
        """The ids of a text alone.

        Raises:
            ArgumentError: it is no str, or holds the text of a special token.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"{name}: is {type(text).__name__}: must be str")
        try:
            return self._tokenizer.encode(text, **_ENCODE_OPTIONS[special_tokens])
        except ArgumentError as error:
            said = str(error).split(": ")[0]
            raise ArgumentError(
                f"{name}: {said}: special_tokens='ids' reads it as its id, special_tokens='text' as ordinary text"
            ) from error

    def words(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of each word, as the first of a text and behind another: they differ.

        Raises:
            ArgumentError: as `encode`.
        """
        forms = [(place, form) for place, word in enumerate(words) for form in (word, " " + word)]
        return [ids for place, form in forms if (ids := self.encode(f"bad_words[{place}]", form))]

    def start(self) -> list[int]:
        """What stands before the first token of a document: `beginning`, else the end token of the one before."""
        return self.beginning or ([] if self._end_id is None else [self._end_id])

    def read(self, name: str, text: str, room: int, settings: Settings) -> list[int]:
        """The ids that a prompt begins a row with, leaving `room` for new ones.

        Raises:
            ArgumentError: as `encode`; it is empty and there is no end token; it is too long.
        """
        ids = self.encode(name, text, settings.special_tokens)
        ids = [*self.beginning, *ids] if ids else self.start()
        if not ids:
            raise ArgumentError(f"{name}: is empty, and the tokenizer has no end-of-document token to start from")
        return self.fit(name, ids, room, settings.truncate)

    def fit(self, name: str, ids: list[int], room: int, truncate: Literal["left"] | None) -> list[int]:
        """The ids, or with truncate="left" the last of them behind `beginning`, that leave `room` for new ones."""
        if self._limit is None or len(ids) + room <= self._limit:
            return ids
        kept = self._limit - room - len(self.beginning)
        if truncate is None or kept < 1:
            advice = "" if truncate else "; truncate='left' would drop its beginning"
            raise ArgumentError(
                f"max_new_tokens={room}: with the {name}'s {len(ids)} tokens it exceeds the model's "
                f"{self._limit} positions{advice}"
            )
        return [*self.beginning, *ids[-kept:]]


class RowMaker:
    """Rows of the prompts of one call."""

    def __init__(
        self,
        model: StepModel[Any],
        tokenizer: TextTokenizer,
        reader: PromptReader,
        end_ids: frozenset[int],
        settings: Settings,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._reader = reader
        self._settings = settings
        self._ending = Ending(settings.max_new_tokens, settings.stop, end_ids, settings.stop_ids)
        self._params = self._sampling_params()
        self._constraint = constraint_of(settings, tokenizer, end_ids)

    def of_text(self, text: str, seed: int, n: int = 1, name: str = "prompt") -> list[Row]:
        """The `n` samples of a prompt.

        Raises:
            ArgumentError: see `PromptReader.read`.
        """
        return self.of_ids(self._reader.read(name, text, self._settings.max_new_tokens, self._settings), seed, n)

    def of_ids(self, ids: list[int], seed: int, n: int = 1) -> list[Row]:
        """The `n` samples of a prompt that is ids already."""
        rows = [self._row(ids, derive_seed(seed, sample)) for sample in range(n)]
        if self._settings.prompt_logprobs:
            scores = [None, *self._model.score([ids])[0].tolist()]
            for row in rows:
                row.prompt_logprobs = scores
        return rows

    def failed(self, error: ArgumentError) -> Row:
        """The row of a prompt that cannot be written."""
        row = self._row([], 0)
        row.fail(str(error))
        return row

    def _sampling_params(self) -> SamplingParams:
        """The settings of every row but for its seed."""
        settings, sampling = self._settings, self._settings.sampling
        return dataclasses.replace(
            sampling,
            bad_words_ids=[*sampling.bad_words_ids, *self._reader.words(settings.bad_words)],
            end_ids=sorted(self._ending.end_ids | self._ending.stop_ids),
            logprobs=settings.logprobs,
        )

    def _row(self, ids: list[int], seed: int) -> Row:
        params = dataclasses.replace(self._params, seed=seed)
        matcher = None if self._constraint is None else self._constraint.matcher()
        return Row(ids, params, self._ending, self._tokenizer.decode_stream, matcher)


def constraint_of(settings: Settings, tokenizer: TextTokenizer, end_ids: frozenset[int]) -> Constraint | None:
    """What the settings ask a text to match, if anything.

    Raises:
        ArgumentError: they ask for several things, or for what is malformed or too large.
    """
    kinds = {name: getattr(settings, name) for name in ("schema", "regex", "choices", "grammar")}
    if all(value is None for value in kinds.values()):
        return None
    table: Any = tokenizer
    return Constraint(table, **kinds, end_ids=sorted(id_ for id_ in end_ids if id_ < tokenizer.vocab_size))


def derive_seed(seed: int, sample: int) -> int:
    """The seed that sample number `sample` of a prompt follows when `seed` was given for the prompt.

    Sample 0 follows `seed` itself; the others 64 bits of Philox4x32-10 at (seed, sample), in a stream that
    sampling does not use.

    Raises:
        ArgumentError: a number is not from 0 to 2**64 - 1.
    """
    limit = 2**64 - 1
    return _rust.derive_seed(_checks.integer("seed", seed, 0, limit), _checks.integer("sample", sample, 0, limit))


def seeds(seed: Seed, count: int | None) -> Iterator[int]:
    """The seed of each of `count` prompts; None: of as many as there come."""
    if isinstance(seed, Sequence):
        if count is None or len(seed) != count:
            prompts = "an iterator of prompts: give a list of them" if count is None else f"{count} prompts"
            raise ArgumentError(f"seed: {len(seed)} seeds for {prompts}")
        return iter([_checks.integer(f"seed[{place}]", item, 0, 2**64 - 1) for place, item in enumerate(seed)])
    if seed is not None:
        _checks.integer("seed", seed, 0, 2**64 - 1)
    return _endless(seed)


def _endless(seed: int | None) -> Iterator[int]:
    while True:
        yield secrets.randbits(64) if seed is None else seed


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer's file puts before a text; what it puts behind one would end it, and is left out."""
    if not hasattr(tokenizer, "add_special_tokens"):
        return []
    some = 0
    around: list[int] = tokenizer.add_special_tokens([some])
    return around[: around.index(some)] if some in around else []
