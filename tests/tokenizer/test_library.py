"""Tokenizers that other libraries run, behind the same class."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from wordkiln import _rust
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer._library import LibraryTokenizer

pytestmark = pytest.mark.parity


def hugging_face(kind, texts):
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    specials = ["[UNK]", "[CLS]", "[SEP]"]
    if kind == "wordpiece":
        peer = HuggingFace(models.WordPiece(unk_token="[UNK]"))
        peer.normalizer = normalizers.BertNormalizer(lowercase=True)
        peer.pre_tokenizer, peer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    elif kind == "unigram":
        peer = HuggingFace(models.Unigram())
        peer.pre_tokenizer, peer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=specials, unk_token="[UNK]", show_progress=False
        )
    else:
        peer = HuggingFace(models.BPE(byte_fallback=True, unk_token="[UNK]"))
        peer.pre_tokenizer, peer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    peer.train_from_iterator(texts, trainer)
    return peer


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def pair(request, texts, tmp_path_factory):
    peer = hugging_face(request.param, texts)
    path = tmp_path_factory.mktemp(request.param)
    peer.save(str(path / "tokenizer.json"))
    return Tokenizer.load(path), peer


@pytest.fixture(scope="module")
def sentencepiece(texts, tmp_path_factory):
    library = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    lines = [line for text in texts for line in text.splitlines() if line]
    library.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        byte_fallback=True,
        minloglevel=2,
    )
    return Tokenizer.load(folder), library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_ids_and_text_are_the_librarys(pair, texts):
    ours, theirs = pair
    assert isinstance(ours, Tokenizer)
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False)
        assert ours.count(text) == len(expected)
    flat, offsets = ours.encode_flat(texts)
    assert (flat.dtype, len(flat), len(offsets)) == (np.uint16, offsets[-1], len(texts) + 1)
    ids, mask = ours.encode_padded(texts, max_length=5)
    assert (ids.shape, mask.all()) == ((len(texts), 5), True)
    assert ours.vocab_size == len(ours) == theirs.get_vocab_size()


def test_ids_and_text_are_sentencepieces(sentencepiece, texts, tmp_path):
    ours, theirs = sentencepiece
    for text in texts:
        assert ours.encode(text) == theirs.EncodeAsIds(text)
        assert ours.decode(ours.encode(text)) == theirs.DecodeIds(theirs.EncodeAsIds(text))
    assert (ours.special_tokens, ours.end_id) == ({"<s>": 1, "</s>": 2}, 2)
    assert ours.encode("a</s>b", allowed_special="all").count(2) == 1
    with pytest.raises(ArgumentError, match="</s>"):
        ours.encode("a</s>")
    assert 2 not in ours.encode("a</s>", disallowed_special=())
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours == pickle.loads(pickle.dumps(ours))
    with pytest.raises(ArgumentError, match=r"has no tokenizer\.json"):
        ours.to_json()


def test_special_tokens_are_refused_allowed_or_text(pair):
    ours, theirs = pair
    text = "the [SEP] cat [CLS]"
    with pytest.raises(ArgumentError, match="special token"):
        ours.encode(text)
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False).ids
    as_text = ours.encode(text, disallowed_special=())
    assert not {ours.special_tokens["[SEP]"], ours.special_tokens["[CLS]"]} & set(as_text)
    some = ours.encode(text, allowed_special={"[SEP]"}, disallowed_special=())
    assert (ours.special_tokens["[SEP]"] in some, ours.special_tokens["[CLS]"] in some) == (True, False)
    with pytest.raises(ArgumentError, match="allowed_special: '<no>'"):
        ours.encode(text, allowed_special={"<no>"})


def test_streams_give_the_text(pair, sentencepiece):
    for ours in (pair[0], sentencepiece[0]):
        ids = ours.encode("the quick brown fox, 中文分词")
        stream = ours.decode_stream()
        assert ("".join(map(stream.push, ids)) + stream.finish()).strip() == ours.decode(ids).strip()


@pytest.mark.parametrize("text", ["the cat, 中文分词! zq", "é\ud800a", ""])
def test_places_are_the_librarys(pair, sentencepiece, text):
    for ours in (pair[0], sentencepiece[0]):
        ids, places = ours.encode_with_offsets(text)
        assert ids == ours.encode(text)
        assert (places.dtype, places.shape) == (np.int64, (len(ids), 2))
        assert all(0 <= start <= stop <= len(text) for start, stop in places)
        in_bytes = ours.encode_with_offsets(text, unit="byte")[1]
        ends = np.cumsum([0, *(len(char.encode("utf-8", "surrogatepass")) for char in text)])
        assert (in_bytes == ends[places]).all()
    ours, theirs = pair
    if "\ud800" not in text:
        assert [tuple(place) for place in ours.encode_with_offsets(text)[1].tolist()] == theirs.encode(text).offsets


def test_special_tokens_have_their_places(pair):
    ours, _ = pair
    ids, places = ours.encode_with_offsets("a[SEP]", allowed_special="all")
    assert (ids[-1], places[-1].tolist()) == (ours.special_tokens["[SEP]"], [1, 6])


def test_copies_and_files(pair, tmp_path):
    ours, _ = pair
    copy = pickle.loads(pickle.dumps(ours))
    assert (copy == ours, copy.encode("text")) == (True, ours.encode("text"))
    ours.with_chat_template("x").save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded, loaded.chat_template) == (ours, "x")
    assert set(ours.vocabulary) <= set(range(len(ours)))


def test_every_native_method_is_replaced():
    native = {name for name in vars(_rust.TokenizerCore) if not name.startswith("__")}
    assert native <= set(vars(LibraryTokenizer))


@pytest.mark.abuse
def test_what_it_cannot_do_is_named(pair):
    ours, _ = pair
    for call in (
        lambda: ours.encode_with_offsets(b"\xff", unit="byte"),
        lambda: ours.encode_with_offsets("[SEP]"),
        lambda: ours.to_tiktoken_bytes(),
        lambda: ours.encode(7),
        lambda: ours.encode_batch("a"),
        lambda: ours.decode([10**6]),
        lambda: ours.decode([-1]),
        lambda: ours.decode(["a"]),
        lambda: ours.decode("a"),
        lambda: ours.decode(7),
        lambda: ours.decode_stream().push(10**9),
    ):
        with pytest.raises(ArgumentError):
            call()
    assert ours.encode("\ud800a") == ours.encode("\ufffda") == ours.encode(b"\xffa")


@pytest.mark.abuse
@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"\n\x05abc",
        b"\n\xff\xff\xff\xff",
        b"{}",
        b'{"model": 7}',
        b'{"model": {"type": "WordPiece"}}',
        b'{"model": {"type": "Unigram", "vocab": [["a", NaN]]}}',
        b'{"model": {"type": "Unigram", "unk_id": 99, "vocab": []}}',
        b'{"model": {"type": "WordLevel", "vocab": {"a": -1}}}',
        b'{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}',
    ],
)
def test_wrong_files_are_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FormatError):
        Tokenizer.load(tmp_path)


def test_a_missing_library_is_named(pair, tmp_path):
    ours, _ = pair
    ours.save(tmp_path)
    script = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from wordkiln.tokenizer import Tokenizer; from wordkiln.errors import DependencyError\n"
        f"try: Tokenizer.load({str(tmp_path)!r})\n"
        "except DependencyError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'wordkiln[formats]'" in run.stdout


def test_byte_level_files_stay_native(tokenizer):
    file = json.loads(tokenizer.to_json())
    assert type(Tokenizer._of(json.dumps(file).encode())) is Tokenizer
    file["normalizer"] = {"type": "Lowercase"}
    lower = Tokenizer._of(json.dumps(file).encode())
    assert (type(lower), lower.encode("THE")) == (LibraryTokenizer, tokenizer.encode("the"))
