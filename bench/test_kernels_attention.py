"""Attention against torch's scaled_dot_product_attention on the same tensors: training shapes, masks, decoding.

The goals (issue 4) are against torch with an allocator that does not page-fault:
MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
"""

import dataclasses

import limits
import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln import ops

PEER = f"torch {torch.__version__}"
# (B, H, Hkv, S, D), must, hoped for.
SHAPES = [
    ((8, 12, 12, 256, 64), 2.3, 3.0),
    ((4, 8, 8, 512, 128), 2.3, 3.0),
    ((32, 6, 6, 256, 64), 2.3, 3.0),
    ((12, 6, 6, 64, 64), 2.3, 3.0),
    ((1, 32, 8, 512, 64), 2.3, 3.0),
    ((2, 12, 12, 1024, 64), 1.5, 2.0),
    ((1, 12, 12, 2048, 64), 1.5, 2.0),
]
LONG = (2, 12, 12, 1024, 64)


def draw(shape, dtype=torch.float32, queries=None):
    torch.manual_seed(0)
    batch, heads, kv_heads, length, size = shape
    sizes = [(batch, heads, queries or length, size), *[(batch, kv_heads, length, size)] * 2]
    return [torch.randn(s).to(dtype) for s in sizes]


def equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        tolerance = 3e-2 if one.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def step(attend, inputs):
    """One forward and backward: the output and every gradient."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    return (output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output)))


def run(attend, inputs):
    with torch.no_grad():
        return (attend(*inputs),)


def compare(work, ours, theirs, inputs, goals, *, train, scores, check=equal):
    """`scores`: how many of them a call needs."""
    call = step if train else run
    row = pairs.compare(
        f"{work} {'fwd+bwd' if train else 'fwd'}",
        PEER,
        lambda: call(ours, inputs),
        lambda: call(theirs, inputs),
        equal=check,
        # Forward 2 products, backward 5.
        amount=(14 if train else 4) * scores * inputs[0].shape[-1] / 1e9,
        unit="GFLOP",
        limit_per_second=limits.fma_peak() if inputs[0].dtype == torch.float32 else None,
    )
    pairs.ROWS[-1] = dataclasses.replace(row, verdict=pairs.judge(row.ratio, *goals))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "must", "hoped"), SHAPES, ids=str)
def test_causal(shape, must, hoped, dtype, train):
    batch, heads, kv_heads, length, _ = shape
    compare(
        f"causal {str(dtype)[6:]} {shape}",
        ops.attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads),
        draw(shape, dtype),
        (must, hoped) if dtype == torch.float32 else (3.0, 4.0),
        train=train,
        scores=batch * heads * length * (length + 1) / 2,
    )


@pytest.mark.parametrize("train", [False, True])
def test_window(train):
    batch, heads, _, length, _ = LONG
    distance = torch.arange(length) - torch.arange(length)[:, None]
    near = (distance <= 0) & (distance > -128)
    compare(
        f"window 128 {LONG}",
        lambda q, k, v: ops.attention(q, k, v, window=128),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=near),
        draw(LONG),
        (7.0, 12.0),
        train=train,
        scores=batch * heads * int(near.sum()),
    )


def test_dropout():
    def same_share(ours, theirs):  # the masks differ: the means over everything must not
        for one, other in zip(ours, theirs, strict=True):
            assert abs(one.mean() - other.mean()) < 0.01

    batch, heads, _, length, _ = LONG
    compare(
        f"dropout 0.1, causal {LONG}",
        lambda q, k, v: ops.attention(q, k, v, dropout=0.1),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1),
        draw(LONG),
        (3.0, 8.0),
        train=True,
        scores=batch * heads * length * (length + 1) / 2,
        check=same_share,
    )


def test_alibi():
    batch, heads, _, length, _ = LONG
    slopes = 2.0 ** -torch.arange(1, heads + 1)
    distance = torch.arange(length) - torch.arange(length)[:, None]
    bias = (slopes[:, None, None] * distance).masked_fill(distance > 0, -torch.inf)[None]
    compare(
        f"ALiBi, causal {LONG}",
        lambda q, k, v: ops.attention(q, k, v, slopes=slopes),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        draw(LONG),
        (1.3,),
        train=True,
        scores=batch * heads * length * (length + 1) / 2,
    )


def test_key_lengths():
    batch, heads, _, length, _ = shape = (8, 12, 12, 256, 64)
    lengths = torch.linspace(length / 4, length, batch).long()
    seen = (torch.arange(length) < lengths[:, None])[:, None, None]
    compare(
        f"key lengths {shape}",
        lambda q, k, v: ops.attention(q, k, v, causal=False, key_lengths=lengths),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=seen),
        draw(shape),
        (1.4,),
        train=True,
        scores=heads * length * int(lengths.sum()),
    )


def decode(attend, caches):
    """A query for each cache; the last one's output."""
    with torch.no_grad():
        for cache in caches:
            result = attend(*cache)
    return (result,)


# In a model's step a cache comes from memory, as weights were read in between. With `from_memory` False it is the same
# one again and again.
@pytest.mark.parametrize("from_memory", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [128, 1024, 4096])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(12, 12, 64), (32, 8, 128)])
def test_decoding(heads, kv_heads, size, batch, keys, dtype, from_memory):
    goals = {(12, torch.float32): (1.6, 2.5), (12, torch.bfloat16): (12.0, 18.0)}
    goals |= {(32, torch.float32): (3.5, 6.0), (32, torch.bfloat16): (20.0, 30.0)}
    shape = (batch, heads, kv_heads, keys, size)
    first = draw(shape, dtype, queries=1)
    cache_bytes = sum(x.nbytes for x in first[1:])
    if from_memory:
        total = 2 * limits.FAR_MEGABYTES << 20
        caches = [[x.clone() for x in first] for _ in range(total // cache_bytes)]
    else:
        caches = [first] * max(1, 2**19 // (batch * kv_heads * keys))
    pairs.compare(
        f"decoding {str(dtype)[6:]} B{batch} H{heads}/{kv_heads} K{keys} D{size}{' from memory' * from_memory}",
        PEER,
        lambda: decode(ops.attention, caches),
        lambda: decode(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads), caches),
        equal=equal,
        amount=len(caches) * cache_bytes / 1e9,
        unit="GB",
        limit_per_second=limits.read_bandwidth(limits.FAR_MEGABYTES if from_memory else cache_bytes >> 20),
        goal=goals[heads, dtype],
    )
