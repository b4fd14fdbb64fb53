"""Encoding and decoding: special tokens, every kind of text, batches, streams."""

import base64
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.tokenizer import PATTERNS, Tokenizer


@pytest.fixture(scope="module", params=PATTERNS)
def of_pattern(request, texts):
    size = 259 if request.param == "bytes" else 600
    specials = ["<|end|>", "<|end|>more", "<|user|>"]
    return Tokenizer.train(iter(texts), vocab_size=size, pattern=request.param, special_tokens=specials)


@pytest.fixture(scope="module")
def tiktoken_peer(of_pattern):
    """tiktoken with our ranks and our regex."""
    tiktoken = pytest.importorskip("tiktoken")
    from wordkiln.tokenizer import spec

    lines = of_pattern.to_tiktoken_bytes().split(b"\n")[:-1]
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    regex = spec.REGEXES.get(of_pattern.pattern, r"(?s:.+)")
    return tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=ranks, special_tokens=of_pattern.special_tokens)


@pytest.mark.parity
@given(data=st.data())
def test_ids_are_those_of_tiktoken(of_pattern, tiktoken_peer, data, tricky_texts):
    if of_pattern.pattern == "bytes":
        pytest.skip("tiktoken has no such pattern")
    text = data.draw(tricky_texts)
    assert of_pattern.encode(text, disallowed_special=()) == tiktoken_peer.encode_ordinary(text)


@pytest.mark.property
@given(data=st.data())
def test_every_text_comes_back(of_pattern, data, tricky_texts):
    text = data.draw(tricky_texts)
    ids = of_pattern.encode(text, allowed_special="all")
    assert of_pattern.decode(ids) == text
    assert of_pattern.decode_bytes(ids) == text.encode()
    assert of_pattern.count(text, allowed_special="all") == len(ids)


@pytest.mark.property
@given(data=st.binary(max_size=60))
def test_any_bytes_come_back(of_pattern, data):
    ids = of_pattern.encode(data)
    assert of_pattern.decode_bytes(ids) == data
    stream = of_pattern.decode_stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == of_pattern.decode(ids)


@pytest.mark.property
@given(text=st.text(st.characters(), max_size=20))
def test_lone_surrogates_come_back(tokenizer, text):
    ids = tokenizer.encode(text, disallowed_special=())
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8", "surrogatepass")
    assert tokenizer.decode(ids) == text


@pytest.mark.property
@given(data=st.data())
def test_batches_give_what_single_texts_give(tokenizer, data, tricky_texts):
    texts = data.draw(st.lists(tricky_texts, max_size=6))
    expected = [tokenizer.encode(text, allowed_special="all") for text in texts]
    assert tokenizer.encode_batch(texts, allowed_special="all") == expected
    ids, offsets = tokenizer.encode_flat(iter(texts), allowed_special="all")
    assert (ids.dtype, offsets.dtype, offsets.shape) == (np.uint16, np.int64, (len(texts) + 1,))
    assert [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets)] == expected


def test_large_batches_are_shared_between_threads(tokenizer, texts):
    many = [text[start:] for start in range(0, 400, 2) for text in texts]
    assert tokenizer.encode_batch(many) == [tokenizer.encode(text) for text in many]


def test_ids_beyond_16_bits_are_uint32(tokenizer, tmp_path):
    tokenizer.to_tiktoken(tmp_path / "ranks")
    wide = Tokenizer.from_tiktoken(tmp_path / "ranks", pattern="cl100k", special_tokens={"<|x|>": 65_536})
    assert wide.vocab_size == 65_537
    ids, _ = wide.encode_flat(["a<|x|>"], allowed_special={"<|x|>"})
    assert (ids.dtype, ids[-1]) == (np.uint32, 65_536)


class TestSpecialTokens:
    def test_they_are_refused_unless_allowed(self, tokenizer):
        with pytest.raises(
            ArgumentError, match=r'the text holds the special token "<\|end\|>": name it in allowed_spec'
        ):
            tokenizer.encode("a<|end|>")
        with pytest.raises(ArgumentError, match=r"<\|user\|>"):
            tokenizer.encode("a<|end|><|user|>", allowed_special={"<|end|>"})

    def test_allowed_ones_are_ids_and_others_text(self, tokenizer):
        end, user = tokenizer.special_tokens.values()
        a = tokenizer.encode("a")
        as_text = tokenizer.encode("<|user|>", disallowed_special=())
        assert tokenizer.encode("a<|end|>a<|user|>", allowed_special="all") == [*a, end, *a, user]
        assert user not in as_text
        ids = tokenizer.encode("a<|end|><|user|>", allowed_special=["<|end|>"], disallowed_special=())
        assert ids == [*a, end, *as_text]

    def test_any_text_can_be_disallowed(self, tokenizer):
        with pytest.raises(ArgumentError, match="secret"):
            tokenizer.encode("a secret", disallowed_special={"secret"})
        assert tokenizer.encode("a<|end|>", disallowed_special={"<|user|>"})

    def test_the_longest_of_several_is_taken(self, of_pattern):
        ids = of_pattern.encode("<|end|>more<|end|>", allowed_special="all")
        assert ids == [of_pattern.special_tokens["<|end|>more"], of_pattern.special_tokens["<|end|>"]]

    def test_an_allowed_one_must_exist(self, tokenizer):
        with pytest.raises(ArgumentError, match=r'allowed_special: "<\|no\|>" is not a special token'):
            tokenizer.encode("a", allowed_special={"<|no|>"})

    def test_text_before_one_ends_there(self, tokenizer):
        ids = tokenizer.encode("a  <|end|>  b", allowed_special="all")
        assert ids == [*tokenizer.encode("a  "), tokenizer.end_id, *tokenizer.encode("  b")]


class TestDecodeStream:
    def test_only_whole_characters_are_given(self, tokenizer):
        stream = tokenizer.decode_stream()
        pieces = [stream.push(tokenizer.encode(bytes([byte]))[0]) for byte in "é中😀".encode()]
        assert pieces == ["", "é", "", "", "中", "", "", "", "😀"]
        assert stream.finish() == ""

    def test_what_never_becomes_a_character_is_replaced(self, tokenizer):
        stream = tokenizer.decode_stream()
        ids = [tokenizer.encode(bytes([byte]))[0] for byte in b"a\xe4\xb8"]
        assert [stream.push(id) for id in ids] == ["a", "", ""]
        assert stream.finish() == "\ufffd"
        assert stream.finish() == ""

    def test_an_unknown_id_is_named(self, tokenizer):
        for id in (1000, -1, 2**40):
            with pytest.raises(ArgumentError, match=f"id {id}: "):
                tokenizer.decode_stream().push(id)


@pytest.mark.parametrize(
    "kind", [list, tuple, iter, np.array, lambda ids: np.array(ids, np.int32), np.uint16, np.uint32]
)
def test_ids_may_come_in_any_sequence(tokenizer, kind):
    ids = tokenizer.encode("some text 中文")
    assert tokenizer.decode(kind(ids)) == "some text 中文"
    assert tokenizer.decode(np.array([], np.uint32)) == ""


@pytest.mark.abuse
@pytest.mark.parametrize("ids", [[1000], [-1], [2**70], ["a"], [1.5], 7, None, "text", np.array([[1]]), [None], [[1]]])
def test_wrong_ids_are_named(tokenizer, ids):
    with pytest.raises(ArgumentError, match="id"):
        tokenizer.decode(ids)


@pytest.mark.abuse
@pytest.mark.parametrize(
    "call",
    [
        lambda tokenizer: tokenizer.encode(7),
        lambda tokenizer: tokenizer.encode(None),
        lambda tokenizer: tokenizer.encode(["a"]),
        lambda tokenizer: tokenizer.encode_batch("text"),
        lambda tokenizer: tokenizer.encode_batch(7),
        lambda tokenizer: tokenizer.encode_flat(["a", 7]),
        lambda tokenizer: tokenizer.encode("a", allowed_special="some"),
        lambda tokenizer: tokenizer.encode("a", disallowed_special=[7]),
        lambda tokenizer: tokenizer.encode("a", disallowed_special=7),
        lambda tokenizer: tokenizer.token_bytes("a"),
    ],
)
def test_wrong_arguments_are_named(tokenizer, call):
    with pytest.raises(ArgumentError):
        call(tokenizer)


@pytest.mark.abuse
@pytest.mark.parametrize("unit", ["a", " ", "\n", "中", "ab", "1", "!", "\u0301"])
def test_two_megabytes_of_the_same(tokenizer, unit):
    text = unit * (2_000_000 // len(unit.encode()))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.abuse
def test_one_endless_pre_token(texts):
    tokenizer = Tokenizer.train(iter(texts), vocab_size=600, pattern="none")
    text = "".join(texts) * 20
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.abuse
def test_ctrl_c_is_answered():
    script = """
import random, wordkiln as wk
text = random.Random(0).randbytes(10_000_000).hex()
tok = wk.Tokenizer.train([text[:100_000]], vocab_size=2000, pattern="none")
try:
    print("working", flush=True)
    while True:
        tok.encode_flat([text])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("interrupted\n", None)


def test_threads_share_a_tokenizer(tokenizer, texts):
    expected = [tokenizer.encode(text) for text in texts]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append([tokenizer.encode(text) for text in texts])) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 16


def test_a_forked_child_encodes(tokenizer, texts):
    expected = tokenizer.encode_batch(texts * 20)
    child = os.fork()
    if child == 0:
        os._exit(0 if tokenizer.encode_batch(texts * 20) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_other_processes_get_the_same(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.encode("text 中文") == tokenizer.encode("text 中文")


# Of several special tokens that start alike tiktoken takes any one.
NAMES = ["<|end|>", "<|user|>", "other"]


@pytest.mark.parity
@given(
    parts=st.lists(st.sampled_from([*NAMES, "a", " the", "中"]), max_size=6),
    allowed=st.just("all") | st.sets(st.sampled_from(NAMES[:2])),
    disallowed=st.sampled_from(["all", ()]) | st.sets(st.sampled_from(NAMES)),
)
def test_special_tokens_are_treated_as_tiktoken_does(of_pattern, tiktoken_peer, parts, allowed, disallowed):
    if of_pattern.pattern in ("bytes", "none"):
        pytest.skip("tiktoken has no such pattern")
    text, special = "".join(parts), {"allowed_special": allowed, "disallowed_special": disallowed}
    try:
        expected = tiktoken_peer.encode(text, **special)
    except ValueError:
        with pytest.raises(ArgumentError, match="the text holds the special token"):
            of_pattern.encode(text, **special)
    else:
        assert of_pattern.encode(text, **special) == expected
        assert of_pattern.count(text, **special) == len(expected)
        assert of_pattern.encode_flat([text], **special)[0].tolist() == expected


@pytest.mark.property
@given(text=st.text(st.sampled_from("a中😀é\ud800"), max_size=8), data=st.data())
def test_streams_give_the_text_whatever_the_tokens(tokenizer, text, data):
    # Every way to cut the bytes: a token for each part that the vocabulary holds, else one for each byte.
    encoded = text.encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    ids = [id for start, stop in itertools.pairwise(cuts) for id in tokenizer.encode(encoded[start:stop])]
    stream = tokenizer.decode_stream()
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)
