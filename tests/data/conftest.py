from __future__ import annotations

import numpy as np
import pytest

from wordkiln.errors import ArgumentError


class ByteTokenizer:
    """The smallest tokenizer there is: one id per byte and one that ends a document."""

    vocab_size = 258
    end_id = 256
    special_tokens = {"<|end|>": 256}  # noqa: RUF012  (never changed)
    fingerprint = "b" * 64

    def encode_flat(self, texts, *, allowed_special=frozenset(), disallowed_special="all"):
        assert disallowed_special == ()
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint16), offsets

    def decode_bytes(self, ids):
        if any(token == 257 for token in ids):
            raise ArgumentError("ids[0]=257: not in the vocabulary")
        return b"".join(bytes([token]) if token < 256 else b"<|end|>" for token in ids)

    def save(self, path):
        path.write_text("{}")


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()


@pytest.fixture
def byte_dataset(tmp_path):
    """Gives a data set of the text as bytes, the last tenth of it held out."""
    from wordkiln.data import TokenDataset

    def build(text, **options):
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8", newline="\n")
        return TokenDataset.build(path, ByteTokenizer(), tmp_path / "tokens", **{"valid_fraction": 0.1, **options})

    return build
