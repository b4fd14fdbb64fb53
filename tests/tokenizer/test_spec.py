"""The native code against the plain definition."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.tokenizer import PATTERNS, Tokenizer, spec

pytestmark = pytest.mark.property

# Few letters, so that pairs repeat, overlap and tie.
small_texts = st.lists(st.text("abA 1\n中文", max_size=12), min_size=1, max_size=8).filter(any)


def native_merges(tokenizer):
    merges = {tokenizer.token_bytes(256 + rank): rank for rank in range(tokenizer.vocab_size - 256)}
    assert len(merges) == tokenizer.vocab_size - 256
    return list(merges)


def spec_tokens(merges):
    return [spec.decode([256 + rank], merges) for rank in range(len(merges))]


@given(small_texts, st.sampled_from(PATTERNS), st.integers(0, 12), st.integers(1, 3))
def test_training_finds_the_merges_of_the_definition(texts, pattern, merges, min_frequency):
    pieces = Counter(piece for text in texts for piece in _rust.pretokenize(text, pattern))
    expected = spec.train(pieces, merges, min_frequency)

    def train(size):
        options = {"pattern": pattern, "special_tokens": [], "min_frequency": min_frequency}
        return Tokenizer.train(iter(texts), vocab_size=256 + size, **options)

    assert native_merges(train(len(expected))) == spec_tokens(expected)
    if len(expected) < merges:
        with pytest.raises(ArgumentError, match=f"cannot be reached: {256 + len(expected)} tokens"):
            train(merges)


@given(small_texts, st.sampled_from(PATTERNS), st.text("abA 1\n中文x", max_size=80))
@settings(max_examples=200)
def test_encoding_and_decoding_follow_the_definition(texts, pattern, text):
    pieces = Counter(piece for text in texts for piece in _rust.pretokenize(text, pattern))
    merges = spec.train(pieces, 20)
    tokenizer = Tokenizer.train(iter(texts), vocab_size=256 + len(merges), pattern=pattern, special_tokens=[])
    expected = [id for piece in _rust.pretokenize(text, pattern) for id in spec.encode(piece, merges)]
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode_bytes(expected) == spec.decode(expected, merges) == text.encode()


def test_bytes_are_in_the_order_of_the_definition(tokenizer):
    assert b"".join(map(tokenizer.token_bytes, range(256))) == spec.BYTE_ORDER


@pytest.mark.golden
def test_the_worked_example_of_the_documentation():
    """docs/bpe.md shows these lines; what they print is checked here."""
    pieces = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    merges = spec.train(pieces, 6)
    assert spec_tokens(merges) == [b"es", b"est", b"lo", b"low", b"ew", b"new"]
    assert [spec.decode([id], merges) for id in spec.encode(b"lowest", merges)] == [b"low", b"est"]
    words = [word.decode() for word, count in pieces.items() for _ in range(count)]
    tokenizer = Tokenizer.train(iter(words), vocab_size=262, pattern="none", special_tokens=[])
    assert native_merges(tokenizer) == spec_tokens(merges)
    assert tokenizer.encode("lowest") == spec.encode(b"lowest", merges) == [259, 257]
