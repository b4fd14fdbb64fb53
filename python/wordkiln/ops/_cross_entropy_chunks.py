"""The vocabulary loss in chunks of tokens, in plain torch: for dtypes and devices that the kernel does not take."""

from __future__ import annotations

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError

# Logits held at once: enough rows for torch's matrix product to run at full speed, few enough to stay in the cache's
# neighbourhood (32 MiB of float32).
_CHUNK_ELEMENTS = 1 << 23
_CHUNK_ROWS = 512


def loss_and_gradients(
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
    """The loss and its gradients in hidden, weight and bias, each empty where `needs` does not name it."""
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= weight.shape[0]))
    if wrong.any():
        raise ArgumentError(f"targets: {int(targets[wrong][0])} must be 0 to {weight.shape[0] - 1} or {ignore_index}")
    hidden_rows, targets = hidden.reshape(targets.numel(), hidden.shape[-1]), targets.reshape(-1)
    # Many chunks add to these two: in bfloat16 the later ones would vanish.
    wide = torch.promote_types(weight.dtype, torch.float32)
    grad_hidden = torch.empty_like(hidden_rows) if needs[0] else hidden.new_empty(0)
    grad_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else weight.new_empty(0)
    grad_bias = weight.new_zeros(weight.shape[0], dtype=wide) if needs[2] else weight.new_empty(0)

    counted = (targets != ignore_index).sum()
    total = torch.zeros((), dtype=wide, device=hidden.device)
    size = max(1, min(_CHUNK_ROWS, _CHUNK_ELEMENTS // weight.shape[0], targets.numel()))
    for start in range(0, targets.numel(), size):
        part = slice(start, start + size)
        h = hidden_rows[part]
        logits = torch.mm(h, weight.t()).to(wide)
        if bias is not None:
            logits += bias
        losses, grad = _rows(logits, targets[part], ignore_index, label_smoothing, z_loss)
        total += losses.sum()
        if not any(needs):
            continue
        if mean:
            grad /= counted
        if needs[2]:
            grad_bias += grad.sum(0)
        grad = grad.to(hidden.dtype)
        if needs[0]:
            torch.mm(grad, weight, out=grad_hidden[part])
        if needs[1]:
            grad_weight += grad.t() @ h
    loss = total / counted if mean else total
    if needs[0]:
        grad_hidden = grad_hidden.reshape(hidden.shape)
    return loss, grad_hidden, grad_weight.to(hidden.dtype), grad_bias.to(hidden.dtype)


def _rows(
    logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The loss of each row, and the gradient of their sum, which takes the place of the logits."""
    counts = targets != ignore_index
    index = targets.where(counts, 0).unsqueeze(1)
    largest = logits.amax(1, keepdim=True)
    z = logits.sub_(largest)
    at_target = z.gather(1, index)
    mean = z.mean(1, keepdim=True) if label_smoothing else 0.0
    total = z.exp_().sum(1, keepdim=True)
    normaliser = total.log() + largest
    losses = total.log() - (1 - label_smoothing) * at_target - label_smoothing * mean + z_loss * normaliser**2
    z *= (1 + 2 * z_loss * normaliser) / total
    if label_smoothing:
        z -= label_smoothing / z.shape[1]
    z.scatter_add_(1, index, torch.full_like(at_target, label_smoothing - 1))
    ignored = ~counts.unsqueeze(1)
    return losses.masked_fill(ignored, 0.0), z.masked_fill_(ignored, 0.0)
