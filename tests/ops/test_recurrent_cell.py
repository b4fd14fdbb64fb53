"""`ops.lstm` and `ops.gru` with layer norms in the cell and zoneout, against `ops.reference`, and bad input."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _checks

# (T, B, I, H): ones, odd sizes, hidden sizes on both sides of a vector and of the 64 units that zoneout draws together.
SHAPES = [(1, 1, 1, 1), (3, 2, 4, 5), (4, 7, 3, 16), (2, 17, 5, 33), (3, 3, 2, 64), (4, 2, 3, 131)]
KINDS = ["lstm", "gru"]
GATES = {"lstm": 4, "gru": 3}
ZONEOUT = {"lstm": (0.3, 0.2), "gru": 0.3}
NO_ZONEOUT = {"lstm": (0.0, 0.0), "gru": 0.0}
SEED = torch.tensor([2**40 + 3, 7])
# What is asked for: norms, zoneout, and whether it draws.
OPTIONS = {
    "norms": (True, False, True),
    "zoneout": (False, True, True),
    "expectation": (False, True, False),
    "both": (True, True, True),
}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_option = pytest.mark.parametrize("option", OPTIONS)


def draw(kind, shape, dtype=torch.float64, seed=0):
    """x, both weights, both biases, gain_ih, gain_hh, the parts of the first state, and an LSTM's gain_c and bias_c."""
    steps, batch, size, hidden = shape
    rows = GATES[kind] * hidden
    generator = torch.Generator().manual_seed(seed)
    sizes = [(steps, batch, size), (rows, size), (rows, hidden), *[(rows,)] * 4, (batch, hidden)]
    sizes += [(batch, hidden), (hidden,), (hidden,)] if kind == "lstm" else []
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    scale = 1 / math.sqrt(max(1, hidden))
    return [(x * scale if 1 <= i <= 4 else x).to(dtype).requires_grad_() for i, x in enumerate(drawn)]


def draw_lengths(shape, seed=3):
    return torch.randint(0, shape[0] + 1, shape[1:2], generator=torch.Generator().manual_seed(seed))


def used(kind, inputs, option):
    """The inputs that the option's call takes."""
    states = inputs[7:9] if kind == "lstm" else inputs[7:8]
    return inputs if OPTIONS[option][0] else [*inputs[:5], *states]


def run(kind, inputs, option, module=ops, lengths=None, **more):
    """The outputs and the parts of the last state."""
    has_norms, has_zoneout, training = OPTIONS[option]
    parts = 2 if kind == "lstm" else 1
    state = tuple(inputs[7 : 7 + parts]) if kind == "lstm" else inputs[7]
    options = {
        "norms": ops.LayerNorms(*inputs[5:7], *inputs[7 + parts :]) if has_norms else None,
        "zoneout": (ZONEOUT if has_zoneout else NO_ZONEOUT)[kind],
        "training": training,
        "seed": SEED,
    } | more
    out, last = getattr(module, kind)(*inputs[:5], state, lengths, **options)
    return (out, *last) if kind == "lstm" else (out, last)


def gradients(kind, inputs, option, module=ops, lengths=None):
    results = run(kind, inputs, option, module, lengths)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    return [*results, *torch.autograd.grad(results, used(kind, inputs, option), weights)]


def assert_same(kind, inputs, option, lengths=None):
    got, want = (gradients(kind, inputs, option, module, lengths) for module in (ops, ops.reference))
    for a, b in zip(got, want, strict=True):
        # Double precision: sums of up to a few hundred terms of order 1, divided by deviations that may be small.
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_kind
@every_option
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_matches_the_definition(kind, option, shape, with_lengths):
    assert_same(kind, draw(kind, shape), option, draw_lengths(shape) if with_lengths else None)


@pytest.mark.property
@every_kind
@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 20), st.integers(0, 5), st.integers(2, 70)),
    seed=st.integers(0, 9),
    option=st.sampled_from(sorted(OPTIONS)),
)
def test_matches_the_definition_at_any_size(kind, shape, seed, option):
    assert_same(kind, draw(kind, shape, seed=seed), option, draw_lengths(shape, seed))


@every_kind
@every_option
def test_gradcheck(kind, option):
    inputs = draw(kind, (3, 2, 4, 5))

    def results(*given):
        full = list(inputs)
        for place, x in zip(used(kind, list(range(len(inputs))), option), given, strict=True):
            full[place] = x
        return run(kind, full, option, lengths=torch.tensor([2, 3]))

    assert torch.autograd.gradcheck(results, used(kind, inputs, option), fast_mode=True)


@every_kind
@every_option
@pytest.mark.parametrize("shape", [*SHAPES, (20, 8, 32, 64), (10, 20, 50, 100)], ids=str)
def test_float32_error_is_at_most_twice_the_plain_expression_s(kind, option, shape):
    inputs = draw(kind, shape, torch.float32)
    exact = gradients(kind, [x.detach().double().requires_grad_() for x in inputs], option, ops.reference)
    plain, ours = gradients(kind, inputs, option, ops.reference), gradients(kind, inputs, option)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value, for tiny shapes where the peer is exact by luck.
        floor = 8 * torch.finfo(torch.float32).eps * max(1.0, want.abs().max().item())
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


@every_kind
@every_option
def test_bfloat16_is_as_exact_as_torch(assert_as_exact, kind, option):
    shape = (7, 12, 9, 20)
    inputs, lengths = draw(kind, shape, torch.bfloat16), draw_lengths(shape)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    assert_as_exact(
        gradients(kind, inputs, option, lengths=lengths),
        gradients(kind, inputs, option, ops.reference, lengths),
        gradients(kind, exact, option, ops.reference, lengths),
    )


@every_kind
@every_option
def test_without_gradients_the_results_are_the_same_bits(kind, option):
    inputs = draw(kind, (5, 3, 4, 20), torch.float32)
    for lengths in (None, draw_lengths((5, 3))):
        with torch.no_grad():
            got = run(kind, inputs, option, lengths=lengths)
        assert all(torch.equal(a, b) for a, b in zip(got, run(kind, inputs, option, lengths=lengths), strict=True))


@every_kind
@every_option
def test_gradients_twice_from_one_graph_are_the_same(kind, option):
    inputs = draw(kind, (3, 2, 4, 5))
    loss = run(kind, inputs, option)[0].sum()
    first, second = (torch.autograd.grad(loss, inputs[:3], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_kind
@every_option
def test_gradient_of_one_result_alone(kind, option):
    inputs = draw(kind, (3, 2, 4, 5))
    for wanted in range(3 if kind == "lstm" else 2):
        got, want = (
            torch.autograd.grad(run(kind, inputs, option, m)[wanted].sum(), used(kind, inputs, option))
            for m in (ops, ops.reference)
        )
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_kind
@every_option
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)], ids=str)
def test_empty(kind, option, shape):
    inputs = draw(kind, shape)
    results = run(kind, inputs, option)
    assert results[0].shape == (shape[0], shape[1], shape[3])
    if shape[0] == 0:
        states = inputs[7:9] if kind == "lstm" else inputs[7:8]
        assert all(torch.equal(a, b) for a, b in zip(results[1:], states, strict=True))
    wanted = used(kind, inputs, option)
    grads = torch.autograd.grad(sum(x.sum() for x in results), wanted, materialize_grads=True)
    assert all(grad.shape == x.shape and grad.isfinite().all() for grad, x in zip(grads, wanted, strict=True))


@every_kind
def test_without_bias_and_state(kind):
    x, weight_ih, weight_hh, bias_ih, bias_hh = draw(kind, (3, 2, 4, 5))[:5]
    for biases in ((None, None), (bias_ih, None), (None, bias_hh)):
        options = {"zoneout": ZONEOUT[kind], "seed": SEED}
        got, want = (getattr(m, kind)(x, weight_ih, weight_hh, *biases, **options)[0] for m in (ops, ops.reference))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@every_kind
@every_option
def test_strided_inputs_give_the_same_bits(kind, option):
    inputs = [x.detach() for x in draw(kind, (5, 3, 8, 20), torch.float32)]
    want = run(kind, inputs, option)
    by_column = [x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for x in inputs]
    spread = [torch.stack([x, x], -1)[..., 1] for x in inputs]
    for strided in (by_column, spread):
        assert all(torch.equal(a, b) for a, b in zip(run(kind, strided, option), want, strict=True))


@every_kind
@every_option
def test_bits_do_not_depend_on_repetition_or_threads(kind, option):
    inputs = draw(kind, (6, 40, 8, 50), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(gradients(kind, inputs, option))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[2], strict=True))
    for a, b in zip(results[0], results[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # torch's products, whose sums the norms divide


@every_kind
@every_option
def test_what_lies_behind_a_length_is_not_looked_at(kind, option):
    shape = (6, 7, 3, 20)
    inputs, lengths = draw(kind, shape), draw_lengths(shape)
    clean = gradients(kind, inputs, option, lengths=lengths)
    with torch.no_grad():
        inputs[0][torch.arange(6)[:, None] >= lengths] = math.nan
    dirty = gradients(kind, inputs, option, lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip(dirty, clean, strict=True))
    assert not clean[0][torch.arange(6)[:, None] >= lengths].any()


@every_kind
def test_nothing_asked_for_is_the_plain_layer(kind):
    inputs = draw(kind, (5, 3, 4, 20), torch.float32)
    plain = run(kind, inputs, "zoneout", zoneout=NO_ZONEOUT[kind])
    default = getattr(ops, kind)(*inputs[:5], tuple(inputs[7:9]) if kind == "lstm" else inputs[7])
    assert torch.equal(plain[0], default[0])
    # The expectation of next to nothing goes through the cell kernels: the same up to rounding.
    tiny = tuple(1e-30 for _ in "hc") if kind == "lstm" else 1e-30
    near = run(kind, inputs, "expectation", zoneout=tiny)
    for a, b in zip(near, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def kept_of(shape, zoneout, seed):
    """Which elements of h keep the first state's value over one step, which no new one can equal."""
    _, batch, _, hidden = shape
    x, weights, state = torch.zeros(shape[:3]), torch.zeros(3 * hidden, hidden), torch.full((batch, hidden), 5.0)
    out, _ = ops.gru(x, torch.zeros(3 * hidden, shape[2]), weights, state=state, zoneout=zoneout, seed=seed)
    return out[0] == 5.0


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_the_share_of_zoned_out_elements(probability):
    shape = (1, 100, 1, 200)
    kept = kept_of(shape, probability, torch.tensor([1, 2]))
    # 20,000 draws: five standard deviations.
    assert abs(kept.double().mean() - probability) < 5 * math.sqrt(probability * (1 - probability) / kept.numel())
    # In every row and unit alike: 200 and 100 draws.
    for dim in (0, 1):
        deviation = math.sqrt(probability * (1 - probability) / kept.shape[dim])
        assert (kept.double().mean(dim) - probability).abs().max() < 5 * deviation


def test_zoneout_is_a_function_of_the_seed_the_row_the_step_and_the_unit():
    seed = torch.tensor([1, 2])
    kept = kept_of((1, 6, 1, 100), 0.5, seed)
    assert torch.equal(kept_of((1, 4, 1, 70), 0.5, seed), kept[:4, :70])
    assert not torch.equal(kept_of((1, 6, 1, 100), 0.5, torch.tensor([2, 2])), kept)
    assert not torch.equal(kept_of((1, 6, 1, 100), 0.5, torch.tensor([1, 3])), kept)
    assert not torch.equal(kept[0], kept[1])
    both = ops.reference.zoneout_shares(seed, (0.5, 0.5), True, (2, 6, 100), torch.zeros(1))
    assert torch.equal(both[0][0].bool(), kept)
    assert not torch.equal(both[0][0], both[0][1])  # another step
    assert not torch.equal(both[0], both[1])  # c draws for itself


@every_kind
def test_without_a_seed_torch_s_generator_draws_one(kind):
    inputs = draw(kind, (3, 2, 4, 40))
    torch.manual_seed(1)
    first = run(kind, inputs, "zoneout", seed=None)[0]
    second = run(kind, inputs, "zoneout", seed=None)[0]
    torch.manual_seed(1)
    assert torch.equal(run(kind, inputs, "zoneout", seed=None)[0], first)
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    run(kind, inputs, "norms", seed=None)
    run(kind, inputs, "expectation", seed=None)
    assert torch.equal(torch.get_rng_state(), before)  # where nothing is drawn


def test_the_expectation_is_the_mean_of_the_draws():
    inputs = [x.detach() for x in draw("gru", (1, 3, 4, 10))]
    draws = [run("gru", inputs, "zoneout", seed=torch.tensor([n, 0]))[0] for n in range(2000)]
    want = run("gru", inputs, "expectation")[0]
    # One step is linear in the mask. 2000 draws of a difference of at most 4: five standard deviations of its mean.
    assert (torch.stack(draws).mean(0) - want).abs().max() < 5 * 4 * 0.5 / math.sqrt(2000)


@every_kind
def test_a_cell_of_norms_does_not_feel_the_scale_of_its_weights(kind):
    inputs = [x.detach() for x in draw(kind, (4, 3, 6, 24))]
    want = run(kind, inputs, "norms")
    inputs[1], inputs[2] = 100 * inputs[1], 1000 * inputs[2]
    for a, b in zip(run(kind, inputs, "norms"), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)  # eps stands beside variances of some 0.3


@every_kind
def test_other_dtypes_run_on_the_reference_with_one_warning(kind, monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    inputs = draw(kind, (3, 2, 4, 5), torch.float16)
    with pytest.warns(UserWarning, match=rf"ops\.{kind} has no kernel for dtype torch\.float16"):
        got = run(kind, inputs, "both")[0]
    assert torch.equal(got, run(kind, inputs, "both", ops.reference)[0])
    run(kind, inputs, "both")  # warns no more
    got = getattr(ops, kind)(*inputs[:5], zoneout=ZONEOUT[kind], seed=SEED)[0]  # without a state
    assert torch.equal(got, getattr(ops.reference, kind)(*inputs[:5], zoneout=ZONEOUT[kind], seed=SEED)[0])


@every_kind
@every_option
def test_compiles_to_one_graph(kind, option):
    inputs, lengths = draw(kind, (3, 2, 4, 5)), draw_lengths((3, 2))
    compiled = torch.compile(
        lambda *x: run(kind, x, option, lengths=lengths)[0].square(), fullgraph=True, backend="aot_eager"
    )
    want, got = run(kind, inputs, option, lengths=lengths)[0].square(), compiled(*inputs)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got.sum(), inputs[:3]), torch.autograd.grad(want.sum(), inputs[:3]), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@every_kind
@every_option
def test_opcheck(kind, option):
    steps, batch, _, hidden = shape = (3, 2, 4, 5)
    inputs, (has_norms, has_zoneout, training) = draw(kind, shape), OPTIONS[option]
    gates = torch.randn(steps, batch, GATES[kind] * hidden, dtype=torch.float64, requires_grad=True)
    is_lstm = kind == "lstm"
    gains = [inputs[6], *(inputs[9:] if is_lstm else [None, None])] if has_norms else [None] * 3
    state = [inputs[7], inputs[8] if is_lstm else None]
    bias_new = None if is_lstm else inputs[4][-hidden:].detach().requires_grad_()
    probabilities = (0.3, 0.2 if is_lstm else 0.0) if has_zoneout else (0.0, 0.0)
    seed = SEED if has_zoneout and training else None
    known = [draw_lengths(shape), seed, *probabilities]
    arguments = (kind, gates, inputs[2], bias_new, *gains, *state, *known, 1e-5)
    torch.library.opcheck(torch.ops.wordkiln.recurrent_cell.default, (*arguments, True))
    with torch.no_grad():
        torch.library.opcheck(torch.ops.wordkiln.recurrent_cell.default, (*arguments, False))
        out, h, c, *kept = torch.ops.wordkiln.recurrent_cell(*arguments, True)
        tensors = [None if x is None else x.detach() for x in (inputs[2], *gains, *state)]
        grads = (out.clone(), h, c if is_lstm else None)
        torch.library.opcheck(
            torch.ops.wordkiln.recurrent_cell_backward.default, (kind, *tensors, *known, out, *kept, *grads)
        )


def norms_of(kind, **change):
    hidden, rows = 5, GATES[kind] * 5
    gains = {"gain_ih": torch.ones(rows), "gain_hh": torch.ones(rows)}
    if kind == "lstm":
        gains |= {"gain_c": torch.ones(hidden), "bias_c": torch.zeros(hidden)}
    return ops.LayerNorms(**(gains | change))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lstm", {"norms": (1, 2)}, "norms: must be an ops.LayerNorms, not tuple"),
        ("lstm", {"norms": norms_of("lstm", gain_ih=torch.ones(5))}, r"norms.gain_ih: shape \[5\] must be \[20\]"),
        ("gru", {"norms": norms_of("gru", gain_hh=torch.ones(16))}, r"norms.gain_hh: shape \[16\] must be \[15\]"),
        ("gru", {"norms": norms_of("gru", gain_hh=None)}, "norms.gain_hh: must be a torch.Tensor, not NoneType"),
        ("lstm", {"norms": norms_of("lstm", gain_c=None)}, "norms.gain_c: must be a torch.Tensor, not NoneType"),
        ("lstm", {"norms": norms_of("lstm", bias_c=torch.ones(5).double())}, "norms.bias_c: dtype torch.float64 must"),
        ("lstm", {"norms": norms_of("lstm", bias_c=torch.ones(5, device="meta"))}, "norms.bias_c: device meta must"),
        ("gru", {"norms": norms_of("gru", gain_c=torch.ones(5))}, "norms.gain_c: must be None, a GRU has no cell"),
        ("gru", {"norms": norms_of("gru", eps=0.0)}, "norms.eps=0.0: must be more than 0"),
        ("gru", {"norms": norms_of("gru", eps=math.nan)}, "norms.eps=nan: must be more than 0"),
        ("gru", {"zoneout": 1.0}, "zoneout of h=1.0: must be at least 0 and less than 1"),
        ("gru", {"zoneout": math.nan}, "zoneout of h=nan"),
        ("gru", {"zoneout": (0.1, 0.1)}, "zoneout of h="),
        ("lstm", {"zoneout": (0.1, -0.1)}, "zoneout of c=-0.1: must be at least 0 and less than 1"),
        ("lstm", {"zoneout": ("0.1", 0.1)}, "zoneout of h='0.1'"),
        ("lstm", {"zoneout": 0.1}, "zoneout=0.1: must be the pair"),
        ("lstm", {"zoneout": (0.1,)}, "zoneout=.*must be the pair"),
        ("lstm", {"zoneout": (0.1, 0.1), "seed": 3}, "seed: must be an int64 tensor"),
        ("gru", {"zoneout": 0.1, "seed": torch.zeros(2)}, "seed: must be an int64 tensor"),
        ("gru", {"zoneout": 0.1, "seed": torch.zeros(3, dtype=torch.int64)}, "seed: must be an int64 tensor"),
        ("gru", {"zoneout": 0.1, "lengths": torch.tensor([1, 4])}, r"lengths\[1\]=4: must be 0 to 3"),
        ("gru", {"zoneout": 0.1, "lengths": torch.tensor([1])}, r"lengths: torch.int64 \[1\]"),
        ("gru", {"zoneout": 0.1, "state": torch.zeros(1, 5)}, "state h: shape"),
    ],
    ids=str,
)
def test_bad_arguments(kind, options, message):
    inputs = [x.detach() for x in draw(kind, (3, 2, 4, 5), torch.float32)]
    with pytest.raises(ArgumentError, match=message):
        getattr(ops, kind)(*inputs[:5], **options)


@pytest.mark.abuse
@every_kind
@pytest.mark.parametrize("steps", [0, 3])
def test_lengths_beyond_the_steps_are_refused(kind, steps):
    inputs = draw(kind, (steps, 2, 4, 5))
    with pytest.raises(ArgumentError, match=rf"lengths\[1\]={steps + 1}: must be 0 to {steps}"):
        run(kind, inputs, "both", lengths=torch.tensor([0, steps + 1]))
