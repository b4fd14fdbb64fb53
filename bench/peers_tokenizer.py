"""One face for every tokenizer that is compared: what it takes to encode and decode with each.

`load(name, vocabulary, threads)` gives the roads that a library has. A library is imported when it is asked for; one
that is not there, or does not have the vocabulary, raises UnavailableError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import numpy as np
import vocabularies

OURS = "wordkiln"
DISTRIBUTIONS = {"quicktok": "quicktok-v1", "splintr": "splintr-rs", "toktok": "toktok-rs", "rs_bpe": "rs-bpe"}


class UnavailableError(Exception):
    """This library cannot take part; the message says why."""


@dataclass(frozen=True)
class Roads:
    """The ways a library offers; None where it has none.

    Attributes:
        one: A text to a list of ids.
        batch: Texts to lists.
        flat: Texts to whatever array or buffer the library holds many ids in.
        flat_ids: The ids in what `flat` gave, one array.
        decode: Ids to text.
    """

    one: Callable[[str], list[int]]
    batch: Callable[[list[str]], list[list[int]]] | None
    flat: Callable[[list[str]], Any] | None
    flat_ids: Callable[[Any], np.ndarray]
    decode: Callable[[list[int]], str]


@contextmanager
def if_installed(name: str) -> Iterator[None]:
    """Turns an ImportError of a peer into UnavailableError."""
    try:
        yield
    except ImportError:
        if name == OURS:
            raise
        raise UnavailableError("not installed") from None


def describe(name: str) -> str:
    """The library and its version, or that it is not installed."""
    try:
        return f"{name} {version(DISTRIBUTIONS.get(name, name))}"
    except PackageNotFoundError:
        return f"{name} (source)" if name == OURS else f"{name}: not installed"


def load(name: str, vocabulary: str, threads: int) -> Roads:
    """A fresh tokenizer, for "gpt2", "cl100k" or "o200k".

    Raises:
        UnavailableError: The library is not installed, or does not have the vocabulary.
    """
    with if_installed(name):
        return _LOADERS[name](vocabulary, threads)


def _wordkiln(vocabulary: str, threads: int) -> Roads:
    import wordkiln as wk

    path = vocabularies.tiktoken_file(vocabulary)
    tokenizer = wk.Tokenizer.from_tiktoken(path, pattern=vocabulary, special_tokens={})
    # Like the peers' `encode_ordinary`: there are no special tokens that could be refused.
    return Roads(
        one=tokenizer.encode,
        batch=tokenizer.encode_batch,
        flat=tokenizer.encode_flat,
        flat_ids=lambda result: result[0],
        decode=tokenizer.decode,
    )


def _tiktoken(vocabulary: str, threads: int) -> Roads:
    import tiktoken

    encoding = tiktoken.Encoding(
        vocabulary,
        pat_str=vocabularies.PATTERNS[vocabulary],
        mergeable_ranks=vocabularies.ranks(vocabulary),
        special_tokens={},
    )
    return Roads(
        one=encoding.encode_ordinary,
        batch=lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads),
        flat=lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts],
        flat_ids=np.concatenate,
        decode=encoding.decode,
    )


def _tokenizers(vocabulary: str, threads: int) -> Roads:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(vocabularies.json_file(vocabulary)))

    def batch(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return Roads(
        one=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        batch=batch,
        flat=batch,
        flat_ids=_joined,
        decode=tokenizer.decode,
    )


def _gigatoken(vocabulary: str, threads: int) -> Roads:
    import awkward
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_tiktoken(vocabularies.tiktoken_file(vocabulary))
    parallel = threads > 1
    return Roads(
        one=lambda text: tokenizer.encode(text).tolist(),
        batch=lambda texts: tokenizer.encode_batch_list(texts, parallel=parallel),
        flat=lambda texts: tokenizer.encode_batch(texts, parallel=parallel),
        flat_ids=lambda result: np.asarray(awkward.flatten(result)),
        decode=lambda ids: tokenizer.decode(ids).decode("utf-8", "replace"),
    )


def _snaptokens(vocabulary: str, threads: int) -> Roads:
    import snaptokens

    tokenizer = snaptokens.Tokenizer.from_file(str(vocabularies.json_file(vocabulary)))
    return Roads(
        one=lambda text: tokenizer.encode(text).ids,
        batch=lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)],
        flat=tokenizer.encode_batch_flat,
        flat_ids=_from_bytes,
        decode=tokenizer.decode,
    )


def _toktok(vocabulary: str, threads: int) -> Roads:
    import toktok

    tokenizer = toktok._Tokenizer(_openai_name(vocabulary), "")
    return Roads(
        one=tokenizer.encode_ordinary,
        batch=lambda texts: _lists(*tokenizer.encode_batch_to_numpy(texts, threads=threads)),
        flat=lambda texts: tokenizer.encode_batch_to_numpy(texts, threads=threads),
        flat_ids=lambda result: result[0],
        decode=tokenizer.decode,
    )


def _tuetoken(vocabulary: str, threads: int) -> Roads:
    import tuetoken

    tokenizer = tuetoken.Tokenizer(str(vocabularies.json_file(vocabulary)))
    return Roads(
        one=tokenizer.encode_ordinary,
        batch=lambda texts: tokenizer.encode_ordinary_batch(texts, num_threads=threads),
        flat=lambda texts: tokenizer.encode_ordinary_to_buffer(texts, num_threads=threads),
        flat_ids=lambda result: result["data"],
        decode=tokenizer.decode,
    )


def _splintr(vocabulary: str, threads: int) -> Roads:
    import splintr

    if vocabulary == "gpt2":
        tokenizer = splintr.from_json(str(vocabularies.json_file(vocabulary)))
    else:
        tokenizer = splintr.Tokenizer.from_pretrained(_openai_name(vocabulary))
    return Roads(
        one=tokenizer.encode_ordinary,
        batch=tokenizer.encode_batch,
        flat=tokenizer.encode_batch_flat,
        flat_ids=_from_bytes,
        decode=tokenizer.decode,
    )


def _quicktok(vocabulary: str, threads: int) -> Roads:
    import quicktok

    tokenizer = quicktok.Tokenizer(_openai_name(vocabulary), "")
    return Roads(
        one=tokenizer.encode_ordinary,
        batch=lambda texts: _lists(*tokenizer.encode_batch(texts, threads)),
        flat=lambda texts: tokenizer.encode_batch(texts, threads),
        flat_ids=lambda result: result[0],
        decode=tokenizer.decode,
    )


def _rs_bpe(vocabulary: str, threads: int) -> Roads:
    import rs_bpe

    tokenizer = getattr(rs_bpe.bpe.openai, _openai_name(vocabulary))()
    return Roads(
        one=tokenizer.encode,
        batch=lambda texts: list(tokenizer.encode_batch(texts)[0]),
        flat=None,
        flat_ids=_joined,
        decode=tokenizer.decode,
    )


_LOADERS: dict[str, Callable[[str, int], Roads]] = {
    OURS: _wordkiln,
    "tiktoken": _tiktoken,
    "tokenizers": _tokenizers,
    "gigatoken": _gigatoken,
    "snaptokens": _snaptokens,
    "toktok": _toktok,
    "tuetoken": _tuetoken,
    "splintr": _splintr,
    "quicktok": _quicktok,
    "rs_bpe": _rs_bpe,
}


def _openai_name(vocabulary: str) -> str:
    if vocabulary == "gpt2":
        raise UnavailableError("only OpenAI's newer vocabularies")
    return f"{vocabulary}_base"


def _lists(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [ids[start:stop].tolist() for start, stop in pairwise(offsets.tolist())]


def _joined(lists: list[list[int]]) -> np.ndarray:
    return np.concatenate([np.asarray(ids, np.uint32) for ids in lists])


def _from_bytes(result: tuple[bytes, bytes]) -> np.ndarray:
    return np.frombuffer(result[0], np.uint32)
