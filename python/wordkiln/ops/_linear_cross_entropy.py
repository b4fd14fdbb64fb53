"""`ops.linear_cross_entropy`: the vocabulary loss without the [tokens, vocabulary] matrix, as a torch op.

The gradients are made in the forward pass, chunk by chunk while the logits are there; the backward pass scales them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops._checks import check_tensor, dtype_name, kernel_lacks
from wordkiln.ops._cross_entropy_chunks import loss_and_gradients
from wordkiln.ops._op import nothing, op

_SHAPES = _kernels.TensorShapes("... e, v e, int64: ..., v ?")  # asked before the slower checks


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy of `softmax(hidden @ weight.T + bias)` against `targets`, in chunks of tokens.

    Float32 and float64 on the CPU take one fused kernel, which holds 192 rows of logits and skips ignored tokens
    entirely, bfloat16 another where there is a tile unit (AMX); a GPU, where built with CUDA, takes torch's products
    and one kernel between them for float32, bfloat16 and float16 (docs/cuda.md); other dtypes and
    devices take chunks of 512 in plain torch. Differentiable once.

    Args:
        hidden: [..., E].
        weight: [V, E].
        targets: int64 [...], 0 to V - 1, or `ignore_index`. On a GPU others are not refused: the loss is NaN.
        bias: [V], or None.
        ignore_index: targets of this value do not count. Default -100.
        label_smoothing: share of the target's probability spread over all V (Szegedy et al. 2016, section 7), 0 to 1.
            Default 0.
        z_loss: this times the squared log of the softmax's normaliser is added to each token's loss, which keeps
            logits from drifting (Chowdhery et al. 2022, section 5). At least 0. Default 0.
        reduction: "mean" over the targets that count, or "sum". Default "mean".

    Returns:
        The loss, a scalar, float32 for narrower inputs: bfloat16 has no number between 9.19 and 9.25. The mean is
        NaN where no target counts, as torch has it.

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit.
    """
    if torch.compiler.is_compiling() or _SHAPES.device(hidden, weight, targets, bias) is None or not len(weight):
        _check_tensors(hidden, weight, targets, bias)
    _check_options(label_smoothing, z_loss, reduction)
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, weight, bias)]
    loss: Tensor = linear_cross_entropy_kernel(
        hidden, weight, targets, bias, ignore_index, label_smoothing, z_loss, reduction == "mean", needs
    )[0]
    return loss


def _check_tensors(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    if hidden.dim() == 0:
        raise ArgumentError("hidden: shape [] must be [..., E]")
    check_tensor("hidden", hidden, tuple(hidden.shape))
    check_tensor("weight", weight, (None, hidden.shape[-1]), like=hidden)
    if weight.shape[0] == 0:
        raise ArgumentError("weight: has 0 rows; the vocabulary must have at least 1")
    if bias is not None:
        check_tensor("bias", bias, (weight.shape[0],), like=hidden)
    if targets.dtype != torch.int64:
        raise ArgumentError(f"targets: dtype {targets.dtype} must be torch.int64")
    if targets.shape != hidden.shape[:-1]:
        raise ArgumentError(f"targets: shape {list(targets.shape)} must be {list(hidden.shape[:-1])}")
    if targets.device != hidden.device:
        raise ArgumentError(f"targets: device {targets.device} must be {hidden.device}, as the other inputs")


def _check_options(label_smoothing: float, z_loss: float, reduction: str) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing={label_smoothing}: must be 0 to 1")
    if not 0 <= z_loss < float("inf"):
        raise ArgumentError(f"z_loss={z_loss}: must be at least 0 and finite")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction={reduction!r}: must be 'mean' or 'sum'")


@op(
    "wordkiln::linear_cross_entropy",
    schema="(Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, int ignore_index, float label_smoothing,"
    " float z_loss, bool mean, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
    device_types=None,
)
def linear_cross_entropy_kernel(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    mean: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and its gradients in hidden, weight and bias, each empty where it is not needed."""
    if kernel_lacks(hidden, bfloat16=_kernels.has_linear_cross_entropy("bfloat16")) is not None:
        return loss_and_gradients(hidden, weight, targets, bias, ignore_index, label_smoothing, z_loss, mean, needs)
    hidden, weight, targets = hidden.contiguous(), weight.contiguous(), targets.contiguous()
    bias = None if bias is None else bias.contiguous()
    grads = _empty_gradients(hidden, weight, needs)
    loss = _kernels.linear_cross_entropy(
        dtype_name(hidden),
        hidden.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        targets.data_ptr(),
        grads[0].data_ptr() if needs[0] else 0,
        grads[1].data_ptr() if needs[1] else 0,
        grads[2].data_ptr() if needs[2] else 0,
        (targets.numel(), weight.shape[0], weight.shape[1]),
        ignore_index,
        label_smoothing,
        z_loss,
        mean,
    )
    dtype = torch.float64 if hidden.dtype is torch.float64 else torch.float32
    return torch.full((), loss, dtype=dtype, device="cpu"), *grads


@linear_cross_entropy_kernel.register_fake
def _linear_cross_entropy_fake(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    mean: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    return loss, *_empty_gradients(hidden, weight, needs)


def _empty_gradients(hidden: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape) if needs[0] else nothing(hidden),
        hidden.new_empty(weight.shape) if needs[1] else nothing(hidden),
        hidden.new_empty(len(weight)) if needs[2] else nothing(hidden),
    )


# The inputs come along so that a second derivative meets an op that has none, and not a constant.
@op(
    "wordkiln::linear_cross_entropy_backward",
    schema="(Tensor grad_loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias, Tensor hidden, Tensor weight)"
    " -> (Tensor, Tensor, Tensor)",
    device_types=None,
)
def _linear_cross_entropy_backward(
    grad_loss: Tensor, grad_hidden: Tensor, grad_weight: Tensor, grad_bias: Tensor, hidden: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return grad_hidden * grad_loss, grad_weight * grad_loss, grad_bias * grad_loss


@_linear_cross_entropy_backward.register_fake
def _linear_cross_entropy_backward_fake(
    grad_loss: Tensor, grad_hidden: Tensor, grad_weight: Tensor, grad_bias: Tensor, hidden: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(grad_hidden), torch.empty_like(grad_weight), torch.empty_like(grad_bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:], *inputs[:2])


def _differentiate(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, ...] = (None,) * 3
    if grad_loss is not None:
        grads = _linear_cross_entropy_backward(grad_loss, *ctx.saved_tensors)
    needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
    hidden, weight, bias = (
        grad if need else None for grad, need in zip(grads, (needs_hidden, needs_weight, needs_bias), strict=True)
    )
    return hidden, weight, None, bias, None, None, None, None, None


linear_cross_entropy_kernel.register_autograd(_differentiate, setup_context=_save)
