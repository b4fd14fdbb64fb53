"""The GPU's attention kernels on a CPU against `ops.reference.attention`."""

import pytest
import torch

from wordkiln.ops import _attention_cuda, _cuda, reference

# (B, H, Hkv, S, K, D): one of each; tiles of 128 queries (64 at 256) and 64 keys cut and exceeded; grouped heads; S
# beyond K; head sizes between those that there are kernels for, and one that is no multiple of 8.
SHAPES = [
    (1, 1, 1, 1, 1, 8),
    (2, 4, 2, 5, 5, 20),
    (1, 2, 1, 100, 130, 32),
    (1, 2, 2, 130, 64, 64),
    (1, 1, 1, 129, 200, 96),
    (1, 1, 1, 70, 65, 256),
    (2, 3, 1, 12, 5, 136),
]

CHANGES = {
    "plain": {"causal": False},
    "causal": {},
    "lengths": {"key_lengths": True},
    "window": {"window": 9},
    "two-sided window": {"window": 70, "causal": False, "key_lengths": True},
    "slopes": {"slopes": True},
    "soft-cap": {"soft_cap": 1.5, "scale": -0.3},
    "bias": {"bias": True, "scale": 0.0},
    "dropout": {"dropout": 0.3},
    "all": {"window": 9, "causal": False, "slopes": True, "soft_cap": 2.0, "dropout": 0.5, "key_lengths": True},
}


def draw(shape, dtype):
    batch, heads, kv_heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(batch, heads, queries, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, size)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in sizes]


def arguments_for(shape, change, dtype):
    batch, heads, _, queries, keys, _ = shape
    generator = torch.Generator().manual_seed(4)
    change = {"causal": True} | change
    if "slopes" in change:
        change["slopes"] = torch.rand(heads, generator=generator, dtype=torch.float64)
    if "key_lengths" in change:
        change["key_lengths"] = torch.arange(batch) * 7 % (keys + 1)  # row 0 has no key at all
        change["key_lengths"][-1] = keys - keys // 5
    if "bias" in change:
        change["bias"] = torch.randn(batch, 1, queries, keys, generator=generator).to(dtype)
    return change | {"seed": torch.tensor([2**40 + 123, 5])}


def run(simt, monkeypatch, q, k, v, arguments):
    monkeypatch.setattr(_cuda, "_module", simt)
    names = ("key_lengths", "bias", "slopes", "seed", "query_offsets", "key_offsets")
    a = {"causal": True, "window": 0, "scale": q.shape[-1] ** -0.5, "soft_cap": 0.0, "dropout": 0.0} | arguments
    options = (a["causal"], a["window"], a["scale"], a["soft_cap"], a["dropout"])
    return _attention_cuda.forward(q, k, v, *(a.get(name) for name in names), *options)


def widened(arguments):
    return arguments | ({"bias": arguments["bias"].double()} if "bias" in arguments else {})


def assert_near(got, plain, exact):
    """At most twice as far from float64 as plain torch in the same type; always allowed are two roundings."""
    rounding = 2 * torch.finfo(got.dtype).eps * exact.abs().max()
    assert (got.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + rounding


def assert_matches(simt, monkeypatch, shape, change, dtype):
    q, k, v = draw(shape, dtype)
    arguments = arguments_for(shape, change, dtype)
    out, lse = run(simt, monkeypatch, q, k, v, arguments)
    exact = reference.attention(*(x.double() for x in (q, k, v)), return_lse=True, **widened(arguments))
    plain = reference.attention(q, k, v, **arguments)
    assert out.dtype == dtype
    assert_near(out, plain, exact[0])
    # float32 sums of products: a few hundred terms of order 1.
    torch.testing.assert_close(lse.double(), exact[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(simt, monkeypatch, shape, change):
    assert_matches(simt, monkeypatch, shape, change, torch.bfloat16)


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
    for got, want in zip(
        run(simt, monkeypatch, q, k, v, {"key_lengths": torch.tensor([70])}), short, strict=True
    ):
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
