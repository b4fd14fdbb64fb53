"""GGUF files: written by `export_gguf`, and read back by us and by llama.cpp."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.interop import _gguf_blocks as blocks
from wordkiln.interop import export_gguf, open_model

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

EXPORTED = ["llama", "llama-tied", "llama-padded", "llama-head-dim", "llama-linear", "llama-3.1", "llama-yarn", "qwen2"]


@pytest.fixture
def export(make_tiny, tmp_path):
    def write(name="llama", dtype="f32"):
        out = tmp_path / f"{name}.gguf"
        export_gguf(make_tiny(name).directory, out, dtype)
        return out

    return write


@pytest.mark.parametrize("name", [*EXPORTED, "qwen3", "gpt2"])
def test_what_is_written_is_read_back(make_tiny, export, name):
    before, after = open_model(make_tiny(name).directory), open_model(export(name))
    assert before.source.names() == after.source.names()
    for tensor in before.source.names():
        np.testing.assert_array_equal(before.source.read(tensor), after.source.read(tensor))
    ours, theirs = before.architecture, after.architecture
    if ours.rope_frequencies is not None:
        # The file has them as float32.
        np.testing.assert_allclose(theirs.rope_frequencies, ours.rope_frequencies, rtol=1e-6)
    assert theirs.norm_eps == pytest.approx(ours.norm_eps, rel=1e-6)
    for field in ("hidden_size", "num_kv_heads", "head_dim", "max_positions", "activation", "windows", "qk_norm"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert before.unused_ids == after.unused_ids
    text = "the quick 明月 fox<|endoftext|>"
    options = {"allowed_special": "all"}
    assert after.tokenizer.encode(text, **options) == before.tokenizer.encode(text, **options)


# Largest difference of a weight, relative to the largest of its block: half a step of the encoding.
@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 0.6 / 127)])
def test_precisions_keep_the_weights(make_tiny, export, dtype, tolerance):
    before, after = open_model(make_tiny("llama-3.1").directory).source, open_model(export("llama-3.1", dtype)).source
    for tensor in ("embed.weight", "layers.1.q.weight", "layers.2.down.weight"):
        wanted = before.read(tensor)
        np.testing.assert_allclose(after.read(tensor), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    np.testing.assert_array_equal(before.read("norm.weight"), after.read("norm.weight"))
    assert open_model(export("llama-3.1", dtype)).architecture.eos_token_ids == (2,)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_decoded_as_the_library_does(name):
    encoding = gguf.GGMLQuantizationType[name]
    weights = np.random.default_rng(0).normal(size=(5000, 64)).astype(np.float32)
    rows = gguf.quants.quantize(weights, encoding).view(np.uint8)
    wanted = gguf.quants.dequantize(rows, encoding)
    np.testing.assert_array_equal(blocks.decode(rows, int(encoding)), wanted)


def test_other_encodings_are_the_librarys(make_tiny, export, tmp_path):
    """A file whose matrices are Q5_1, for which there is no decoder here; its rows are 32 wide, or no multiple."""
    reader = gguf.GGUFReader(export("llama-32"))
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind, item = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, item)
    for tensor in reader.tensors:
        matrix = len(tensor.shape) > 1
        encoding = gguf.GGMLQuantizationType.Q5_1 if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, encoding), raw_dtype=encoding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    before, after = open_model(make_tiny("llama-32").directory).source, open_model(tmp_path / "other.gguf").source
    for tensor in ("embed.weight", "layers.1.q.weight", "layers.0.up.weight"):
        wanted = before.read(tensor)
        # 32 steps between the least and the largest of a block.
        np.testing.assert_allclose(after.read(tensor), wanted, rtol=0, atol=2 * np.abs(wanted).max() / 31)


@pytest.mark.abuse
def test_what_llama_cpp_does_not_compute_is_refused(make_tiny, tmp_path, copy):
    for name, message in (
        ("mistral", "sliding windows"),
        ("qwen3-yarn", "scaled rotary positions"),
        ("llama-biases", "activation='gelu'"),
        ("gpt2-erf", "activation='gelu'"),
    ):
        with pytest.raises(FormatError, match=f"cannot be exported: {message}"):
            export_gguf(make_tiny(name).directory, tmp_path / "out.gguf")
    with pytest.raises(ArgumentError, match="dtype='q2_k'"):
        export_gguf(make_tiny("llama").directory, tmp_path / "out.gguf", "q2_k")
    directory = copy()
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    (directory / "generation_config.json").unlink()
    file = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(file | {"added_tokens": []}))
    with pytest.raises(FormatError, match="has no end token"):
        export_gguf(directory, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.abuse
def test_a_file_that_cannot_be_written_leaves_the_old_one(make_tiny, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(FormatError):
        export_gguf(make_tiny("mistral").directory, out)
    assert out.read_bytes() == b"old"
    with pytest.raises(PathError, match="cannot be written"):
        export_gguf(make_tiny("llama").directory, tmp_path / "out.gguf" / "below.gguf")


LLAMA_CPP = """
import json, sys
sys.path.append(sys.argv[1])
import llama_cpp
results = []
for path, texts in json.load(sys.stdin):
    # A cache of float32, as transformers': type 0.
    model = llama_cpp.Llama(path, n_ctx=64, verbose=False, n_threads=1, type_k=0, type_v=0)
    for text in texts:
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        model.reset()
        written = []
        for token in model.generate(ids, temp=0.0):
            written.append(token)
            if len(written) == int(sys.argv[2]):
                break
        results.append([ids, written])
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="session")
def llama_cpp():
    """[(file, texts)], number of new ids -> [(ids, greedy ids)] by llama.cpp: installed, or in WORDKILN_LLAMA_CPP."""
    folder = os.environ.get("WORDKILN_LLAMA_CPP", "")
    if importlib.util.find_spec("llama_cpp") is None and not (Path(folder) / "llama_cpp").is_dir():
        pytest.skip("llama-cpp-python is not installed (WORDKILN_LLAMA_CPP names the folder it is in)")

    def run(files, length=12):
        text = json.dumps([(str(path), texts) for path, texts in files])
        command = [sys.executable, "-c", LLAMA_CPP, folder, str(length)]
        return json.loads(subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout)

    return run


TEXTS = ["the quick", "床前明月 lazy dog\n", "Hello, I'VE 12 things  ", "x<|endoftext|>y"]


PATTERNS = ["gpt2", "cl100k", "llama3", "o200k", "qwen2", "\\p{N}\ngpt2"]
HARD = [
    "Hello, I'VE 12345 things\n\n  to do…  ",
    "中文分词，没有空格。１２３。",
    "CamelCase/path don't  \t x\n",
    "e\u0301 naïve 👩\u200d👧\r\n\tx",
    "床前明月光,疑是地上霜。",
]


@pytest.fixture
def export_with_pattern(copy, small_tokenizer, tmp_path):
    """A model whose tokenizer cuts text so -> the tokenizer and the file."""
    vocabulary = {id: token for token, id in json.loads(small_tokenizer.to_json())["model"]["vocab"].items()}
    merges = json.loads(small_tokenizer.to_json())["model"]["merges"]

    def write(pattern, **options):
        directory = copy() if not (tmp_path / "llama").exists() else tmp_path / "llama"
        tokens = [vocabulary.get(id, "<|endoftext|>") for id in range(300)]
        tokenizer = type(small_tokenizer).from_vocabulary(
            tokens, map(tuple, merges), pattern=pattern, special_tokens=["<|endoftext|>"], **options
        )
        tokenizer.save(directory)
        export_gguf(directory, tmp_path / "out.gguf", "f32")
        return tokenizer, (tmp_path / "out.gguf").rename(tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf")

    return write


@pytest.mark.parametrize("options", [{}, {"ignore_merges": True}], ids=["merges", "whole"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_way_to_cut_text_has_a_name(export_with_pattern, pattern, options):
    tokenizer, path = export_with_pattern(pattern, **options)
    read = open_model(path).tokenizer
    assert [read.encode(text) for text in HARD] == [tokenizer.encode(text) for text in HARD]


def test_normalization_goes_with_qwens_name(export_with_pattern):
    tokenizer, path = export_with_pattern("qwen2", normalize=True)
    assert open_model(path).tokenizer.encode("e\u0301") == tokenizer.encode("é")
    with pytest.raises(FormatError, match=r"normalizer=.*NFC.*no pre-tokenizer that does so"):
        export_with_pattern("gpt2", normalize=True)


def test_tokens_that_merges_do_not_reach_are_not_lost(copy, small_tokenizer, tmp_path):
    """Taken whole they are ids that GPT-2's way in llama.cpp, which leaves all to the merges, would not give."""
    directory = copy()
    file = json.loads(small_tokenizer.to_json())
    assert "mps" in file["model"]["vocab"]
    file["model"]["merges"] = [pair for pair in file["model"]["merges"] if "".join(pair) != "mps"]
    file["model"]["ignore_merges"] = True
    (directory / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(FormatError, match=r"ignore_merges=True.*no pre-tokenizer that does so"):
        export_gguf(directory, tmp_path / "out.gguf")


@pytest.mark.abuse
@pytest.mark.parametrize("pattern", ["whitespace", "bytes", "none", "[a-z]+|[^a-z]+"])
def test_a_way_to_cut_text_without_a_name_is_refused(export_with_pattern, pattern):
    with pytest.raises(FormatError, match=r"pattern=.*llama\.cpp has no pre-tokenizer"):
        export_with_pattern(pattern)


@pytest.mark.parity
@pytest.mark.slow
def test_llama_cpp_cuts_text_as_we_do(llama_cpp, export_with_pattern):
    tokenizers, files = zip(*(export_with_pattern(pattern) for pattern in PATTERNS), strict=True)
    results = iter(llama_cpp([(path, HARD) for path in files], 1))
    for tokenizer, pattern, text in ((t, p, x) for t, p in zip(tokenizers, PATTERNS, strict=True) for x in HARD):
        assert (pattern, text, next(results)[0]) == (pattern, text, tokenizer.encode(text))


@pytest.mark.parity
@pytest.mark.slow
def test_llama_cpp_writes_what_transformers_does(llama_cpp, make_tiny, export):
    torch = pytest.importorskip("torch")
    names = [*EXPORTED, "qwen3", "gpt2"]
    results = iter(llama_cpp([(export(name), TEXTS) for name in names]))
    for name, text in itertools.product(names, TEXTS):
        tiny, (ids, written) = make_tiny(name), next(results)
        assert ids == open_model(tiny.directory).tokenizer.encode(text, allowed_special="all")
        wanted = tiny.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None)
        assert (name, text, written) == (name, text, wanted[0, len(ids) :].tolist())
