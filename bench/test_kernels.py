"""LSTM and the vocabulary loss, forward and backward, against torch's own on the same tensors."""

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
