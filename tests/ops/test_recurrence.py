"""`ops.lstm`, `ops.gru` and `ops.rnn` against their definitions in `ops.reference`, and bad input."""

import functools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _checks

# (T, B, I, H): ones, odd sizes, hidden sizes on both sides of a vector, batches that are cut by rows (16 and more) and
# that fill tiles of 12 rows and of 8.
SHAPES = [(1, 1, 1, 1), (3, 2, 4, 5), (4, 7, 3, 16), (2, 17, 5, 33), (5, 33, 2, 9), (2, 24, 3, 40)]
KINDS = ["lstm", "gru", "tanh", "relu"]
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
PARTS = {"lstm": 2, "gru": 1, "tanh": 1, "relu": 1}

every_kind = pytest.mark.parametrize("kind", KINDS)


def function_of(kind, module=ops):
    return functools.partial(module.rnn, nonlinearity=kind) if kind in ("tanh", "relu") else getattr(module, kind)


def draw(kind, shape, dtype=torch.float64, seed=0):
    """x, weight_ih, weight_hh, bias_ih, bias_hh and the parts of the first state."""
    steps, batch, size, hidden = shape
    rows = GATES[kind] * hidden
    generator = torch.Generator().manual_seed(seed)
    sizes = [(steps, batch, size), (rows, size), (rows, hidden), (rows,), (rows,)]
    sizes += [(batch, hidden)] * PARTS[kind]
    scale = 1 / math.sqrt(max(1, hidden))
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    return [(x * scale if 1 <= i <= 4 else x).to(dtype).requires_grad_() for i, x in enumerate(drawn)]


def draw_lengths(shape, seed=3):
    return torch.randint(0, shape[0] + 1, shape[1:2], generator=torch.Generator().manual_seed(seed))


def run(kind, inputs, module=ops, lengths=None):
    """The outputs and the parts of the last state."""
    state = tuple(inputs[5:]) if kind == "lstm" else inputs[5]
    out, last = function_of(kind, module)(*inputs[:5], state=state, lengths=lengths)
    return (out, *last) if kind == "lstm" else (out, last)


def gradients(kind, inputs, module=ops, lengths=None):
    results = run(kind, inputs, module, lengths)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    return [*results, *torch.autograd.grad(results, inputs, weights)]


def assert_same(kind, inputs, lengths=None):
    got, want = (gradients(kind, inputs, module, lengths) for module in (ops, ops.reference))
    for a, b in zip(got, want, strict=True):
        # Double precision: sums of up to a few hundred terms of order 1.
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@every_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_matches_the_definition(kind, shape, with_lengths):
    assert_same(kind, draw(kind, shape), draw_lengths(shape) if with_lengths else None)


@pytest.mark.property
@every_kind
@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 20), st.integers(0, 5), st.integers(1, 40)),
    seed=st.integers(0, 9),
)
def test_matches_the_definition_at_any_size(kind, shape, seed):
    assert_same(kind, draw(kind, shape, seed=seed), draw_lengths(shape, seed))


@every_kind
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_gradcheck(kind, shape):
    assert torch.autograd.gradcheck(lambda *x: run(kind, x), draw(kind, shape), fast_mode=True)


@pytest.mark.parametrize(("kind", "wanted"), [(kind, result) for kind in KINDS for result in range(1 + PARTS[kind])])
def test_gradient_of_one_result_alone(kind, wanted):
    inputs = draw(kind, (3, 2, 4, 5))
    got = torch.autograd.grad(run(kind, inputs)[wanted].sum(), inputs, materialize_grads=True)
    want = torch.autograd.grad(run(kind, inputs, ops.reference)[wanted].sum(), inputs, materialize_grads=True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_kind
@pytest.mark.parametrize("wanted", range(5))
def test_gradient_for_one_input_alone(kind, wanted):
    inputs = draw(kind, (3, 2, 4, 5))
    want = gradients(kind, inputs)[1 + PARTS[kind] + wanted]
    alone = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
    results = run(kind, alone)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    assert torch.equal(torch.autograd.grad(results, [alone[wanted]], weights)[0], want)


@every_kind
def test_gradients_twice_from_one_graph_are_the_same(kind):
    inputs = draw(kind, (3, 2, 4, 5))
    loss = run(kind, inputs)[0].sum()
    first, second = (torch.autograd.grad(loss, inputs[:3], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_kind
def test_without_gradients_the_results_are_the_same_bits(kind):
    inputs = draw(kind, (5, 3, 4, 20), torch.float32)
    for lengths in (None, draw_lengths((5, 3))):
        with torch.no_grad():
            got = run(kind, inputs, lengths=lengths)
        assert all(torch.equal(a, b) for a, b in zip(got, run(kind, inputs, lengths=lengths), strict=True))


@every_kind
@pytest.mark.parametrize("shape", [*SHAPES, (20, 8, 32, 64), (10, 40, 50, 100)], ids=str)
def test_float32_error_is_at_most_twice_the_plain_expression_s(kind, shape):
    inputs = draw(kind, shape, torch.float32)
    exact = gradients(kind, [x.detach().double().requires_grad_() for x in inputs], ops.reference)
    plain, ours = gradients(kind, inputs, ops.reference), gradients(kind, inputs)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value, for tiny shapes where the peer is exact by luck.
        floor = 8 * torch.finfo(torch.float32).eps * max(1.0, want.abs().max().item())
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


@every_kind
def test_without_bias_and_state(kind):
    x, weight_ih, weight_hh, bias_ih, bias_hh = draw(kind, (3, 2, 4, 5))[:5]
    for biases in ((None, None), (bias_ih, None), (None, bias_hh)):
        got, want = (function_of(kind, m)(x, weight_ih, weight_hh, *biases)[0] for m in (ops, ops.reference))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@every_kind
def test_strided_inputs_give_the_same_bits(kind):
    inputs = [x.detach() for x in draw(kind, (5, 3, 8, 20), torch.float32)]
    want = run(kind, inputs)
    by_column = [x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for x in inputs]
    spread = [torch.stack([x, x], -1)[..., 1] for x in inputs]
    misaligned = [torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape) for x in inputs]
    for strided in (by_column, spread, misaligned):
        assert all(torch.equal(a, b) for a, b in zip(run(kind, strided), want, strict=True))


@every_kind
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)], ids=str)
def test_empty(kind, shape):
    inputs = draw(kind, shape)
    results = run(kind, inputs)
    assert results[0].shape == (shape[0], shape[1], shape[3])
    if shape[0] == 0:
        assert all(torch.equal(a, b) for a, b in zip(results[1:], inputs[5:], strict=True))
    grads = torch.autograd.grad(sum(x.sum() for x in results), inputs)
    assert all(grad.shape == x.shape and grad.isfinite().all() for grad, x in zip(grads, inputs, strict=True))


@every_kind
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_bits_do_not_depend_on_threads_or_repetition(kind, batch):
    inputs = draw(kind, (6, batch, 8, 150), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            results_now = run(kind, inputs)
            # The weights' gradients are torch's products, which promise no equality across thread counts.
            grads = torch.autograd.grad(sum(x.square().sum() for x in results_now), inputs[5:])
            results.append((count, (*results_now[1:], *grads)))
    finally:
        torch.set_num_threads(threads)
    for count, result in results[1:]:
        for a, b in zip(result, results[0][1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # the input projection is torch's as well
        if count == 2:
            assert all(torch.equal(a, b) for a, b in zip(result, results[1][1], strict=True))


@every_kind
def test_nan_and_infinity_stay_in_their_rows(kind):
    inputs = [x.detach() for x in draw(kind, (4, 6, 3, 20), torch.float32)]
    clean = run(kind, inputs)[0]
    inputs[0][1, 2, 0] = math.nan
    inputs[0][2, 3] = math.inf
    out = run(kind, inputs)[0]
    assert out[1:, 2].isnan().all()
    assert torch.equal(out[:, [0, 1, 4, 5]], clean[:, [0, 1, 4, 5]])


@every_kind
def test_what_lies_behind_a_length_is_not_looked_at(kind):
    shape = (6, 7, 3, 20)
    inputs, lengths = draw(kind, shape), draw_lengths(shape)
    clean = gradients(kind, inputs, lengths=lengths)
    with torch.no_grad():
        inputs[0][torch.arange(6)[:, None] >= lengths] = math.nan
    assert all(torch.equal(a, b) for a, b in zip(gradients(kind, inputs, lengths=lengths), clean, strict=True))


@every_kind
def test_lengths_are_as_rows_run_one_by_one(kind):
    shape = (6, 7, 3, 20)
    inputs, lengths = [x.detach() for x in draw(kind, shape)], draw_lengths(shape)
    out, *last = run(kind, inputs, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = [inputs[0][:length, row : row + 1], *inputs[1:5], *(part[row : row + 1] for part in inputs[5:])]
        want = run(kind, alone)
        torch.testing.assert_close(out[:length, row], want[0][:, 0])
        assert not out[length:, row].any()
        for got, part in zip(last, want[1:], strict=True):
            torch.testing.assert_close(got[row], part[0])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@every_kind
@pytest.mark.parametrize("full", [True, False])
def test_opcheck(kind, full):
    shape = (3, 2, 4, 5)
    x, weight_ih, weight_hh, bias, bias_hh, h0, *cells = draw(kind, shape)
    optional = [
        bias,
        bias_hh,
        h0,
        cells[0] if cells else None,
        draw_lengths(shape),
    ]
    arguments = (kind, x, weight_ih, weight_hh, *(optional if full else [None] * 5), True)
    torch.library.opcheck(torch.ops.wordkiln.recurrent.default, arguments)
    with torch.no_grad():
        torch.library.opcheck(torch.ops.wordkiln.recurrent.default, (*arguments[:-1], False))
        out, h, c, *saved = torch.ops.wordkiln.recurrent(*arguments)
        optional = [None if t is None else t.detach() for t in optional[2:]] if full else [None] * 3
        known = (kind, x.detach(), weight_ih.detach(), weight_hh.detach(), *optional, out, *saved)
        grads = (out.clone(), h, c if kind == "lstm" else None) if full else (None, h, None)
        torch.library.opcheck(torch.ops.wordkiln.recurrent_backward.default, (*known, *grads, [full] * 5))


@every_kind
def test_compiles_to_one_graph(kind):
    inputs, lengths = draw(kind, (3, 2, 4, 5)), draw_lengths((3, 2))
    compiled = torch.compile(lambda *x: run(kind, x, lengths=lengths)[0].square(), fullgraph=True, backend="aot_eager")
    want = run(kind, inputs, lengths=lengths)[0].square()
    got = compiled(*inputs)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


# The others fill tiles of 16 rows and 32 units and go over; two threads cut the units of the second, the batch of the
# third and fourth.
@every_kind
@pytest.mark.parametrize("shape", [(7, 12, 9, 20), (5, 20, 3, 70), (4, 35, 3, 48), (3, 70, 4, 40)], ids=str)
@pytest.mark.parametrize("with_lengths", [True, False])
def test_bfloat16_is_as_exact_as_torch(assert_as_exact, kind, shape, with_lengths):
    inputs, lengths = draw(kind, shape, torch.bfloat16), draw_lengths(shape) if with_lengths else None
    exact = [x.detach().double().requires_grad_() for x in inputs]
    # A pre-activation near 0 may round to the other side of relu's kink, where gradients jump.
    results = run if kind == "relu" else gradients
    assert_as_exact(
        results(kind, inputs, lengths=lengths),
        results(kind, inputs, ops.reference, lengths),
        results(kind, exact, ops.reference, lengths),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_back_through_hundreds_of_open_forget_gates(dtype):
    steps, forget = 400, 7.0  # sigmoid(7) = 0.9991, which bfloat16 has as 1
    x, weight_ih, weight_hh = torch.zeros(steps, 1, 1), torch.zeros(4, 1), torch.zeros(4, 1)
    bias, c0 = torch.tensor([0.0, forget, 0.0, 0.0]), torch.ones(1, 1)
    inputs = [t.to(dtype) for t in (x, weight_ih, weight_hh, bias, torch.zeros(4), torch.zeros(1, 1), c0)]
    inputs[-1].requires_grad_()
    (grad,) = torch.autograd.grad(run("lstm", inputs)[2].sum(), inputs[-1:])
    # (1 - 0.00091)^400, of 400 products that each round at 1e-7. bfloat16 has the 7 exactly, and rounds the result.
    assert grad.item() == pytest.approx(
        torch.tensor(forget).sigmoid().item() ** steps, rel=2 * torch.finfo(dtype).eps + 4e-5
    )


@every_kind
def test_other_dtypes_run_on_the_reference_with_one_warning(kind, monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    inputs = draw(kind, (3, 2, 4, 5), torch.float16)
    name = kind if kind in ("lstm", "gru") else "rnn"
    with pytest.warns(UserWarning, match=rf"ops\.{name} has no kernel for dtype torch\.float16"):
        got = run(kind, inputs)[0]
    assert torch.equal(got, run(kind, inputs, ops.reference)[0])
    run(kind, inputs)  # warns no more


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
    inputs = [x.detach() for x in draw("lstm", (3, 2, 4, 5), torch.float32)]
    inputs[index] = value
    with pytest.raises(ArgumentError, match=message):
        run("lstm", inputs)


@pytest.mark.abuse
@every_kind
def test_bad_shapes(kind):
    inputs = draw(kind, (3, 2, 4, 5))
    with pytest.raises(ArgumentError, match="weight_hh"):
        run(kind, [*inputs[:2], inputs[2][1:], *inputs[3:]])
    with pytest.raises(ArgumentError, match="state h"):
        run(kind, [*inputs[:5], torch.zeros(3, 5), *inputs[6:]])


@pytest.mark.abuse
@every_kind
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 2], "lengths: must be a torch.Tensor, not list"),
        (torch.tensor([1, 2, 3]), r"lengths: torch.int64 \[3\] must be torch.int64 \[2\]"),
        (torch.tensor([1.0, 2.0]), "lengths: torch.float32"),
        (torch.tensor([1, 2], device="meta"), "lengths: device meta must be cpu"),
        (torch.tensor([1, 4]), r"lengths\[1\]=4: must be 0 to 3"),
        (torch.tensor([-1, 3]), r"lengths\[0\]=-1: must be 0 to 3"),
    ],
    ids=str,
)
def test_bad_lengths(kind, lengths, message):
    with pytest.raises(ArgumentError, match=message):
        run(kind, draw(kind, (3, 2, 4, 5)), lengths=lengths)


@pytest.mark.abuse
def test_a_state_that_is_no_pair():
    inputs = draw("lstm", (3, 2, 4, 5))
    with pytest.raises(ArgumentError, match="pair"):
        ops.lstm(*inputs[:5], state=(inputs[5],))


@pytest.mark.abuse
def test_unknown_nonlinearity():
    with pytest.raises(ArgumentError, match="nonlinearity='gelu'"):
        ops.rnn(*draw("tanh", (3, 2, 4, 5))[:5], nonlinearity="gelu")
