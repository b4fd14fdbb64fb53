"""tekken.json and vocab.txt: Mistral's and BERT's own files."""

import base64
import json

import pytest

from wordkiln.errors import FormatError
from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer.spec import REGEXES

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "中", "文", "!", "The", "é"]


def tekken(tokenizer, **more):
    lines = [line.split() for line in tokenizer.to_tiktoken_bytes().splitlines()]
    vocab = [{"rank": int(rank), "token_bytes": token.decode(), "token_str": None} for token, rank in lines]
    config = {
        "pattern": REGEXES["o200k"],
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) + 20,
        "default_num_special_tokens": 20,
        "version": "v3",
    }
    return {"config": {**config, **more}, "vocab": vocab}


@pytest.fixture(scope="module")
def original(texts):
    return Tokenizer.train(iter(texts), vocab_size=600, pattern="o200k", special_tokens=[])


@pytest.mark.parity
def test_tekken_is_tiktoken_after_the_special_tokens(original, texts, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    file = tekken(original)
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    ours = Tokenizer.load(tmp_path)
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in file["vocab"]}
    theirs = tiktoken.Encoding("t", pat_str=REGEXES["o200k"], mergeable_ranks=ranks, special_tokens={})
    for text in texts:
        assert ours.encode(text) == [20 + id for id in theirs.encode_ordinary(text)]
        assert ours.decode(ours.encode(text)) == text
    assert (ours.vocab_size, ours.pattern, ours.end_id) == (620, "o200k", 2)
    assert ours.encode("[INST]中", allowed_special="all")[0] == 3
    assert Tokenizer(ours.to_json()) == ours


def test_tekken_may_name_its_special_tokens_and_use_a_part_of_its_ranks(original):
    file = tekken(original, default_vocab_size=502, default_num_special_tokens=2)
    file["special_tokens"] = [{"rank": 0, "token_str": "</s>", "is_control": True}]
    ours = Tokenizer._of(json.dumps(file).encode())
    assert (ours.vocab_size, ours.special_tokens) == (502, {"</s>": 0, "<SPECIAL_1>": 1})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["config"].pop("pattern"), "config.pattern is missing"),
        (lambda file: file["config"].update(pattern="("), "is refused"),
        (lambda file: file["config"].update(default_vocab_size=5 * 10**9), "config.default_vocab_size=5000000000"),
        (lambda file: file["config"].update(default_vocab_size=True), "config.default_vocab_size=True"),
        (lambda file: file["config"].update(default_num_special_tokens=-1), "config.default_num_special_tokens=-1"),
        (lambda file: file["config"].update(default_vocab_size=3), "is less than default_num_special_tokens=20"),
        (lambda file: file["vocab"].__setitem__(3, 7), "vocab[3] has no rank and base64 token_bytes"),
        (lambda file: file["vocab"][3].update(token_bytes="?"), "vocab[3] has no rank and base64 token_bytes"),
        (lambda file: file["vocab"][3].update(rank=4), "vocab[3] has rank 4"),
        (lambda file: file["vocab"][3].update(token_bytes=file["vocab"][4]["token_bytes"]), "stands there twice"),
        (lambda file: file["vocab"].clear(), "byte 0x00 has no token"),
        (lambda file: file.update(special_tokens=7), "special_tokens: must be a list of rank and token_str"),
        (lambda file: file.update(special_tokens=[{"rank": 0, "token_str": 7}]), "special_tokens: must be at most 20"),
    ],
)
def test_a_wrong_tekken_is_named(original, change, message):
    file = tekken(original)
    change(file)
    with pytest.raises(FormatError) as raised:
        Tokenizer._of(json.dumps(file).encode())
    assert message in str(raised.value)


@pytest.mark.parity
@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_is_read_as_transformers_does(tmp_path, lower):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.BertTokenizer(vocab=str(path), do_lower_case=lower)
    for text in ["The cats! 中文", "THE é E\u0301 cat", "dog", ""]:
        assert ours.add_special_tokens(ours.encode(text)) == theirs(text)["input_ids"]
    assert ours.special_tokens == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    assert ours.encode("cats\r\n") == [6, 7]


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no '[UNK]'"),
        (b"the\ncat\n", "has no '[UNK]'"),
        (b"[UNK]\na\na\n", "token 'a' stands there twice"),
        (b"[UNK]\n\xff\n", "is not UTF-8"),
    ],
)
def test_a_wrong_vocab_txt_is_named(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(FormatError) as raised:
        Tokenizer.load(tmp_path)
    assert message in str(raised.value)
