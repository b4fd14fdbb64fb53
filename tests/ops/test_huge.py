"""Tensors of more than 2^31 elements: an index of 32 bits would wrap.

Inputs are zeros that take no memory, with a few rows drawn at the start, around element 2^31 and at the end. Those rows
must come out as they do from a call of their own. Each test says how much memory its results take.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from wordkiln import _kernels, ops
from wordkiln.ops import _activation, _norm

MANY = 2**31
pytestmark = [pytest.mark.slow, pytest.mark.abuse]


def available_gigabytes():
    """Of the machine, or of the container that this runs in."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free / 2**30


def needs(gigabytes):
    """Skip where the memory that a test takes, and one more for the rest of the machine, is not there."""
    if available_gigabytes() < gigabytes + 1:
        pytest.skip(f"needs {gigabytes + 1} GB of free memory")


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """The kernel for every size."""
    monkeypatch.setattr(_activation, "_FEW", 0)
    monkeypatch.setattr(_norm, "_FEW", 0)


def hollow(*shape, dtype=torch.bfloat16):
    """Zeros without memory behind them until they are written."""
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def drawn_rows(rows, width):
    """Which rows are drawn: the first, those around element 2^31, and the last."""
    middle = MANY // width
    return torch.tensor(sorted({0, 1, middle - 1, middle, min(middle + 1, rows - 1), rows - 1}))


def draw(x, rows, seed):
    x[rows] = torch.randn(len(rows), *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x.dtype)
    return x


def same_rows(got, rows, want):
    torch.testing.assert_close(got[rows], want, rtol=0, atol=0)


WIDTH = 4096
ROWS = MANY // WIDTH + 2
DRAWN = drawn_rows(ROWS, WIDTH)


def wide(seed):
    return draw(hollow(ROWS, WIDTH), DRAWN, seed)


def vector(seed):
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_rms_norm():
    needs(5)
    x, weight = wide(0), vector(1)
    out, _, scale = torch.ops.wordkiln.rms_norm(x, weight, None, 1e-5)
    want = ops.rms_norm(x[DRAWN], weight, 1e-5)
    same_rows(out, DRAWN, want)
    del out
    grad = wide(2)
    grads = torch.ops.wordkiln.rms_norm_backward(x, weight, scale, grad, None)
    want = torch.ops.wordkiln.rms_norm_backward(x[DRAWN], weight, scale[DRAWN], grad[DRAWN], None)
    same_rows(grads[0], DRAWN, want[0])
    torch.testing.assert_close(grads[1], want[1])


def test_swiglu():
    needs(10)
    gate, up, grad = wide(0), wide(1), wide(2)
    same_rows(ops.swiglu(gate, up), DRAWN, ops.swiglu(gate[DRAWN], up[DRAWN]))
    grads = torch.ops.wordkiln.swiglu_backward(gate, up, grad)
    for got, want in zip(grads, torch.ops.wordkiln.swiglu_backward(*(x[DRAWN] for x in (gate, up, grad))), strict=True):
        same_rows(got, DRAWN, want)


def test_gelu():
    needs(5)
    x, bias, grad = wide(0), vector(1), wide(2)
    same_rows(ops.gelu(x, bias), DRAWN, ops.gelu(x[DRAWN], bias))
    grads = torch.ops.wordkiln.gelu_backward(x, bias, grad, False)
    want = torch.ops.wordkiln.gelu_backward(x[DRAWN], bias, grad[DRAWN], False)
    same_rows(grads[0], DRAWN, want[0])
    torch.testing.assert_close(grads[1], want[1])


def test_rotary():
    needs(5)
    x = wide(0).view(1, ROWS, 32, 128)
    cos, sin = (draw(hollow(ROWS, 64, dtype=torch.float32), DRAWN, seed).unsqueeze(0) for seed in (1, 2))
    same_rows(ops.rotary(x, cos, sin)[0], DRAWN, ops.rotary(x[:, DRAWN], cos[:, DRAWN], sin[:, DRAWN])[0])


def test_attention_over_many_rows():
    needs(12)
    heads, queries, keys, size = 8, 64, 16, 64
    rows = MANY // (heads * queries * size) + 2
    drawn = drawn_rows(rows, heads * queries * size)
    q, grad = (draw(hollow(rows, heads, queries, size), drawn, seed) for seed in (0, 1))
    k, v = (draw(hollow(rows, heads, keys, size), drawn, seed) for seed in (2, 3))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    few = [x.detach()[drawn].requires_grad_() for x in inputs]
    out, want = ops.attention(*inputs), ops.attention(*few)
    grads, want_grads = torch.autograd.grad(out, inputs, grad), torch.autograd.grad(want, few, grad[drawn])
    for got, expected in zip((out, *grads), (want, *want_grads), strict=True):
        same_rows(got, drawn, expected)


def test_decoding_over_many_keys():
    needs(1)
    heads, size = 8, 128
    keys = MANY // (heads * size) + 70
    drawn = [0, keys // 2, keys - 1]
    q = torch.randn(1, heads, 1, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    k, v = hollow(1, heads, keys, size), hollow(1, heads, keys, size)
    for i, key in enumerate(drawn):
        k[0, :, key], v[0, :, key] = 20 * q[0, :, 0] * (1 + i), torch.randn(heads, size).bfloat16()
    few = [x[:, :, drawn] for x in (k, v)]
    # Zeros take no part: the scores of the drawn keys are some hundreds.
    torch.testing.assert_close(ops.attention(q, k, v), ops.attention(q, *few), rtol=1e-2, atol=1e-2)


def test_a_cache_of_many_pages():
    needs(1)
    page_size, heads, size = 16, 8, 128
    pages = MANY // (page_size * heads * size) + 3
    drawn = drawn_rows(pages, page_size * heads * size)
    k, v = (draw(hollow(pages, page_size, heads, size), drawn, seed) for seed in (0, 1))
    q = torch.randn(2, heads, 1, size, generator=torch.Generator().manual_seed(2)).bfloat16()
    table, lengths = drawn.flip(0).repeat(2, 1), torch.tensor([len(drawn) * page_size, 40])
    out = ops.attention_paged(q, k, v, table, lengths)
    few = torch.arange(len(drawn)).flip(0).repeat(2, 1)
    torch.testing.assert_close(out, ops.attention_paged(q, k[drawn], v[drawn], few, lengths), rtol=0, atol=0)


def test_vocabulary_loss():
    needs(12)
    width = 2**21
    words = MANY // width + 3
    drawn = drawn_rows(words, width)
    weight = draw(hollow(words, width, dtype=torch.float32), drawn, 0)
    hidden = torch.randn(3, width, generator=torch.Generator().manual_seed(1)) / width**0.5
    targets = drawn[-3:]
    # Without autograd, whose product with the loss' own gradient takes the memory of the weights once more.
    loss, grad_hidden, grad_weight, _ = torch.ops.wordkiln.linear_cross_entropy(
        hidden, weight, targets, None, -100, 0.0, 0.0, True, [True, True, False]
    )
    # The words that were not drawn have logits of 0.
    few = weight[drawn].double()
    logits = torch.zeros(3, words, dtype=torch.float64)
    logits[:, drawn] = hidden.double() @ few.t()
    logits.requires_grad_()
    want = torch.nn.functional.cross_entropy(logits, targets)
    (slope,) = torch.autograd.grad(want, logits)
    torch.testing.assert_close(loss.double(), want.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_hidden.double(), slope[:, drawn] @ few, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(grad_weight[drawn].double(), slope[:, drawn].t() @ hidden.double(), rtol=1e-3, atol=1e-8)


def test_packed_linear():
    needs(6)
    inputs = 2**20
    outputs = MANY // inputs + 3
    drawn = drawn_rows(outputs, inputs)
    weight = draw(hollow(outputs, inputs, dtype=torch.float32), drawn, 0)
    x = torch.randn(2, inputs, generator=torch.Generator().manual_seed(1))
    got = ops.linear(x, ops.PackedLinear(weight, storage="bfloat16"))
    want = torch.zeros(2, outputs, dtype=torch.float64)
    want[:, drawn] = x.double() @ weight[drawn].bfloat16().double().t()
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0.05)


HIDDEN, STEPS = 16, 2
BATCH = MANY // (4 * HIDDEN * STEPS) + 5
LAST = torch.arange(BATCH - 3, BATCH)


def gates_and_weight():
    """The kernels of recurrences alone: torch's product before them would take as much again."""
    generator = torch.Generator().manual_seed(0)
    gates = hollow(STEPS, BATCH, 4 * HIDDEN, dtype=torch.float32)
    gates[:, LAST] = torch.randn(STEPS, 3, 4 * HIDDEN, generator=generator)
    return gates, torch.randn(4 * HIDDEN, HIDDEN, generator=generator) / 4


def addresses(*arrays):
    return [0 if x is None else x.data_ptr() for x in arrays]


def test_lstm_forward():
    needs(8)
    gates, weight = gates_and_weight()

    def run(gates):
        rows = gates.shape[1]
        h, c = (hollow(rows, HIDDEN, dtype=torch.float32) for _ in range(2))
        out, cells = torch.empty(STEPS, rows, HIDDEN), torch.empty(rows, HIDDEN)
        arrays = addresses(gates, weight, None, None, h, c, None, out, cells, None)
        _kernels.recurrent_forward("float32", "lstm", *arrays, (STEPS, rows, HIDDEN), False)
        return out[:, -3:], cells[-3:]

    torch.testing.assert_close(run(gates), run(gates[:, LAST].contiguous()))


def test_lstm_backward():
    needs(13)
    gates, weight = gates_and_weight()

    def run(gates):
        rows = gates.shape[1]
        c0, cells = hollow(rows, HIDDEN, dtype=torch.float32), hollow(STEPS, rows, HIDDEN, dtype=torch.float32)
        grad_gates, grad_h, grad_c = torch.empty_like(gates), torch.zeros(rows, HIDDEN), torch.zeros(rows, HIDDEN)
        grad_h[-3:] = 1
        arrays = addresses(
            gates, grad_gates, None, None, weight, None, c0, None, None, cells, None, grad_h, grad_c, None
        )
        _kernels.recurrent_backward("float32", "lstm", *arrays, (STEPS, rows, HIDDEN))
        return grad_gates[:, -3:], grad_h[-3:], grad_c[-3:]

    torch.testing.assert_close(run(gates), run(gates[:, LAST].contiguous()))
