"""`ops.lstm` and `ops.gru` by the GPU's kernels on a CPU, against `ops.reference`."""

import math

import pytest
import torch
from attention_cases import assert_near
from torch._subclasses.fake_tensor import FakeTensorMode

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _checks, _cuda, _recurrence, _recurrent_cuda
from wordkiln.ops._recurrent_op import recurrent, recurrent_backward

KINDS = ["lstm", "gru"]
GATES = {"lstm": 4, "gru": 3}
# (T, B, I, H): one of each; units that fill no block of 8, no 16 bytes, no 16 columns; rows that fill no tile of 16;
# hidden sizes for two of the persistent kernel's depths.
SHAPES = [(1, 1, 1, 1), (6, 3, 4, 20), (4, 33, 3, 41), (3, 2, 5, 136), (2, 17, 3, 264)]

every_kind = pytest.mark.parametrize("kind", KINDS)


def take_kernels(simt, monkeypatch):
    """The executor's module in place of `_cuda`, and its kernels called for CPU tensors."""
    monkeypatch.setattr(_cuda, "_module", simt)
    monkeypatch.setattr(_checks, "_warned", set())
    monkeypatch.setitem(recurrent._kernels, "cpu", _recurrent_cuda.forward)
    monkeypatch.setitem(recurrent_backward._kernels, "cpu", _recurrent_cuda.backward)
    monkeypatch.setattr(_recurrence, "kernel_lacks", lambda x, **_: None)  # float16, which the CPU's kernels lack


@pytest.fixture
def gpu(simt, monkeypatch):
    take_kernels(simt, monkeypatch)
    return simt


def draw(kind, shape):
    """x, weight_ih, weight_hh, bias_ih, bias_hh and the parts of the first state."""
    steps, batch, size, hidden = shape
    rows = GATES[kind] * hidden
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(steps, batch, size), (rows, size), (rows, hidden), (rows,), (rows,)]
    sizes += [(batch, hidden)] * (2 if kind == "lstm" else 1)
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    return [x / math.sqrt(hidden) if 1 <= i <= 4 else x for i, x in enumerate(drawn)]


def lengths_of(shape):
    """None, 1, 2 ... T steps, and all of them in the last row."""
    lengths = torch.arange(shape[1]) % (shape[0] + 1)
    lengths[-1] = shape[0]
    return lengths


def run(module, kind, inputs, lengths):
    state = tuple(inputs[5:]) if kind == "lstm" else inputs[5]
    out, last = getattr(module, kind)(*inputs[:5], state=state, lengths=lengths)
    return (out, *last) if kind == "lstm" else (out, last)


def all_of(module, kind, inputs, dtype, lengths=None, device="cpu"):
    """The results and the gradients of all inputs."""
    leaves = [x.detach().to(device, dtype).requires_grad_() for x in inputs]
    results = run(module, kind, leaves, None if lengths is None else lengths.to(device))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in results]
    return [x.detach().cpu() for x in (*results, *torch.autograd.grad(results, leaves, weights))]


def assert_matches(kind, shape, dtype, lengths, device="cpu"):
    # Drawn in the type itself, so that float64 sees the same numbers.
    inputs = [x.to(dtype) for x in draw(kind, shape)]
    got = all_of(ops, kind, inputs, dtype, lengths, device)
    plain = all_of(ops.reference, kind, inputs, dtype, lengths)
    exact = all_of(ops.reference, kind, inputs, torch.float64, lengths)
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert ours.dtype == dtype
        assert_near(ours, theirs, want)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (9, 70, 30, 500), (5, 4, 8, 1032), (5, 20, 8, 1600)], ids=str)
def test_on_a_gpu(kind, shape, dtype):
    assert_matches(kind, shape, dtype, lengths_of(shape), "cuda")


@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_persistent_kernels_match_the_definition(gpu, kind, shape, with_lengths):
    gpu.set_schedule(resident_blocks=100)
    assert_matches(kind, shape, torch.bfloat16, lengths_of(shape) if with_lengths else None)
    # Forward the first state's numbers and all steps at once, back all steps and one more.
    counters = gpu.take_counters()
    assert (counters["launches"], counters["grid_barriers"]) == (3, 2 * shape[0] - 1)


@every_kind
@pytest.mark.parametrize("shape", [*SHAPES[:4], (3, 70, 2, 9)], ids=str)
def test_step_kernels_match_the_definition(gpu, kind, shape):
    gpu.set_schedule(resident_blocks=0)
    assert_matches(kind, shape, torch.bfloat16, lengths_of(shape))
    assert gpu.take_counters()["launches"] == 1 + shape[0] + shape[0] + 1


@every_kind
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], (4, 9, 3, 33)], ids=str)
def test_float32_matches_the_definition(gpu, kind, shape):
    assert_matches(kind, shape, torch.float32, lengths_of(shape))
    assert gpu.take_counters()["mma"] == 0


@every_kind
@pytest.mark.parametrize("resident_blocks", [0, 64])
def test_float16_matches_the_definition(gpu, kind, resident_blocks):
    gpu.set_schedule(resident_blocks=resident_blocks)
    assert_matches(kind, SHAPES[1], torch.float16, lengths_of(SHAPES[1]))


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("shape", [(2, 2, 3, 520), (1, 1, 1, 1032)], ids=str)  # the deepest two
def test_many_units_match_the_definition(gpu, kind, shape):
    gpu.set_schedule(resident_blocks=200)
    assert_matches(kind, shape, torch.bfloat16, None)
    assert gpu.take_counters()["grid_barriers"] == 2 * shape[0] - 1


@every_kind
@pytest.mark.parametrize("resident_blocks", [2, 4, 6])  # of two blocks of units: all tiles in one, two and a rest, each
def test_rows_are_shared_among_blocks(gpu, kind, resident_blocks):
    shape = (3, 43, 2, 16)
    lengths = lengths_of(shape)
    inputs = draw(kind, shape)
    gpu.set_schedule(resident_blocks=resident_blocks)
    got = all_of(ops, kind, inputs, torch.bfloat16, lengths)
    assert gpu.take_counters()["grid_barriers"] == 5
    gpu.set_schedule(resident_blocks=64)
    want = all_of(ops, kind, inputs, torch.bfloat16, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_kind
@pytest.mark.parametrize("kernel", ["persistent", "step", "plain"])
@pytest.mark.parametrize(
    "schedule", [("warp ahead", 1, "late"), ("shuffled", 2, "random"), ("warp ahead", 3, "early")], ids=str
)
def test_no_order_of_threads_or_copies_changes_a_bit(gpu, kind, kernel, schedule):
    shape = (4, 35, 3, 20)  # three tiles, two of them in one block
    dtype = torch.float32 if kernel == "plain" else torch.bfloat16
    blocks = 0 if kernel == "step" else 7
    inputs, lengths = draw(kind, shape), lengths_of(shape)
    gpu.set_schedule(*schedule, resident_blocks=blocks)
    got = all_of(ops, kind, inputs, dtype, lengths)
    gpu.set_schedule(resident_blocks=blocks)
    want = all_of(ops, kind, inputs, dtype, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_kind
def test_what_lies_behind_a_row_s_length_is_never_seen(gpu, kind):
    shape = (5, 6, 3, 12)
    inputs, lengths = draw(kind, shape), lengths_of(shape)
    want = all_of(ops, kind, inputs, torch.bfloat16, lengths)
    for row, length in enumerate(lengths.tolist()):
        inputs[0][length:, row] = torch.nan
    got = all_of(ops, kind, inputs, torch.bfloat16, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    out, h = got[0], got[1]
    assert (out[:, 0] == 0).all()
    assert torch.equal(h[0], inputs[5][0].bfloat16())


def open_forget_gates(dtype):
    """An LSTM's inputs over 400 steps whose cell only forgets, and the gradient of the last cell by the first."""
    forget = 7.0  # sigmoid(7) = 0.9991, which bfloat16 has as 1 and float16 as 0.999
    x, weight_ih, weight_hh = torch.zeros(400, 1, 1), torch.zeros(4, 1), torch.zeros(4, 1)
    biases, state = (torch.tensor([0.0, forget, 0.0, 0.0]), torch.zeros(4)), (torch.zeros(1, 1), torch.ones(1, 1))
    inputs = [t.to(dtype) for t in (x, weight_ih, weight_hh, *biases, *state)]
    inputs[-1].requires_grad_()
    # 400 products that each round at 1e-7, a sigmoid right to 1e-6, and the result rounds.
    want = torch.tensor(forget).sigmoid().item() ** 400
    return inputs, pytest.approx(want, rel=2 * torch.finfo(dtype).eps + 4e-4)


@pytest.mark.parametrize("resident_blocks", [0, 100], ids=["step", "persistent"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_reach_back_through_hundreds_of_open_forget_gates(gpu, dtype, resident_blocks):
    gpu.set_schedule(resident_blocks=resident_blocks)
    inputs, want = open_forget_gates(dtype)
    (grad,) = torch.autograd.grad(run(ops, "lstm", inputs, None)[2].sum(), inputs[-1:])
    assert grad.item() == want


@every_kind
def test_without_gradients_the_same_and_nothing_is_kept(gpu, kind):
    inputs = [x.bfloat16() for x in draw(kind, SHAPES[1])]
    want = run(ops, kind, [x.requires_grad_() for x in inputs], None)
    with torch.no_grad():
        got = run(ops, kind, inputs, None)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert want[0].requires_grad


@every_kind
def test_without_biases_and_first_states(gpu, kind):
    x, weight_ih, weight_hh = (part.bfloat16().requires_grad_() for part in draw(kind, SHAPES[1])[:3])
    leaves = [x, weight_ih, weight_hh]

    def step(module):
        out, _ = getattr(module, kind)(*leaves)
        return [out, *torch.autograd.grad(out.float().sin().sum(), leaves)]

    for got, want in zip(step(ops), step(ops.reference), strict=True):
        # Both are bfloat16 sums of up to 60 products of order 1.
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


@every_kind
@pytest.mark.parametrize("shape", [(3, 0, 2, 8), (2, 3, 0, 8)], ids=str)
def test_empty_sizes(gpu, kind, shape):
    got = all_of(ops, kind, draw(kind, shape), torch.bfloat16)
    want = all_of(ops.reference, kind, draw(kind, shape), torch.bfloat16)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        # Of order 1, a few roundings apart.
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.03)


@every_kind
def test_no_steps_leave_the_state(gpu, kind):
    leaves = [x.bfloat16().requires_grad_() for x in draw(kind, (0, 2, 3, 8))]
    out, *last = run(ops, kind, leaves, None)
    assert out.shape == (0, 2, 8)
    assert all(torch.equal(a, b) for a, b in zip(last, leaves[5:], strict=True))
    grads = torch.autograd.grad(last, leaves, [2 * x for x in last])
    assert all(torch.equal(a, 2 * b) for a, b in zip(grads[5:], last, strict=True))
    assert all((x == 0).all() for x in grads[:5])


@every_kind
def test_strided_and_misaligned_weights_give_the_same_bits(gpu, kind):
    inputs = [x.bfloat16() for x in draw(kind, (3, 2, 4, 16))]
    want = run(ops, kind, inputs, None)
    memory = torch.empty(inputs[2].numel() + 1, dtype=torch.bfloat16)
    inputs[2] = memory[1:].view(inputs[2].shape).copy_(inputs[2])
    inputs[0] = inputs[0].transpose(0, 1).contiguous().transpose(0, 1)
    got = run(ops, kind, inputs, None)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.abuse
@every_kind
def test_lengths_beyond_the_tensors_count_as_all_or_none(gpu, kind):
    shape = (4, 3, 2, 10)
    wrong, right = torch.tensor([10**12, -5, 2]), torch.tensor([4, 0, 2])
    got, want = (all_of(ops, kind, draw(kind, shape), torch.bfloat16, lengths) for lengths in (wrong, right))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_fake_tensors_on_cuda_take_the_kernels(simt, monkeypatch, kind, dtype):
    monkeypatch.setattr(_cuda, "_module", simt)
    with FakeTensorMode():
        inputs = [x.to("cuda", dtype).requires_grad_() for x in draw(kind, (5, 3, 4, 20))]
        out, *states = run(ops, kind, inputs, torch.empty(3, dtype=torch.int64, device="cuda"))
        kept = recurrent(kind, *inputs[:3], None, None, inputs[5], inputs[-1], None, True)[3:]
    assert out.requires_grad
    assert (out.shape, out.dtype, out.device.type) == ((5, 3, 20), dtype, "cuda")
    assert all((x.shape, x.dtype) == ((3, 20), dtype) for x in states)
    none, states = (0,), (5, 3, 20)
    shapes = [states, (5, 3, 80), none] if kind == "lstm" else [none, (5, 3, 60), states]
    assert [(x.shape, x.dtype) for x in kept] == list(zip(shapes, (torch.float32, dtype, dtype), strict=True))
    assert simt.take_counters()["launches"] == 0


@every_kind
def test_fake_and_real_results_agree(gpu, kind):
    x, weight_ih, weight_hh = (part.bfloat16() for part in draw(kind, SHAPES[1])[:3])
    real = _recurrent_cuda.forward(kind, x, weight_ih, weight_hh, None, None, None, None, None, True)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(part).to("cuda") for part in (x, weight_ih, weight_hh)]
        fake = recurrent(kind, *fakes, None, None, None, None, None, True)
    assert [(a.shape, a.dtype) for a in real] == [(a.shape, a.dtype) for a in fake]


def test_the_dispatcher_has_kernels_for_cuda():
    for name in ("recurrent", "recurrent_backward", "linear_cross_entropy"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"wordkiln::{name}", "CUDA")


def test_what_has_no_kernel_runs_on_the_reference(simt, monkeypatch):
    monkeypatch.setattr(_cuda, "_module", simt)
    monkeypatch.setattr(_checks, "_warned", set())
    with FakeTensorMode():
        x, w = torch.empty(2, 3, 4, device="cuda"), torch.empty(4, 4, device="cuda")
        with pytest.warns(UserWarning, match=r"ops\.rnn has no kernel for device cuda"):
            ops.rnn(x, w, w)
        with pytest.warns(UserWarning, match=r"ops\.gru has no kernel for dtype torch\.float64 on a GPU"):
            ops.gru(x.double(), *(w.repeat(3, 1).double(),) * 2)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64': must be 'float32', 'bfloat16' or 'float16'"),
        ({"kind": "tanh"}, "kind='tanh': must be 'lstm' or 'gru' on a GPU"),
        ({"kind": "lstm2"}, "kind='lstm2'"),
        ({"gates": 0}, "gates: address must not be 0"),
        ({"weight_hh": 8}, "weight_hh: address must be a multiple of 16"),
        ({"c": 0}, "c: address must not be 0"),
        ({"cells": 0}, "cells: address must not be 0"),
        ({"sizes": (-1, 2, 8)}, "out: size -1 must be at least 0"),
        ({"sizes": (2**20, 2**20, 2**20)}, "out: must have fewer than"),
        ({"sizes": (2**29, 1, 1)}, r"sizes: steps, batch and hidden must be at most 2\^28"),
    ],
)
def test_bindings_refuse_before_the_launch(simt, change, message):
    arguments = {
        "dtype": "bfloat16", "kind": "lstm", "gates": 16, "weight_hh": 16, "bias_new": 0, "h": 16, "c": 16,
        "lengths": 0, "out": 16, "cells": 16, "hidden_new": 0, "sizes": (3, 2, 8), "keep": True,
        "allocate": lambda size: 16, "stream": 0,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        simt.recurrent_forward(**(arguments | change))
    assert simt.take_counters()["launches"] == 0
