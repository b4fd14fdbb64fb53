"""The vocabulary loss on a GPU: chunks of tokens, torch's products, and one kernel from logits to their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from wordkiln.ops import _cross_entropy_chunks, _cuda
from wordkiln.ops._linear_cross_entropy import linear_cross_entropy_kernel
from wordkiln.ops._op import no_autocast

# Logits held at once: 128 MiB of 16-bit ones, some thousand rows. But no fewer rows than the hidden state is wide: each
# chunk reads and writes the float32 gradient of the weight (128,000 words by 2048 on an H100: 22.6 ms before, 13 now).
_CHUNK_ELEMENTS = 1 << 26


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
    """As `_cross_entropy_chunks.loss_and_gradients`, but that a wrong target makes the loss NaN: nothing waits."""
    if _cuda.lacks(hidden) is not None:
        return _cross_entropy_chunks.loss_and_gradients(
            hidden, weight, targets, bias, ignore_index, label_smoothing, z_loss, mean, needs
        )
    rows, words = targets.numel(), weight.shape[0]
    h, targets = hidden.reshape(rows, hidden.shape[-1]), targets.reshape(rows).contiguous()
    bias = None if bias is None else bias.contiguous()
    losses = torch.empty(rows, dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.empty_like(h) if needs[0] else hidden.new_empty(0)
    # Many chunks add to these two: in bfloat16 the later ones would vanish.
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else weight.new_empty(0)
    grad_bias = weight.new_zeros(words, dtype=torch.float32) if needs[2] else weight.new_empty(0)
    part = 16 // hidden.element_size()
    pitch = (words + part - 1) // part * part
    size = max(1, min(rows, max(_CHUNK_ELEMENTS // pitch, h.shape[1])))
    buffer = hidden.new_empty(size, pitch)
    with no_autocast(hidden):
        for start in range(0, rows, size):
            chunk = slice(start, min(start + size, rows))
            logits = buffer[: chunk.stop - start, :words]
            torch.mm(h[chunk], weight.t(), out=logits)
            _softmax_gradient(
                logits, bias, targets[chunk], losses[chunk], ignore_index, label_smoothing, z_loss, any(needs)
            )
            if needs[0]:
                torch.mm(logits, weight, out=grad_hidden[chunk])
            if needs[1]:
                add_product(grad_weight, logits.t(), h[chunk])
            if needs[2]:
                grad_bias += logits.sum(0, dtype=torch.float32)
    loss = losses.sum()
    if mean:
        # The gradients are divided last: a 16-bit one of each logit keeps its full range.
        counted = (targets != ignore_index).sum()
        loss = loss / counted
        for grad in (grad_hidden, grad_weight, grad_bias):
            grad /= counted.clamp(min=1)
    if needs[0]:
        grad_hidden = grad_hidden.reshape(hidden.shape)
    return loss, grad_hidden, grad_weight.to(hidden.dtype), grad_bias.to(hidden.dtype)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total` += a @ b, without a product in 16 bits where torch can: on a GPU."""
    if a.is_cuda and a.dtype != total.dtype:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _softmax_gradient(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    losses: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    gradient: bool,
) -> None:
    """Fills `losses`, and turns the logits to the gradient of their sum, if it is wanted."""
    with _cuda.guard(logits):
        _cuda.kernels().softmax_gradient(
            _cuda.dtype_name(logits),
            logits.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            targets.data_ptr(),
            losses.data_ptr(),
            *logits.shape,
            logits.stride(0),
            ignore_index,
            label_smoothing,
            z_loss,
            gradient,
            stream=_cuda.stream(logits),
        )


linear_cross_entropy_kernel.register_kernel("cuda", loss_and_gradients)
