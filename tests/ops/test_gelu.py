"""`ops.gelu` against its definition, with and without a bias."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _activation

WAYS = pytest.mark.parametrize("approximate", ["none", "tanh"])


def draw(shape, with_bias, dtype=torch.float64, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape, *([shape[-1:]] if with_bias else [])]
    return [
        (torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_() for s in shapes
    ]


def gradients(function, approximate, *inputs):
    out = function(*inputs, approximate=approximate)
    return [out, *torch.autograd.grad(out.sin().sum(), inputs)]


@pytest.fixture
def always(monkeypatch):
    """The kernel for every size."""
    monkeypatch.setattr(_activation, "_FEW", 0)


@pytest.mark.golden
@pytest.mark.usefixtures("always")
def test_worked_out_results():
    x = [-30.0, -3.0, -0.5, 0.0, 1.0, 4.0]
    exact = [y * math.erfc(-y / math.sqrt(2)) / 2 for y in x]
    by_tanh = [y * (1 + math.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / 2 for y in x]
    # Both formulas subtract from 1: eight roundings of it.
    for approximate, want in (("none", exact), ("tanh", by_tanh)):
        got = ops.gelu(torch.tensor(x, dtype=torch.float64), approximate=approximate)
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-14, atol=2e-15)


@WAYS
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (1,), (3, 5), (2, 7, 33), (20, 1001)])
@pytest.mark.usefixtures("always")
def test_matches_the_definition(shape, with_bias, approximate):
    inputs = draw(shape, with_bias, scale=3.0)
    plain = gradients(ops.reference.gelu, approximate, *inputs)
    for got, want in zip(gradients(ops.gelu, approximate, *inputs), plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


@WAYS
@pytest.mark.parity
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.usefixtures("always")
def test_float32_error_is_at_most_twice_that_of_torch(with_bias, approximate):
    inputs = draw((100, 257), with_bias, torch.float32, scale=4.0)
    exact = gradients(ops.reference.gelu, approximate, *(x.detach().double().requires_grad_() for x in inputs))
    plain, ours = (gradients(f, approximate, *inputs) for f in (ops.reference.gelu, ops.gelu))
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: four roundings of the largest value.
        floor = 4 * torch.finfo(torch.float32).eps * want.abs().max()
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


@WAYS
@pytest.mark.parity
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (20, 1001)])
@pytest.mark.usefixtures("always")
def test_bfloat16_is_as_exact_as_torch(assert_as_exact, shape, with_bias, approximate):
    inputs = draw(shape, with_bias, torch.bfloat16, scale=2.0)
    assert_as_exact(
        gradients(ops.gelu, approximate, *inputs),
        gradients(ops.reference.gelu, approximate, *inputs),
        gradients(ops.reference.gelu, approximate, *(x.detach().double().requires_grad_() for x in inputs)),
    )


@WAYS
@pytest.mark.parity
@pytest.mark.usefixtures("always")
def test_far_out_and_nan_as_torch(approximate):
    x = torch.tensor([100.0, -100.0, 1e30, -1e30, math.nan, -math.inf, -5.6, 5.6]).requires_grad_()
    (ours, grad), (plain, plain_grad) = (gradients(f, approximate, x) for f in (ops.gelu, F.gelu))
    torch.testing.assert_close(ours, plain, equal_nan=True)
    # Where y^3 overflows the gradient by tanh is NaN or not as the terms are grouped.
    small = x.abs() < 1e3
    torch.testing.assert_close(grad[small], plain_grad[small])
    ours = ops.gelu(torch.tensor([-1e30, math.inf]), approximate=approximate)  # the second: torch gives NaN by erf
    assert ours.tolist() == [0, math.inf]


@pytest.mark.property
@settings(deadline=None)
@given(
    rows=st.integers(60, 90), width=st.integers(280, 330), with_bias=st.booleans(), strided=st.booleans(),
    approximate=st.sampled_from(["none", "tanh"]), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size(rows, width, with_bias, strided, approximate, seed):
    x, *bias = (t.detach() for t in draw((rows, 2 * width), with_bias, seed=seed))
    inputs = [t[..., ::2] if strided else t[..., :width].contiguous() for t in (x, *bias)]
    inputs = [t.requires_grad_() for t in inputs]
    plain = gradients(ops.reference.gelu, approximate, *inputs)
    for got, want in zip(gradients(ops.gelu, approximate, *inputs), plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@WAYS
@pytest.mark.usefixtures("always")
def test_bits_repeat_and_do_not_depend_on_the_bias_being_there(approximate):
    x, bias = draw((301, 77), True, torch.float32)
    first, second = (gradients(ops.gelu, approximate, x, bias) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(ops.gelu(x, torch.zeros(77), approximate=approximate), ops.gelu(x, approximate=approximate))


@pytest.mark.parametrize("learned", [0, 1])
@pytest.mark.usefixtures("always")
def test_one_of_the_two_inputs_may_be_constant(learned):
    inputs = [x.detach().requires_grad_(i == learned) for i, x in enumerate(draw((3, 5), True))]
    (ours,), (plain,) = (
        torch.autograd.grad(f(*inputs).sin().sum(), inputs[learned]) for f in (ops.gelu, ops.reference.gelu)
    )
    torch.testing.assert_close(ours, plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("tanh", [True, False])
def test_opcheck(with_bias, tanh):
    x, *bias = draw((3, 5), with_bias)
    torch.library.opcheck(torch.ops.wordkiln.gelu.default, (x, bias[0] if bias else None, tanh))
    x, *bias = (t.detach() for t in (x, *bias))
    arguments = (x, bias[0] if bias else None, torch.ones_like(x), tanh)
    torch.library.opcheck(torch.ops.wordkiln.gelu_backward.default, arguments)


@WAYS
@pytest.mark.usefixtures("always")
def test_compiles_to_one_graph(approximate):
    inputs = draw((3, 5), True)
    compiled = torch.compile(ops.gelu, fullgraph=True, backend="aot_eager")
    plain = gradients(ops.gelu, approximate, *inputs)
    for got, want in zip(gradients(compiled, approximate, *inputs), plain, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("always")
def test_other_dtypes_are_plain_torch():
    x, bias = draw((3, 5), True, torch.float16)
    assert torch.equal(ops.gelu(x, bias), ops.reference.gelu(x, bias))
    assert torch.equal(ops.gelu(x.bfloat16(), bias.float()), ops.reference.gelu(x.bfloat16(), bias.float()))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("x", "bias", "approximate", "message"),
    [
        (torch.zeros(()), torch.zeros(1), "none", r"x: shape \[\] must be \[..., F\]"),
        (torch.zeros(2, 3), torch.zeros(4), "none", r"bias: shape \[4\] must be \[3\]"),
        (torch.zeros(2, 3), torch.zeros(1, 3), "none", r"bias: shape \[1, 3\]"),
        (torch.zeros(2, 3), [0.0] * 3, "none", "bias: must be a torch.Tensor"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "none", "bias: dtype torch.int64"),
        (torch.zeros(2, 3), None, "sigmoid", "approximate='sigmoid': must be 'none' or 'tanh'"),
    ],
)
def test_bad_arguments(x, bias, approximate, message):
    with pytest.raises(ArgumentError, match=message):
        ops.gelu(x, bias, approximate=approximate)
