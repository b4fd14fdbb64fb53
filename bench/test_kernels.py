"""LSTM and the vocabulary loss, forward and backward, against torch's own on the same tensors."""

import pairs
import pytest
import torch

from wordkiln import nn

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
