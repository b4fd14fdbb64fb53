"""The GPU's attention gradients on a CPU against those of `ops.reference.attention`."""

import pytest
import torch
from attention_cases import (
    CHANGES,
    FLOAT32_SHAPES,
    SHAPES,
    arguments_for,
    assert_near,
    draw,
    run,
    run_backward,
    widened,
)

from wordkiln.ops import reference


def plain_gradients(attend, inputs, grad_out, grad_lse, dtype, **arguments):
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    out, lse = attend(*leaves, return_lse=True, **arguments) if attend is reference.attention else attend(*leaves)
    # A query that sees no key has a log-sum-exp of -inf, without a gradient.
    loss = (out * grad_out.to(out)).sum() + (lse.masked_fill(lse.isinf(), 0) * grad_lse.to(lse)).sum()
    return torch.autograd.grad(loss, leaves, materialize_grads=True)


def assert_gradients_match(simt, monkeypatch, shape, change, dtype):
    inputs, arguments = draw(shape, dtype), arguments_for(shape, change, dtype)
    out, lse = run(simt, monkeypatch, *inputs, arguments)
    generator = torch.Generator().manual_seed(9)
    grad_out = torch.randn(out.shape, generator=generator).to(dtype)
    grad_lse = torch.randn(lse.shape, generator=generator)
    got = run_backward(simt, monkeypatch, *inputs, out, lse, grad_out, grad_lse, arguments)
    gradients = (reference.attention, inputs, grad_out, grad_lse)
    plain = plain_gradients(*gradients, dtype, **arguments)
    exact = plain_gradients(*gradients, torch.float64, **widened(arguments))
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert ours.dtype == dtype
        assert_near(ours, theirs, want)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(simt, monkeypatch, shape, change):
    assert_gradients_match(simt, monkeypatch, shape, change, torch.bfloat16)


@pytest.mark.parametrize("change", [CHANGES["causal"], CHANGES["all"]], ids=["causal", "all"])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_matches_in_float16(simt, monkeypatch, shape, change):
    assert_gradients_match(simt, monkeypatch, shape, change, torch.float16)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", FLOAT32_SHAPES, ids=str)
def test_matches_in_float32(simt, monkeypatch, shape, change):
    assert_gradients_match(simt, monkeypatch, shape, change, torch.float32)


@pytest.mark.parametrize("shape", [(1, 2, 1, 140, 200, 64), (1, 1, 1, 70, 130, 256)], ids=str)
def test_no_order_of_threads_or_copies_changes_a_bit(scheduled, monkeypatch, shape):
    inputs = draw(shape, torch.bfloat16)
    out, lse = run(scheduled, monkeypatch, *inputs, {})
    got = run_backward(scheduled, monkeypatch, *inputs, out, lse, out, lse, {})
    scheduled.set_schedule()
    want = run_backward(scheduled, monkeypatch, *inputs, out, lse, out, lse, {})
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("lengths", "extra"), [([5, 0, 1, 140, 3], 0), ([64, 70], 30)], ids=str)
def test_packed_texts(simt, monkeypatch, lengths, extra, dtype):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    key_offsets = torch.tensor([0, *(n + extra for n in lengths)]).cumsum(0)
    inputs = draw((1, 4, 2, int(offsets[-1]), int(key_offsets[-1]), 32), dtype)
    arguments = {"window": 30, "dropout": 0.3, "seed": torch.tensor([1, 2])}
    both = {"query_offsets": offsets, "key_offsets": key_offsets}
    out, lse = run(simt, monkeypatch, *inputs, arguments | both)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    got = run_backward(simt, monkeypatch, *inputs, out, lse, grad_out, None, arguments | both)

    def attend(*leaves):
        return reference.attention_varlen(*leaves, **both, causal=True, scale=32**-0.5, **arguments)

    plain, exact = (
        plain_gradients(attend, inputs, grad_out, torch.zeros(lse.shape), d) for d in (dtype, torch.float64)
    )
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert_near(ours, theirs, want)
