"""Texts and tokenizers that the tests of this room share."""

import inspect
import json
import random

import pytest
from hypothesis import strategies as st

from wordkiln.tokenizer import Tokenizer

CHINESE = (
    "中文分词是自然语言处理的基础。没有空格的文字，也要能切成词元！"
    "中国的语言、中国的文字；人工智能，机器学习，深度学习。学而时习之，不亦说乎？有朋自远方来，不亦乐乎？"
)
MIXED = (
    "Ünïcödé naïve façade Ωμέγα русский ไทย 한국어 日本語のテキスト 😀👍🏽👨\u200d👩\u200d👧 ½ Ⅷ ٣٤ \u0301e\u0301 "
    "'S 'LL don't I'VE ſ 'ſ"
)

_PARTS = [
    "a",
    "b",
    "the",
    " the",
    "T",
    "'s",
    "'S",
    "'ſ",
    " ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "234",
    "!",
    "...",
    "/",
    "é",
    "é",
]
_PARTS += ["中", "文", "的", "，", "\u3000", "😀", "\u200d", "½", "ไ", "ǅ", "ʰ", "\x00", "\u00a0", "\u0085", "<|end|>"]


@pytest.fixture(scope="session")
def tricky_texts():
    """A strategy; tests draw from it, since they cannot import from here."""
    return st.one_of(
        st.lists(st.sampled_from(_PARTS), max_size=20).map("".join),
        # Characters that are not assigned in this Python's tables may differ in the peers' too.
        st.text(st.characters(codec="utf-8", exclude_categories=["Cn", "Co"]), max_size=30),
    )


@pytest.fixture(scope="session")
def chinese():
    return CHINESE


@pytest.fixture(scope="session")
def english():
    return inspect.getdoc(random) + "\n" + "\n".join(inspect.getdoc(value) or "" for value in vars(random).values())


@pytest.fixture(scope="session")
def code():
    return inspect.getsource(random) + inspect.getsource(json)


@pytest.fixture(scope="session")
def texts(english, code):
    return [english, code, CHINESE * 3, MIXED * 2]


@pytest.fixture(scope="session")
def tokenizer(texts):
    return Tokenizer.train(iter(texts), vocab_size=1000, special_tokens=["<|end|>", "<|user|>"])
