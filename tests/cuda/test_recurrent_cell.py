"""LSTM and GRU with layer norms or zoneout by the GPU's kernels on a CPU, against `ops.reference`."""

import math

import pytest
import torch
from attention_cases import assert_near
from test_recurrent import open_forget_gates
from torch._subclasses.fake_tensor import FakeTensorMode

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _cell_cuda, _cells, _checks, _cuda
from wordkiln.ops._cell_op import recurrent_cell, recurrent_cell_backward

KINDS = ["lstm", "gru"]
GATES = {"lstm": 4, "gru": 3}
# (T, B, I, H): the smallest (with one input the norm of W_ih x is the same for every x, whose gradient is then nothing
# but rounding); units that fill no warp and no 64 that a draw counts by; more than a block's threads.
SHAPES = [(1, 1, 2, 2), (5, 3, 4, 20), (3, 4, 3, 70), (2, 2, 2, 300)]
# What is asked for: norms, zoneout, and whether it draws.
OPTIONS = {
    "norms": (True, False, True),
    "zoneout": (False, True, True),
    "expectation": (False, True, False),
    "both": (True, True, True),
}
SEED = torch.tensor([2**40 + 3, 7])

every_kind = pytest.mark.parametrize("kind", KINDS)
every_option = pytest.mark.parametrize("option", OPTIONS)


def take_kernels(simt, monkeypatch):
    """The executor's module in place of `_cuda`, and its kernels called for CPU tensors."""
    monkeypatch.setattr(_cuda, "_module", simt)
    monkeypatch.setattr(_checks, "_warned", set())
    monkeypatch.setitem(recurrent_cell._kernels, "cpu", _cell_cuda.forward)
    monkeypatch.setitem(recurrent_cell_backward._kernels, "cpu", _cell_cuda.backward)
    monkeypatch.setattr(_cells, "kernel_lacks", lambda x, **_: None)  # float16, which the CPU's kernels lack


@pytest.fixture
def gpu(simt, monkeypatch):
    take_kernels(simt, monkeypatch)
    return simt


def draw(kind, shape):
    """x, both weights, both biases, the parts of the first state, and the parts of the norms."""
    steps, batch, size, hidden = shape
    rows = GATES[kind] * hidden
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(steps, batch, size), (rows, size), (rows, hidden), (rows,), (rows,), (batch, hidden)]
    sizes += [(batch, hidden), (rows,), (rows,), (hidden,), (hidden,)] if kind == "lstm" else [(rows,), (rows,)]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    return [x / math.sqrt(hidden) if 1 <= i <= 4 else x for i, x in enumerate(drawn)]


def lengths_of(shape):
    """None, 1, 2 ... T steps, and all of them in the last row."""
    lengths = torch.arange(shape[1]) % (shape[0] + 1)
    lengths[-1] = shape[0]
    return lengths


def run(module, kind, inputs, option, lengths, seed=SEED):
    has_norms, has_zoneout, training = OPTIONS[option]
    parts = 2 if kind == "lstm" else 1
    zoneout = (0.3, 0.2) if has_zoneout else (0.0, 0.0)
    out, last = getattr(module, kind)(
        *inputs[:5],
        tuple(inputs[5:7]) if kind == "lstm" else inputs[5],
        lengths,
        norms=ops.LayerNorms(*inputs[5 + parts :]) if has_norms else None,
        zoneout=zoneout if kind == "lstm" else zoneout[0],
        training=training,
        seed=seed,
    )
    return (out, *last) if kind == "lstm" else (out, last)


def all_of(module, kind, inputs, dtype, option, lengths=None, device="cpu"):
    """The results and the gradients of all inputs that the option takes."""
    leaves = [x.detach().to(device, dtype).requires_grad_() for x in inputs]
    results = run(module, kind, leaves, option, None if lengths is None else lengths.to(device))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in results]
    wanted = leaves if OPTIONS[option][0] else leaves[: 7 if kind == "lstm" else 6]
    return [x.detach().cpu() for x in (*results, *torch.autograd.grad(results, wanted, weights))]


def assert_matches(kind, shape, dtype, option, lengths, device="cpu"):
    # Drawn in the type itself, so that float64 sees the same numbers.
    inputs = [x.to(dtype) for x in draw(kind, shape)]
    got = all_of(ops, kind, inputs, dtype, option, lengths, device)
    plain = all_of(ops.reference, kind, inputs, dtype, option, lengths)
    exact = all_of(ops.reference, kind, inputs, torch.float64, option, lengths)
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert ours.dtype == dtype
        # The floor, for small shapes where plain torch is exact by luck: eight roundings of float32; in 16 bits four of
        # the type, as products, their norms, gates and the gradients of both are stored in it.
        scale = float(want.abs().max()) if want.numel() else 0.0
        floor = 8 * torch.finfo(torch.float32).eps * max(1.0, scale)
        assert_near(ours, theirs, want, floor if dtype == torch.float32 else 4 * torch.finfo(dtype).eps * scale)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_kind
@every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (9, 70, 30, 500)], ids=str)
def test_on_a_gpu(kind, option, shape, dtype):
    assert_matches(kind, shape, dtype, option, lengths_of(shape), "cuda")


@every_kind
@every_option
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_matches_the_definition(gpu, kind, option, shape, dtype, with_lengths):
    assert_matches(kind, shape, dtype, option, lengths_of(shape) if with_lengths else None)
    assert gpu.take_counters()["launches"] == 2 * shape[0]


@every_kind
@every_option
def test_float16_matches_the_definition(gpu, kind, option):
    assert_matches(kind, SHAPES[1], torch.float16, option, lengths_of(SHAPES[1]))


@every_kind
@every_option
def test_no_order_of_threads_changes_a_bit(scheduled, monkeypatch, kind, option):
    take_kernels(scheduled, monkeypatch)
    shape = (3, 3, 2, 280)
    got = all_of(ops, kind, draw(kind, shape), torch.bfloat16, option, lengths_of(shape))
    scheduled.set_schedule()
    want = all_of(ops, kind, draw(kind, shape), torch.bfloat16, option, lengths_of(shape))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_kind
@every_option
def test_what_lies_behind_a_row_s_length_is_never_seen(gpu, kind, option):
    shape = (5, 6, 3, 12)
    inputs, lengths = draw(kind, shape), lengths_of(shape)
    want = all_of(ops, kind, inputs, torch.bfloat16, option, lengths)
    for row, length in enumerate(lengths.tolist()):
        inputs[0][length:, row] = torch.nan
    got = all_of(ops, kind, inputs, torch.bfloat16, option, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert (got[0][:, 0] == 0).all()
    assert torch.equal(got[1][0], inputs[5][0].bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_reach_back_through_hundreds_of_open_forget_gates(gpu, dtype):
    inputs, want = open_forget_gates(dtype)
    _, (_, c) = ops.lstm(*inputs[:5], tuple(inputs[5:]), zoneout=(0.1, 0.0), training=False)
    (grad,) = torch.autograd.grad(c.sum(), inputs[-1:])
    assert grad.item() == want


@every_kind
@every_option
def test_without_gradients_the_same_and_nothing_is_kept(gpu, kind, option):
    inputs = [x.bfloat16() for x in draw(kind, SHAPES[1])]
    want = run(ops, kind, [x.requires_grad_() for x in inputs], option, None)
    with torch.no_grad():
        got = run(ops, kind, inputs, option, None)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert want[0].requires_grad


@every_kind
@pytest.mark.parametrize("shape", [(3, 0, 2, 8), (0, 2, 3, 8)], ids=str)
def test_empty_sizes(gpu, kind, shape):
    got = all_of(ops, kind, draw(kind, shape), torch.float32, "both")
    assert got[0].shape == (shape[0], shape[1], shape[3])
    assert all(x.isfinite().all() for x in got)
    assert gpu.take_counters()["launches"] == 0


@pytest.mark.abuse
@every_kind
def test_lengths_beyond_the_tensors_count_as_all_or_none(gpu, kind):
    wrong, right = torch.tensor([10**12, -5, 2]), torch.tensor([4, 0, 2])
    inputs = draw(kind, (4, 3, 2, 10))
    got, want = (all_of(ops, kind, inputs, torch.bfloat16, "both", lengths) for lengths in (wrong, right))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_kind
@every_option
def test_fake_tensors_on_cuda_take_the_kernels(simt, monkeypatch, kind, option):
    monkeypatch.setattr(_cuda, "_module", simt)
    with FakeTensorMode():
        inputs = [x.to("cuda", torch.float16).requires_grad_() for x in draw(kind, (5, 3, 4, 20))]
        lengths = torch.empty(3, dtype=torch.int64, device="cuda")
        seed = torch.empty(2, dtype=torch.int64)
        out, *states = run(ops, kind, inputs, option, lengths, seed)
    assert out.requires_grad
    assert (out.shape, out.dtype, out.device.type) == ((5, 3, 20), torch.float16, "cuda")
    assert all((x.shape, x.dtype) == ((3, 20), torch.float16) for x in states)
    assert simt.take_counters()["launches"] == 0


@every_kind
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("has_norms", [True, False])
def test_fake_and_real_results_agree(gpu, kind, keep, has_norms):
    rows, hidden = GATES[kind] * 8, 8
    gates, weight = torch.randn(3, 2, rows).bfloat16(), torch.randn(rows, hidden).bfloat16()
    gains = [torch.ones(rows), torch.ones(hidden), torch.ones(hidden)] if has_norms else []
    gains = [x.bfloat16() for x in gains[: 3 if kind == "lstm" else 1]] + [None] * 3
    rest = [None, None, None, None, 0.1, 0.1 if kind == "lstm" else 0.0, 1e-5, keep]
    real = _cell_cuda.forward(kind, gates, weight, None, *gains[:3], *rest)
    none = torch.ones(2, hidden).bfloat16()
    grads = (real[0], none, none if kind == "lstm" else None)
    kinds = [(x.shape, x.dtype) for x in real]
    with FakeTensorMode() as mode:
        on_gpu = [None if x is None else mode.from_tensor(x).to("cuda") for x in (gates, weight, None, *gains[:3])]
        assert kinds == [(x.shape, x.dtype) for x in recurrent_cell(kind, *on_gpu, *rest)]
    if keep:
        known = (None, None, None, None, 0.1, rest[5])
        back = _cell_cuda.backward(kind, weight, *gains[:3], *known, real[0], *real[3:], *grads)
        with FakeTensorMode() as mode:
            on_gpu = [None if x is None else mode.from_tensor(x).to("cuda") for x in (weight, *gains[:3])]
            after = [None if x is None else mode.from_tensor(x).to("cuda") for x in (real[0], *real[3:], *grads)]
            fake = recurrent_cell_backward(kind, *on_gpu, *known, *after)
        assert [(x.shape, x.dtype) for x in back] == [(x.shape, x.dtype) for x in fake]


def test_the_dispatcher_has_kernels_for_cuda():
    for name in ("recurrent_cell", "recurrent_cell_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"wordkiln::{name}", "CUDA")


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64': must be 'float32', 'bfloat16' or 'float16'"),
        ({"kind": "tanh"}, "kind='tanh': must be 'lstm' or 'gru'"),
        ({"arrays": (0,) * 14}, "gates: address must not be 0"),
        ({"step": 3}, "step=3: must be 0 to 2"),
        ({"sizes": (3, 1, 2**29)}, r"sizes: batch and hidden must be at most 2\^28"),
        ({"sizes": (2**20, 2**20, 2**20)}, "gates: must have fewer than"),
        ({"zoneout": (0.0, 1.0, True, 0, 0)}, "zoneout=1"),
    ],
)
def test_bindings_refuse_before_the_launch(simt, change, message):
    arguments = {
        "dtype": "bfloat16", "kind": "lstm", "arrays": (16,) * 14, "sizes": (3, 2, 8), "step": 0,
        "zoneout": (0.0, 0.0, False, 0, 0), "eps": 1e-5, "keep": True, "stream": 0,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        simt.cell_forward(**(arguments | change))
    assert simt.take_counters()["launches"] == 0
