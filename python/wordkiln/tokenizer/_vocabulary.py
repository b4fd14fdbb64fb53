"""Tables of tokens and merges, put together as a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from wordkiln import _rust
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.tokenizer._checks import check_int


def numbered(tokens: Sequence[str]) -> dict[str, int]:
    """The id of each token.

    Raises:
        FormatError: A token stands there twice.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for id, token in enumerate(tokens) if ids[token] != id)
        raise FormatError(f"tokens: {twice!r} stands there twice")
    return ids


def tokenizer_json(
    ids: Mapping[str, int],
    merges: Iterable[str | tuple[str, str]],
    *,
    pattern: str,
    special_tokens: Iterable[str] | Mapping[str, int],
    added_tokens: Iterable[str] = (),
    ignore_merges: bool = False,
    normalize: bool = False,
) -> bytes:
    """The file; the arguments are those of `Tokenizer.from_vocabulary`, but that tokens come with their ids.

    Raises:
        ArgumentError: The pattern is unknown; a special token has no id; a token or merge is no text.
    """
    given = special_tokens if isinstance(special_tokens, Mapping) else dict.fromkeys(special_tokens)
    added = []
    for token in {**given, **dict.fromkeys(added_tokens)}:
        id = ids.get(token, given.get(token))
        if id is None:
            raise ArgumentError(f"special_tokens: {token!r} is not among the tokens and has no id")
        check_int(f"special_tokens[{token!r}]", id, 0)
        added.append({"id": id, "content": token, "special": token in given})
    file = {
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if normalize else None,
        "pre_tokenizer": json.loads(_rust.pattern_json(pattern)),
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": dict(ids), "merges": list(merges)},
    }
    try:
        return json.dumps(file).encode()
    except TypeError as error:
        raise ArgumentError(f"merges: must be pairs of str: {error}") from None
