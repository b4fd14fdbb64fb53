"""`ops.rms_norm`: RMS normalisation, with the residual that comes before it, one pass over memory each way."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_tensor, dtype_name, kernel_lacks, same_kind
from wordkiln.ops._op import nothing, op

# Below this many elements the call of an op of ours costs more than torch's own.
_FEW = 1 << 14
_SHAPES = _kernels.TensorShapes("... d, d, ... d ?")  # of x, weight and residual; asked before the slower checks


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: None = None) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor) -> tuple[Tensor, Tensor]: ...
def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """`weight * y / sqrt(mean(y**2) + eps)` over the last dimension, with `y = x + residual`.

    Zhang and Sennrich 2019, equation 4. The kernel takes float32, float64 and bfloat16 on the CPU from 16384
    elements on; everything else is plain torch. Differentiable once.

    Args:
        x: [..., D].
        weight: [D].
        eps: keeps the root from 0.
        residual: [..., D], or None: nothing is added.

    Returns:
        [..., D]; with a residual the pair of it and `y`.

    Raises:
        ArgumentError: the shapes do not fit.
    """
    if torch.compiler.is_compiling() or _SHAPES.device(x, weight, residual) != "cpu":
        _check(x, weight, residual)
        if kernel_lacks(x, bfloat16=True) is not None or not same_kind(x, weight, residual):
            return reference.rms_norm(x, weight, eps, residual)
    if x.numel() < _FEW:
        return reference.rms_norm(x, weight, eps, residual)
    out, total, _ = _rms_norm(x, weight, residual, eps)
    return out if residual is None else (out, total)


def _check(x: Tensor, weight: Tensor, residual: Tensor | None) -> None:
    if x.dim() == 0:
        raise ArgumentError("x: shape [] must be [..., D]")
    check_tensor("weight", weight, (x.shape[-1],))
    if residual is not None and residual.shape != x.shape:
        raise ArgumentError(f"residual: shape {list(residual.shape)} must be {list(x.shape)}, as x")


@op("wordkiln::rms_norm")
def _rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result, `x + residual` (empty without one), and each row's factor."""
    x, weight = x.contiguous(), weight.contiguous()
    residual = None if residual is None else residual.contiguous()
    out, total, scale = _rms_norm_fake(x, weight, residual, eps)
    _kernels.rms_norm_forward(
        dtype_name(x),
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        0 if residual is None else total.data_ptr(),
        out.data_ptr(),
        scale.data_ptr(),
        (scale.numel(), x.shape[-1]),
        eps,
    )
    return out, total, scale


@_rms_norm.register_fake
def _rms_norm_fake(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    # Sizes one by one where they are no tensor's: a tuple of them takes twice as long.
    x = x.contiguous()
    out, total = torch.empty_like(x), nothing(x) if residual is None else torch.empty_like(x)
    rows = x.shape[:-1] or [()]
    return out, total, x.new_empty(*rows, dtype=torch.float32) if x.dtype is torch.bfloat16 else x.new_empty(*rows)


@op("wordkiln::rms_norm_backward")
def _rms_norm_backward(
    total: Tensor, weight: Tensor, scale: Tensor, grad_out: Tensor, grad_total: Tensor | None
) -> tuple[Tensor, Tensor]:
    total, weight, grad_out = total.contiguous(), weight.contiguous(), grad_out.contiguous()
    grad_total = None if grad_total is None else grad_total.contiguous()
    grad_x, grad_weight = torch.empty_like(total), torch.empty_like(weight)
    _kernels.rms_norm_backward(
        dtype_name(total),
        total.data_ptr(),
        weight.data_ptr(),
        scale.data_ptr(),
        grad_out.data_ptr(),
        0 if grad_total is None else grad_total.data_ptr(),
        grad_x.data_ptr(),
        grad_weight.data_ptr(),
        (scale.numel(), total.shape[-1]),
    )
    return grad_x, grad_weight


@_rms_norm_backward.register_fake
def _rms_norm_backward_fake(
    total: Tensor, weight: Tensor, scale: Tensor, grad_out: Tensor, grad_total: Tensor | None
) -> tuple[Tensor, Tensor]:
    return total.new_empty(total.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, residual, _ = inputs
    _, total, scale = output
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(*((scale,) if ctx.has_residual else (total, scale)))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(total if ctx.has_residual else x, weight, scale)


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_total: Tensor | None, _: None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    total, weight, scale = ctx.saved_tensors
    if grad_out is None:
        return grad_total, None, grad_total, None
    grad_x, grad_weight = _rms_norm_backward(total, weight, scale, grad_out, grad_total)
    return grad_x, grad_weight, grad_x if ctx.has_residual else None, None


_rms_norm.register_autograd(_differentiate, setup_context=_save)
