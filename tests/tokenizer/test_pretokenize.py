"""Cutting text: the scanners against the regexes of the definition."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.tokenizer import PATTERNS, Tokenizer, spec


@pytest.mark.parity
@pytest.mark.parametrize("pattern", spec.REGEXES)
@given(data=st.data())
def test_scanners_cut_as_the_regexes_do(pattern, data, tricky_texts):
    regex = pytest.importorskip("regex")
    text = data.draw(tricky_texts)
    expected = [match.encode() for match in regex.findall(spec.REGEXES[pattern].replace(r"\z", r"\Z"), text)]
    assert _rust.pretokenize(text, pattern) == expected


@pytest.mark.parametrize("pattern", spec.REGEXES)
def test_the_saved_regex_is_the_definition(pattern):
    file = json.loads(Tokenizer.train(iter(["x"]), vocab_size=256, pattern=pattern, special_tokens=[]).to_json())
    if pattern == "gpt2":
        assert file["pre_tokenizer"]["use_regex"] is True
    else:
        assert file["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": spec.REGEXES[pattern]}


def test_patterns_without_a_regex():
    assert set(PATTERNS) == {*spec.REGEXES, "bytes", "none"}
    assert _rust.pretokenize("a 中", "bytes") == [b"a", b" ", b"\xe4", b"\xb8", b"\xad"]
    assert _rust.pretokenize("a 中", "none") == ["a 中".encode()]
    assert _rust.pretokenize("", "none") == []


def test_an_unknown_pattern_is_named():
    with pytest.raises(ArgumentError, match=r"pattern=\"klingon\": must be one of gpt2, cl100k"):
        _rust.pretokenize("x", "klingon")


@pytest.mark.abuse
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "unit", [" ", "\n", "a", "A", "1", "!", "'", "中", "\u0301", "😀\u200d", " \n", "aA", "\ud800"]
)
def test_a_megabyte_of_the_same(pattern, unit):
    text = (unit * (1_000_000 // len(unit.encode("utf-8", "surrogatepass")))).encode("utf-8", "surrogatepass")
    assert b"".join(_rust.pretokenize(text, pattern)) == text
