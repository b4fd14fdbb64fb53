"""Published vocabularies and ids that were made elsewhere."""

import json
import lzma

import pytest

from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer.spec import REGEXES

pytestmark = pytest.mark.golden

RANKS = {
    "cl100k_base": ("cl100k_base.tiktoken.xz", "cl100k"),
    "o200k_base": ("o200k_base.tiktoken.xz", "o200k"),
    "qwen2": ("qwen.tiktoken.xz", "qwen2"),
}


@pytest.fixture(scope="module")
def folder(real_data):
    return real_data / "tokenizer-golden"


@pytest.fixture(scope="module")
def load(folder, tmp_path_factory):
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = gpt2(folder) if name == "gpt2" else ranks(name)
        return loaded[name]

    def ranks(name):
        file, pattern = RANKS[name]
        path = tmp_path_factory.mktemp("ranks") / name
        path.write_bytes(lzma.decompress((folder / "vocab" / file).read_bytes()))
        return Tokenizer.from_tiktoken(path, pattern=pattern)

    return load


def gpt2(folder):
    """From the files that OpenAI published, put together as Hugging Face does."""
    vocab = json.loads(lzma.decompress((folder / "vocab" / "gpt2_encoder.json.xz").read_bytes()))
    merges = lzma.decompress((folder / "vocab" / "gpt2_vocab.bpe.xz").read_bytes()).decode().split("\n")[1:-1]
    file = {
        "added_tokens": [{"id": 50256, "content": "<|endoftext|>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    return Tokenizer(json.dumps(file).encode())


@pytest.mark.parametrize("name", ["gpt2", *RANKS])
def test_ids_of_hard_strings(folder, load, name):
    tokenizer = load(name)
    lines = lzma.decompress((folder / "golden.jsonl.xz").read_bytes()).splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) > 500
    for case in cases:
        assert tokenizer.encode(case["text"], disallowed_special=()) == case[name], case["text"]
        assert tokenizer.decode(case[name]) == case["text"]
    expected = [id for case in cases for id in case[name]]
    ids, _ = tokenizer.encode_flat([case["text"] for case in cases], disallowed_special=())
    assert ids.tolist() == expected


@pytest.mark.parametrize(("name", "file"), [("gpt2", "vgre_gpt2.json"), ("qwen2", "vgre_qwen2.json")])
def test_ids_of_hugging_face(folder, load, name, file):
    tokenizer = load(name)
    for case in json.loads((folder / file).read_text())["cases"]:
        if "<|" not in case["text"]:
            assert tokenizer.encode(case["text"]) == case["ids"]


def test_ids_of_tiktokens_own_tests(folder, load):
    cases = json.loads((folder / "tiktoken_tests.json").read_text())
    for case in cases:
        if case["encoding"] in ("gpt2", "r50k_base", "cl100k_base"):
            name = "gpt2" if case["encoding"] == "r50k_base" else case["encoding"]
            assert load(name).encode(case["text"]) == case["ids"]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["gpt2", *RANKS])
def test_published_vocabularies_go_through_tokenizer_json(load, name):
    from tokenizers import Tokenizer as HuggingFace

    tokenizer = load(name)
    json_text = tokenizer.to_json()
    assert Tokenizer(json_text) == tokenizer
    peer = HuggingFace.from_str(json_text.decode())
    hard = ["Hello, world! I'VE 1234 things\n\n  to do…  ", "中文分词，没有空格。", "नमस्ते naïve 👩\u200d👧"]
    for text in [*hard, *REGEXES.values()]:
        assert peer.encode(text).ids == tokenizer.encode(text)
