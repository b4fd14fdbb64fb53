"""`ops.rotary` against its definition."""

import pytest
import torch

from wordkiln import ops
from wordkiln.errors import ArgumentError

# (B, T, H, D): nothing, one pair, halves below, at and above a vector of every instruction set, several work items.
SHAPES = [(0, 3, 2, 4), (1, 1, 1, 2), (2, 3, 2, 6), (1, 5, 3, 32), (2, 20, 1, 70), (3, 17, 2, 128)]


def draw(shape, dtype=torch.float64):
    batch, steps, _, size = shape
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(batch, steps, size // 2, generator=generator, dtype=torch.float64) * 6.3
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), angle.cos().to(wide), angle.sin().to(wide)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_matches_the_definition(shape, dtype):
    x, cos, sin = draw(shape, dtype)
    weight = torch.randn(shape, dtype=torch.float64).to(dtype)
    results = []
    for function in (ops.rotary, ops.reference.rotary):
        out = function(x, cos, sin)
        results.append((out, torch.autograd.grad(out, x, weight)[0]))
    # Two products and a sum of the same numbers; fused multiply-adds round once less. For bfloat16 the definition
    # computes in float32 too, so that only ties may fall to another side.
    tolerance = 4 * torch.finfo(dtype).eps
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_gradcheck():
    x, cos, sin = draw((2, 3, 2, 6))
    assert torch.autograd.gradcheck(lambda x: ops.rotary(x, cos, sin), x, fast_mode=True)


@pytest.mark.parametrize("view", ["part of a wider product", "transposed heads", "every other row"])
def test_any_strides(view):
    x, cos, sin = draw((2, 6, 3, 8))
    x = x.detach()
    wide = torch.cat([x.flatten(2), torch.full((2, 6, 5), torch.nan)], -1)
    views = {
        "part of a wider product": wide[..., :24].unflatten(-1, (3, 8)),
        "transposed heads": x.transpose(1, 2).contiguous().transpose(1, 2),
        "every other row": torch.stack([x, x * torch.nan], 2).flatten(1, 2)[:, ::2],
    }
    assert torch.equal(ops.rotary(views[view], cos, sin), ops.rotary(x, cos, sin))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_opcheck_and_compile():
    x, cos, sin = draw((2, 3, 2, 6), torch.float32)
    torch.library.opcheck(torch.ops.wordkiln.rotary.default, (x, cos, sin, False))
    compiled = torch.compile(ops.rotary, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, cos, sin), ops.rotary(x, cos, sin))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 2)}, r"x: shape \[2, 3, 2\]"),
        ({"x": torch.zeros(2, 3, 2, 5)}, "even head size"),
        ({"x": torch.zeros(2, 3, 2, 6, dtype=torch.int64)}, "x: dtype torch.int64"),
        ({"cos": torch.zeros(2, 3, 6)}, r"cos: shape \[2, 3, 6\] must be \[2, 3, 3\]"),
        ({"sin": torch.zeros(2, 3, 3, dtype=torch.float64)}, "sin: torch.float64"),
        ({"cos": torch.zeros(2, 3, 3, device="meta")}, "cos: torch.float32 on meta"),
    ],
)
def test_bad_input_is_a_named_error(change, message):
    good = {"x": torch.zeros(2, 3, 2, 6), "cos": torch.zeros(2, 3, 3), "sin": torch.zeros(2, 3, 3)}
    with pytest.raises(ArgumentError, match=message):
        ops.rotary(**{**good, **change})
