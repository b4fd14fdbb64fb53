"""Weights packed as their file has them, and ids that are no tokens."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.interop import _gguf_blocks as blocks
from wordkiln.runtime import Architecture, DecoderModel, reference
from wordkiln.runtime.architecture import EncodedMatrix

_spec = importlib.util.spec_from_file_location("decoders", Path(__file__).with_name("decoders.py"))
decoders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(decoders)
ARCHITECTURES, Arrays, texts = decoders.ARCHITECTURES, decoders.Arrays, decoders.texts

WHOLE_BLOCKS = Architecture(
    **decoders.BASE
    | {
        "hidden_size": 64,
        "num_heads": 4,
        "head_dim": 16,
        "intermediate_size": 160,  # two groups and a half
        "rope_frequencies": tuple(0.8**i for i in range(8)),
    }
)
DTYPES = ("float32", "bfloat16", "int8")
ENCODINGS = {name: number for number, name in blocks.KERNELS.items()}


class Encoded(Arrays):
    """Matrices of random bytes; those whose name `mixed` has are float32."""

    def __init__(self, shapes, encoding, mixed=()):
        random = np.random.default_rng(5)
        self.rows = {}
        arrays = {}
        for name, shape in shapes.items():
            if len(shape) == 1:
                arrays[name] = random.standard_normal(shape).astype(np.float32) + ("norm" in name)
                continue
            rows = encoded_rows(random, shape, ENCODINGS[encoding])
            arrays[name] = blocks.decode(rows, ENCODINGS[encoding])
            if not any(part in name for part in mixed):
                self.rows[name] = EncodedMatrix(rows, encoding)
        super().__init__(arrays)

    def encoded(self, name):
        return self.rows.get(name) or super().encoded(name)


def encoded_rows(random, shape, number):
    """Random codes; scales are of both signs, some of them denormal or 0."""
    halves = (random.standard_normal((shape[0], shape[1] // 32 + 1)) * 0.02).astype(np.float16)
    halves.flat[::7] = 2.0**-20
    halves.flat[::11] = 0
    values, width = blocks.SIZES[number]
    if values == 1:
        plain = random.standard_normal(shape).astype(np.float32) * 0.2
        plain.flat[::9] = 2.0**-24
        as_bfloat16 = (plain.view(np.uint32) >> 16).astype(np.uint16)
        return (plain.astype(np.float16) if number == blocks.F16 else as_bfloat16).view(np.uint8)
    rows = random.integers(0, 256, (shape[0], shape[1] // 32, width), np.uint8)
    scales = np.ascontiguousarray(halves[:, : rows.shape[1], None])
    rows[:, :, :2] = scales.view(np.uint8)
    if number == blocks.Q4_1:
        rows[:, :, 2:4] = (-8 * scales).view(np.uint8)
    return rows.reshape(shape[0], -1)


def shapes_of(architecture, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "whole blocks", architecture)
    return decoders.shapes("whole blocks")


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("mixed", [(), ("k.weight", "gate", "embed")])
def test_packed_as_they_lie_they_are_what_their_values_are(monkeypatch, encoding, dtype, mixed):
    """The definition is to widen a tensor by numpy and to pack its float32: the same bits."""
    source = Encoded(shapes_of(WHOLE_BLOCKS, monkeypatch), encoding, mixed)
    prompts = texts(3, 70)
    _, wanted = DecoderModel(WHOLE_BLOCKS, Arrays(source.arrays), dtype).begin(prompts)
    _, found = DecoderModel(WHOLE_BLOCKS, source, dtype).begin(prompts)
    assert np.isfinite(wanted).all()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parity
@pytest.mark.parametrize("encoding", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2-erf", "wide"])
def test_plain_numbers_of_any_width(name, encoding):
    """Rows that are no whole vectors; NaN and infinity stay what they are."""
    source = Encoded(decoders.shapes(name), encoding)
    prompts = texts(3, 70)
    for value in (None, np.inf, np.nan):
        if value is not None:
            rows = source.rows["layers.1.down.weight"].rows.view(np.float16 if encoding == "float16" else np.uint16)
            rows[0, 1] = value if encoding == "float16" else np.float32(value).view(np.uint32) >> 16
            source.arrays["layers.1.down.weight"][0, 1] = value
        wanted = DecoderModel(ARCHITECTURES[name], Arrays(source.arrays)).begin(prompts)[1]
        np.testing.assert_array_equal(DecoderModel(ARCHITECTURES[name], source).begin(prompts)[1], wanted)
        assert np.isfinite(wanted).all() == (value is None)


@pytest.mark.abuse
@pytest.mark.parametrize(("tensor", "name"), [("gate", "gate"), ("v", "qkv")])
def test_int8_names_the_element_that_it_cannot_hold(tensor, name):
    source = Encoded(decoders.shapes("llama"), "float16")
    source.rows[f"layers.1.{tensor}.weight"].rows.view(np.float16)[2, 3] = np.inf
    # Of q, k and v as one matrix.
    first = {"gate": 0, "v": 48 + 16}[tensor]
    with pytest.raises(ArgumentError, match=rf"{name}: must be finite .* element {(first + 2) * 48 + 3} is not"):
        DecoderModel(ARCHITECTURES["llama"], source, "int8")


@pytest.mark.abuse
def test_the_binding_takes_whole_blocks_of_encodings_that_it_knows():
    # Refused before anything is read.
    native = decoders.model("llama")._native
    assert isinstance(native, _kernels.Decoder)
    vectors = {"norm": 64, "frequencies": 64}
    with pytest.raises(ArgumentError, match="embedding: 48 inputs in q8_0: must be a multiple of 32"):
        native.set_ends(vectors, {"embedding": (64, "q8_0")}, 8)
    with pytest.raises(ArgumentError, match="encoding='q6_k': must be 'float32'"):
        native.set_ends(vectors, {"embedding": (64, "q6_k")}, 8)
    for ids in ([3, 3], [-1], [decoders.VOCAB], [5, 4]):
        unused = np.array(ids)
        with pytest.raises(ArgumentError, match=r"unused\[\d\]=-?\d+: must rise, from 0 to 202"):
            native.set_ends(vectors, {"embedding": (64, "float32")}, 8, unused.ctypes.data, len(unused))


UNUSED = [*range(64), 77, *range(128, decoders.VOCAB)]  # a whole panel, a hole, more than the last panel


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ids_that_are_no_tokens_have_no_probability(name, dtype):
    plain = decoders.model(name, dtype)
    model = DecoderModel(ARCHITECTURES[name], decoders.source(name), dtype, UNUSED)
    used = np.setdiff1d(np.arange(decoders.VOCAB), UNUSED)
    prompts = [[int(used[id % len(used)]) for id in row] for row in texts(3, 70, 1)]
    (state, found), (plain_state, wanted) = model.begin(prompts), plain.begin(prompts)
    for _ in range(2):
        np.testing.assert_array_equal(found[:, used], wanted[:, used])
        assert (found[:, UNUSED] == -np.inf).all()
        found, wanted = model.step(state, used[:3]), plain.step(plain_state, used[:3])
    for row, scores in zip(prompts, model.score(prompts), strict=True):
        logits = np.array([plain.begin([row[:end]])[1][0, used] for end in range(1, len(row))], np.float64)
        if not len(logits):
            continue
        places = np.searchsorted(used, row[1:])
        wanted = logits[np.arange(len(places)), places] - np.log(np.exp(logits).sum(1))
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=2e-5 * np.abs(logits).max())
    assert model.score([[int(used[0]), UNUSED[0]]])[0][0] == -np.inf


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("ids", "message"),
    [([decoders.VOCAB], "unused_ids: ids from"), ([-1], "unused_ids"), (range(decoders.VOCAB), "are all ids")],
)
def test_unused_ids_are_checked(ids, message):
    with pytest.raises(ArgumentError, match=message):
        DecoderModel(ARCHITECTURES["llama"], decoders.source("llama"), unused_ids=ids)


def test_the_reference_agrees_with_what_is_packed_from_blocks(monkeypatch):
    source = Encoded(shapes_of(dataclasses.replace(WHOLE_BLOCKS, windows=(None, 5, None)), monkeypatch), "q4_1")
    architecture = ARCHITECTURES["whole blocks"]
    (row,) = texts(20)
    _, found = DecoderModel(architecture, source).begin([row])
    np.testing.assert_allclose(found[0], reference.logits(architecture, source, row)[-1], rtol=0, atol=1e-4)
