"""Files as Hugging Face's tokenizers run them: normalization, added tokens, sequences of cuts, templates."""

import json
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError, FormatError
from wordkiln.tokenizer import Tokenizer

pytestmark = pytest.mark.parity

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTE_LEVEL, "use_regex": True}
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex, **more):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False, **more}


CUTS = {
    "smollm2": [{"type": "Digits", "individual_digits": True}, GPT2],
    "digits": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
    "punctuation": [{"type": "Punctuation", "behavior": "Isolated"}, GPT2],
    "deepseek": [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), BYTE_LEVEL],
    "string": [split("", pattern={"String": "a."}), BYTE_LEVEL],
    "empty_matches": [split(r"(?=[A-Z])"), BYTE_LEVEL],
    "look_ahead": [split(r"\w+(?=\s)|\S"), BYTE_LEVEL],
    "look_behind": [split(r"(?<=\d)\p{L}+|\s+"), BYTE_LEVEL],
    "gaps": [split(r"[aeiou]+\n?", invert=True), BYTE_LEVEL],
    "nested": [{"type": "Sequence", "pretokenizers": [split(r"\p{N}"), GPT2]}],
}


@pytest.fixture(scope="module")
def file(texts):
    tokenizer = Tokenizer.train(iter([*texts, "a.a.b.a." * 3]), vocab_size=700, pattern="gpt2")
    return json.loads(tokenizer.to_json())


@pytest.fixture(scope="module")
def pair(file):
    """Ours and theirs from one file."""
    from tokenizers import Tokenizer as HuggingFace

    kept = {}

    def pair(**changes):
        text = json.dumps({**file, **changes})
        if text not in kept:
            kept[text] = Tokenizer(text.encode()), HuggingFace.from_str(text)
        return kept[text]

    return pair


def assert_same(ours, theirs, text):
    expected = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, allowed_special="all") == expected.ids, text
    ids, offsets = ours.encode_with_offsets(text, allowed_special="all")
    assert ids == expected.ids
    return offsets, expected


@pytest.mark.parametrize("name", CUTS)
@given(data=st.data())
def test_sequences_of_cuts(pair, name, data, tricky_texts):
    ours, theirs = pair(pre_tokenizer={"type": "Sequence", "pretokenizers": CUTS[name]})
    assert_same(ours, theirs, data.draw(tricky_texts).replace("<|end|>", ""))


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_written_as_they_were_read(pair, name, texts):
    ours, theirs = pair(pre_tokenizer={"type": "Sequence", "pretokenizers": CUTS[name]})
    again = Tokenizer(ours.to_json())
    assert again == ours
    assert again.pattern == ours.pattern
    theirs = type(theirs).from_str(ours.to_json().decode())
    for text in texts:
        assert again.encode(text) == theirs.encode(text).ids == ours.encode(text)


@given(text=st.text(st.sampled_from("aeE1 \u0301\u0323\u0344\u1112\u1161\u11abé한Å\u212b中\u3099か"), max_size=12))
def test_normalization(pair, text):
    ours, theirs = pair(normalizer={"type": "NFC"})
    offsets, expected = assert_same(ours, theirs, text)
    assert ours.decode(expected.ids) == theirs.decode(expected.ids)
    # A stretch that normalization sees as one has one place; within it theirs are finer, and ours hold them.
    for (start, end), (their_start, their_end) in zip(offsets, expected.offsets, strict=True):
        assert start <= their_start
        assert their_end <= end


@given(text=st.text(st.sampled_from("ab中é 1\n!\u3000😀"), max_size=12))
def test_offsets_without_normalization(pair, text):
    ours, theirs = pair(pre_tokenizer={**BYTE_LEVEL, "trim_offsets": False, "use_regex": True}, post_processor=None)
    offsets, expected = assert_same(ours, theirs, text)
    assert [tuple(place) for place in offsets.tolist()] == expected.offsets


FLAGS = ["special", "single_word", "lstrip", "rstrip", "normalized"]


@pytest.mark.parametrize("nfc", [False, True])
@given(
    flags=st.lists(st.sets(st.sampled_from(FLAGS)), min_size=4, max_size=4),
    parts=st.lists(
        st.sampled_from(["<x>", "<x>y", "  ", " ", "word", "é", "e\u0301", "a", "中", "_", "1", "\n", "."]), max_size=9
    ),
)
def test_added_tokens(pair, file, nfc, flags, parts):
    contents = ["<x>", "<x>y", "word", "e\u0301"]
    added = [
        {"id": 800 + number, "content": content, **{flag: flag in chosen for flag in FLAGS}}
        for number, (content, chosen) in enumerate(zip(contents, flags, strict=True))
    ]
    text = json.dumps({**file, "added_tokens": added, "normalizer": {"type": "NFC"} if nfc else None})
    from tokenizers import Tokenizer as HuggingFace

    ours, theirs = Tokenizer(text.encode()), HuggingFace.from_str(text)
    # Theirs numbers added tokens anew where ids are left out.
    numbers = {theirs.token_to_id(content): 800 + number for number, content in enumerate(contents)}
    expected = [numbers.get(id, id) for id in theirs.encode("".join(parts), add_special_tokens=False).ids]
    assert ours.encode("".join(parts), allowed_special="all") == expected
    assert Tokenizer(ours.to_json()) == ours


def test_tokens_that_are_added_but_not_special_are_ordinary(file):
    added = [{"id": 700, "content": "<tool>", "special": False}, {"id": 699, "content": "<|end|>", "special": True}]
    tokenizer = Tokenizer(json.dumps({**file, "added_tokens": added}).encode())
    assert tokenizer.encode("<tool>") == [700]
    assert tokenizer.encode_batch(["<tool>", "a"], allowed_special={"<|end|>"})[0] == [700]
    assert tokenizer.encode("<tool><|end|>", allowed_special={"<|end|>", "<tool>"}) == [700, 699]
    with pytest.raises(ArgumentError, match=r"<\|end\|>"):
        tokenizer.encode("<tool><|end|>")


def template(**more):
    piece = {
        "<s>": {"id": "<s>", "ids": [700], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [701], "tokens": ["</s>"]},
    }
    first, a, b, last = (
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, last, b, last],
        "special_tokens": piece,
    }


@pytest.mark.parametrize(
    "processor",
    [
        None,
        {**GPT2},
        template(),
        {"type": "Sequence", "processors": [GPT2, template()]},
        {"type": "BertProcessing", "sep": ["</s>", 701], "cls": ["<s>", 700]},
        {
            "type": "RobertaProcessing",
            "sep": ["</s>", 701],
            "cls": ["<s>", 700],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
    ],
)
def test_special_tokens_around_texts(pair, processor):
    added = [
        {
            "id": 700 + n,
            "content": content,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for n, content in enumerate(["<s>", "</s>"])
    ]
    ours, theirs = pair(post_processor=processor, added_tokens=added)
    assert ours.add_special_tokens(ours.encode("some text")) == theirs.encode("some text").ids
    expected = theirs.encode("some text", "中文").ids
    assert ours.add_special_tokens(ours.encode("some text"), ours.encode("中文")) == expected


@pytest.mark.parametrize(
    "processor",
    [{"type": "Other"}, {"type": "TemplateProcessing"}, {"x": 1}, 7, [1], {"type": "Sequence", "processors": 7}],
)
def test_other_post_processors_are_named(file, processor):
    tokenizer = Tokenizer(json.dumps({**file, "post_processor": processor}).encode())
    with pytest.raises(FormatError, match="post_processor"):
        tokenizer.add_special_tokens([1])


@pytest.mark.abuse
def test_a_million_combining_marks(pair):
    ours, _ = pair(normalizer={"type": "NFC"})
    text = "a" + "\u0323\u0301" * 100_000 + "b"
    ids, offsets = ours.encode_with_offsets(text)
    assert (offsets[0][0], offsets[-1][1]) == (0, len(text))
    assert len(ids) == len(offsets)


def test_random_bytes_with_every_front(pair):
    generator = random.Random(0)
    ours, _ = pair(normalizer={"type": "NFC"}, pre_tokenizer={"type": "Sequence", "pretokenizers": CUTS["deepseek"]})
    for _ in range(200):
        data = generator.randbytes(generator.randrange(40)) + generator.choice(string.ascii_letters).encode()
        ids, offsets = ours.encode_with_offsets(data, unit="byte")
        assert offsets[-1][1] == len(data)
        if data.isascii():
            assert ours.decode_bytes(ids) == data
