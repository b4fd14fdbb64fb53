"""GGUF files made to do harm: each is a named error, before memory is taken."""

import contextlib
import struct

import numpy as np
import pytest

from wordkiln.errors import FormatError, PathError, WordkilnError
from wordkiln.interop import export_gguf, open_model

pytest.importorskip("gguf")
pytestmark = [pytest.mark.abuse, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

HUGE = struct.pack("<Q", 2**63)


@pytest.fixture(scope="module")
def content(make_tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export_gguf(make_tiny("llama-3.1").directory, out, "f32")
    return out.read_bytes()


@pytest.fixture
def refuse(tmp_path):
    def check(content, match):
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        with pytest.raises(FormatError, match=match):
            open_model(path)

    return check


def after(content, text, new, skip=0):
    """The file with the bytes that stand `skip` behind a text replaced by `new`."""
    place = content.index(text) + len(text) + skip
    return content[:place] + new + content[place + len(new) :]


def u32(number):
    return struct.pack("<I", number)


def test_the_head_is_checked(refuse, content):
    for new, message in (
        (b"GGML" + content[4:], "does not begin with GGUF"),
        (b"", "is empty"),
        (content[:3], "truncated"),
        (content[:4] + u32(9) + content[8:], "GGUF version 9: must be one of 2, 3"),
        (content[:4] + b"\0\0\0\3" + content[8:], "little endian"),
        (content[:8] + HUGE + content[16:], "9223372036854775808 tensors: must be at most 65536"),
        (content[:16] + HUGE + content[24:], "9223372036854775808 keys: must be at most 4096"),
        (content[:16] + struct.pack("<Q", 2**11) + content[24:], "truncated|is none of GGUF's|a string of"),
        (content[:24] + HUGE + content[32:], "a string of 9223372036854775808 bytes at byte 32"),
    ):
        refuse(new, message)


@pytest.mark.parametrize(
    ("key", "skip", "new", "message"),
    [
        ("llama.block_count", 4, u32(2**31), "llama.block_count=2147483648: must be an integer from 1 to 1024"),
        ("llama.block_count", 4, u32(0), "llama.block_count=0"),
        ("llama.block_count", 4, u32(4), "misses blk.3.attn_norm.weight"),
        ("llama.block_count", 4, u32(2), "has extra blk.2"),
        ("llama.block_count", 0, u32(77), "llama.block_count: type 77 is none of GGUF's"),
        ("llama.block_count", 0, u32(6), "llama.block_count="),
        ("llama.embedding_length", 4, u32(50), "llama.embedding_length|token_embd.weight: shape"),
        ("llama.attention.head_count", 4, u32(5), "head_count"),
        ("llama.attention.key_length", 4, u32(6), "value_length=8: must be the width of a head, 6"),
        ("llama.attention.layer_norm_rms_epsilon", 4, struct.pack("<f", float("nan")), "epsilon=nan: must be a number"),
        ("llama.rope.freq_base", 4, struct.pack("<f", -1), "freq_base=-1.0"),
        ("general.architecture", 12, b"mamba", "general.architecture='mamba': must be one of"),
        ("tokenizer.ggml.tokens", 8, HUGE, "items of tokenizer.ggml.tokens: must be at most"),
        ("tokenizer.ggml.tokens", 8, struct.pack("<Q", 2**24), "truncated: a string"),
        ("tokenizer.ggml.tokens", 16, HUGE, "truncated: a string of 9223372036854775808 bytes"),
        ("tokenizer.ggml.tokens", 4, u32(9), "arrays of type 9 are not read"),
        ("tokenizer.ggml.token_type", 8, struct.pack("<Q", 2**24), "truncated: 67108864 bytes wanted"),
        ("tokenizer.ggml.pre", 12, b"xyz-2", "tokenizer.ggml.pre='xyz-2'"),
        ("tokenizer.ggml.eos_token_id", 4, u32(2**31), "tokenizer.ggml.eos_token_id=2147483648"),
        ("tokenizer.ggml.model", 12, b"gpt9", "tokenizer.ggml.model='gpt9'"),
    ],
)
def test_metadata_is_checked(refuse, content, key, skip, new, message):
    refuse(after(content, key.encode(), new, skip), message)


@pytest.mark.parametrize(
    ("skip", "new", "message"),
    [
        (0, u32(9), "output_norm.weight: 9 dimensions: must be at most 4"),
        (0, u32(0), "dimensions: must be at most 4"),  # what follows is read from a wrong place
        (4, HUGE, "in a dimension of output_norm.weight"),
        (4, struct.pack("<Q", 2**40), "truncated|overlap"),
        (4, struct.pack("<Q", 47), "shape .47., but the config asks for .48."),
        (12, u32(99), "encoding 99"),
        (12, u32(24), "encoding I8, which the gguf library cannot|overlap"),
        (12, u32(2), "rows must be blocks of 32"),
        (16, HUGE, "bytes before output_norm.weight"),
        (16, struct.pack("<Q", 32), "overlap"),
        (16, struct.pack("<Q", 200_000), "truncated|overlap"),
    ],
)
def test_the_table_of_tensors_is_checked(refuse, content, skip, new, message):
    refuse(after(content, b"output_norm.weight", new, skip), message)


def test_names_that_stand_twice_are_refused(refuse, content):
    refuse(
        content.replace(b"llama.attention.key_length", b"llama.attention.head_count"), "stands twice in the metadata"
    )
    refuse(content.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"), "stands twice")


def test_factors_of_the_angles_are_checked(refuse, content):
    begin = int.from_bytes(content[content.index(b"rope_freqs.weight") + 17 + 16 :][:8], "little")
    data = len(content) - begin - 32  # the last tensor: four factors, filled up to 32 bytes
    for value in (0.0, -1.0, float("nan"), float("inf")):
        refuse(
            content[: begin + data] + struct.pack("<f", value) + content[begin + data + 4 :],
            "rope_freqs.weight: must be",
        )


def test_every_shorter_file_is_refused(tmp_path, content):
    head = content.index(b"rope_freqs.weight") + 64
    path = tmp_path / "model.gguf"
    for size in [*np.random.default_rng(0).integers(0, head, 150), len(content) - 32]:
        path.write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"model\.gguf: .*(truncated|is empty|must be at most)"):
            open_model(path)


def test_no_flipped_bit_does_more_than_an_error(tmp_path, content):
    random = np.random.default_rng(1)
    path = tmp_path / "model.gguf"
    head = content.index(b"rope_freqs.weight") + 64
    for place in [*range(32), *random.integers(0, head, 300)]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(random.integers(8))
        path.write_bytes(spoilt)
        with contextlib.suppress(WordkilnError):
            open_model(path).source.read("norm.weight")


def test_a_directory_of_several_is_refused(tmp_path, content):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PathError, match=r"2 \.gguf files: name one of them, such as a\.gguf"):
        open_model(tmp_path)
    (tmp_path / "a.gguf").unlink()
    assert open_model(tmp_path).architecture.num_layers == 3


def test_a_part_of_several_is_refused(refuse, content):
    key = b"general.quantization_version"
    split = b"split.count"
    padded = len(split).to_bytes(8, "little") + split
    place = content.index(key) - 8
    new = content[:place] + padded + content[place + 8 + len(key) :]
    refuse(new, "is one of several parts")


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    source = open_model(path).source
    path.write_bytes(content[:-64])
    with pytest.raises(FormatError, match="has changed since it was opened"):
        source.read("norm.weight")
