"""`ops.lstm`: one layer of an LSTM over a whole sequence, as a torch op with its gradient.

The kernel does the recurrence; the input projection before it, and the gradients of weights and inputs after it, are
one product each over all time steps, by torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln import _kernels
from wordkiln.ops import reference
from wordkiln.ops._checks import check_layer, dtype_name, kernel_lacks, warn_once


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer in one direction, gates in torch's order (input, forget, cell, output).

    The kernel takes float32 and float64 on the CPU; other dtypes and devices run on `ops.reference.lstm`, with one
    warning.

    Args:
        x: [T, B, I].
        weight_ih: [4H, I].
        weight_hh: [4H, H].
        bias_ih: [4H], or None.
        bias_hh: [4H], or None.
        state: the first h and c, each [B, H]. Default zeros.

    Returns:
        The outputs [T, B, H], and the last (h, c), each [B, H].

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit.
    """
    check_layer(x, weight_ih, weight_hh, bias_ih, bias_hh, state, gates=4)
    lacks = kernel_lacks(x)
    if lacks is not None:
        warn_once("lstm", lacks)
        return reference.lstm(x, weight_ih, weight_hh, bias_ih, bias_hh, state)
    h0, c0 = (x.new_zeros(x.shape[1], weight_hh.shape[1]),) * 2 if state is None else state
    bias = bias_ih if bias_hh is None else bias_hh if bias_ih is None else bias_ih + bias_hh
    out, h, c, _, _ = _lstm(x, weight_ih, weight_hh, bias, h0, c0)
    return out, (h, c)


@torch.library.custom_op(
    "wordkiln::lstm",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias, Tensor h0, Tensor c0)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _lstm(
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast("cpu", enabled=False):
        gates = F.linear(x.contiguous(), weight_ih, bias)
    weight_hh, h0, c0 = weight_hh.contiguous(), h0.contiguous(), c0.contiguous()
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    out, cells = x.new_empty(steps, batch, hidden), x.new_empty(steps, batch, hidden)
    _kernels.lstm_forward(
        dtype_name(x),
        gates.data_ptr(),
        weight_hh.data_ptr(),
        h0.data_ptr(),
        c0.data_ptr(),
        out.data_ptr(),
        cells.data_ptr(),
        (steps, batch, hidden),
    )
    h, c = (out[-1], cells[-1]) if steps else (h0, c0)
    return out, h.clone(), c.clone(), cells, gates


@_lstm.register_fake
def _lstm_fake(
    x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    state, states = (batch, hidden), (steps, batch, hidden)
    gates = x.new_empty(steps, batch, 4 * hidden)
    return x.new_empty(states), x.new_empty(state), x.new_empty(state), x.new_empty(states), gates


@torch.library.custom_op(
    "wordkiln::lstm_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor activations, Tensor weight_hh, Tensor c0, Tensor cells, Tensor? grad_out, Tensor? grad_h,"
    " Tensor? grad_c) -> (Tensor, Tensor, Tensor)",
)
def _lstm_backward(
    activations: Tensor,
    weight_hh: Tensor,
    c0: Tensor,
    cells: Tensor,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    weight_hh, c0 = weight_hh.contiguous(), c0.contiguous()
    grad_out = None if grad_out is None else grad_out.contiguous()
    grad_gates = torch.empty_like(activations)
    grad_h0, grad_c0 = (
        torch.zeros_like(c0) if grad is None else grad.clone(memory_format=torch.contiguous_format)
        for grad in (grad_h, grad_c)
    )
    _kernels.lstm_backward(
        dtype_name(cells),
        activations.data_ptr(),
        grad_gates.data_ptr(),
        weight_hh.data_ptr(),
        c0.data_ptr(),
        cells.data_ptr(),
        0 if grad_out is None else grad_out.data_ptr(),
        grad_h0.data_ptr(),
        grad_c0.data_ptr(),
        (cells.shape[0], cells.shape[1], cells.shape[2]),
    )
    return grad_gates, grad_h0, grad_c0


@_lstm_backward.register_fake
def _lstm_backward_fake(
    activations: Tensor,
    weight_hh: Tensor,
    c0: Tensor,
    cells: Tensor,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(activations), c0.new_empty(c0.shape), c0.new_empty(c0.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight_ih, weight_hh, _, h0, c0 = inputs
    out, _, _, cells, activations = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(cells, activations)
    ctx.save_for_backward(x, weight_ih, weight_hh, h0, c0, out, cells, activations)


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_h: Tensor | None, grad_c: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    x, weight_ih, weight_hh, h0, c0, out, cells, activations = ctx.saved_tensors
    gates, grad_h0, grad_c0 = _lstm_backward(activations, weight_hh, c0, cells, grad_out, grad_h, grad_c)
    rows = gates.flatten(0, 1)
    needs_x, needs_weight_ih, needs_weight_hh, needs_bias = ctx.needs_input_grad[:4]
    grad_x = gates @ weight_ih if needs_x else None
    grad_weight_ih = rows.t() @ x.flatten(0, 1) if needs_weight_ih else None
    grad_bias = rows.sum(0) if needs_bias else None
    grad_weight_hh = None
    if needs_weight_hh:
        grad_weight_hh = gates[1:].flatten(0, 1).t() @ out[:-1].flatten(0, 1)
        if gates.shape[0]:
            grad_weight_hh = grad_weight_hh.addmm_(gates[0].t(), h0)
    return grad_x, grad_weight_ih, grad_weight_hh, grad_bias, grad_h0, grad_c0


_lstm.register_autograd(_differentiate, setup_context=_save)
