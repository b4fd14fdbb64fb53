"""The recurrent op's kernels on a GPU, for LSTM and GRU. Products over all time steps are torch's, as on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln.ops import _cuda
from wordkiln.ops._op import no_autocast
from wordkiln.ops._recurrent_op import GATES, bias_gradients, products, recurrent, recurrent_backward


def forward(
    kind: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `recurrent`, by the GPU's kernels. Cells are float32, gates and hidden_new of the inputs' dtype."""
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    with no_autocast(x):
        gates = F.linear(x.contiguous(), weight_ih, _outside(kind, bias_ih, bias_hh))
    is_lstm, states = kind == "lstm", (steps, batch, hidden)
    h = _wide_state(h0, x, batch, hidden)
    c = _wide_state(c0, x, batch, hidden) if is_lstm else x.new_empty(0)
    out = x.new_empty(states)
    cells = x.new_empty(states if is_lstm and keep else 0, dtype=torch.float32)
    hidden_new = x.new_empty(((steps if keep else 0), batch, hidden) if kind == "gru" else 0)
    weight = _rows_of_pitch(weight_hh)
    # The kernel adds what stands behind the reset gate.
    bias_new = None if bias_hh is None or is_lstm else bias_hh[-hidden:].contiguous()
    with _cuda.guard(x):
        _cuda.kernels().recurrent_forward(
            _cuda.dtype_name(x),
            kind,
            gates.data_ptr(),
            weight.data_ptr(),
            _address(bias_new),
            h.data_ptr(),
            c.data_ptr(),
            _address(lengths),
            out.data_ptr(),
            cells.data_ptr(),
            hidden_new.data_ptr(),
            states,
            keep,
            allocate=_cuda.Workspace(x),
            stream=_cuda.stream(x),
        )
    return out, h.to(x.dtype), c.to(x.dtype), cells, gates if keep else x.new_empty(0), hidden_new


def backward(
    kind: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    cells: Tensor,
    gates: Tensor,
    hidden_new: Tensor,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `recurrent_backward`, by the GPU's kernels."""
    _, batch, hidden = out.shape
    grad_gates, grad_hidden_new = torch.empty_like(gates), torch.empty_like(hidden_new)
    # For each unit what it gives to each gate of each unit, in one piece.
    weight = _rows_of_pitch(weight_hh.view(GATES[kind], hidden, hidden).permute(2, 0, 1))
    h0, c0, grad_out = (None if part is None else part.contiguous() for part in (h0, c0, grad_out))
    grad_h0 = _wide_state(grad_h, x, batch, hidden)
    grad_c0 = _wide_state(grad_c, x, batch, hidden) if kind == "lstm" else x.new_empty(0)
    with _cuda.guard(x):
        _cuda.kernels().recurrent_backward(
            _cuda.dtype_name(x),
            kind,
            gates.data_ptr(),
            grad_gates.data_ptr(),
            hidden_new.data_ptr(),
            grad_hidden_new.data_ptr(),
            weight.data_ptr(),
            _address(h0),
            _address(c0),
            _address(lengths),
            out.data_ptr(),
            cells.data_ptr(),
            _address(grad_out),
            grad_h0.data_ptr(),
            grad_c0.data_ptr(),
            tuple(out.shape),
            allocate=_cuda.Workspace(x),
            stream=_cuda.stream(x),
        )
    with no_autocast(x):
        grads = products(x, weight_ih, weight_hh, h0, out, grad_gates, grad_hidden_new, needs)
        arrays = [grad_gates, grad_hidden_new] if kind == "gru" else [grad_gates]
        sums = torch.cat([array.flatten(0, 1).sum(0) for array in arrays]) if any(needs[3:]) else x.new_empty(0)
    return *grads, *bias_gradients(kind, sums, needs), grad_h0.to(x.dtype), grad_c0.to(x.dtype)


def _outside(kind: str, bias_ih: Tensor | None, bias_hh: Tensor | None) -> Tensor | None:
    """Both biases, but for the part that a GRU's reset gate multiplies."""
    if bias_hh is None:
        return bias_ih
    if kind == "gru":
        hidden = len(bias_hh) // 3
        bias_hh = F.pad(bias_hh[:-hidden], (0, hidden))
    return bias_hh if bias_ih is None else bias_ih + bias_hh


def _wide_state(state: Tensor | None, like: Tensor, batch: int, hidden: int) -> Tensor:
    """A copy in float32, which the kernels write the other end's state to; zeros for None."""
    if state is None:
        return like.new_zeros(batch, hidden, dtype=torch.float32)
    return state.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _rows_of_pitch(weight: Tensor) -> Tensor:
    """`weight` in one piece, its rows filled up with zeros as the kernels read them."""
    hidden = weight.shape[-1]
    pitch = _cuda.kernels().weight_pitch(_cuda.dtype_name(weight), hidden)
    if pitch != hidden:
        return F.pad(weight, (0, pitch - hidden)).contiguous()
    weight = weight.contiguous()
    return weight.clone() if weight.data_ptr() % 16 else weight


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


recurrent.register_kernel("cuda", forward)
recurrent_backward.register_kernel("cuda", backward)
