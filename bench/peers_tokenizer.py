"""One face for every tokenizer that is compared: what it takes to encode, decode and train with each.

`load(name, vocabulary, threads)` gives the roads that a library has; `train(name, ...)` trains with it. A library is
imported when it is asked for; one that is not there, or cannot do what is asked, raises UnavailableError.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
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
def _unavailable(name: str) -> Iterator[None]:
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
    with _unavailable(name):
        return _LOADERS[name](vocabulary, threads)


def _wordkiln(vocabulary: str, threads: int) -> Roads:
    import wordkiln as wk

    path = vocabularies.tiktoken_file(vocabulary)
    tokenizer = wk.Tokenizer.from_tiktoken(path, pattern=vocabulary, special_tokens={})
    return Roads(
        one=lambda text: tokenizer.encode(text, disallowed_special=()),
        batch=lambda texts: tokenizer.encode_batch(texts, disallowed_special=()),
        flat=lambda texts: tokenizer.encode_flat(texts, disallowed_special=()),
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


def train(
    name: str, texts: Iterable[str] | None, path: Path | None, vocab_size: int, pattern: str, threads: int
) -> Callable[[], list[bytes] | None]:
    """Train on texts or on a file; `vocab_size` counts no special token.

    Returns:
        What lists the learned tokens of more than one byte in the order of their merges, None for a library whose
        vocabulary is of another kind (characters).

    Raises:
        UnavailableError: The library is not installed, or cannot train on that source or with that pattern.
    """
    with _unavailable(name):
        return _TRAINERS[name](texts, path, vocab_size, pattern, threads)


def _train_wordkiln(texts, path, vocab_size, pattern, threads):
    import wordkiln as wk

    tokenizer = wk.Tokenizer.train(
        path if texts is None else texts, vocab_size=vocab_size, pattern=pattern, special_tokens=()
    )

    def learned() -> list[bytes]:
        return _of_merges(json.loads(tokenizer.to_json())["model"]["merges"])

    return learned


def _train_tokenizers(texts, path, vocab_size, pattern, threads):
    import tokenizers
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = Split(tokenizers.Regex(vocabularies.PATTERNS[pattern]), "isolated")
    spelled = ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    tokenizer.pre_tokenizer = spelled if pattern == "gpt2" else Sequence([split, spelled])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    if texts is not None:
        tokenizer.train_from_iterator(texts, trainer)
    else:
        tokenizer.train([str(path)], trainer)
    return lambda: _of_merges(json.loads(tokenizer.to_str())["model"]["merges"])


def _train_gigabpe(texts, path, vocab_size, pattern, threads):
    import gigabpe

    if texts is not None or pattern != "gpt2":
        raise UnavailableError("trains on files with GPT-2's pattern")
    _, merges = gigabpe.train_bpe([str(path)], vocab_size=vocab_size, pretokenizer="bytelevel", threads=threads)
    return lambda: _of_merges(merges)


def _train_gigatoken(texts, path, vocab_size, pattern, threads):
    import gigatoken

    if texts is not None or pattern != "gpt2":
        raise UnavailableError("trains on files with GPT-2's pattern")
    _, merges = gigatoken.train_bpe(str(path), vocab_size, [])
    return lambda: [left + right for left, right in merges]


def _train_rustbpe(texts, path, vocab_size, pattern, threads):
    import rustbpe

    if texts is None:
        raise UnavailableError("trains on an iterator")
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size=vocab_size, pattern=vocabularies.PATTERNS[pattern])
    return lambda: [
        bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])[256:]
    ]


def _train_bpeasy(texts, path, vocab_size, pattern, threads):
    import bpeasy

    if texts is None:
        raise UnavailableError("trains on an iterator")
    ranks = bpeasy.train_bpe(iter(texts), vocabularies.PATTERNS[pattern], 128, vocab_size)
    return lambda: [token for token, _ in sorted(ranks.items(), key=lambda item: item[1])[256:]]


def _train_sentencepiece(texts, path, vocab_size, pattern, threads):
    import sentencepiece

    lines = None if texts is None else (line for text in texts for line in text.split("\n"))
    source = {"input": str(path)} if lines is None else {"sentence_iterator": lines}
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            **source,
            model_prefix=os.path.join(folder, "model"),
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            # A small vocabulary has no room for all the characters of classical Chinese.
            character_coverage=0.9995 if vocab_size > 16_000 else 0.99,
            num_threads=threads,
            max_sentence_length=1 << 20,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    return lambda: None


_TRAINERS: dict[str, Callable[..., Callable[[], list[bytes] | None]]] = {
    OURS: _train_wordkiln,
    "tokenizers": _train_tokenizers,
    "gigabpe": _train_gigabpe,
    "gigatoken": _train_gigatoken,
    "rustbpe": _train_rustbpe,
    "bpeasy": _train_bpeasy,
    "sentencepiece": _train_sentencepiece,
}


def _of_merges(merges: Iterable[Any]) -> list[bytes]:
    byte_of = {character: byte for byte, character in enumerate(vocabularies.spelling())}
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [bytes(byte_of[character] for character in left + right) for left, right in pairs]
