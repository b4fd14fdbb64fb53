"""`ops.linear_cross_entropy` against `F.cross_entropy` of the whole logits."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _cross_entropy_chunks, _linear_cross_entropy


def draw(rows=37, size=6, vocabulary=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for s in ((rows, size), (vocabulary, size), (vocabulary,))
    )
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::5] = -100
    return hidden, weight, bias, targets


def gradients(function, hidden, weight, bias, targets, **arguments):
    loss = function(hidden, weight, targets, bias, **arguments)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    return [loss, *torch.autograd.grad(3 * loss, inputs)]


# Around the kernel's sizes: 6 rows in a tile, 16 to 64 in a panel, 192 in a chunk, 256 columns in a block, 768 deep.
@pytest.mark.parametrize("sizes", [(37, 6, 11), (1, 1, 1), (192, 65, 256), (500, 33, 257), (7, 800, 700)])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 1.0, "z_loss": 0.2},
        {"z_loss": 1e-2, "reduction": "sum"},
    ],
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_matches_the_definition(sizes, arguments, with_bias):
    hidden, weight, bias, targets = draw(*sizes)
    targets[0] = 0
    inputs = (hidden, weight, bias if with_bias else None, targets)
    got = gradients(ops.linear_cross_entropy, *inputs, **arguments)
    want = gradients(ops.reference.linear_cross_entropy, *inputs, **arguments)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 37, 512])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_path_without_a_kernel_matches_the_definition(chunk, with_bias, monkeypatch):
    monkeypatch.setattr(_cross_entropy_chunks, "_CHUNK_ROWS", chunk)
    monkeypatch.setattr(_linear_cross_entropy, "kernel_lacks", lambda x, **_: "this test")
    hidden, weight, bias, targets = draw()
    inputs = (hidden, weight, bias if with_bias else None, targets)
    got = gradients(ops.linear_cross_entropy, *inputs, label_smoothing=0.1, z_loss=0.2)
    want = gradients(ops.reference.linear_cross_entropy, *inputs, label_smoothing=0.1, z_loss=0.2)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.property
@settings(deadline=None)
@given(
    rows=st.integers(0, 400),
    size=st.integers(0, 70),
    vocabulary=st.integers(1, 600),
    label_smoothing=st.sampled_from([0.0, 0.3]),
    z_loss=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 99),
)
def test_any_size(rows, size, vocabulary, label_smoothing, z_loss, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in ((rows, size), (vocabulary, size))
    )
    targets = torch.randint(-1, vocabulary, (rows,), generator=generator)
    arguments = {"label_smoothing": label_smoothing, "z_loss": z_loss, "reduction": "sum", "ignore_index": -1}
    got = gradients(ops.linear_cross_entropy, hidden, weight, None, targets, **arguments)
    want = gradients(ops.reference.linear_cross_entropy, hidden, weight, None, targets, **arguments)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_gradcheck():
    hidden, weight, bias, targets = draw(rows=5)
    assert torch.autograd.gradcheck(
        lambda *x: ops.linear_cross_entropy(x[0], x[1], targets, x[2], label_smoothing=0.2), (hidden, weight, bias)
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_float32_error_is_at_most_twice_the_plain_expression_s(label_smoothing):
    inputs = draw(300, 32, 500, torch.float32)
    exact_inputs = (*(x.detach().double().requires_grad_() for x in inputs[:3]), inputs[3])
    exact = gradients(ops.reference.linear_cross_entropy, *exact_inputs, label_smoothing=label_smoothing)
    plain = gradients(ops.reference.linear_cross_entropy, *inputs, label_smoothing=label_smoothing)
    ours = gradients(ops.linear_cross_entropy, *inputs, label_smoothing=label_smoothing)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value; the loss itself is one number that torch may hit by luck.
        floor = 8 * torch.finfo(torch.float32).eps * want.abs().max().item()
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


def test_ignored_rows_do_not_spoil_the_others():
    hidden, weight, bias, targets = draw()
    want = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    hidden = hidden.detach().masked_fill(targets.unsqueeze(1) == -100, math.nan).requires_grad_()
    got = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_a_nan_or_an_infinite_row_gives_nan():
    for value in (math.nan, math.inf):
        hidden, weight, bias, targets = draw(300)
        hidden.data[1] = value
        loss, grad, *_ = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
        assert loss.isnan()
        assert grad[1].isnan().all()
        assert grad[2].isfinite().all()


def test_a_bias_of_minus_infinity_forbids_a_word():
    hidden, weight, bias, targets = draw()
    bias.data[3] = -math.inf
    targets[targets == 3] = 4
    got = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    want = gradients(ops.reference.linear_cross_entropy, hidden, weight, bias, targets)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_a_sound_torch_op(dtype):
    hidden, weight, bias, targets = draw(dtype=dtype)
    arguments = (hidden, weight, targets, bias, -100, 0.1, 0.01, True, [True, True, True])
    torch.library.opcheck(torch.ops.wordkiln.linear_cross_entropy.default, arguments, rtol=1e-2, atol=1e-2)


def test_compiles_without_a_graph_break():
    hidden, weight, bias, targets = draw()
    compiled = torch.compile(lambda *x: ops.linear_cross_entropy(*x) * 2, fullgraph=True, backend="aot_eager")
    got = gradients(lambda h, w, t, b: compiled(h, w, t, b), hidden, weight, bias, targets)
    want = gradients(lambda h, w, t, b: ops.linear_cross_entropy(h, w, t, b) * 2, hidden, weight, bias, targets)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_derivative_is_an_error():
    hidden, weight, _, targets = draw()
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    (grad,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_cross_entropy_backward"):
        grad.sum().backward()


def test_the_same_bits_twice():
    inputs = draw(500, 33, 700, torch.float32)
    first, second = (gradients(ops.linear_cross_entropy, *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_inputs():
    hidden, weight, bias, targets = draw()
    wide = [torch.stack([x.detach()] * 2, -1)[..., 0].requires_grad_() for x in (hidden, weight, bias)]
    got = gradients(ops.linear_cross_entropy, *wide, torch.stack([targets] * 2, 1)[:, 1])
    want = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_large_logits_do_not_overflow():
    weight = torch.tensor([[1e4], [-1e4]])
    loss = ops.linear_cross_entropy(torch.ones(1, 1), weight, torch.tensor([1]))
    assert loss == 2e4


def test_batched_shapes_and_another_ignore_index():
    hidden, weight, bias, targets = draw(rows=36)
    hidden, targets = hidden.reshape(3, 12, 6), targets.reshape(3, 12).clamp(min=0)
    got = ops.linear_cross_entropy(hidden, weight, targets, bias, ignore_index=0)
    want = ops.reference.linear_cross_entropy(hidden, weight, targets, bias, ignore_index=0)
    torch.testing.assert_close(got, want)


def test_only_the_wanted_gradients_are_made():
    hidden, weight, bias, targets = draw()
    weight.requires_grad_(False)
    ops.linear_cross_entropy(hidden, weight, targets, bias).backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not ops.linear_cross_entropy(hidden, weight, targets, bias).requires_grad


@pytest.mark.parametrize("rows", [0, 5])
def test_no_target_that_counts_gives_nan_as_torch_does(rows):
    hidden, weight, bias, _ = draw(rows=rows)
    assert ops.linear_cross_entropy(hidden, weight, torch.full((rows,), -100), bias).isnan()


@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(70, 64, 100), (600, 40, 1000), (257, 33, 513), (2, 1, 1)])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.01, "reduction": "sum"}], ids=str)
def test_bfloat16_error_is_at_most_twice_the_plain_expression_s(rows, width, vocabulary, options):
    inputs = draw(rows, width, vocabulary, torch.bfloat16)
    exact_inputs = (*(x.detach().double().requires_grad_() for x in inputs[:3]), inputs[3])
    exact = gradients(ops.reference.linear_cross_entropy, *exact_inputs, **options)
    plain = gradients(ops.reference.linear_cross_entropy, *inputs, **options)
    for got, peer, want in zip(gradients(ops.linear_cross_entropy, *inputs, **options), plain, exact, strict=True):
        # The floor: rounding the gradient of the logits and the result, half a unit in the last place each; and that
        # the loss, 0 for a vocabulary of one word, is a difference of float32 numbers of order 1.
        floor = torch.finfo(torch.bfloat16).eps * want.abs().max() + 4 * torch.finfo(torch.float32).eps
        assert (got.double() - want).abs().max() <= 2 * (peer.double() - want).abs().max() + floor


def test_bfloat16_bits_are_a_function_of_the_inputs_and_the_threads():
    inputs = draw(700, 64, 900, torch.bfloat16)
    results = [gradients(ops.linear_cross_entropy, *inputs) for _ in range(3)]
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_bfloat16_gradients_add_up_in_float32():
    hidden, weight, bias, targets = draw(1500, 8, 11, torch.bfloat16)
    got = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    exact_inputs = (*(x.detach().double().requires_grad_() for x in (hidden, weight, bias)), targets)
    want = gradients(ops.reference.linear_cross_entropy, *exact_inputs)
    assert [x.dtype for x in got] == [torch.float32] + [torch.bfloat16] * (len(got) - 1)
    for a, b in zip(got, want, strict=True):
        # bfloat16 keeps 8 bits: logits of order 3 are off by 0.01.
        assert (a - b).abs().max() <= 0.03 * b.abs().max()


def test_never_holds_all_logits():
    # In a process of its own, whose peak is ours: 8192 x 4096 logits would be 128 MiB, a chunk of them is 3.
    code = """
import resource, torch
from wordkiln import ops
hidden, weight = (torch.randn(n, 16, requires_grad=True) for n in (8192, 4096))
targets = torch.randint(4096, (8192,))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
ops.linear_cross_entropy(hidden, weight, targets).backward()
print(peak() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 32 << 10


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(())}, "hidden: shape"),
        ({"weight": torch.zeros(11, 5)}, r"weight: shape \[11, 5\]"),
        ({"weight": torch.zeros(0, 6)}, "0 rows"),
        ({"bias": torch.zeros(10)}, r"bias: shape \[10\]"),
        ({"targets": torch.zeros(36, dtype=torch.int64)}, r"targets: shape \[36\] must be \[37\]"),
        ({"targets": torch.zeros(37)}, "targets: dtype torch.float32"),
        ({"targets": torch.full((37,), 11)}, "targets: 11 must be 0 to 10 or -100"),
        ({"targets": torch.full((37,), -1)}, "targets: -1 must be"),
        ({"targets": torch.zeros(37, dtype=torch.int64, device="meta")}, "targets: device meta"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5"),
        ({"label_smoothing": math.nan}, "label_smoothing=nan"),
        ({"z_loss": -1.0}, "z_loss=-1.0"),
        ({"z_loss": math.nan}, "z_loss=nan"),
        ({"reduction": "none"}, "reduction='none'"),
    ],
)
def test_bad_arguments(change, message):
    hidden, weight, bias, targets = (x.detach() for x in draw(dtype=torch.float32))
    arguments = {"hidden": hidden, "weight": weight, "targets": targets, "bias": bias}
    with pytest.raises(ArgumentError, match=message):
        ops.linear_cross_entropy(**(arguments | change))
