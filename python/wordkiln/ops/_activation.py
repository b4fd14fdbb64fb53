"""`ops.swiglu`: the product inside a SwiGLU layer, one pass over memory forward and one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import dtype_name, kernel_lacks
from wordkiln.ops._op import op

# Below this many elements the call of an op of ours costs more than torch's two small passes.
_FEW = 1 << 14


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` (Shazeer 2020, equation 6). Differentiable once.

    The kernel takes float32, float64 and bfloat16 on the CPU from 16384 elements on; everything else is plain torch.

    Args:
        gate: any shape.
        up: the same shape.

    Returns:
        The same shape.

    Raises:
        ArgumentError: the shapes differ.
    """
    if gate.shape != up.shape:
        raise ArgumentError(f"up: shape {list(up.shape)} must be {list(gate.shape)}, as gate")
    if (
        gate.dtype != up.dtype
        or gate.device != up.device
        or gate.numel() < _FEW
        or kernel_lacks(gate, bfloat16=True) is not None
    ):
        return reference.swiglu(gate, up)
    out: Tensor = _swiglu(gate, up)
    return out


@op("wordkiln::swiglu")
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _kernels.swiglu_forward(dtype_name(gate), gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out


@_swiglu.register_fake
def _swiglu_fake(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@op("wordkiln::swiglu_backward")
def _swiglu_backward(gate: Tensor, up: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    gate, up, grad_out = gate.contiguous(), up.contiguous(), grad_out.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _kernels.swiglu_backward(
        dtype_name(gate),
        gate.data_ptr(),
        up.data_ptr(),
        grad_out.data_ptr(),
        grad_gate.data_ptr(),
        grad_up.data_ptr(),
        gate.numel(),
    )
    return grad_gate, grad_up


@_swiglu_backward.register_fake
def _swiglu_backward_fake(gate: Tensor, up: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = ctx.saved_tensors
    grads: tuple[Tensor, Tensor] = _swiglu_backward(gate, up, grad_out)
    return grads


_swiglu.register_autograd(_differentiate, setup_context=_save)
