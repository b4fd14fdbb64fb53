"""GGUF encodings that the library `gguf` decodes, K-quants foremost: the weights and logits of its own float32."""

import struct
import sys

import numpy as np
import pytest

from wordkiln.errors import DependencyError, FormatError
from wordkiln.interop import export_gguf, open_model
from wordkiln.runtime import DecoderModel

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# A block of a K-quant has 256 values, so rows must be multiples of it.
KEYS = {
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 64,
    "llama.attention.value_length": 64,
    "llama.rope.dimension_count": 64,
}
LAYER = {
    "attn_q": (256, 256),
    "attn_k": (128, 256),
    "attn_v": (128, 256),
    "attn_output": (256, 256),
    "ffn_gate": (512, 256),
    "ffn_up": (512, 256),
    "ffn_down": (256, 512),
}
MATRICES = {"token_embd.weight": (300, 256), "output.weight": (300, 256)} | {
    f"blk.{layer}.{name}.weight": shape for layer in range(2) for name, shape in LAYER.items()
}
NORMS = ["output_norm.weight", *(f"blk.{layer}.{name}_norm.weight" for layer in range(2) for name in ("attn", "ffn"))]
# Encoding -> the bytes of a block's float16 scales, and how large these must be for weights of about 0.1.
SCALES = {
    "Q2_K": (slice(80, 84), 5e-3),
    "Q3_K": (slice(108, 110), 2e-3),
    "Q4_K": (slice(0, 4), 3e-4),
    "Q5_K": (slice(0, 4), 1.5e-4),
    "Q6_K": (slice(208, 210), 1e-4),
    "IQ4_XS": (slice(0, 2), 1e-4),
}


@pytest.fixture(scope="module")
def tokenizer_fields(make_tiny, tmp_path_factory):
    """The metadata of an exported file."""
    out = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export_gguf(make_tiny("llama").directory, out, "f32")
    return gguf.GGUFReader(out).fields.values()


@pytest.fixture
def write(tokenizer_fields, tmp_path):
    """{name: (encoding, rows)} -> a file of them, written by the library."""

    def file(name, tensors):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        for field in tokenizer_fields:
            if not field.name.startswith(("GGUF.", "general.architecture")):
                kind, item = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, KEYS.get(field.name, field.contents()), kind, item)
        for tensor, (encoding, rows) in tensors.items():
            writer.add_tensor(tensor, rows, raw_dtype=encoding)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return file


def blocks(name, shape, random):
    """Rows of an encoding that the library only reads: any bits are values of it, but for the scales."""
    encoding = gguf.GGMLQuantizationType[name]
    values, width = gguf.GGML_QUANT_SIZES[encoding]
    found = random.integers(0, 256, (shape[0] * shape[1] // values, width), np.uint8)
    place, size = SCALES[name]
    scales = size * random.uniform(0.5, 1.5, (len(found), (place.stop - place.start) // 2))
    found[:, place] = scales.astype("<f2").view(np.uint8)
    return found.reshape(shape[0], -1)


def encoded(name):
    """All matrices in an encoding, and all as the library's float32 of them."""
    random = np.random.default_rng(0)
    encoding, plain = gguf.GGMLQuantizationType[name], gguf.GGMLQuantizationType.F32
    norms = {norm: (plain, random.uniform(0.5, 1.5, 256).astype(np.float32)) for norm in NORMS}
    rows = {matrix: blocks(name, shape, random) for matrix, shape in MATRICES.items()}
    return (
        norms | {matrix: (encoding, one) for matrix, one in rows.items()},
        norms | {matrix: (plain, gguf.quants.dequantize(one, encoding)) for matrix, one in rows.items()},
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", SCALES)
def test_weights_and_logits_are_those_of_the_librarys_float32(write, name):
    tensors, decoded = encoded(name)
    found, wanted = open_model(write("found.gguf", tensors)), open_model(write("wanted.gguf", decoded))
    for tensor in wanted.source.names():
        np.testing.assert_array_equal(found.source.read(tensor), wanted.source.read(tensor))
    # No order of rows, and no transposition, is lost on the way: the file's own embedding.
    np.testing.assert_array_equal(found.source.read("embed.weight"), decoded["token_embd.weight"][1])
    for dtype in ("float32", "int8"):
        models = [DecoderModel(opened.architecture, opened.source, dtype) for opened in (found, wanted)]
        logits, expected = (model.begin([[5, 7, 2]])[1] for model in models)
        np.testing.assert_array_equal(logits, expected)
        assert np.isfinite(logits).all()
        assert logits.std() > 0.1, "weights of nothing would be equal, too"


@pytest.mark.abuse
def test_blocks_that_end_early_or_lie_in_others_are_refused(write):
    path = write("model.gguf", encoded("Q4_K")[0])
    last = max(gguf.GGUFReader(path).tensors, key=lambda tensor: tensor.data_offset)
    content, end = path.read_bytes(), int(last.data_offset + last.n_bytes)
    refused = {"truncated": content[: end - 1]}
    # Where the type of a matrix stands in the table: behind its name, its number of dimensions, and these.
    place = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    assert struct.unpack_from("<I", content, place) == (gguf.GGMLQuantizationType.Q4_K,)
    for message, encoding in {
        "overlap": gguf.GGMLQuantizationType.Q6_K,  # of more bytes than there are
        "encoding Q8_K, which the gguf library cannot|overlap": gguf.GGMLQuantizationType.Q8_K,
        "encoding 99": 99,
    }.items():
        refused[message] = content[:place] + struct.pack("<I", encoding) + content[place + 4 :]
    for message, spoilt in refused.items():
        path.write_bytes(spoilt)
        with pytest.raises(FormatError, match=message):
            open_model(path)


@pytest.mark.abuse
def test_rows_that_are_no_whole_blocks_are_refused(make_tiny, tmp_path):
    path = tmp_path / "model.gguf"
    export_gguf(make_tiny("llama").directory, path, "f32")  # rows of 48
    content = path.read_bytes()
    place = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    path.write_bytes(content[:place] + struct.pack("<I", gguf.GGMLQuantizationType.Q4_K) + content[place + 4 :])
    with pytest.raises(FormatError, match=r"attn_q\.weight: shape \[48, 48\]: rows must be blocks of 256"):
        open_model(path)


@pytest.mark.abuse
def test_without_the_library_it_is_named(write, monkeypatch):
    path = write("model.gguf", encoded("Q4_K")[0])
    monkeypatch.setitem(sys.modules, "gguf", None)  # importing it raises, as if it were not there
    with pytest.raises(DependencyError, match=r"encoding 12 .*pip install 'wordkiln\[gguf\]'"):
        open_model(path)


def test_a_tensor_is_widened_when_it_is_read_and_no_other(write, monkeypatch):
    tensors, _ = encoded("Q4_K")
    widened = []
    dequantize = gguf.quants.dequantize
    monkeypatch.setattr(
        gguf.quants, "dequantize", lambda rows, encoding: widened.append(rows.size) or dequantize(rows, encoding)
    )
    source = open_model(write("model.gguf", tensors)).source
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_K][1]
    assert set(widened) == {block}, "to open a file tries one block of its encodings"
    widened.clear()
    source.read("layers.1.down.weight")
    assert widened == [tensors["blk.1.ffn_down.weight"][1].size]
