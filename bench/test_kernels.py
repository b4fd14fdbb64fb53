"""Attention and LSTM, forward and backward, against torch's own on the same tensors."""

import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln import nn, ops

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


def flops_lstm(layers, batch, time, size):
    return 3 * 2 * layers * batch * time * 8 * size * size


@pytest.mark.parametrize(("layers", "batch", "time", "size"), [(1, 32, 64, 256), (2, 32, 35, 650), (1, 1, 128, 256)])
def test_lstm_training(layers, batch, time, size):
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(size, size, layers)
    ours = nn.LSTM(size, size, layers)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(time, batch, size)
    pairs.compare(
        f"LSTM fwd+bwd, {layers} layers B{batch} T{time} H{size}",
        PEER,
        lambda: step(ours, [x]),
        lambda: step(theirs, [x]),
        equal=lambda a, b: [close(one, other) for one, other in zip(a, b, strict=True)],
        amount=flops_lstm(layers, batch, time, size) / 1e9,
        unit="GFLOP",
    )


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
