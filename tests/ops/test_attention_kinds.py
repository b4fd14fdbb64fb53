"""Attention on bfloat16, over packed texts, through torch.compile and opcheck."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wordkiln import ops
from wordkiln.errors import ArgumentError


def draw(shape, dtype=torch.float64):
    batch, heads, kv_heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, heads, queries, size), (batch, kv_heads, keys, size), (batch, kv_heads, keys, size)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


WIDTHS = [(2, 4, 2, 33, 33, 24), (1, 2, 2, 70, 300, 64), (2, 4, 1, 2, 700, 40), (1, 2, 1, 1, 90, 64)]


OPTIONS = [
    {"causal": True},
    {"causal": False},
    {"window": 20},
    {"soft_cap": 2.0, "slopes": torch.tensor([0.5, 0.1, 0.02, 0.0])},
    {"scale": -0.3},
    {"scale": 0.0},
    {"dropout": 0.2, "seed": torch.tensor([1, 2])},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options))
@pytest.mark.parametrize("shape", WIDTHS, ids=str)
def test_bfloat16_error_is_at_most_twice_the_plain_expression_s(shape, options):
    inputs = draw(shape, dtype=torch.bfloat16)
    if "slopes" in options:
        options = options | {"slopes": options["slopes"][: shape[1]]}
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    grad_out = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()

    def gradients(attend, leaves):
        out = attend(*leaves, **({"scale": None} | options))
        assert out.dtype == leaves[0].dtype
        return (out, *torch.autograd.grad(out, leaves, grad_out.to(out.dtype)))

    exact = gradients(ops.reference.attention, exact_inputs)
    plain, ours = gradients(ops.reference.attention, inputs), gradients(ops.attention, inputs)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: half a unit in the last place of the largest value, which rounding the result costs.
        floor = torch.finfo(torch.bfloat16).eps / 2 * want.abs().max()
        assert (got.double() - want).abs().max() <= 2 * (peer.double() - want).abs().max() + floor


def test_bfloat16_bits_do_not_depend_on_threads_or_repetition():
    inputs = draw((2, 4, 2, 150, 150, 64), dtype=torch.bfloat16)
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


def test_bfloat16_lse_is_float32():
    q, k, v = draw((1, 2, 2, 9, 9, 8), dtype=torch.bfloat16)
    lse = ops.attention(q, k, v, return_lse=True)[1]
    want = ops.attention(*(x.double() for x in (q, k, v)), return_lse=True)[1]
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse, want.float(), rtol=1e-6, atol=1e-6)


TEXTS = [[5, 0, 1, 70, 3], [1], [0, 0], []]


@pytest.mark.parametrize("arguments", [{}, {"causal": False}, {"window": 4, "dropout": 0.3, "soft_cap": 2.0}], ids=str)
@pytest.mark.parametrize("lengths", TEXTS, ids=str)
@pytest.mark.parametrize("extra", [0, 2])
def test_varlen_is_attention_of_each_text(lengths, extra, arguments):
    heads, kv_heads, size = 4, 2, 10
    generator = torch.Generator().manual_seed(0)
    key_lengths = [length + extra for length in lengths]
    q = torch.randn(sum(lengths), heads, size, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(sum(key_lengths), kv_heads, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    offsets, key_offsets = (torch.tensor([0, *np.cumsum(x, dtype=int)]) for x in (lengths, key_lengths))
    arguments = arguments | {"slopes": torch.rand(heads, generator=generator), "seed": torch.tensor([1, 2])}
    out, lse = ops.attention_varlen(q, k, v, offsets.int(), key_offsets, return_lse=True, **arguments)
    four = [x.transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
    plain = {"causal": True, "window": None, "scale": size**-0.5} | arguments
    want, want_lse = ops.reference.attention_varlen(*four, offsets, key_offsets, **plain)
    want, want_lse = want.squeeze(0).transpose(0, 1), want_lse.squeeze(0)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    pairs = [(out, want), (lse, want_lse)]
    pairs += zip(
        *(torch.autograd.grad((x * weight).sum(), (q, k, v), materialize_grads=True) for x in (out, want)), strict=True
    )
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_varlen_of_equal_lengths_is_the_batch():
    q, k, v = (x.detach() for x in draw((3, 4, 2, 40, 40, 8)))
    packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out = ops.attention_varlen(*packed, torch.tensor([0, 40, 80, 120]))
    assert torch.equal(out.view(3, 40, 4, 8).transpose(1, 2), ops.attention(q, k, v))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 4])}, "cu_seqlens: must rise from 0 to 5"),
        ({"cu_seqlens": torch.tensor([1, 5])}, "cu_seqlens: must rise"),
        ({"cu_seqlens": torch.tensor([0, 6, 5])}, "cu_seqlens: must rise"),
        ({"cu_seqlens": torch.tensor([0.0, 5.0])}, "cu_seqlens: dtype"),
        ({"cu_seqlens": torch.zeros(0, dtype=torch.int64)}, r"cu_seqlens: shape \[0\]"),
        ({"cu_seqlens": torch.zeros(1, 2, dtype=torch.int64)}, r"cu_seqlens: shape \[1, 2\]"),
        ({"cu_seqlens": [0, 5]}, "cu_seqlens: must be a torch.Tensor"),
        ({"cu_seqlens_k": torch.tensor([0, 2, 7])}, r"cu_seqlens_k: shape \[3\] must be \[2\]"),
        ({"cu_seqlens_k": torch.tensor([0, 5])}, "cu_seqlens_k: must rise from 0 to 7"),
        ({"q": torch.zeros(1, 5, 4, 8)}, "q: shape"),
        ({"k": torch.zeros(7, 2, 9)}, "k: shape"),
        ({"v": torch.zeros(6, 2, 8)}, "v: shape"),
    ],
)
def test_varlen_refuses(change, message):
    arguments = {
        "q": torch.zeros(5, 4, 8), "k": torch.zeros(7, 2, 8), "v": torch.zeros(7, 2, 8),
        "cu_seqlens": torch.tensor([0, 5]), "cu_seqlens_k": torch.tensor([0, 7]),
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        ops.attention_varlen(**(arguments | change))


@pytest.mark.parametrize("queries", [1, 4])
def test_decoding_bits_do_not_depend_on_threads_or_strides(queries):
    q, k, v = (x.detach() for x in draw((2, 4, 2, queries, 1300, 64), dtype=torch.float32))
    threads = torch.get_num_threads()
    try:
        outs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outs.append(ops.attention(q, k, v, return_lse=True))
    finally:
        torch.set_num_threads(threads)
    outs.append(ops.attention(q, *(F.pad(x, (0, 3, 0, 5))[:, :, :-5, :-3] for x in (k, v)), return_lse=True))
    for out, lse in outs[1:]:
        assert torch.equal(out, outs[0][0])
        assert torch.equal(lse, outs[0][1])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("with_lengths", [True, False])
def test_compiles_without_a_graph_break(dropout, with_lengths):
    inputs = draw((2, 2, 1, 9, 9, 4), dtype=torch.float32)
    seed = torch.tensor([1, 2])
    lengths = torch.tensor([9, 4]) if with_lengths else None

    def step(q, k, v):
        out, lse = ops.attention(
            q, k, v, window=5, key_lengths=lengths, dropout=dropout, seed=seed, soft_cap=2.0, return_lse=True
        )
        return out.sin().sum() + lse.clamp(min=-9).sum()

    want = torch.autograd.grad(step(*inputs), inputs)
    got = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(*inputs), inputs)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("kind", ["plain", "bias", "packed", "bfloat16"])
def test_opcheck(kind):
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float64
    q, k, v = draw((2, 2, 1, 5, 7, 4) if kind != "packed" else (1, 2, 1, 5, 7, 4), dtype=dtype)
    key_lengths = torch.tensor([3, 7]) if kind == "plain" else None
    bias = torch.randn(1, 2, 5, 7, dtype=dtype, requires_grad=True) if kind == "bias" else None
    offsets = [torch.tensor([0, 2, 5]), torch.tensor([0, 4, 7])] if kind == "packed" else [None, None]
    slopes = torch.tensor([0.5, 0.25], dtype=torch.float64)
    more = (key_lengths, bias, slopes, torch.tensor([3, 4]), *offsets, True, 3, 0.5, 2.0, 0.25)
    torch.library.opcheck(torch.ops.wordkiln.attention.default, (q, k, v, *more))
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    more = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in more)
    out, lse = torch.ops.wordkiln.attention(q, k, v, *more)
    arguments = (q, k, v, out, lse, out, lse, bias is not None, *more)
    torch.library.opcheck(torch.ops.wordkiln.attention_backward.default, arguments)
