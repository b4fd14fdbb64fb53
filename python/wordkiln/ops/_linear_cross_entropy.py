"""`ops.linear_cross_entropy`: the vocabulary loss without the [tokens, vocabulary] matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wordkiln.errors import ArgumentError
from wordkiln.ops._checks import check_tensor

# Logits held at once: enough rows for torch's matrix product to run at full speed, few enough to stay in the cache's
# neighbourhood (32 MiB of float32).
_CHUNK_ELEMENTS = 1 << 23
_CHUNK_ROWS = 512


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of `softmax(hidden @ weight.T + bias)` against `targets`, in chunks of tokens.

    At most 512 rows of logits exist at a time: each chunk's share of the gradients is computed while they are there,
    so the backward pass only scales. Differentiable once.

    Args:
        hidden: [..., E].
        weight: [V, E].
        targets: int64 [...], 0 to V - 1, or `ignore_index`.
        bias: [V], or None.
        ignore_index: targets of this value do not count. Default -100.
        label_smoothing: share of the target's probability spread over all V (Szegedy et al. 2016, section 7), 0 to 1.

    Returns:
        The mean over the targets that count, a scalar; NaN where none does, as torch has it.

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit.
    """
    _check(hidden, weight, targets, bias, ignore_index, label_smoothing)
    gradients = torch.is_grad_enabled()
    rows = hidden.reshape(-1, hidden.shape[-1])
    loss: Tensor = _LinearCrossEntropy.apply(
        rows, weight, targets.reshape(-1), bias, ignore_index, label_smoothing, gradients
    )
    return loss


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int, label_smoothing: float
) -> None:
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
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing={label_smoothing}: must be 0 to 1")
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= weight.shape[0]))
    if wrong.any():
        raise ArgumentError(f"targets: {int(targets[wrong][0])} must be 0 to {weight.shape[0] - 1} or {ignore_index}")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        gradients: bool,
    ) -> Tensor:
        needs_hidden, needs_weight, _, needs_bias = (gradients and need for need in ctx.needs_input_grad[:4])
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Many chunks add to these two: in bfloat16 the later ones would vanish.
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias and bias is not None else None

        count = (targets != ignore_index).sum()
        total = torch.zeros((), dtype=wide, device=hidden.device)
        rows = max(1, min(_CHUNK_ROWS, _CHUNK_ELEMENTS // weight.shape[0], hidden.shape[0]))
        buffer = hidden.new_empty(rows, weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            h, target = hidden[part], targets[part]
            logits = buffer[: h.shape[0]]
            torch.mm(h, weight.t(), out=logits)
            if bias is not None:
                logits += bias
            losses, grad = _loss_and_gradient(logits, target, ignore_index, label_smoothing)
            total += losses.sum()
            if not (needs_hidden or needs_weight or needs_bias):
                continue
            grad /= count
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None and grad_weight.dtype == grad.dtype:
                grad_weight.addmm_(grad.t(), h)
            elif grad_weight is not None:
                grad_weight += grad.t() @ h
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtype = hidden.dtype
        return (total / count).to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (
            None if grad is None else (grad * grad_loss).to(ctx.dtype) for grad in ctx.saved_tensors
        )
        return hidden, weight, None, bias, None, None, None


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss of each row, and the gradient of their sum; works inside `logits`, which float32 and wider keep."""
    z = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    counts = targets != ignore_index
    index = targets.where(counts, 0).unsqueeze(1)
    z -= z.amax(1, keepdim=True)
    at_target = z.gather(1, index)
    mean = z.mean(1, keepdim=True) if label_smoothing else 0.0
    z.exp_()
    normaliser = z.sum(1, keepdim=True)
    losses = normaliser.log() - (1 - label_smoothing) * at_target - label_smoothing * mean
    z /= normaliser
    if label_smoothing:
        z -= label_smoothing / z.shape[1]
    z.scatter_add_(1, index, torch.full_like(at_target, label_smoothing - 1))
    ignored = ~counts.unsqueeze(1)
    return losses.masked_fill(ignored, 0.0), z.masked_fill_(ignored, 0.0)
