"""What a call of an op costs beyond its kernel, on tensors so small that the kernel takes little: one thread."""

import statistics
import timeit
from dataclasses import replace

import pairs
import pytest
import torch
import torch.nn.functional as F

import wordkiln as wk
from wordkiln import _kernels, ops

CALLS, ROUNDS = 300, 31
MOST_MICROSECONDS = 10


def attention(**options):
    q, k, v = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 2, 16), torch.randn(1, 2, 2, 16)
    out, lse = torch.empty_like(q), torch.empty(1, 2, 1)
    tensors = (*(options.get(name) for name in ("key_lengths", "bias", "slopes")), None, None)
    numbers = (True, options.get("window", 0), 0.25, options.get("soft_cap", 0.0), options.get("dropout", 0.0), 0, 0)
    return (
        lambda: ops.attention(q, k, v, **options),
        lambda: _kernels.attention_forward_tensors(q, k, v, out, lse, *tensors, *numbers),
        None if options else lambda: F.scaled_dot_product_attention(q, k, v),
    )


def attention_paged():
    q, pages, out, lse = (
        torch.randn(1, 2, 1, 16),
        torch.randn(2, 2, 2, 16),
        torch.empty(1, 2, 1, 16),
        torch.empty(1, 2, 1),
    )
    table, lengths = torch.tensor([[1, 0]]), torch.tensor([3])
    arguments = (q, pages, pages, out, lse, table, lengths, None, True, 0, 0.25, 0.0)
    return (
        lambda: ops.attention_paged(q, pages, pages, table, lengths),
        lambda: _kernels.attention_paged_tensors(*arguments),
        None,
    )


def rms_norm(with_residual=False):
    x, weight, out, scale = torch.randn(256, 64), torch.randn(64), torch.empty(256, 64), torch.empty(256)
    residual = torch.randn(256, 64) if with_residual else None
    added = residual.data_ptr() if with_residual else 0
    addresses = (x.data_ptr(), added, weight.data_ptr(), added, out.data_ptr(), scale.data_ptr())
    return (
        lambda: ops.rms_norm(x, weight, 1e-5, residual),
        lambda kept=(out, scale): _kernels.rms_norm_forward("float32", *addresses, (256, 64), 1e-5),
        None if with_residual else lambda: F.rms_norm(x, (64,), weight, 1e-5),
    )


def swiglu():
    gate, up, out = torch.randn(1 << 14), torch.randn(1 << 14), torch.empty(1 << 14)
    addresses = (gate.data_ptr(), up.data_ptr(), out.data_ptr())
    return (
        lambda: ops.swiglu(gate, up),
        lambda kept=out: _kernels.swiglu_forward("float32", *addresses, 1 << 14),
        lambda: F.silu(gate) * up,
    )


def gelu():
    x, bias, out = torch.randn(256, 64), torch.randn(64), torch.empty(256, 64)
    addresses = (x.data_ptr(), bias.data_ptr(), out.data_ptr())
    return (
        lambda: ops.gelu(x, bias),
        lambda kept=out: _kernels.gelu_forward("float32", *addresses, (256, 64), False),
        lambda: F.gelu(x + bias),
    )


def rotary():
    x, angles, out = torch.randn(1, 1, 2, 16), torch.randn(1, 1, 8), torch.empty(1, 1, 2, 16)
    addresses = (x.data_ptr(), angles.data_ptr(), angles.data_ptr(), out.data_ptr())
    return (
        lambda: ops.rotary(x, angles, angles),
        lambda kept=out: _kernels.rotary("float32", *addresses, (1, 2, 16), 32, False),
        None,
    )


def linear_cross_entropy():
    hidden, weight, targets = torch.randn(4, 8), torch.randn(16, 8), torch.tensor([1, 2, 3, 4])
    addresses = (hidden.data_ptr(), weight.data_ptr(), 0, targets.data_ptr(), 0, 0, 0)
    return (
        lambda: ops.linear_cross_entropy(hidden, weight, targets),
        lambda: _kernels.linear_cross_entropy("float32", *addresses, (4, 16, 8), -100, 0.0, 0.0, True),
        lambda: F.cross_entropy(F.linear(hidden, weight), targets),
    )


def packed_linear():
    x, weight, out = torch.randn(4, 8), torch.randn(16, 8), torch.empty(4, 16)
    packed = ops.PackedLinear(weight)
    addresses = (x.data_ptr(), out.data_ptr())
    return (
        lambda: ops.linear(x, packed),
        lambda kept=out: packed._packed(*addresses, 4),
        lambda: F.linear(x, weight),
    )


def recurrence(kind):
    """One step; torch's product counts as the kernel's."""
    gates = {"lstm": 4, "gru": 3}[kind]
    x, weight_ih, weight_hh = torch.randn(1, 1, 8), torch.randn(gates * 8, 8), torch.randn(gates * 8, 8)
    bias_ih, bias_hh, h, c = torch.randn(gates * 8), torch.randn(gates * 8), torch.zeros(1, 8), torch.zeros(1, 8)
    projected, out, last = torch.randn(1, 1, gates * 8), torch.empty(1, 1, 8), torch.empty(2, 1, 8)
    is_lstm = kind == "lstm"
    addresses = [array.data_ptr() for array in (projected, weight_hh, bias_ih, bias_hh, h)]
    rest = (c.data_ptr() if is_lstm else 0, 0, out.data_ptr(), last[0].data_ptr() if is_lstm else 0, 0)
    op, state = (ops.lstm, (h, c)) if is_lstm else (ops.gru, h)

    def kernel(kept=(projected, out, c)):
        F.linear(x, weight_ih)
        _kernels.recurrent_forward("float32", kind, *addresses, *rest, (1, 1, 8), False, last[1].data_ptr())

    layer = (torch.nn.LSTM if is_lstm else torch.nn.GRU)(8, 8)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (weight_ih, weight_hh, bias_ih, bias_hh), strict=True):
            parameter.copy_(value)
    states = (h[None], c[None]) if is_lstm else h[None]
    return lambda: op(x, weight_ih, weight_hh, bias_ih, bias_hh, state)[0], kernel, lambda: layer(x, states)[0]


# Kernels of numbers get `kept` as well: the memory behind the addresses must outlive the function that makes it.
OPS = {
    "attention": attention,
    "attention, window": lambda: attention(window=4),
    "attention, key_lengths": lambda: attention(key_lengths=torch.tensor([2])),
    "attention, bias": lambda: attention(bias=torch.randn(1, 2, 1, 2)),
    "attention, slopes": lambda: attention(slopes=torch.rand(2)),
    "attention, soft_cap": lambda: attention(soft_cap=30.0),
    "attention, dropout": lambda: attention(dropout=0.1),
    "attention_paged": attention_paged,
    "rms_norm": rms_norm,
    "rms_norm, residual": lambda: rms_norm(with_residual=True),
    "swiglu": swiglu,
    "gelu": gelu,
    "rotary": rotary,
    "linear_cross_entropy": linear_cross_entropy,
    "linear, packed": packed_linear,
    "lstm": lambda: recurrence("lstm"),
    "gru": lambda: recurrence("gru"),
}


@pytest.mark.parametrize("name", OPS)
def test_call(name):
    torch.manual_seed(0)
    call, kernel, peer = OPS[name]()
    threads = wk.get_num_threads()
    wk.set_num_threads(1)  # a second one would be woken in every call, which is no part of it
    try:
        with torch.no_grad():
            row = pairs.compare(
                f"a call of {name}, 1 thread, {CALLS} of them",
                f"torch {torch.__version__}" if peer else "itself (no peer)",
                lambda: [call() for _ in range(CALLS)][-1],
                lambda: [(peer or call)() for _ in range(CALLS)][-1],
                equal=torch.testing.assert_close if "dropout" not in name else lambda *_: None,
                amount=CALLS,
                unit="call",
                rounds=ROUNDS,
            )
            beyond = [timeit.timeit(call, number=CALLS) - timeit.timeit(kernel, number=CALLS) for _ in range(ROUNDS)]
    finally:
        wk.set_num_threads(threads)
    microseconds = statistics.median(beyond) / CALLS * 1e6
    verdict = f"{microseconds:.1f} us beyond the kernel: {pairs.judge(microseconds, MOST_MICROSECONDS, least=False)}"
    pairs.ROWS[-1] = replace(row, verdict=verdict)
