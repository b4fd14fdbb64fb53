"""Inputs of the attention tests, and their comparison with the definition."""

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

# Heads of float32 are of at most 128 elements.
FLOAT32_SHAPES = [shape for shape in SHAPES if shape[-1] <= 128]

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


NAMES = ("key_lengths", "bias", "slopes", "seed", "query_offsets", "key_offsets")


def in_order(arguments, head_size):
    a = {"causal": True, "window": 0, "scale": head_size**-0.5, "soft_cap": 0.0, "dropout": 0.0} | arguments
    return [*map(a.get, NAMES), a["causal"], a["window"], a["scale"], a["soft_cap"], a["dropout"]]


def run(simt, monkeypatch, q, k, v, arguments):
    monkeypatch.setattr(_cuda, "_module", simt)
    return _attention_cuda.forward(q, k, v, *in_order(arguments, q.shape[-1]))


def run_backward(simt, monkeypatch, q, k, v, out, lse, grad_out, grad_lse, arguments):
    monkeypatch.setattr(_cuda, "_module", simt)
    first, *rest = in_order(arguments, q.shape[-1])
    return _attention_cuda.backward(q, k, v, out, lse, grad_out, grad_lse, False, first, *rest)[:3]


def widened(arguments):
    return arguments | ({"bias": arguments["bias"].double()} if "bias" in arguments else {})


def assert_near(got, plain, exact, floor=0.0):
    """At most twice as far from float64 as plain torch in the same type; always allowed: two roundings, and `floor`."""
    allowed = 2 * torch.finfo(got.dtype).eps * exact.abs().max() + floor
    assert (got.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + allowed


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
