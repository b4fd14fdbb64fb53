"""One face for every tokenizer trainer that is compared."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import vocabularies
from peers_tokenizer import OURS, UnavailableError, if_installed


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
    with if_installed(name):
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
