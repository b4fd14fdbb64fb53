"""Constraints: what a text must match. Arguments are checked here, the matching is done by `rust/decode`."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks


class TokenTable(Protocol):
    """What a constraint needs of a tokenizer: `wordkiln.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_id(self) -> int | None: ...

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes of one id; an ArgumentError where it has none."""
        ...


class Constraint:
    """What a text must match, from its first token to its last: one of four kinds (docs/constraints.md).

    Args:
        tokenizer: whose tokens the text is made of.
        schema: a JSON schema, as JSON text or as what `json.dumps` takes: the text is JSON that it accepts. At most
            1 MiB.
        regex: a regular expression (no look-around, no back references) that the whole text matches. At most 64 KiB.
        choices: non-empty strings, of which the text is one. At most 1 MiB together.
        grammar: a grammar in llguidance's kind of Lark. At most 64 KiB.
        end_ids: the ids that may end a text; None: the tokenizer's `end_id`, if it has one.

    Attributes:
        end_ids: see above, as a tuple.
        vocab_size: V of the tokenizer.

    Raises:
        ArgumentError: not exactly one kind is given; it is malformed, or exceeds a limit of size, depth or time to
            compile.
    """

    def __init__(
        self,
        tokenizer: TokenTable,
        *,
        schema: str | Mapping[str, Any] | bool | None = None,
        regex: str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
        end_ids: Sequence[int] | None = None,
    ) -> None:
        kinds = {"schema": schema, "regex": regex, "choices": choices, "grammar": grammar}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            raise ArgumentError(f"constraint: {given or 'nothing'} given: must be one of {', '.join(kinds)}")
        if end_ids is None:
            end_ids = [] if tokenizer.end_id is None else [tokenizer.end_id]
        last = tokenizer.vocab_size - 1
        self.end_ids = tuple(_checks.integer("end_ids", id_, 0, last) for id_ in end_ids)
        self.vocab_size = tokenizer.vocab_size
        vocabulary = _vocabulary(tokenizer, self.end_ids)
        if schema is not None:
            self._matcher = vocabulary.schema(_json_text(schema))
        elif choices is not None:
            self._matcher = vocabulary.choices(list(_texts(choices)))
        elif regex is not None:
            self._matcher = vocabulary.regex(_text("regex", regex))
        else:
            self._matcher = vocabulary.grammar(_text("grammar", grammar))

    def matcher(self) -> ConstraintMatcher:
        """A new text's place in the constraint: its beginning."""
        return ConstraintMatcher(self._matcher.fresh(), self.vocab_size)


class ConstraintMatcher:
    """Where one text stands in its constraint. `Constraint.matcher()` makes it.

    Attributes:
        vocab_size: V of the tokenizer.
    """

    def __init__(self, native: _rust.ConstraintMatcher, vocab_size: int) -> None:
        self._native = native
        self.vocab_size = vocab_size

    def commit(self, token_id: int) -> None:
        """Go on by a token that has been written.

        Raises:
            ArgumentError: the constraint does not let it come (then nothing has changed), or a limit is exceeded.
        """
        self._native.commit(_checks.integer("token_id", token_id, 0, self.vocab_size - 1))

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return self._native.is_accepting

    @property
    def is_finished(self) -> bool:
        """Whether nothing but an end token may come: the text is whole."""
        return self._native.is_finished

    def copy(self) -> ConstraintMatcher:
        """A matcher at the same place, which goes its own way from there."""
        return ConstraintMatcher(self._native.copy(), self.vocab_size)


def fill_masks(matchers: Sequence[ConstraintMatcher]) -> NDArray[np.uint32]:
    """The tokens that may come next, for each matcher; on all threads.

    Args:
        matchers: B matchers of tokenizers with the same V; the same may stand there several times.

    Returns:
        uint32 [B, ceil(V / 32)]: bit i % 32 of word i / 32 is set where token i may come. Where a text may end, all end
        ids may come; where it must, nothing else; without an end id a finished text's row is empty.

    Raises:
        ArgumentError: a limit of time or memory for one step is exceeded.
    """
    sizes = {matcher.vocab_size for matcher in matchers}
    if len(sizes) > 1:
        raise ArgumentError(f"matchers: their tokenizers have {sorted(sizes)} tokens: must have the same number")
    masks = np.empty((len(matchers), -(-max(sizes, default=0) // 32)), np.uint32)
    _rust.fill_masks([matcher._native for matcher in matchers], masks)
    return masks


# Building the trie of a vocabulary takes longer than compiling most grammars: it is kept as long as its tokenizer.
_VOCABULARIES: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], _rust.ConstraintVocabulary]]
_VOCABULARIES = weakref.WeakKeyDictionary()


def _vocabulary(tokenizer: TokenTable, end_ids: tuple[int, ...]) -> _rust.ConstraintVocabulary:
    known = _VOCABULARIES.setdefault(tokenizer, {})
    if end_ids not in known:
        tokens = [_bytes_of(tokenizer, id_) for id_ in range(tokenizer.vocab_size)]
        known[end_ids] = _rust.ConstraintVocabulary(tokens, list(tokenizer.special_tokens.values()), list(end_ids))
    return known[end_ids]


def _bytes_of(tokenizer: TokenTable, token_id: int) -> bytes | None:
    try:
        return tokenizer.token_bytes(token_id)
    except ArgumentError:
        return None


def _json_text(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"schema: is no JSON: {error}") from error


def _texts(choices: Any) -> Sequence[str]:
    if isinstance(choices, str | bytes) or not isinstance(choices, Sequence):
        raise ArgumentError(f"choices: is {type(choices).__name__}: must be a list of strings")
    return [_text(f"choices[{index}]", choice) for index, choice in enumerate(choices)]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"{name}: is {type(value).__name__}: must be str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name}: holds a lone surrogate at position {error.start}") from error
    return value
