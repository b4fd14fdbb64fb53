"""Text to token shards: which documents are held out, and the one pass that encodes and writes them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wordkiln.data.corpus import Corpus, Piece
from wordkiln.data.manifest import TOKEN_LENGTHS_FILE, TOKENIZER_FILE, write_manifest
from wordkiln.data.shards import ShardWriter
from wordkiln.errors import PathError, WordkilnError

if TYPE_CHECKING:
    from wordkiln.tokenizer import Tokenizer

# Texts are encoded together up to this many characters: enough for every thread, little enough for any memory.
_BATCH_CHARACTERS = 1 << 22

Progress = Callable[[int, int], None]
Pieces = Iterator[tuple[str, Piece]]


def assign_splits(corpus: Corpus, valid_fraction: float, seed: int) -> Pieces:
    """The pieces of the corpus with the split of each.

    Of several documents those with the smallest hashes of (seed, key) are held out, `valid_fraction` of them and at
    least one. Of a single one its tail is, in characters.
    """
    hashes = array("Q", (_hash(seed, key) for key in corpus.document_keys()))
    if len(hashes) == 1:
        yield from _cut_tail(corpus, valid_fraction)
        return
    count = min(max(1, round(len(hashes) * valid_fraction)), len(hashes) - 1)
    threshold = np.partition(np.array(hashes), count - 1)[count - 1] if hashes else 0
    for piece in corpus.pieces():
        yield "valid" if _hash(seed, piece.key) <= threshold else "train", piece


def explicit_splits(train: Corpus, valid: Corpus) -> Pieces:
    """The pieces of two corpora as train and valid."""
    for split, corpus in (("train", train), ("valid", valid)):
        for piece in corpus.pieces():
            yield split, piece


def write_dataset(
    folder: Path, tokenizer: Tokenizer, pieces: Pieces, shard_tokens: int, report: Callable[[], None]
) -> None:
    """Encode `pieces` into the shards of an empty `folder` and describe them in its manifest."""
    lengths = token_lengths(tokenizer)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    encoders = {
        split: _SplitEncoder(tokenizer, ShardWriter(folder, split, dtype, lengths, shard_tokens))
        for split in ("train", "valid")
    }
    for split, piece in pieces:
        if encoders[split].add(piece):
            report()
    for split, encoder in encoders.items():
        encoder.close()
        if not encoder.writer.shards:
            raise PathError(f"no text for the {split} split: the corpus is empty or too short")
    (folder / TOKEN_LENGTHS_FILE).write_bytes(lengths.astype("<u4").tobytes())
    tokenizer.save(folder / TOKENIZER_FILE)
    write_manifest(
        folder,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        splits={
            split: {"documents": encoder.documents, "shards": encoder.writer.shards}
            for split, encoder in encoders.items()
        },
    )
    report()


def token_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.uint32]:
    """UTF-8 bytes that each id stands for, uint32 [vocab_size]; 0 for special tokens and ids that are not in use."""
    lengths = np.zeros(tokenizer.vocab_size, np.uint32)
    special = set(tokenizer.special_tokens.values())
    for token in range(tokenizer.vocab_size):
        if token not in special:
            try:
                lengths[token] = len(tokenizer.decode_bytes([token]))
            except WordkilnError:  # a hole in the vocabulary
                continue
    return lengths


class _SplitEncoder:
    """Collects pieces of one split and encodes many at once."""

    def __init__(self, tokenizer: Tokenizer, writer: ShardWriter) -> None:
        self.writer = writer
        self.documents = 0
        self._tokenizer = tokenizer
        self._texts: list[str] = []
        self._ends: list[int] = []
        self._characters = 0
        self._document_has_text = False

    def add(self, piece: Piece) -> bool:
        """True when the texts so far went to the shards."""
        if piece.text:
            self._texts.append(piece.text)
            self._characters += len(piece.text) + 64  # an empty list entry is not free either
            self._document_has_text = True
        if piece.ends_document and self._document_has_text:
            self.documents += 1
            self._ends.append(len(self._texts))
            self._document_has_text = False
        if self._characters < _BATCH_CHARACTERS:
            return False
        self._flush()
        return True

    def close(self) -> None:
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        ids: npt.NDArray[Any]
        # A corpus is data: what looks like a special token in it is ordinary text.
        ids, offsets = self._tokenizer.encode_flat(self._texts, disallowed_special=())
        end = self._tokenizer.end_id
        if end is not None:
            ids = np.insert(ids, offsets[self._ends], end)
        self.writer.append(ids)
        self._texts, self._ends, self._characters = [], [], 0


def _cut_tail(corpus: Corpus, valid_fraction: float) -> Pieces:
    characters = sum(len(piece.text) for piece in corpus.pieces())
    left = characters - max(1, round(characters * valid_fraction))
    for piece in corpus.pieces():
        head, tail = piece.text[:left], piece.text[left:]
        left -= len(head)
        if head:
            yield "train", Piece(piece.key, head, left == 0)
        if tail or piece.ends_document:
            yield "valid", Piece(piece.key, tail, piece.ends_document)


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest())
