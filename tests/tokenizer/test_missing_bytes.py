"""Vocabularies that do not hold every byte: Hugging Face's trainer makes them unless it is given the alphabet."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError, FormatError
from wordkiln.tokenizer import Tokenizer

TEXTS = st.text(st.sampled_from("the catsn中文 \n.zqé\x04\U00040000"), max_size=12)


@pytest.fixture(scope="module")
def files(texts):
    """tokenizer.json by way of cutting, from a trainer that saw no other bytes than those of the texts."""
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def file(cuts):
        peer = HuggingFace(models.BPE())
        peer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        peer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
        peer.train_from_iterator(["the cat sat on the mat. 中文分词\n" * 9], trainer)
        return peer

    return {"gpt2": file([]), "smollm2": file([pre_tokenizers.Digits(individual_digits=True)])}


@pytest.fixture(scope="module", params=["gpt2", "smollm2"])
def pair(request, files):
    peer = files[request.param]
    return Tokenizer(peer.to_str().encode()), peer


@pytest.mark.parity
@given(text=TEXTS)
def test_such_a_byte_cuts_and_is_left_out(pair, text):
    ours, theirs = pair
    assert type(ours) is Tokenizer
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.encode_batch([text, "the"]) == [ids, ours.encode("the")]
    assert ours.encode_flat([text])[0].tolist() == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.property
@given(text=TEXTS)
def test_places_hold_their_tokens(pair, text):
    ours, _ = pair
    data = text.encode()
    ids, places = ours.encode_with_offsets(text, unit="byte")
    known = {byte for token in ours.vocabulary.values() if len(token) == 1 for byte in token}
    assert ids == ours.encode(text)
    for id, (start, stop) in zip(ids, places, strict=True):
        assert bytes(byte for byte in data[start:stop] if byte in known) == ours.token_bytes(id)
        assert data[start] in known
    characters = ours.encode_with_offsets(text)[1]
    assert all(0 <= start < stop <= len(text) for start, stop in characters)


@pytest.mark.parity
def test_its_file_is_written_and_read_alike(pair):
    ours, theirs = pair
    again = Tokenizer(ours.to_json())
    assert again == ours
    text = "the \x04cat zq\x04\U00040000 中"
    assert type(theirs).from_str(ours.to_json().decode()).encode(text).ids == again.encode(text) == ours.encode(text)


def test_an_unknown_token_in_its_place_is_the_librarys_work(pair):
    file = json.loads(pair[0].to_json())
    file["model"]["unk_token"] = "<|endoftext|>"
    with pytest.raises(FormatError, match=r'unk_token "<\|endoftext\|>" stands for byte 0x00'):
        Tokenizer(json.dumps(file).encode())
    loaded = Tokenizer._of(json.dumps(file).encode())
    assert loaded.encode("a\x04") == pair[1].from_str(json.dumps(file)).encode("a\x04").ids


@pytest.mark.abuse
def test_what_needs_every_byte_is_named(pair):
    ours, _ = pair
    with pytest.raises(ArgumentError, match="base: byte 0x00 has no token"):
        Tokenizer.train(["text"], vocab_size=400, base=ours)
    with pytest.raises(ArgumentError, match="a rank file cannot hold this tokenizer: byte 0x00 has no token"):
        ours.to_tiktoken_bytes()
    file = json.loads(ours.to_json())
    file["model"].update(vocab={}, merges=[])
    with pytest.raises(FormatError, match="the vocabulary has no ordinary token"):
        Tokenizer(json.dumps(file).encode())


@pytest.mark.abuse
def test_a_megabyte_of_them(pair):
    assert pair[0].encode("\x04" * 1_000_000) == []
    assert pair[0].count("a\x04" * 500_000) == 500_000
