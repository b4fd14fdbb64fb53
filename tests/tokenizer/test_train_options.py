"""Training: counts, weights, special tokens in the text, alphabet, a base, ties."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.tokenizer import Tokenizer, spec


def merges_of(tokenizer):
    return json.loads(tokenizer.to_json())["model"]["merges"]


def by_definition(pieces, merges, ties):
    """The bytes of each merge's token."""
    order = spec.BYTE_ORDER if ties == "alphabet" else bytes(range(256))
    texts = {piece.translate(bytes.maketrans(order, spec.BYTE_ORDER)): count for piece, count in pieces.items()}
    found = spec.train(texts, merges)
    back = bytes.maketrans(spec.BYTE_ORDER, order)
    return [spec.decode([256 + rank], found).translate(back) for rank in range(len(found))]


@pytest.mark.property
@pytest.mark.parametrize("ties", ["alphabet", "bytes"])
@given(st.dictionaries(st.text("ab \nÿé中", min_size=1, max_size=30).map(str.encode), st.integers(1, 9), min_size=1))
@settings(deadline=None, max_examples=60)
def test_merges_follow_the_definition(ties, pieces):
    expected = by_definition(pieces, 12, ties)
    tokenizer = Tokenizer.train(pieces, vocab_size=256 + len(expected), pattern="none", special_tokens=(), ties=ties)
    assert [tokenizer.token_bytes(256 + rank) for rank in range(len(expected))] == expected


def test_a_table_of_counts_is_text_that_stands_there_so_often(english):
    words = english.split(" ")
    expected = Tokenizer.train(words, vocab_size=500)
    assert Tokenizer.train(Counter(words), vocab_size=500) == expected
    assert Tokenizer.train(Counter(word.encode() for word in words), vocab_size=500) == expected


def test_counts_beyond_32_bits():
    tokenizer = Tokenizer.train({"ab": 2**63, "cd": 2**63 - 1, "cde": 2}, vocab_size=258, special_tokens=())
    assert merges_of(tokenizer) == [["c", "d"], ["a", "b"]]
    Tokenizer.train({"ab": 2**64 - 1, "abc": 2**64 - 1}, vocab_size=257, special_tokens=())


def test_weights_are_repetition(tmp_path, english, code, chinese):
    path = tmp_path / "code.txt"
    path.write_text(code, encoding="utf-8")
    expected = Tokenizer.train([english] * 3 + [code] + [chinese] * 20, vocab_size=600)
    sources = [[english], path, {chinese: 10}]
    assert Tokenizer.train(sources, weights=[3, 1, 2], vocab_size=600) == expected


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        ([["a"], ["b"]], [1], "source must be a list of 1 sources"),
        (iter([["a"]]), [1], "source must be a list of 1 sources"),
        ([["a"]], [0], "weights: 0 must be an integer from 1 to"),
        ([["a"]], [1.5], "weights: 1.5 must be an integer from 1 to"),
        ({}, None, "source: is empty"),
        ({"ab": 0}, None, "the count of 'ab' is 0; must be 1 to"),
        ({"ab": -1}, None, "the count of 'ab' is -1; must be 1 to"),
        ({"ab": 2**64}, None, "the count of 'ab' is 18446744073709551616; must be 1 to"),
        ({"ab": "x"}, None, "the count of 'ab' is 'x'; must be 1 to"),
        ({7: 1}, None, "text: must be str or bytes, not int"),
    ],
)
def test_wrong_weights_and_counts_are_named(source, weights, message):
    with pytest.raises(ArgumentError, match=message.replace("*", r"\*")):
        Tokenizer.train(source, weights=weights, vocab_size=257)


def test_special_tokens_cut_the_text():
    plain = Tokenizer.train(["abab", "abcc"], vocab_size=258, pattern="none")
    assert Tokenizer.train(["abab<|end|>abcc"], vocab_size=258, pattern="none") == plain
    with pytest.raises(ArgumentError, match="source: holds no text"):
        Tokenizer.train(["<|end|><|end|>"], vocab_size=258)


def test_characters_of_the_alphabet_get_a_token(english):
    tokenizer = Tokenizer.train([english], vocab_size=300, initial_alphabet="a中文é中😀")
    for character in "a中文é😀":
        assert tokenizer.count(character) == 1
    # Two merges for each of three bytes, one for é, three for the last; 中 and 文 share none.
    assert merges_of(tokenizer)[:2] == [["ä", "¸"], ["ä¸", "Ń"]]
    assert tokenizer.vocab_size == 300
    with pytest.raises(ArgumentError, match=r"vocab_size=260: must be at least 265 \(264 ids to start from and 1 sp"):
        Tokenizer.train([english], vocab_size=260, initial_alphabet="中文é😀")


@pytest.mark.parametrize("ties", ["alphabet", "bytes"])
def test_going_on_gives_what_one_training_gives(texts, ties):
    small = Tokenizer.train(texts, vocab_size=400, special_tokens=(), ties=ties)
    whole = Tokenizer.train(texts, vocab_size=900, special_tokens=(), ties=ties)
    assert Tokenizer.train(texts, vocab_size=900, base=small, ties=ties) == whole
    assert Tokenizer.train(texts, vocab_size=400, base=small) == small


def test_ids_of_the_base_stay(texts, tokenizer, chinese):
    larger = Tokenizer.train([chinese * 5], vocab_size=1050, base=tokenizer, special_tokens=["<|end|>", "<|new|>"])
    assert larger.special_tokens == {**tokenizer.special_tokens, "<|new|>": 1049}
    assert all(larger.token_bytes(id) == tokenizer.token_bytes(id) for id in range(1000))
    assert larger.count(chinese) < tokenizer.count(chinese)
    assert larger.decode(larger.encode(chinese)) == chinese
    with pytest.raises(ArgumentError, match='pattern="gpt2": the tokenizer to start from has "cl100k"'):
        Tokenizer.train(texts, vocab_size=1050, base=tokenizer, pattern="gpt2")


def test_a_base_from_ranks_without_merges(tmp_path):
    ranks = Tokenizer.train(["abcabc xyz"], vocab_size=258, special_tokens=(), pattern="gpt2").to_tiktoken_bytes()
    path = tmp_path / "ranks"
    path.write_bytes(ranks + b"eHl6IHh5eg== 258\n")  # "xyz xyz", which nothing makes
    base = Tokenizer.from_tiktoken(path, pattern="gpt2")
    larger = Tokenizer.train(["xyz xyz xyz"] * 3, vocab_size=262, base=base)
    assert larger.vocab_size == 262
    assert larger.decode(larger.encode("xyz xyz")) == "xyz xyz"
