"""`ops.lstm` against `ops.reference.lstm` and torch.nn.LSTM, and bad input."""

import math

import pytest
import torch

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _checks

# (T, B, I, H): ones, odd sizes, hidden sizes on both sides of a vector, batches that are cut by rows (16 and more).
SHAPES = [(1, 1, 1, 1), (3, 2, 4, 5), (4, 7, 3, 16), (2, 17, 5, 33), (5, 33, 2, 9)]


def draw(shape, dtype=torch.float64, seed=0):
    steps, batch, size, hidden = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(steps, batch, size), (4 * hidden, size), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
    sizes += [(batch, hidden)] * 2
    scale = 1 / math.sqrt(max(1, hidden))
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    return [(x * scale if 1 <= i <= 4 else x).to(dtype).requires_grad_() for i, x in enumerate(drawn)]


def run(function, inputs):
    out, (h, c) = function(*inputs[:5], state=(inputs[5], inputs[6]))
    return out, h, c


def gradients(function, inputs):
    results = run(function, inputs)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    return [*results, *torch.autograd.grad(results, inputs, weights)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_definition(shape):
    inputs = draw(shape)
    for got, want in zip(gradients(ops.lstm, inputs), gradients(ops.reference.lstm, inputs), strict=True):
        # Double precision: sums of up to a hundred terms of order 1.
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradcheck(shape):
    assert torch.autograd.gradcheck(lambda *x: run(ops.lstm, x), draw(shape), fast_mode=True)


@pytest.mark.parametrize("wanted", range(3), ids=["out", "h", "c"])
def test_gradient_of_one_result_alone(wanted):
    inputs = draw((3, 2, 4, 5))
    got = torch.autograd.grad(run(ops.lstm, inputs)[wanted].sum(), inputs)
    want = torch.autograd.grad(run(ops.reference.lstm, inputs)[wanted].sum(), inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_twice_from_one_graph_are_the_same():
    inputs = draw((3, 2, 4, 5))
    loss = run(ops.lstm, inputs)[0].sum()
    first, second = (torch.autograd.grad(loss, inputs[:3], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", [*SHAPES, (20, 8, 32, 64), (10, 40, 50, 100)], ids=str)
def test_float32_error_is_at_most_twice_the_plain_expression_s(shape):
    inputs = draw(shape, torch.float32)
    exact = gradients(ops.reference.lstm, [x.detach().double().requires_grad_() for x in inputs])
    plain, ours = gradients(ops.reference.lstm, inputs), gradients(ops.lstm, inputs)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value, for tiny shapes where the peer is exact by luck.
        floor = 8 * torch.finfo(torch.float32).eps * max(1.0, want.abs().max().item())
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


def test_no_bias_and_no_state():
    x, weight_ih, weight_hh = draw((3, 2, 4, 5))[:3]
    got, want = (f(x, weight_ih, weight_hh)[0] for f in (ops.lstm, ops.reference.lstm))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_strided_inputs_give_the_same_bits():
    inputs = [x.detach() for x in draw((5, 3, 8, 20), torch.float32)]
    want = run(ops.lstm, inputs)
    by_column = [x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for x in inputs]
    spread = [torch.stack([x, x], -1)[..., 1] for x in inputs]
    for strided in (by_column, spread):
        assert all(torch.equal(a, b) for a, b in zip(run(ops.lstm, strided), want, strict=True))


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)], ids=str)
def test_empty(shape):
    inputs = draw(shape)
    out, h, c = run(ops.lstm, inputs)
    assert out.shape == (shape[0], shape[1], shape[3])
    if shape[0] == 0:
        assert torch.equal(h, inputs[5])
        assert torch.equal(c, inputs[6])
    grads = torch.autograd.grad(out.sum() + h.sum() + c.sum(), inputs)
    assert all(grad.shape == x.shape and grad.isfinite().all() for grad, x in zip(grads, inputs, strict=True))


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_bits_do_not_depend_on_threads_or_repetition(batch):
    inputs = draw((6, batch, 8, 150), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            out, h, c = run(ops.lstm, inputs)
            # The weights' gradients are torch's products, which promise no equality across thread counts.
            grads = torch.autograd.grad(out.square().sum() + c.sum(), inputs[5:])
            results.append((count, (h, c, *grads)))
    finally:
        torch.set_num_threads(threads)
    for count, result in results[1:]:
        for a, b in zip(result, results[0][1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the input projection is torch's as well
        if count == 2:
            assert all(torch.equal(a, b) for a, b in zip(result, results[1][1], strict=True))


def test_nan_and_infinity_stay_in_their_rows():
    inputs = [x.detach() for x in draw((4, 6, 3, 20), torch.float32)]
    clean = run(ops.lstm, inputs)[0]
    inputs[0][1, 2, 0] = math.nan
    inputs[0][2, 3] = math.inf
    out = run(ops.lstm, inputs)[0]
    assert out[1:, 2].isnan().all()
    assert torch.equal(out[:, [0, 1, 4, 5]], clean[:, [0, 1, 4, 5]])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("with_bias", [True, False])
def test_opcheck(with_bias):
    x, weight_ih, weight_hh, bias, _, h0, c0 = draw((3, 2, 4, 5))
    arguments = (x, weight_ih, weight_hh, bias if with_bias else None, h0, c0)
    torch.library.opcheck(torch.ops.wordkiln.lstm.default, arguments)
    with torch.no_grad():
        out, h, _, cells, activations = torch.ops.wordkiln.lstm(*arguments)
        backward = torch.ops.wordkiln.lstm_backward.default
        torch.library.opcheck(backward, (activations, weight_hh.detach(), c0.detach(), cells, out, h, None))


def test_compiles_to_one_graph():
    inputs = draw((3, 2, 4, 5))
    compiled = torch.compile(lambda *x: run(ops.lstm, x)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), run(ops.lstm, inputs)[0])


def test_bfloat16_runs_on_the_reference_with_one_warning(monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    inputs = draw((3, 2, 4, 5), torch.bfloat16)
    with pytest.warns(UserWarning, match=r"ops\.lstm has no kernel for dtype torch\.bfloat16"):
        got = run(ops.lstm, inputs)[0]
    assert torch.equal(got, run(ops.reference.lstm, inputs)[0])
    run(ops.lstm, inputs)  # warns no more


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.zeros(3, 4), r"x: shape \[3, 4\]"),
        (0, torch.zeros(3, 2, 4, dtype=torch.int64), "x: dtype torch.int64"),
        (1, torch.zeros(20, 3), r"weight_ih: shape \[20, 3\] must be \[20, 4\]"),
        (2, torch.zeros(19, 5), r"weight_hh: shape \[19, 5\] must be \[20, 5\]"),
        (2, torch.zeros(20, 5, dtype=torch.float64), "weight_hh: dtype torch.float64 must be torch.float32"),
        (3, torch.zeros(19), r"bias_ih: shape \[19\] must be \[20\]"),
        (4, torch.zeros(20, device="meta"), "bias_hh: device meta must be cpu"),
        (5, torch.zeros(1, 5), r"state h: shape \[1, 5\] must be \[2, 5\]"),
        (6, torch.zeros(2, 4), r"state c: shape \[2, 4\] must be \[2, 5\]"),
    ],
)
def test_bad_arguments(index, value, message):
    inputs = [x.detach() for x in draw((3, 2, 4, 5), torch.float32)]
    inputs[index] = value
    with pytest.raises(ArgumentError, match=message):
        run(ops.lstm, inputs)


@pytest.mark.abuse
def test_a_state_that_is_no_pair():
    inputs = draw((3, 2, 4, 5))
    with pytest.raises(ArgumentError, match="pair"):
        ops.lstm(*inputs[:5], state=(inputs[5],))
