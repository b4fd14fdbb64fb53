"""`ops.swiglu` against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops import _activation


def draw(shape, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()
        for _ in range(2)
    ]


def gradients(function, gate, up):
    out = function(gate, up)
    return [out, *torch.autograd.grad(out.sin().sum(), (gate, up))]


@pytest.fixture
def always(monkeypatch):
    """The kernel for every size."""
    monkeypatch.setattr(_activation, "_FEW", 0)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 7, 33), (20, 1001)])
@pytest.mark.usefixtures("always")
def test_matches_the_definition(shape):
    inputs = draw(shape)
    for got, want in zip(gradients(ops.swiglu, *inputs), gradients(ops.reference.swiglu, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (20, 1001)])
@pytest.mark.usefixtures("always")
def test_bfloat16_is_as_exact_as_torch(assert_as_exact, shape):
    inputs = draw(shape, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    assert_as_exact(
        gradients(ops.swiglu, *inputs),
        gradients(ops.reference.swiglu, *inputs),
        gradients(ops.reference.swiglu, *exact),
    )


@pytest.mark.property
@settings(deadline=None)
@given(count=st.integers(_activation._FEW, _activation._FEW + 100), strided=st.booleans())
def test_any_length(count, strided):
    inputs = draw((count, 2))
    gate, up = (x[:, 0] if strided else x[:, 0].contiguous() for x in inputs)
    assert torch.equal(ops.swiglu(gate, up), torch.ops.wordkiln.swiglu(gate.contiguous(), up.contiguous()))
    torch.testing.assert_close(ops.swiglu(gate, up), ops.reference.swiglu(gate, up))


@pytest.mark.usefixtures("always")
def test_float32_error_is_at_most_twice_the_plain_expression_s():
    inputs = draw((100, 257), torch.float32, scale=4.0)
    exact = gradients(ops.reference.swiglu, *(x.detach().double().requires_grad_() for x in inputs))
    plain, ours = gradients(ops.reference.swiglu, *inputs), gradients(ops.swiglu, *inputs)
    for got, peer, want in zip(ours, plain, exact, strict=True):
        # The floor: four roundings of the largest value.
        floor = 4 * torch.finfo(torch.float32).eps * want.abs().max()
        assert (got - want).abs().max() <= 2 * (peer - want).abs().max() + floor


@pytest.mark.usefixtures("always")
def test_large_gates_and_nan():
    gate = torch.tensor([100.0, -100.0, 1e30, -1e30, float("nan")])
    got = ops.swiglu(gate, torch.ones(5))
    torch.testing.assert_close(got, ops.reference.swiglu(gate, torch.ones(5)), equal_nan=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_opcheck():
    gate, up = draw((3, 5))
    torch.library.opcheck(torch.ops.wordkiln.swiglu.default, (gate, up))
    arguments = (gate.detach(), up.detach(), torch.ones_like(gate))
    torch.library.opcheck(torch.ops.wordkiln.swiglu_backward.default, arguments)


@pytest.mark.usefixtures("always")
def test_compiles_to_one_graph():
    inputs = draw((3, 5))
    compiled = torch.compile(ops.swiglu, fullgraph=True, backend="aot_eager")
    for got, want in zip(gradients(compiled, *inputs), gradients(ops.swiglu, *inputs), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("always")
def test_other_dtypes_are_plain_torch():
    gate, up = draw((3, 5), torch.float16)
    assert torch.equal(ops.swiglu(gate, up), ops.reference.swiglu(gate, up))


@pytest.mark.abuse
def test_shapes_that_differ():
    with pytest.raises(ArgumentError, match=r"up: shape \[4\] must be \[3\]"):
        ops.swiglu(torch.zeros(3), torch.zeros(4))
