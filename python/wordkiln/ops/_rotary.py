"""`ops.rotary`: rotary positions in one pass, as a torch op with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_tensor, dtype_name, kernel_lacks, warn_once
from wordkiln.ops._op import op

_SHAPES = _kernels.TensorShapes("b t h 2d, wide: b t d, wide: b t d")  # asked before the slower checks


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its row's angle (Su et al. 2021, RoFormer, section 3.2.2).

    The kernel takes float32, float64 and bfloat16 on the CPU; other dtypes and devices run on
    `ops.reference.rotary`, with one warning. No gradient flows into the angles.

    Args:
        x: [B, T, H, D], D even.
        cos: cosines of the angles, [B, T, D / 2], float32 (float64 for a float64 `x`).
        sin: sines, the same.

    Returns:
        [B, T, H, D] in the dtype of `x`.

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit.
    """
    if torch.compiler.is_compiling() or _SHAPES.device(x, cos, sin) != "cpu":
        _check(x, cos, sin)
        lacks = kernel_lacks(x, bfloat16=True)
        if lacks is not None:
            warn_once("rotary", lacks)
            return reference.rotary(x, cos, sin)
    out: Tensor = _rotary(x, cos, sin, False)
    return out


def _check(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    check_tensor("x", x, (None, None, None, None))
    batch, steps, _, size = x.shape
    if size % 2:
        raise ArgumentError(f"x: shape {list(x.shape)} must have an even head size")
    angle = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, part in (("cos", cos), ("sin", sin)):
        check_tensor(name, part, (batch, steps, size // 2))
        if part.dtype != angle or part.device != x.device:
            raise ArgumentError(f"{name}: {part.dtype} on {part.device} must be {angle} on {x.device}")


@op(
    "wordkiln::rotary",
    schema="(Tensor x, Tensor cos, Tensor sin, bool back) -> Tensor",
)
def _rotary(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    batch, steps, heads, size = x.shape
    # The rows of a part of a wider product lie further apart than they are long.
    if x.stride()[2:] != (size, 1) or x.stride(0) != steps * x.stride(1):
        x = x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    out = x.new_empty(x.shape)
    _kernels.rotary(
        dtype_name(x),
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        out.data_ptr(),
        (batch * steps, heads, size),
        x.stride(1),
        back,
    )
    return out


@_rotary.register_fake
def _rotary_fake(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin = ctx.saved_tensors
    return _rotary(grad, cos, sin, not ctx.back), None, None, None


_rotary.register_autograd(_differentiate, setup_context=_save)
