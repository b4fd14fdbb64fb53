"""`ops.gelu` with the bias before it, and `ops.swiglu`: one pass over memory forward and one backward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_tensor, dtype_name, kernel_lacks, same_kind
from wordkiln.ops._op import op

# Below this many elements the call of an op of ours costs more than torch's two small passes.
_FEW = 1 << 14
# Asked before the slower checks.
_GELU_SHAPES = _kernels.TensorShapes("... f, f ?")  # of x and bias
_SWIGLU_SHAPES = _kernels.TensorShapes("..., ...")  # of gate and up


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """`y * Phi(y)` with `y = x + bias`, Phi the normal distribution (Hendrycks and Gimpel 2016). Differentiable once.

    The kernel takes float32, float64 and bfloat16 (float32 inside, rounded once) on the CPU from 16384 elements on;
    everything else is plain torch.

    Args:
        x: [..., F].
        bias: [F], or None: nothing is added. It has a gradient.
        approximate: as torch.nn.functional.gelu has it. "none": Phi(y) = (1 + erf(y / sqrt(2))) / 2. "tanh":
            Phi(y) is about (1 + tanh(sqrt(2 / pi) * (y + 0.044715 * y**3))) / 2. Default "none".

    Returns:
        [..., F].

    Raises:
        ArgumentError: the shapes do not fit; `approximate` is another word.
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"approximate={approximate!r}: must be 'none' or 'tanh'")
    if torch.compiler.is_compiling() or _GELU_SHAPES.device(x, bias) != "cpu":
        if bias is not None:
            if x.dim() == 0:
                raise ArgumentError("x: shape [] must be [..., F]")
            check_tensor("bias", bias, (x.shape[-1],))
        if kernel_lacks(x, bfloat16=True) is not None or not same_kind(x, bias):
            return reference.gelu(x, bias, approximate=approximate)
    if x.numel() < _FEW:
        return reference.gelu(x, bias, approximate=approximate)
    out: Tensor = _gelu(x, bias, approximate == "tanh")
    return out


@op("wordkiln::gelu")
def _gelu(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    out = torch.empty_like(x)
    bias_address = 0 if bias is None else bias.data_ptr()
    _kernels.gelu_forward(dtype_name(x), x.data_ptr(), bias_address, out.data_ptr(), _rows(x), tanh)
    return out


@_gelu.register_fake
def _gelu_fake(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    return x.new_empty(x.shape)


@op("wordkiln::gelu_backward")
def _gelu_backward(x: Tensor, bias: Tensor | None, grad_out: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the bias (empty without one)."""
    x, bias, grad_out = x.contiguous(), None if bias is None else bias.contiguous(), grad_out.contiguous()
    grad_x, grad_bias = _gelu_backward_fake(x, bias, grad_out, tanh)
    _kernels.gelu_backward(
        dtype_name(x),
        x.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        grad_out.data_ptr(),
        grad_x.data_ptr(),
        grad_bias.data_ptr(),
        _rows(x),
        tanh,
    )
    return grad_x, grad_bias


@_gelu_backward.register_fake
def _gelu_backward_fake(x: Tensor, bias: Tensor | None, grad_out: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((0,) if bias is None else bias.shape)


def _rows(x: Tensor) -> tuple[int, int]:
    width = x.shape[-1] if x.dim() else 1
    return (x.numel() // width if width else 0, width)


def _save_gelu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.tanh = inputs
    ctx.save_for_backward(x, bias)


def _differentiate_gelu(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor | None, None]:
    x, bias = ctx.saved_tensors
    grad_x, grad_bias = _gelu_backward(x, bias, grad_out, ctx.tanh)
    return grad_x, None if bias is None else grad_bias, None


_gelu.register_autograd(_differentiate_gelu, setup_context=_save_gelu)


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
    if torch.compiler.is_compiling() or _SWIGLU_SHAPES.device(gate, up) != "cpu":
        if gate.shape != up.shape:
            raise ArgumentError(f"up: shape {list(up.shape)} must be {list(gate.shape)}, as gate")
        if kernel_lacks(gate, bfloat16=True) is not None or not same_kind(gate, up):
            return reference.swiglu(gate, up)
    if gate.numel() < _FEW:
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


def _save_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_swiglu(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = ctx.saved_tensors
    grads: tuple[Tensor, Tensor] = _swiglu_backward(gate, up, grad_out)
    return grads


_swiglu.register_autograd(_differentiate_swiglu, setup_context=_save_swiglu)
