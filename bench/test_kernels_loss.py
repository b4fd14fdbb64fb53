"""The vocabulary loss, and the norm and the activation of a layer, forward and backward, against torch's own."""

import limits
import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln import ops

PEER = f"torch {torch.__version__}"


def step(function, *inputs):
    """One forward and backward: the result and every gradient."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    output.backward(torch.ones_like(output))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def about_equal(ours, theirs):
    """Of bfloat16: torch rounds the logits."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.02, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "vocab"), [(256, 10000), (256, 32000), (768, 10000), (256, 50257)])
def test_vocabulary_loss(size, vocab, dtype):
    tokens = 2048
    torch.manual_seed(0)
    inputs = torch.randn(tokens, size).to(dtype), (torch.randn(vocab, size) * 0.02).to(dtype)
    targets = torch.randint(vocab, (tokens,))
    pairs.compare(
        f"linear + cross-entropy fwd+bwd, {tokens} tokens {size} -> {vocab}, {str(dtype)[6:]}",
        PEER,
        lambda: step(lambda h, w: ops.linear_cross_entropy(h, w, targets), *inputs),
        lambda: step(lambda h, w: F.cross_entropy(F.linear(h, w), targets), *inputs),
        equal=close if dtype == torch.float32 else about_equal,
        amount=6 * tokens * size * vocab / 1e9,
        unit="GFLOP",
        limit_per_second=limits.fma_peak() if dtype == torch.float32 else None,
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [2048, 8192])
def test_bias_and_gelu(rows, dtype, approximate):
    torch.manual_seed(0)
    inputs = torch.randn(rows, 1536, dtype=dtype), torch.randn(1536, dtype=dtype)
    # bfloat16: torch rounds x + bias, and each gradient before it sums them.
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05 * rows**0.5}
    pairs.compare(
        f"bias + GELU ({approximate}) fwd+bwd, {rows} x 1536, {str(dtype)[6:]}",
        PEER,
        lambda: step(lambda x, b: ops.gelu(x, b, approximate=approximate), *inputs),
        lambda: step(lambda x, b: F.gelu(x + b, approximate=approximate), *inputs),
        equal=lambda a, b: [torch.testing.assert_close(x, y, **tolerance) for x, y in zip(a, b, strict=True)],
        amount=rows * 1536 / 1e6,
        unit="million elements",
    )


@pytest.mark.parametrize(("rows", "size"), [(2048, 1024), (8192, 1536)])
def test_swiglu(rows, size):
    torch.manual_seed(0)
    inputs = torch.randn(rows, size), torch.randn(rows, size)
    pairs.compare(
        f"SwiGLU fwd+bwd, {rows} x {size}",
        PEER,
        lambda: step(ops.swiglu, *inputs),
        lambda: step(lambda gate, up: F.silu(gate) * up, *inputs),
        equal=close,
        amount=rows * size / 1e6,
        unit="million elements",
    )


@pytest.mark.parametrize(("rows", "size"), [(2048, 384), (8192, 768)])
def test_rms_norm(rows, size):
    torch.manual_seed(0)
    inputs = torch.randn(rows, size), torch.rand(size)
    pairs.compare(
        f"RMS norm fwd+bwd, {rows} x {size}",
        PEER,
        lambda: step(lambda x, w: ops.rms_norm(x, w, 1e-5), *inputs),
        lambda: step(lambda x, w: F.rms_norm(x, (size,), w, 1e-5), *inputs),
        equal=lambda a, b: [torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3) for x, y in zip(a, b, strict=True)],
        amount=rows * size / 1e6,
        unit="million elements",
    )
