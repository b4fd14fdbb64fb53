"""Attention and the vocabulary loss, forward and backward, against torch's own on the same tensors."""

import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln import ops

PEER = f"torch {torch.__version__}"


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def step(module, inputs):
    """One forward and backward; returns the output and the gradient of the input."""
    for parameter in getattr(module, "parameters", list)():
        parameter.grad = None
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = module(*leaves)
    output = output[0] if isinstance(output, tuple) else output
    output.backward(torch.ones_like(output))
    return output.detach(), leaves[0].grad


@pytest.mark.parametrize(("batch", "heads", "length", "size"), [(8, 12, 256, 64), (4, 8, 512, 128), (1, 8, 1024, 64)])
def test_causal_attention_training(batch, heads, length, size):
    torch.manual_seed(0)
    qkv = [torch.randn(batch, heads, length, size) for _ in range(3)]
    pairs.compare(
        f"causal attention fwd+bwd, B{batch} H{heads} S{length} D{size}",
        PEER,
        lambda: step(lambda q, k, v: ops.attention(q, k, v, causal=True), qkv),
        lambda: step(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), qkv),
        equal=lambda a, b: [close(one, other) for one, other in zip(a, b, strict=True)],
        # Forward 2 products of S x S/2 x D, backward 5.
        amount=7 * batch * heads * length * length * size / 1e9,
        unit="GFLOP",
    )


@pytest.mark.parametrize(("tokens", "size", "vocab"), [(2048, 256, 10000)])
def test_vocabulary_loss(tokens, size, vocab):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, size), torch.randn(vocab, size) * 0.02
    targets = torch.randint(vocab, (tokens,))
    pairs.compare(
        f"linear + cross-entropy fwd+bwd, {tokens} tokens {size} -> {vocab}",
        PEER,
        lambda: step(lambda h, w: ops.linear_cross_entropy(h, w, targets), [hidden, weight]),
        lambda: step(lambda h, w: F.cross_entropy(F.linear(h, w), targets), [hidden, weight]),
        equal=lambda a, b: [close(one, other) for one, other in zip(a, b, strict=True)],
        amount=6 * tokens * size * vocab / 1e9,
        unit="GFLOP",
    )
