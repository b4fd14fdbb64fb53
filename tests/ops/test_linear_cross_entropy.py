"""`ops.linear_cross_entropy` against `F.cross_entropy` of the whole logits."""

import math

import pytest
import torch

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _linear_cross_entropy


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


@pytest.mark.parametrize("chunk", [1, 7, 37, 512])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_matches_the_definition(chunk, label_smoothing, with_bias, monkeypatch):
    monkeypatch.setattr(_linear_cross_entropy, "_CHUNK_ROWS", chunk)
    hidden, weight, bias, targets = draw()
    arguments = (hidden, weight, bias if with_bias else None, targets)
    got = gradients(ops.linear_cross_entropy, *arguments, label_smoothing=label_smoothing)
    want = gradients(ops.reference.linear_cross_entropy, *arguments, label_smoothing=label_smoothing)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_gradcheck():
    hidden, weight, bias, targets = draw(rows=5)
    assert torch.autograd.gradcheck(
        lambda *x: ops.linear_cross_entropy(x[0], x[1], targets, x[2], label_smoothing=0.2), (hidden, weight, bias)
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_float32_error_is_at_most_twice_the_plain_expression_s(label_smoothing, monkeypatch):
    monkeypatch.setattr(_linear_cross_entropy, "_CHUNK_ROWS", 64)
    inputs = draw(300, 32, 500, torch.float32)
    exact_inputs = (*(x.detach().double().requires_grad_() for x in inputs[:3]), inputs[3])
    exact = gradients(ops.reference.linear_cross_entropy, *exact_inputs, label_smoothing=label_smoothing)
    plain = gradients(ops.reference.linear_cross_entropy, *inputs, label_smoothing=label_smoothing)
    ours = gradients(ops.linear_cross_entropy, *inputs, label_smoothing=label_smoothing)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value; the loss itself is one number that torch may hit by luck.
        floor = 8 * torch.finfo(torch.float32).eps * want.abs().max().item()
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


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


def test_bfloat16_gradients_add_up_in_float32():
    hidden, weight, bias, targets = draw(1500, 8, 11, torch.bfloat16)
    got = gradients(ops.linear_cross_entropy, hidden, weight, bias, targets)
    exact_inputs = (*(x.detach().double().requires_grad_() for x in (hidden, weight, bias)), targets)
    want = gradients(ops.reference.linear_cross_entropy, *exact_inputs)
    for a, b in zip(got, want, strict=True):
        # bfloat16 keeps 8 bits: logits of order 3 are off by 0.01.
        assert a.dtype == torch.bfloat16
        assert (a - b).abs().max() <= 0.03 * b.abs().max()


def test_never_holds_all_logits():
    hidden, weight, bias, targets = draw(3000, 4, 2000, torch.float32)
    peak = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal peak
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                peak = max(peak, x.numel() if isinstance(x, torch.Tensor) else 0)
            return out

    with Largest():
        ops.linear_cross_entropy(hidden, weight, targets, bias).backward()
    assert peak <= 512 * 2000


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
    ],
)
def test_bad_arguments(change, message):
    hidden, weight, bias, targets = (x.detach() for x in draw(dtype=torch.float32))
    arguments = {"hidden": hidden, "weight": weight, "targets": targets, "bias": bias}
    with pytest.raises(ArgumentError, match=message):
        ops.linear_cross_entropy(**(arguments | change))
