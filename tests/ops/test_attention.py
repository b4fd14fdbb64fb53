"""`ops.attention` against `ops.reference.attention`, torch's SDPA, and bad input."""

import math

import pytest
import torch
from torch.nn import functional as F

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _checks

# (B, H, Hkv, S, K, D): ones, odd sizes, grouped heads, S beyond K, blocks of 48 queries and 64 keys cut and exceeded.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 2, 2, 5, 5, 3),
    (2, 4, 2, 7, 11, 16),
    (1, 3, 1, 12, 5, 17),
    (1, 2, 1, 49, 65, 8),
    (1, 1, 1, 97, 130, 20),
]


def draw(shape, dtype=torch.float64, seed=0):
    batch, heads, kv_heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(batch, heads, queries, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, size)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


def lengths_for(shape):
    return torch.arange(shape[0]) * 3 % (shape[4] + 1)  # row 0 has no key at all


def gradients(function, inputs, grad_out):
    out = function(*inputs)
    return out, torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(shape, causal, with_lengths):
    key_lengths = lengths_for(shape) if with_lengths else None
    inputs = draw(shape)
    grad_out = torch.randn(inputs[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = gradients(lambda *x: ops.attention(*x, causal=causal, key_lengths=key_lengths), inputs, grad_out)
    plain = gradients(lambda *x: ops.reference.attention(*x, causal=causal, key_lengths=key_lengths), inputs, grad_out)
    for got, want in zip((ours[0], *ours[1]), (plain[0], *plain[1]), strict=True):
        # Double precision: a few hundred terms of order 1, each rounded at 1e-16.
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_gradcheck(shape, causal):
    key_lengths = lengths_for(shape)
    assert torch.autograd.gradcheck(
        lambda *x: ops.attention(*x, causal=causal, key_lengths=key_lengths), draw(shape), fast_mode=True
    )


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(2, 4, 4, 33, 33, 24), (1, 4, 2, 70, 70, 64)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_matches_sdpa(shape, causal):
    q, k, v = draw(shape)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(ops.attention(q, k, v, causal), want, rtol=1e-12, atol=1e-12)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True, scale=0.3)
    torch.testing.assert_close(ops.attention(q, k, v, causal, scale=0.3), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 4, 4, 128, 128, 64), (1, 1, 1, 300, 300, 96)], ids=str)
def test_float32_error_is_at_most_twice_the_plain_expression_s(shape, causal):
    exact_inputs, inputs = draw(shape, torch.float32), draw(shape, torch.float32)
    exact_inputs = [x.detach().double().requires_grad_() for x in exact_inputs]
    grad_out = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    exact = gradients(lambda *x: ops.reference.attention(*x, causal=causal), exact_inputs, grad_out)
    plain = gradients(lambda *x: ops.reference.attention(*x, causal=causal), inputs, grad_out)
    ours = gradients(lambda *x: ops.attention(*x, causal=causal), inputs, grad_out)
    for got, peer, want in zip((ours[0], *ours[1]), (plain[0], *plain[1]), (exact[0], *exact[1]), strict=True):
        # The floor: four roundings of the largest value. A peer may be exact by luck, as with a single key.
        floor = 4 * torch.finfo(torch.float32).eps * max(1.0, want.abs().max().item())
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


def test_strided_inputs_give_the_same_bits():
    q, k, v = (x.detach().float() for x in draw((2, 4, 2, 37, 50, 24)))
    want = ops.attention(q, k, v)
    by_row = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(ops.attention(*by_row), want)
    assert ops.attention(*by_row).stride() == by_row[0].stride()
    by_column = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)]
    assert torch.equal(ops.attention(*by_column), want)
    shifted = [F.pad(x, (1, 2))[..., 1:-2] for x in (q, k, v)]  # misaligned, rows apart
    assert torch.equal(ops.attention(*shifted), want)


def test_strided_gradients():
    inputs = draw((2, 2, 1, 9, 13, 5))
    want = torch.autograd.grad(ops.attention(*inputs), inputs, torch.ones(2, 2, 9, 5, dtype=torch.float64))
    got = torch.autograd.grad(ops.attention(*inputs).sum(), inputs)  # a gradient of strides 0
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("shape", [(0, 2, 2, 3, 3, 4), (2, 2, 1, 0, 3, 4), (2, 2, 2, 3, 0, 4)], ids=str)
def test_empty(shape):
    inputs = draw(shape)
    out = ops.attention(*inputs, causal=False)
    assert out.shape == inputs[0].shape
    assert not out.any()
    assert not any(grad.any() for grad in torch.autograd.grad(out.sum(), inputs))


def test_bits_do_not_depend_on_threads_or_repetition():
    inputs = draw((1, 2, 1, 200, 200, 32), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            out = ops.attention(*inputs)
            results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_nan_and_infinity_stay_in_their_rows():
    q, k, v = (x.detach() for x in draw((1, 1, 1, 64, 64, 8), torch.float32))
    clean = ops.attention(q, k, v)
    q[0, 0, 5] = math.nan
    q[0, 0, 7] = math.inf
    out = ops.attention(q, k, v)
    assert out[0, 0, [5, 7]].isnan().all()
    others = [i for i in range(64) if i not in (5, 7)]
    assert torch.equal(out[0, 0, others], clean[0, 0, others])


def test_keys_beyond_the_length_are_never_read():
    q, k, v = (x.detach() for x in draw((1, 2, 1, 5, 9, 8), torch.float32))
    short = ops.attention(q, k[:, :, :6], v[:, :, :6])
    k[:, :, 6:], v[:, :, 6:] = math.nan, math.inf
    assert torch.equal(ops.attention(q, k, v, key_lengths=torch.tensor([6], dtype=torch.int32)), short)


def test_large_heads_run_on_the_reference_with_one_warning(monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    inputs = draw((2, 2, 1, 3, 4, 257))
    with pytest.warns(UserWarning, match=r"ops\.attention has no kernel for heads larger than 256"):
        got = ops.attention(*inputs, window=2)
    assert torch.equal(got, ops.reference.attention(*inputs, window=2))
    ops.attention(*inputs)  # warns no more


@pytest.mark.abuse
@pytest.mark.parametrize("length", [-1, 5])
def test_large_heads_have_their_lengths_checked(length):
    with pytest.raises(ArgumentError, match=rf"key_lengths\[1\]={length}: must be 0 to 4"):
        ops.attention(*draw((2, 2, 1, 3, 4, 257)), key_lengths=torch.tensor([4, length]))


def test_float16_runs_on_the_reference(monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    with pytest.warns(UserWarning, match="dtype torch.float16"):
        assert ops.attention(*draw((1, 1, 1, 3, 3, 4), torch.float16)).dtype == torch.float16


def test_window_sees_only_near_keys():
    mask = ops.reference.visible_keys(3, 4, True, 2, None, torch.device("cpu"))
    assert mask[0, 0].int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 3, 4)}, r"q: shape \[2, 3, 4\]"),
        ({"q": [1.0]}, "q: must be a torch.Tensor, not list"),
        ({"q": torch.zeros(2, 4, 5, 8, dtype=torch.int64)}, "q: dtype"),
        ({"k": torch.zeros(3, 2, 7, 8)}, r"k: shape .* must be \[2, any, any, 8\]"),
        ({"k": torch.zeros(2, 2, 7, 8, dtype=torch.float64)}, "k: dtype torch.float64 must be torch.float32"),
        ({"k": torch.zeros(2, 2, 7, 8, device="meta")}, "k: device meta must be cpu"),
        ({"v": torch.zeros(2, 2, 6, 8)}, r"v: shape .* must be \[2, 2, 7, 8\]"),
        ({"q": torch.zeros(2, 3, 5, 8)}, "3 heads must be a multiple of the 2"),
        ({"window": 0}, "window=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"key_lengths": torch.tensor([1.0, math.nan])}, "key_lengths: dtype torch.float32"),
        ({"key_lengths": torch.tensor([1])}, r"key_lengths: shape \[1\] must be \[2\]"),
        ({"key_lengths": torch.tensor([1, 8])}, r"key_lengths\[1\]=8: must be 0 to 7"),
        ({"key_lengths": torch.tensor([-1, 3])}, r"key_lengths\[0\]=-1: must be 0 to 7"),
        ({"key_lengths": [1, 2]}, "key_lengths: must be a torch.Tensor"),
        ({"bias": torch.zeros(4, 7)}, r"bias: shape \[4, 7\] must broadcast"),
        ({"bias": torch.zeros(1, 2, 4, 5, 7)}, "bias: shape .* must broadcast"),
        ({"slopes": torch.zeros(3)}, r"slopes: shape \[3\] must be \[4\]"),
        ({"slopes": torch.zeros(4, requires_grad=True)}, "slopes: they are constants"),
        ({"soft_cap": 0.0}, "soft_cap=0.0"),
        ({"soft_cap": math.nan}, "soft_cap=nan"),
        ({"dropout": math.nan}, "dropout=nan"),
        ({"seed": torch.tensor([1.0, 2.0])}, "seed: must be an int64 tensor"),
        ({"seed": torch.tensor([1])}, "seed: must be an int64 tensor"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"q": torch.zeros(2, 4, 5, 8), "k": torch.zeros(2, 2, 7, 8), "v": torch.zeros(2, 2, 7, 8)}
    with pytest.raises(ArgumentError, match=message):
        ops.attention(**(arguments | change))
