"""tokenizer.json and tiktoken rank files: parity with their makers, and files that are wrong."""

import contextlib
import copy
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.tokenizer import PATTERNS, Tokenizer


@pytest.fixture(scope="module", params=PATTERNS)
def of_pattern(request, texts):
    size = 257 if request.param == "bytes" else 600
    return Tokenizer.train(iter(texts), vocab_size=size, pattern=request.param)


@pytest.fixture(scope="module")
def hugging_face(of_pattern):
    from tokenizers import Tokenizer as HuggingFace

    return HuggingFace.from_str(of_pattern.to_json().decode())


@pytest.mark.parity
@given(data=st.data())
def test_hugging_face_gives_the_same_ids_with_our_file(of_pattern, hugging_face, data, tricky_texts):
    text = data.draw(tricky_texts)
    ids = of_pattern.encode(text, allowed_special="all")
    assert hugging_face.encode(text).ids == ids
    assert hugging_face.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parity
def test_hugging_face_sees_the_same_vocabulary(of_pattern, hugging_face):
    assert hugging_face.get_vocab_size() == of_pattern.vocab_size
    assert hugging_face.token_to_id("<|end|>") == of_pattern.end_id


@pytest.mark.parity
def test_a_file_of_hugging_face_is_read(of_pattern, hugging_face, texts):
    ours = Tokenizer(hugging_face.to_str().encode())
    assert ours == of_pattern
    legacy = json.loads(hugging_face.to_str())
    legacy["model"]["merges"] = [" ".join(merge) for merge in legacy["model"]["merges"]]
    assert Tokenizer(json.dumps(legacy).encode()) == of_pattern


@pytest.mark.parity
def test_a_tokenizer_trained_by_hugging_face_is_read(texts):
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import decoders, models, pre_tokenizers, trainers

    peer = HuggingFace(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    peer.train_from_iterator(texts, trainer)
    ours = Tokenizer(peer.to_str().encode())
    assert ours.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    assert (ours.vocab_size, ours.end_id, ours.pattern) == (500, 0, "gpt2")
    for text in [*texts, "a<pad>b<|endoftext|>"]:
        assert ours.encode(text, allowed_special="all") == peer.encode(text).ids
    # Written back, Hugging Face still agrees.
    again = HuggingFace.from_str(ours.to_json().decode())
    assert again.encode("a<pad>b").ids == peer.encode("a<pad>b").ids


def test_saved_files_are_loaded(of_pattern, tmp_path):
    of_pattern.save(tmp_path / "new" / "tok.json")
    of_pattern.save(tmp_path)
    assert Tokenizer.load(tmp_path) == Tokenizer.load(str(tmp_path / "new" / "tok.json")) == of_pattern


def test_the_post_processor_is_kept(tokenizer):
    file = json.loads(tokenizer.to_json())
    file["post_processor"] = {"type": "TemplateProcessing", "single": [], "x": 1.5}
    loaded = Tokenizer(json.dumps(file).encode())
    assert json.loads(loaded.to_json())["post_processor"] == file["post_processor"]
    assert loaded == tokenizer


def test_rank_files_go_both_ways(of_pattern, texts, tmp_path):
    of_pattern.to_tiktoken(tmp_path / "ranks")
    loaded = Tokenizer.from_tiktoken(
        tmp_path / "ranks", pattern=of_pattern.pattern, special_tokens=of_pattern.special_tokens
    )
    assert loaded.special_tokens == of_pattern.special_tokens
    for text in texts:
        assert loaded.encode(text) == of_pattern.encode(text)
    loaded.to_tiktoken(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "ranks").read_bytes()
    # Special tokens may stand apart from the others, through tokenizer.json too.
    apart = Tokenizer.from_tiktoken(tmp_path / "ranks", pattern="gpt2", special_tokens={"<|endoftext|>": 2000})
    assert (apart.vocab_size, apart.end_id) == (2001, 2000)
    assert Tokenizer(apart.to_json()) == apart
    with pytest.raises(ArgumentError, match="id 1999: the vocabulary has 2001 ids and none of them is it"):
        apart.decode([1999])


def test_equality_hash_repr_copy(tokenizer, of_pattern):
    same = Tokenizer(tokenizer.to_json())
    assert (same == tokenizer, hash(same) == hash(tokenizer), same != of_pattern) == (True, True, True)
    assert same != 7
    assert copy.copy(same) is same
    assert copy.deepcopy(same) is same
    assert repr(tokenizer) == "Tokenizer(vocab_size=1000, pattern='cl100k', special_tokens=[<|end|>, <|user|>])"
    assert len(tokenizer.fingerprint) == 64


def without(key):
    return lambda file: file["model"].pop(key)


def put(*path, value):
    def change(file):
        for key in path[:-1]:
            file = file[key]
        file[path[-1]] = value

    return change


def add_merge(*merge):
    return lambda file: file["model"]["merges"].append(list(merge))


def special(**fields):
    token = {"id": 300, "content": "<x>", "special": True}
    return lambda file: file["added_tokens"].append({**token, **fields})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("vocab"), "model.vocab is missing"),
        (without("merges"), "model.merges is missing"),
        (put("model", "type", value="WordPiece"), 'model.type "WordPiece": only "BPE"'),
        (put("model", "type", value="Unigram"), 'model.type "Unigram": only "BPE"'),
        (put("model", "type", value=7), "not a tokenizer.json: invalid type"),
        (put("model", "dropout", value=0.1), "model.dropout: not taken"),
        (put("model", "byte_fallback", value=True), "model.byte_fallback"),
        (put("model", "end_of_word_suffix", value="</w>"), "model.end_of_word_suffix: not taken"),
        (put("model", "continuing_subword_prefix", value="##"), "model.continuing_subword_prefix: not taken"),
        (put("normalizer", value={"type": "Lowercase"}), 'normalizer "Lowercase": not taken'),
        (put("decoder", value={"type": "WordPiece"}), 'decoder "WordPiece": not taken'),
        (put("pre_tokenizer", value=None), "pre_tokenizer: not one that this tokenizer knows: null"),
        (put("pre_tokenizer", value={"type": "Metaspace"}), "pre_tokenizer: not one that this tokenizer knows"),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": "("}), 'the regex "(" is refused'),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": ""}), "is refused: it is empty"),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": "a$"}), "^ and $ mean other things"),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": "(" * 9999}), "nests deeper than 64"),
        (put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": ".," * 9999}), "the limit is 16384"),
        (put("pre_tokenizer", "pretokenizers", 0, "behavior", value="Removed"), "pre_tokenizer: not one"),
        (put("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", value=True), "add_prefix_space must be false"),
        (put("model", "vocab", "中文", value=300), 'token "中文" is not spelled in byte-level characters'),
        (put("model", "vocab", "", value=300), 'token "" is not spelled'),
        (put("model", "vocab", "!!", value=0), "model.vocab: id 0 stands there twice"),
        (put("model", "vocab", "!!", value=400), "model.vocab: id 300 is missing"),
        (put("model", "vocab", "!!", value=4_194_304), "model.vocab has id 4194304: the limit is 4194304"),
        (put("model", "vocab", "!!", value=-1), "not a tokenizer.json: invalid value"),
        (put("model", "vocab", "!!", value=1.5), "not a tokenizer.json: invalid type"),
        (put("model", "vocab", "!!", value=2**70), "not a tokenizer.json"),
        (lambda file: file["model"]["vocab"].pop("!"), "model.vocab: id 0 is missing"),
        (
            put("model", "vocab", value=[]),
            "not a tokenizer.json: invalid type: sequence, expected a map from token to id",
        ),
        (put("model", "merges", value={}), "not a tokenizer.json: invalid type: map, expected a list of merges"),
        (put("model", "merges", 0, value="a b c"), 'merge "a b c" is not two tokens'),
        (put("model", "merges", 0, value=["a"]), "a merge has fewer than two tokens"),
        (put("model", "merges", 0, value=["a", "b", "c"]), "a merge has more than two tokens"),
        (put("model", "merges", 0, value=7), "expected a merge"),
        (add_merge("zq", "!"), r'merge 43 needs "zq", which is not in model.vocab'),
        (add_merge("!", "~"), r'merge 43 needs "!~", which is not in model.vocab'),
        (lambda file: file["model"]["merges"].append(file["model"]["merges"][0]), "merge 43 stands there twice"),
        (special(content=""), "special_tokens: one of them is empty"),
        (special(id=0), "model.vocab: id 0 stands there twice"),
        (special(content="<|end|>"), 'token "<|end|>" has id 299 in model.vocab and 300 as added token'),
        (special(id=299), "added tokens: id 299 stands there twice"),
        (special(id=4_194_304), "a special token has id 4194304: the limit is 4194304"),
        (put("added_tokens", value=7), "not a tokenizer.json: invalid type"),
        (put("model", value=None), "not a tokenizer.json: invalid type"),
    ],
)
def test_a_wrong_tokenizer_json_is_named(english, change, message):
    file = json.loads(Tokenizer.train(iter([english]), vocab_size=300).to_json())
    change(file)
    with pytest.raises((FormatError, ArgumentError)) as raised:
        Tokenizer(json.dumps(file).encode())
    assert message in str(raised.value)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "EOF while parsing"),
        (b"\xff\xfe", "not a tokenizer.json"),
        (b"[]", "not a tokenizer.json"),
        (b"{}", "missing field `model`"),
        (b'{"model": NaN}', "not a tokenizer.json"),
        (b'{"model": {"dropout": NaN, "vocab": {}, "merges": []}}', "not a tokenizer.json"),
        (b"[" * 1_000_000, "not a tokenizer.json"),
        (b'{"x":' * 100_000, "EOF while parsing"),
        (b'{"model":' + b"[" * 100_000, "not a tokenizer.json"),
        (b'{"normalizer":' + b'{"a":' * 100_000, "recursion limit exceeded"),
        (b'{"post_processor":' + b"[" * 100_000, "EOF while parsing"),
        (b'{"model": {"vocab": {"a": 0, "a": 1}, "merges": []}}', "pre_tokenizer: not one"),
        (b'{"model": {"vocab": {"a": 0}}, "model": {}}', "duplicate field `model`"),
    ],
)
def test_what_is_no_tokenizer_json_at_all(data, message):
    with pytest.raises(FormatError) as raised:
        Tokenizer(data)
    assert message in str(raised.value)


@pytest.mark.abuse
def test_duplicate_tokens_and_missing_bytes_are_named(tokenizer):
    text = tokenizer.to_json().decode()
    with pytest.raises(FormatError, match='token "!" stands there twice'):
        Tokenizer(text.replace('"vocab":{', '"vocab":{"!":0,').encode())
    file = json.loads(text)
    vocab = {f"{'!' * (i + 2)}": i for i in range(300)}
    file["model"].update(vocab=vocab, merges=[])
    file["added_tokens"] = []
    with pytest.raises(FormatError, match="byte 0x21 has no token, but id 0 is made of it"):
        Tokenizer(json.dumps(file).encode())


@pytest.mark.abuse
def test_ten_million_merges_are_refused(tokenizer):
    merges = b"[" + b'"a b",' * 10_000_000 + b'"a b"]'
    head, _ = tokenizer.to_json().split(b'"merges":', 1)
    for read in (Tokenizer, Tokenizer._of):
        with pytest.raises(FormatError, match="merges has more than 4194304 entries"):
            read(head + b'"merges":' + merges + b"}}")


@pytest.mark.abuse
def test_special_tokens_of_any_size_are_refused(tokenizer):
    file = json.loads(tokenizer.to_json())
    for contents, message in (
        (["x" * 50_000_000], 'special_tokens: "xxxxxxxxxxxxxxxxxxxx"... has 50000000 bytes: the limit is 16384'),
        ([f"{number:016000}" for number in range(1100)], "bytes in all: the limit is 16777216"),
    ):
        file["added_tokens"] = [{"id": 2000 + number, "content": text} for number, text in enumerate(contents)]
        with pytest.raises(FormatError) as raised:
            Tokenizer(json.dumps(file).encode())
        assert message in str(raised.value)


@pytest.mark.abuse
@pytest.mark.parametrize(
    "value", ["NaN", "1e400", "-1", "5000000000", "1" + "0" * 30, "1.5", "null", '"x"', "[]", "true"]
)
def test_numbers_that_are_no_ids_are_named(tokenizer, value):
    text = tokenizer.to_json().decode()
    for change in (text.replace('"!":0', f'"!":{value}'), text.replace('"id":998', f'"id":{value}')):
        assert change != text
        with pytest.raises(FormatError, match=r"not a tokenizer\.json"):
            Tokenizer._of(change.encode())


@pytest.mark.abuse
def test_every_fiftieth_of_a_file_is_named(tokenizer, tmp_path):
    data, ranks = tokenizer.to_json(), tokenizer.to_tiktoken_bytes()
    for part in range(50):
        with pytest.raises(FormatError):
            Tokenizer._of(data[: len(data) * part // 50])
        (tmp_path / "ranks").write_bytes(ranks[: len(ranks) * part // 50])
        try:
            # A rank file says nowhere where it ends: what is cut between two lines is a smaller one.
            shorter = Tokenizer.from_tiktoken(tmp_path / "ranks", pattern="cl100k")
        except FormatError:
            continue
        assert shorter.vocab_size < 1000


@pytest.mark.abuse
def test_merges_in_a_circle_are_named(tokenizer):
    file = json.loads(tokenizer.to_json())
    left, right = file["model"]["merges"][0]
    for circle in ([[left, right]], [[left + right, left], [left, right + left]], [[left, ""]], [["", ""]]):
        file["model"]["merges"] = [*circle, *circle]
        with pytest.raises(FormatError, match=r"model\.merges: merge \d needs|stands there twice"):
            Tokenizer._of(json.dumps(file).encode())


@pytest.mark.abuse
def test_truncated_and_altered_files_never_crash(tokenizer):
    data = tokenizer.to_json()
    generator = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 3)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        broken = broken[: generator.randint(0, len(broken))] if generator.random() < 0.5 else broken
        with contextlib.suppress(FormatError, ArgumentError):
            Tokenizer(bytes(broken)).encode("some text, 中文")


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"IQ=="], "line 1: no space between token and rank"),
        ([b"!!!! 0"], "line 1: the token is not base64"),
        ([b"IQ== x"], "line 1: the rank is not a number"),
        ([b"IQ== -1"], "line 1: the rank is not a number"),
        ([b"IQ== 99999999999999999999999"], "line 1: the rank is not a number"),
        ([b"IQ== 4194304"], "line 1: rank 4194304: the limit is 4194304"),
        ([b" 0"], "line 1: the token is empty"),
        ([b"IQ== 0", b"Ig== 0"], "line 2: rank 0 stands there twice"),
        ([b"IQ== 0", b"Ig== 2"], "rank 1 is missing"),
        ([b"IQ== 0", b"IQ== 1"], "rank 1: its token stands there twice"),
        ([b"IQ== 0"], "byte 0x00 has no token"),
        ([], "byte 0x00 has no token"),
    ],
)
def test_a_wrong_rank_file_is_named(tmp_path, lines, message):
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(FormatError) as raised:
        Tokenizer.from_tiktoken(path, pattern="gpt2")
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)


@pytest.mark.abuse
def test_wrong_special_tokens_of_a_rank_file_are_named(tokenizer, tmp_path):
    path = tmp_path / "ranks"
    tokenizer.to_tiktoken(path)
    for specials, message in [
        ({"<x>": 5}, "has id 5, which is an ordinary"),
        ({"<x>": -1}, "at least 0"),
        ({"": 9999}, "empty"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            Tokenizer.from_tiktoken(path, pattern="gpt2", special_tokens=specials)


def test_what_ranks_cannot_say_is_not_written(tokenizer, tmp_path):
    file = json.loads(tokenizer.to_json())
    file["model"]["merges"].reverse()
    shuffled = Tokenizer(json.dumps(file).encode())
    with pytest.raises(ArgumentError, match="its merges are not in the order of the ids"):
        shuffled.to_tiktoken(tmp_path / "ranks")
    assert not (tmp_path / "ranks").exists()


@pytest.mark.abuse
def test_paths_that_cannot_be_read_or_written(tokenizer, tmp_path):
    for path in (tmp_path / "missing.json", tmp_path, "no\0name"):
        with pytest.raises((PathError, ArgumentError)):
            Tokenizer.load(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PathError):
        tokenizer.save(tmp_path / "file" / "tokenizer.json")
    with pytest.raises(ArgumentError, match=r"Tokenizer\.load reads files"):
        Tokenizer("tokenizer.json")
