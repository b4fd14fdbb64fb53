"""The GPU's attention kernels on a CPU against `ops.reference.attention`."""

import pytest
import torch
from attention_cases import CHANGES, FLOAT32_SHAPES, SHAPES, assert_matches, assert_near, draw, run

from wordkiln.ops import reference


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, change, torch.bfloat16)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", FLOAT32_SHAPES, ids=str)
def test_matches_in_float32(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, change, torch.float32)


@pytest.mark.parametrize("change", [CHANGES["causal"], CHANGES["all"]], ids=["causal", "all"])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_matches_in_float16(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, change, torch.float16)


@pytest.mark.parametrize("shape", [(1, 2, 1, 140, 200, 64), (1, 1, 1, 70, 130, 256)], ids=str)
def test_no_order_of_threads_or_copies_changes_a_bit(scheduled, monkeypatch, shape):
    q, k, v = draw(shape, torch.bfloat16)
    got = run(scheduled, monkeypatch, q, k, v, {})
    scheduled.set_schedule()
    for one, other in zip(got, run(scheduled, monkeypatch, q, k, v, {}), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("lengths", [[5, 0, 1, 140, 3], [1], [64, 128, 64]], ids=str)
@pytest.mark.parametrize("extra", [0, 70])
def test_packed_texts(simt, monkeypatch, lengths, extra):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    key_offsets = torch.tensor([0, *(n + extra for n in lengths)]).cumsum(0)
    q, k, v = draw((1, 4, 2, int(offsets[-1]), int(key_offsets[-1]), 32), torch.bfloat16)
    arguments = {"window": 30, "dropout": 0.3, "seed": torch.tensor([1, 2])}
    both = {"query_offsets": offsets, "key_offsets": key_offsets}
    out, lse = run(simt, monkeypatch, q, k, v, arguments | both)
    wide = [x.double() for x in (q, k, v)]
    exact = reference.attention_varlen(*wide, **both, causal=True, scale=32**-0.5, **arguments)
    plain = reference.attention_varlen(q, k, v, **both, causal=True, scale=32**-0.5, **arguments)
    assert_near(out, plain[0], exact[0])
    torch.testing.assert_close(lse.double(), exact[1], rtol=1e-5, atol=1e-5)


def test_keys_beyond_the_length_are_never_read(simt, monkeypatch):
    q, k, v = draw((1, 2, 1, 5, 90, 32), torch.bfloat16)
    short = run(simt, monkeypatch, q, k[:, :, :70], v[:, :, :70], {})
    k[:, :, 70:], v[:, :, 70:] = torch.nan, torch.inf
    for got, want in zip(run(simt, monkeypatch, q, k, v, {"key_lengths": torch.tensor([70])}), short, strict=True):
        assert torch.equal(got, want)


def test_strided_and_misaligned_inputs_give_the_same_bits(simt, monkeypatch):
    q, k, v = draw((2, 4, 2, 37, 50, 32), torch.bfloat16)
    want, _ = run(simt, monkeypatch, q, k, v, {})
    by_row = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    out, _ = run(simt, monkeypatch, *by_row, {})
    assert torch.equal(out, want)
    assert out.stride() == by_row[0].stride()
    shifted = [torch.nn.functional.pad(x, (1, 2))[..., 1:-2] for x in (q, k, v)]
    assert torch.equal(run(simt, monkeypatch, *shifted, {})[0], want)
