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

# Kernels of numbers get `kept` as well: the memory behind the addresses must outlive this function.
CALLS, ROUNDS = 1000, 31
MOST_MICROSECONDS = 10


def attention():
    q, k, v = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 2, 16), torch.randn(1, 2, 2, 16)
    out, lse = torch.empty_like(q), torch.empty(1, 2, 1)
    nothing = (None,) * 5
    return (
        lambda: ops.attention(q, k, v),
        lambda: _kernels.attention_forward_tensors(q, k, v, out, lse, *nothing, True, 0, 0.25, 0.0, 0.0, 0, 0),
        lambda: F.scaled_dot_product_attention(q, k, v),
    )


def rms_norm():
    x, weight, out, scale = torch.randn(256, 64), torch.randn(64), torch.empty(256, 64), torch.empty(256)
    addresses = (x.data_ptr(), 0, weight.data_ptr(), 0, out.data_ptr(), scale.data_ptr())
    return (
        lambda: ops.rms_norm(x, weight, 1e-5),
        lambda kept=(out, scale): _kernels.rms_norm_forward("float32", *addresses, (256, 64), 1e-5),
        lambda: F.rms_norm(x, (64,), weight, 1e-5),
    )


def swiglu():
    gate, up, out = torch.randn(1 << 14), torch.randn(1 << 14), torch.empty(1 << 14)
    addresses = (gate.data_ptr(), up.data_ptr(), out.data_ptr())
    return (
        lambda: ops.swiglu(gate, up),
        lambda kept=(out,): _kernels.swiglu_forward("float32", *addresses, 1 << 14),
        lambda: F.silu(gate) * up,
    )


@pytest.mark.parametrize("make", [attention, rms_norm, swiglu])
def test_call(make):
    torch.manual_seed(0)
    call, kernel, peer = make()
    threads = wk.get_num_threads()
    wk.set_num_threads(1)  # a second one would be woken in every call, which is no part of it
    try:
        with torch.no_grad():
            row = pairs.compare(
                f"a call of {make.__name__}, 1 thread, {CALLS} of them",
                f"torch {torch.__version__}",
                lambda: [call() for _ in range(CALLS)][-1],
                lambda: [peer() for _ in range(CALLS)][-1],
                equal=torch.testing.assert_close,
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
