"""What `ops.attention` does to scores: window, bias, ALiBi, soft-cap, dropout, and the log-sum-exp."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from wordkiln import ops

# (B, H, Hkv, S, K, D): decoding (S up to 4), tiles of 6 queries, panels of 64 and blocks of 256 keys cut and exceeded.
SHAPES = [(2, 4, 2, 3, 530, 20), (2, 2, 1, 13, 11, 5), (1, 2, 2, 70, 300, 17), (1, 1, 1, 97, 130, 33)]

CHANGES = {
    "window": {"window": 5},
    "wide window": {"window": 70},
    "two-sided window": {"window": 70, "causal": False},
    "slopes": {"slopes": True},
    "soft-cap": {"soft_cap": 1.5},
    "dropout": {"dropout": 0.3},
    "all": {"window": 9, "causal": False, "slopes": True, "soft_cap": 2.0, "dropout": 0.5, "key_lengths": True},
}


def draw(shape, seed=0, dtype=torch.float64):
    batch, heads, kv_heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(batch, heads, queries, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, size)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


def arguments_for(shape, change):
    change = dict(change)
    if change.get("slopes"):
        change["slopes"] = torch.rand(shape[1], generator=torch.Generator().manual_seed(4))
    if change.get("key_lengths"):
        change["key_lengths"] = torch.arange(shape[0]) * 7 % (shape[4] + 1)
    return change | {"seed": torch.tensor([2**40 + 123, 5])}


def results(attend, inputs, arguments):
    """Output, log-sum-exp and all gradients, of both results."""
    out, lse = attend(*inputs[:3], bias=(*inputs, None)[3], return_lse=True, **arguments)
    generator = torch.Generator().manual_seed(1)
    loss = (out * torch.randn(out.shape, generator=generator).to(out)).sum()
    loss = loss + (lse.masked_fill(lse.isinf(), 0) * torch.randn(lse.shape, generator=generator).to(lse)).sum()
    return (out, lse, *torch.autograd.grad(loss, inputs))


def assert_same(inputs, arguments):
    ours = results(ops.attention, inputs, arguments)
    plain = results(ops.reference.attention, inputs, arguments)
    for got, want in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(shape, change):
    assert_same(draw(shape), arguments_for(shape, change))


@pytest.mark.parametrize("sizes", ["BHSK", "1HSK", "B11K", "11SK", "B1S1", "1H1K", "1111", "SK", "K"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_bias_broadcasts_and_has_a_gradient(shape, sizes):
    batch, heads, _, queries, keys, _ = shape
    named = {"B": batch, "H": heads, "S": queries, "K": keys, "1": 1}
    bias = torch.randn([named[size] for size in sizes], dtype=torch.float64, requires_grad=True)
    assert_same([*draw(shape), bias], arguments_for(shape, {"dropout": 0.2, "soft_cap": 3.0}))


def test_a_strided_bias():
    shape = SHAPES[1]
    bias = torch.randn(2, 1, 11, 13, dtype=torch.float64).transpose(-1, -2).requires_grad_()
    assert_same([*draw(shape), bias.expand(2, 2, 13, 11)], arguments_for(shape, {}))


@given(
    queries=st.integers(1, 80),
    keys=st.integers(1, 140),
    window=st.none() | st.integers(1, 150),
    causal=st.booleans(),
    length=st.none() | st.integers(0, 140),
    size=st.integers(1, 40),
)
def test_any_sizes(queries, keys, window, causal, length, size):
    lengths = None if length is None else torch.tensor([min(length, keys)])
    inputs = draw((1, 2, 1, queries, keys, size))
    assert_same(inputs, {"window": window, "causal": causal, "key_lengths": lengths})


@pytest.mark.parity
def test_window_and_bias_match_sdpa():
    q, k, v = draw((2, 2, 2, 90, 90, 16))
    distance = ops.reference.key_distances(90, 90, None, torch.device("cpu"))[0]
    near = (distance <= 0) & (distance > -20)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    torch.testing.assert_close(ops.attention(q, k, v, window=20), want, rtol=1e-12, atol=1e-12)
    bias = torch.randn(1, 2, 90, 90, dtype=torch.float64)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(ops.attention(q, k, v, causal=False, bias=bias), want, rtol=1e-12, atol=1e-12)


def test_philox_matches_its_published_vectors():
    # Random123's kat_vectors for philox4x32-10: counter, key, words.
    words = ops.reference._philox([torch.tensor(0)] * 4, 0)
    assert [int(word) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    counter = [torch.tensor(x) for x in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    words = ops.reference._philox(counter, 0xA4093822 | 0x299F31D0 << 32)
    assert [int(word) for word in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_dropout_follows_the_generator_and_the_seed():
    q, k, v = draw((1, 2, 2, 20, 20, 8))
    torch.manual_seed(3)
    first = ops.attention(q, k, v, dropout=0.5)
    assert not torch.equal(first, ops.attention(q, k, v, dropout=0.5))
    torch.manual_seed(3)
    assert torch.equal(first, ops.attention(q, k, v, dropout=0.5))
    seeds = [torch.tensor(seed) for seed in ([1, 2], [1, 3], [2, 2])]
    outs = [ops.attention(q, k, v, dropout=0.5, seed=seed) for seed in seeds]
    assert torch.equal(outs[0], ops.attention(q, k, v, dropout=0.5, seed=seeds[0]))
    assert not torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(dropout):
    factors = ops.reference.dropout_factors(torch.tensor([7, 0]), dropout, 2, 3, 100, 100)
    kept = (factors > 0).double().mean().item()
    # 60,000 draws: five standard deviations.
    assert abs(kept - (1 - dropout)) < 5 * math.sqrt(dropout * (1 - dropout) / 60_000)
    assert factors.mean().item() == pytest.approx(kept / (1 - dropout))


def test_dropout_does_not_depend_on_the_dtype_or_on_threads():
    q, k, _ = (x.detach() for x in draw((1, 2, 2, 150, 150, 8)))
    seed, eye = torch.tensor([1, 2]), torch.eye(150, dtype=torch.float64).expand(1, 2, 150, 150)
    masks = []
    for threads, dtype in [(1, torch.float64), (2, torch.float32), (3, torch.bfloat16)]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            inputs = (x.to(dtype) for x in (q, k, eye))
            inputs = [F.pad(x, (0, 150 - x.shape[-1])) for x in inputs]
            masks.append(ops.attention(*inputs, dropout=0.4, seed=seed, scale=0.1) > 0)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_only_the_lse_asked_to_differentiate():
    inputs = draw((1, 2, 1, 9, 9, 4))
    got = torch.autograd.grad(ops.attention(*inputs, return_lse=True)[1].sum(), inputs, allow_unused=True)
    want = torch.autograd.grad(
        ops.reference.attention(*inputs, return_lse=True)[1].sum(), inputs, materialize_grads=True
    )
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_bias_of_minus_infinity_hides_a_key():
    q, k, v = (x.detach() for x in draw((1, 1, 1, 6, 9, 4)))
    bias = torch.zeros(9, dtype=torch.float64)
    bias[4] = -math.inf
    rest = [j for j in range(9) if j != 4]
    want = ops.attention(q, k[:, :, rest], v[:, :, rest], causal=False)
    torch.testing.assert_close(ops.attention(q, k, v, causal=False, bias=bias), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", [{}, *CHANGES.values()], ids=["plain", *CHANGES])
def test_gradcheck(change):
    shape = (2, 2, 1, 7, 9, 3)
    arguments = arguments_for(shape, change)
    bias = torch.randn(1, 2, 7, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: ops.attention(q, k, v, bias=bias, **arguments), [*draw(shape), bias], fast_mode=True
    )
