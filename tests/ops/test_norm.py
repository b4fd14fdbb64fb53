"""`ops.rms_norm` against its definition, with and without a residual."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _norm


def draw(shape, with_residual, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape, shape[-1:], *([shape] if with_residual else [])]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def run(function, x, weight, residual=None):
    out = function(x, weight, 1e-5, residual)
    return (out,) if residual is None else out


def gradients(function, *inputs):
    results = run(function, *inputs)
    loss = sum((result * (1 + i)).sin().sum() for i, result in enumerate(results))
    return [*results, *torch.autograd.grad(loss, inputs)]


@pytest.fixture
def always(monkeypatch):
    """The kernel for every size."""
    monkeypatch.setattr(_norm, "_FEW", 0)


@pytest.mark.parametrize("shape", [(0, 4), (5,), (1, 1), (2, 3, 33), (70, 129)])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.usefixtures("always")
def test_matches_the_definition(shape, with_residual):
    inputs = draw(shape, with_residual)
    for got, want in zip(gradients(ops.rms_norm, *inputs), gradients(ops.reference.rms_norm, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 33), (70, 129)])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.usefixtures("always")
def test_bfloat16_is_as_exact_as_torch(assert_as_exact, shape, with_residual):
    inputs = draw(shape, with_residual, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    assert_as_exact(
        gradients(ops.rms_norm, *inputs),
        gradients(ops.reference.rms_norm, *inputs),
        gradients(ops.reference.rms_norm, *exact),
    )


@pytest.mark.property
@settings(deadline=None)
@given(rows=st.integers(60, 90), width=st.integers(280, 330), with_residual=st.booleans(), seed=st.integers(0, 9))
def test_any_size(rows, width, with_residual, seed):
    inputs = draw((rows, width), with_residual, seed=seed)
    for got, want in zip(gradients(ops.rms_norm, *inputs), gradients(ops.reference.rms_norm, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("always")
def test_with_a_residual_is_the_norm_of_the_sum_bit_for_bit(dtype):
    x, weight, residual = (t.detach() for t in draw((70, 129), True, dtype))
    out, total = ops.rms_norm(x, weight, 1e-5, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(out, ops.rms_norm(total, weight, 1e-5))


@pytest.mark.parametrize("unused", [0, 1])
@pytest.mark.usefixtures("always")
def test_one_of_the_two_results_may_go_unused(unused):
    inputs = draw((3, 5), True)
    for got, want in zip(
        torch.autograd.grad(run(ops.rms_norm, *inputs)[1 - unused].sin().sum(), inputs, allow_unused=True),
        torch.autograd.grad(run(ops.reference.rms_norm, *inputs)[1 - unused].sin().sum(), inputs, allow_unused=True),
        strict=True,
    ):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.usefixtures("always")
def test_float32_error_is_at_most_twice_the_plain_expression_s(with_residual):
    inputs = draw((200, 300), with_residual, torch.float32)
    exact = gradients(ops.reference.rms_norm, *(x.detach().double().requires_grad_() for x in inputs))
    plain, ours = gradients(ops.reference.rms_norm, *inputs), gradients(ops.rms_norm, *inputs)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: eight roundings of the largest value.
        floor = 8 * torch.finfo(torch.float32).eps * want.abs().max()
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


@pytest.mark.usefixtures("always")
def test_a_nan_stays_in_its_row():
    x, weight = (t.detach() for t in draw((3, 5), False))
    x[1, 2] = float("nan")
    out = ops.rms_norm(x, weight, 1e-5)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("with_residual", [True, False])
def test_opcheck(with_residual):
    x, weight, *residual = draw((3, 5), with_residual)
    torch.library.opcheck(torch.ops.wordkiln.rms_norm.default, (x, weight, residual[0] if residual else None, 1e-5))
    x, weight = x.detach(), weight.detach()
    arguments = (x, weight, torch.ones(3, dtype=x.dtype), torch.ones_like(x), x if residual else None)
    torch.library.opcheck(torch.ops.wordkiln.rms_norm_backward.default, arguments)


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.usefixtures("always")
def test_compiles_to_one_graph(with_residual):
    inputs = draw((3, 5), with_residual)
    compiled = torch.compile(ops.rms_norm, fullgraph=True, backend="aot_eager")
    for got, want in zip(gradients(compiled, *inputs), gradients(ops.rms_norm, *inputs), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("always")
def test_other_dtypes_are_plain_torch():
    x, weight = draw((3, 5), False, torch.float16)
    assert torch.equal(ops.rms_norm(x, weight, 1e-5), ops.reference.rms_norm(x, weight, 1e-5))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("x", "weight", "residual", "message"),
    [
        (torch.zeros(()), torch.zeros(1), None, "x: shape"),
        (torch.zeros(2, 3), torch.zeros(4), None, r"weight: shape \[4\] must be \[3\]"),
        (torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), r"residual: shape \[3\] must be \[2, 3\]"),
    ],
)
def test_bad_arguments(x, weight, residual, message):
    with pytest.raises(ArgumentError, match=message):
        ops.rms_norm(x, weight, 1e-5, residual)
