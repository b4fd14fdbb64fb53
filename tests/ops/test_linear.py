import pytest
import torch
from torch.nn import functional as F

from wordkiln import ops
from wordkiln.errors import ArgumentError


def test_matches_torch():
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    assert torch.equal(ops.linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.equal(ops.linear(x[0, 0], weight), F.linear(x[0, 0], weight))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.zeros(()), torch.zeros(5, 4), None, "x: shape"),
        (torch.zeros(2, 3), torch.zeros(5, 4), None, r"weight: shape \[5, 4\] must be \[any, 3\]"),
        (torch.zeros(2, 4), torch.zeros(5, 4), torch.zeros(4), r"bias: shape \[4\] must be \[5\]"),
        (torch.zeros(2, 4), torch.zeros(5, 4).double(), None, "weight: dtype"),
    ],
)
def test_bad_arguments(x, weight, bias, message):
    with pytest.raises(ArgumentError, match=message):
        ops.linear(x, weight, bias)


def as_stored(weight, storage):
    """What the packed weights stand for, in float32."""
    if storage != "int8":
        return weight.to(getattr(torch, storage)).float()
    kept = weight.clone()
    for group in kept.split(64, dim=1):
        scale = group.abs().amax(1, keepdim=True) / 127
        group.copy_((group * (1 / scale.where(scale > 0, 1))).round() * scale)
    return kept


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("rows", [0, 1, 5, 7, 13, 64])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (64, 32), (130, 401), (33, 800), (3, 0), (0, 3)])
def test_packed_matches_torch(storage, rows, outputs, inputs):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
    rounded = as_stored(weight, storage) if inputs else weight
    for b in (None, bias):
        got = ops.linear(x, ops.PackedLinear(weight, b, storage))
        exact = F.linear(x.double(), rounded.double(), None if b is None else b.double())
        plain = F.linear(x, rounded, b)
        # The floor: as many roundings of the largest value as the sums may take in another order.
        floor = 8 * torch.finfo(torch.float32).eps * exact.abs().max() if exact.numel() else 0
        assert got.shape == exact.shape
        assert ((got - exact).abs() <= 2 * (plain - exact).abs().max() + floor if exact.numel() else got == got).all()


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_packed_keeps_its_own_copy_and_takes_any_shape(storage):
    weight, x = torch.randn(9, 6), torch.randn(6, 2, 3).permute(1, 2, 0)
    packed = ops.PackedLinear(weight, storage=storage)
    before = ops.linear(x, packed)
    weight.zero_()
    assert torch.equal(ops.linear(x, packed), before)
    assert torch.equal(ops.linear(x[0, 0], packed), before[0, 0])
    assert before.shape == (2, 3, 9)
    assert packed.nbytes >= 9 * 6 * {"float32": 4, "bfloat16": 2, "int8": 1}[storage]


def test_packed_bfloat16_rounds_as_torch_and_keeps_nan_and_infinity():
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, float("inf"), float("nan"), 1e-40, -0.0])
    got = ops.linear(torch.ones(1, 1), ops.PackedLinear(values[:, None], storage="bfloat16"))[0]
    torch.testing.assert_close(got, values.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.abuse
def test_packed_refuses():
    weight = torch.zeros(3, 2)
    packed = ops.PackedLinear(weight)
    for call, message in [
        (lambda: ops.PackedLinear(torch.zeros(3)), "weight: shape"),
        (lambda: ops.PackedLinear(weight.double()), "weight: torch.float64"),
        (lambda: ops.PackedLinear(weight.to("meta")), "weight: torch.float32 on meta"),
        (lambda: ops.PackedLinear(weight, torch.zeros(2)), "bias: shape"),
        (lambda: ops.linear(torch.zeros(1, 2), packed, torch.zeros(3)), "bias: must be None with packed weights"),
        (lambda: ops.PackedLinear(weight, storage="int4"), "storage='int4'"),
        (lambda: ops.PackedLinear(weight / 0, storage="int8"), "weight: must be finite"),
        (lambda: ops.linear(torch.zeros(()), packed), "x: shape"),
        (lambda: ops.linear(torch.zeros(1, 3), packed), r"x: shape \[1, 3\] must be \[1, 2\]"),
        (lambda: ops.linear(torch.zeros(1, 2).double(), packed), "x: torch.float64"),
        (lambda: ops.linear(torch.zeros(1, 2, requires_grad=True), packed), "x: requires a gradient"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            call()
