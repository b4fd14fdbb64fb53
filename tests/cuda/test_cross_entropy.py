"""`ops.linear_cross_entropy` by the GPU's kernel on a CPU, against `ops.reference`."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _cross_entropy_cuda, _cuda
from wordkiln.ops._linear_cross_entropy import linear_cross_entropy_kernel

# (N, V, E): ones; words that fill no 16 bytes, no warp, and more than a block reads at once.
SHAPES = [(1, 1, 1), (7, 13, 5), (3, 2500, 8), (4, 264, 16)]
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "z-loss": {"z_loss": 0.01, "reduction": "sum"},
    "all": {"label_smoothing": 0.1, "z_loss": 0.01, "bias": True, "ignore": True},
}


def take_kernel(simt, monkeypatch):
    """The executor's module in place of `_cuda`, and its kernel called for CPU tensors."""
    monkeypatch.setattr(_cuda, "_module", simt)
    monkeypatch.setitem(linear_cross_entropy_kernel._kernels, "cpu", _cross_entropy_cuda.loss_and_gradients)


@pytest.fixture
def gpu(simt, monkeypatch):
    take_kernel(simt, monkeypatch)
    return simt


def draw(shape, dtype, options):
    rows, words, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(rows, width), (words, width), (words,)]
    hidden, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in sizes)
    targets = torch.randint(words, (rows,), generator=generator)
    if options.get("ignore"):
        targets[1::3] = -100
    return hidden, weight * 3 / math.sqrt(width), bias if options.get("bias") else None, targets


def loss_and_gradients(module, hidden, weight, bias, targets, dtype, options):
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    options = {name: value for name, value in options.items() if name not in ("bias", "ignore")}
    loss = module.linear_cross_entropy(*leaves[:2], targets, leaves[2], **options)
    grads = torch.autograd.grad(2 * loss, [x for x in leaves if x is not None])
    return loss.detach(), *grads


def assert_near(got, plain, exact, floor):
    """At most twice as far from float64 as plain torch in the same type; always allowed: two roundings, and `floor`."""
    allowed = 2 * torch.finfo(got.dtype).eps * exact.abs().max() + floor
    assert (got.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max() + allowed


def assert_matches(shape, dtype, options):
    inputs = draw(shape, dtype, options)
    ours, plain, exact = (
        loss_and_gradients(module, *inputs, kind, options)
        for module, kind in ((ops, dtype), (ops.reference, dtype), (ops.reference, torch.float64))
    )
    assert ours[0].dtype == torch.float32
    # The logits are rounded to `dtype`, each of them by its own half unit.
    logits = torch.nn.functional.linear(*(x.double() for x in inputs[:2]))
    torch.testing.assert_close(
        ours[0].double(), exact[0], rtol=1e-6, atol=float(torch.finfo(dtype).eps * logits.abs().max() * shape[0])
    )
    # A logit's gradient is a difference of float32 numbers of order 1.
    floor = 4 * torch.finfo(torch.float32).eps * max(float(x.detach().abs().max()) for x in inputs[:2])
    for got, theirs, want in zip(ours[1:], plain[1:], exact[1:], strict=True):
        assert got.dtype == dtype
        assert_near(got, theirs, want, floor)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matches_the_definition(gpu, shape, dtype, options):
    assert_matches(shape, dtype, options)
    assert gpu.take_counters()["launches"] == 1


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_float32_is_right_to_float32(gpu, options):
    inputs = draw((9, 300, 12), torch.float32, options)
    got = loss_and_gradients(ops, *inputs, torch.float32, options)
    want = loss_and_gradients(ops.reference, *inputs, torch.float64, options)
    for ours, exact in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "chunks"), [(2, 4), (6, 2)])  # of 3 rows, but no fewer than the width
def test_in_chunks_the_same(gpu, monkeypatch, width, chunks):
    options = OPTIONS["all"]
    inputs = draw((10, 40, width), torch.float32, options)
    want = loss_and_gradients(ops, *inputs, torch.float32, options)
    gpu.take_counters()
    monkeypatch.setattr(_cross_entropy_cuda, "_CHUNK_ELEMENTS", 3 * 40)
    got = loss_and_gradients(ops, *inputs, torch.float32, options)
    assert gpu.take_counters()["launches"] == chunks
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)  # sums in another order


def test_no_order_of_threads_changes_a_bit(scheduled, monkeypatch):
    take_kernel(scheduled, monkeypatch)
    inputs = draw((6, 2100, 4), torch.bfloat16, OPTIONS["all"])
    got = loss_and_gradients(ops, *inputs, torch.bfloat16, OPTIONS["all"])
    scheduled.set_schedule()
    want = loss_and_gradients(ops, *inputs, torch.bfloat16, OPTIONS["all"])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_without_gradients_the_same_loss(gpu):
    hidden, weight, _, targets = draw((5, 30, 4), torch.bfloat16, {})
    want = ops.linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    assert want.requires_grad
    assert torch.equal(ops.linear_cross_entropy(hidden.detach(), weight, targets), want.detach())


def test_infinite_and_huge_logits(gpu):
    weight = torch.tensor([[1.0], [-torch.inf], [0.5]])
    hidden = torch.full((2, 1), 1e38)
    targets = torch.tensor([0, 2])
    got = loss_and_gradients(ops, hidden, weight, None, targets, torch.float32, {})
    want = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets)
    torch.testing.assert_close(got[0], want)
    nothing = torch.full((3, 1), -torch.inf)
    assert ops.linear_cross_entropy(torch.ones(1, 1), nothing, torch.tensor([0])).isnan()


def test_where_no_target_counts_the_mean_is_nan_and_the_gradients_are_0(gpu):
    hidden, weight, _, targets = draw((3, 9, 4), torch.bfloat16, {})
    loss, *grads = loss_and_gradients(ops, hidden, weight, None, targets.fill_(-100), torch.bfloat16, {})
    assert loss.isnan()
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.abuse
@pytest.mark.parametrize("target", [-1, 9, 10**12])
def test_a_wrong_target_makes_the_loss_nan(gpu, target):
    hidden, weight, _, targets = draw((3, 9, 4), torch.bfloat16, {})
    targets[1] = target
    loss, grad_hidden, _ = loss_and_gradients(ops, hidden, weight, None, targets, torch.bfloat16, {})
    assert loss.isnan()
    assert grad_hidden.isnan().any(1).tolist() == [False, True, False]


def test_no_rows(gpu):
    hidden, weight, _, targets = draw((0, 9, 4), torch.bfloat16, {})
    loss, *grads = loss_and_gradients(ops, hidden, weight, None, targets, torch.bfloat16, {"reduction": "sum"})
    assert loss == 0
    assert (grads[1] == 0).all()


def test_fake_tensors_on_cuda(simt, monkeypatch):
    monkeypatch.setattr(_cuda, "_module", simt)
    with FakeTensorMode():
        hidden = torch.empty(2, 5, 8, device="cuda", dtype=torch.float16, requires_grad=True)
        weight = torch.empty(30, 8, device="cuda", dtype=torch.float16)
        loss = ops.linear_cross_entropy(hidden, weight, torch.empty(2, 5, device="cuda", dtype=torch.int64))
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "cuda")
    assert loss.requires_grad
    assert simt.take_counters()["launches"] == 0


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"logits": 8}, "logits: address must be a multiple of 16"),
        ({"targets": 0}, "targets: address must not be 0"),
        ({"vocabulary": 0}, "vocabulary=0"),
        ({"rows": -1}, "rows=-1"),
        ({"pitch": 12}, "pitch=12: must be a multiple of 8 and at least the vocabulary, 13"),
        ({"pitch": 20}, "pitch=20: must be a multiple of 8"),
    ],
)
def test_bindings_refuse_before_the_launch(simt, change, message):
    arguments = {
        "dtype": "bfloat16", "logits": 16, "bias": 0, "targets": 16, "losses": 16, "rows": 2, "vocabulary": 13,
        "pitch": 16, "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "gradient": True, "stream": 0,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        simt.softmax_gradient(**(arguments | change))
    assert simt.take_counters()["launches"] == 0
