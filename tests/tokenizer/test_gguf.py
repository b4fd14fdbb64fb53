"""The tokenizers in GGUF files: what their metadata says, from tokenizers that we have."""

import contextlib
import json

import numpy as np
import pytest

from wordkiln.errors import FormatError
from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer._gguf import _BY_PRE

TEMPLATE = "{% for message in messages %}<|user|>{{ message.content }}{% endfor %}"
HARD = ["Hello, I'VE 1234 things\n\n  to do…  ", "中文分词，没有空格。12，", "e\u0301 naïve 👩\u200d👧\r\n\tx", ""]


def metadata(tokenizer, pre, **more):
    """What convert_hf_to_gguf writes: special tokens are control tokens, of type 3."""
    model = json.loads(tokenizer.to_json())["model"]
    tokens = [""] * len(tokenizer)
    for token, id in model["vocab"].items():
        tokens[id] = token
    types = [3 if token in tokenizer.special_tokens else 1 for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.end_id,
        "tokenizer.chat_template": TEMPLATE,
        "general.architecture": "llama",
        **more,
    }


@pytest.mark.parametrize("pre", sorted(_BY_PRE))
def test_it_is_the_tokenizer_that_was_converted(texts, pre):
    original = Tokenizer.train(
        iter(texts), vocab_size=500, pattern=_BY_PRE[pre], special_tokens=["<|endoftext|>", "<|user|>"]
    )
    read = Tokenizer.from_gguf(metadata(original, pre))
    assert (read.special_tokens, read.pattern) == (original.special_tokens, original.pattern)
    for text in [*texts, *HARD, "a<|user|>b"]:
        if pre != "qwen2" or "\u0301" not in text:
            assert read.encode(text, allowed_special="all") == original.encode(text, allowed_special="all")
    assert (read.eos_id, read.bos_id, read.chat_template) == (original.end_id, None, TEMPLATE)


@pytest.mark.parity
def test_qwens_text_is_normalized_as_hugging_face_does(tokenizer):
    read = Tokenizer.from_gguf(metadata(tokenizer, "qwen2"))
    assert read.encode("e\u0301") == read.encode("é")


def test_it_is_saved_with_its_settings(tokenizer, tmp_path):
    read = Tokenizer.from_gguf(metadata(tokenizer, "llama-bpe", **{"tokenizer.ggml.add_bos_token": True}))
    read.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded, loaded.chat_template) == (read, TEMPLATE)
    assert loaded.settings == {"eos_token": "<|end|>", "add_bos_token": True, "chat_template": TEMPLATE}


def test_user_defined_tokens_are_matched_and_fillers_left_out(tokenizer):
    data = metadata(tokenizer, "llama-bpe")
    data["tokenizer.ggml.tokens"] += ["<tool>", "[PAD1001]"]
    data["tokenizer.ggml.token_type"] = np.array([*data["tokenizer.ggml.token_type"], 4, 5], np.int32)
    read = Tokenizer.from_gguf(data)
    assert read.encode("<tool>") == [1000]
    assert 1001 not in read.vocabulary


@pytest.mark.parity
def test_sentencepiece_tables_give_sentencepieces_ids(texts, tmp_path):
    library = pytest.importorskip("sentencepiece")
    lines = [line for text in texts for line in text.splitlines() if line]
    library.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "model"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = library.SentencePieceProcessor(model_file=str(tmp_path / "model.model"))
    ids = range(theirs.GetPieceSize())
    kinds = [(theirs.IsUnknown, 2), (theirs.IsControl, 3), (theirs.IsUnused, 5), (theirs.IsByte, 6)]
    read = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [theirs.IdToPiece(id) for id in ids],
            "tokenizer.ggml.scores": np.array([theirs.GetScore(id) for id in ids], np.float32),
            "tokenizer.ggml.token_type": [next((kind for test, kind in kinds if test(id)), 1) for id in ids],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )
    for text in [*texts, *HARD]:
        assert read.encode(text) == theirs.EncodeAsIds(text)
    assert (read.bos_id, read.special_tokens) == (1, {"<s>": 1, "</s>": 2})


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "中", "文", "!"]


@pytest.mark.parity
def test_wordpiece_tables_are_those_of_vocab_txt(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    marked = [
        token if token.startswith("[") else token[2:] if token.startswith("##") else f"\u2581{token}" for token in BERT
    ]
    read = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": marked,
            "tokenizer.ggml.token_type": [3] * 5 + [1] * 6,
        }
    )
    assert read == Tokenizer.load(tmp_path)
    assert read.encode("The cats! 中文") == [5, 6, 7, 10, 8, 9]


def without(key):
    return lambda data: data.pop(f"tokenizer.ggml.{key}")


def put(key, value):
    return lambda data: data.update({f"tokenizer.ggml.{key}": value})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model"), "tokenizer.ggml.model=None: must be one of gpt2, llama, bert"),
        (put("model", "rwkv"), "tokenizer.ggml.model='rwkv'"),
        (without("tokens"), "tokenizer.ggml.token_type: has 1000 items for 0 tokens"),
        (put("tokens", "abc"), "tokenizer.ggml.tokens: must be a list"),
        (put("tokens", [7]), "tokenizer.ggml.tokens[0]: is a int"),
        (put("token_type", [1]), "tokenizer.ggml.token_type: has 1 items for 1000 tokens"),
        (put("token_type", ["a"] * 1000), "tokenizer.ggml.token_type[0]: is a str"),
        (put("pre", "unheard-of"), "tokenizer.ggml.pre='unheard-of': must be one of chatglm-bpe, "),
        (without("pre"), "tokenizer.ggml.pre=''"),
        (put("merges", [7]), "tokenizer.ggml.merges[0]: is a int"),
        (put("merges", ["a b c"]), 'merge "a b c" is not two tokens'),
        (put("merges", ["zq zq"]), "which is not in model.vocab"),
        (put("eos_token_id", 1000), "tokenizer.ggml.eos_token_id=1000: must be 0 to 999"),
        (put("bos_token_id", -1), "tokenizer.ggml.bos_token_id=-1"),
        (put("bos_token_id", True), "tokenizer.ggml.bos_token_id=True"),
        (put("model", "llama"), "tokenizer.ggml.scores is missing"),
        (lambda data: data["tokenizer.ggml.tokens"].__setitem__(3, "!"), "tokens: '!' stands there twice, as 0 and 3"),
    ],
)
def test_wrong_metadata_is_named(tokenizer, change, message):
    data = metadata(tokenizer, "llama-bpe")
    change(data)
    with pytest.raises(FormatError) as raised:
        Tokenizer.from_gguf(data)
    assert message in str(raised.value)


@pytest.mark.abuse
@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e300])
def test_odd_scores_are_no_crash(score):
    data = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "a", "b"],
        "tokenizer.ggml.token_type": [2, 1, 1],
        "tokenizer.ggml.scores": [0.0, score, -1.0],
    }
    with contextlib.suppress(FormatError):
        Tokenizer.from_gguf(data).encode("abab")
