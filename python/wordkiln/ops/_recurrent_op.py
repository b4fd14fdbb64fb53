"""One recurrent layer over a whole sequence as a torch op with its gradient: what `ops.lstm`, `gru` and `rnn` share.

The kernel does the recurrence; the input projection before it, and the gradients of weights and inputs after it, are
products over all time steps, by torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln import _kernels
from wordkiln.ops._checks import dtype_name
from wordkiln.ops._op import no_autocast, nothing, op

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


@op(
    "wordkiln::recurrent",
    schema="(str kind, Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? h0,"
    " Tensor? c0, Tensor? lengths, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def recurrent(
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
    """One layer in one direction.

    Args:
        kind: "lstm", "gru", "tanh" or "relu".
        x: [T, B, I].
        weight_ih: [GH, I], G gates as `GATES` says.
        weight_hh: [GH, H].
        bias_ih: [GH]; None: zero.
        bias_hh: [GH], added to weight_hh h, of which a GRU's reset gate multiplies a part; None: zero.
        h0: [B, H]; None: zero.
        c0: [B, H], LSTM; None: zero.
        lengths: int64 [B], contiguous, checked; None: T.
        keep: whether a backward pass will follow.

    Returns:
        out [T, B, H], the last h and c [B, H], and what backward needs: cells, gates and the GRU's hidden_new. What
        the kind or `keep` does not ask for is empty.
    """
    with no_autocast(x):
        gates = F.linear(x.contiguous(), weight_ih)
    state = gates  # an array of the type of cells and of their gradients
    if x.dtype is torch.bfloat16:
        if not _kernels.has_recurrent("bfloat16"):
            gates, weight_hh, bias_ih, bias_hh, h0 = map(_widened, (gates, weight_hh, bias_ih, bias_hh, h0))
        state, c0 = x.new_empty(0, dtype=torch.float32), _widened(c0)
    # No function of its own for these: calls of it take half a microsecond.
    bias_ih = None if bias_ih is None else bias_ih.contiguous()
    bias_hh = None if bias_hh is None else bias_hh.contiguous()
    weight_hh = weight_hh.contiguous()
    h0, c0 = None if h0 is None else h0.contiguous(), None if c0 is None else c0.contiguous()
    (steps, batch, _), hidden, new, none = gates.shape, weight_hh.shape[1], gates.new_empty, nothing(state)
    is_lstm = kind == "lstm"
    first_h = gates.new_zeros(batch, hidden) if h0 is None else h0
    first_c = none if not is_lstm else state.new_zeros(batch, hidden) if c0 is None else c0
    # The plain recurrence writes its outputs over the pre-activations.
    out = gates if kind in ("tanh", "relu") else new(steps, batch, hidden)
    h = new(batch, hidden)
    # The cells of all steps for a backward pass, else the last alone.
    cells = none if not is_lstm else state.new_empty((steps, batch, hidden) if keep else (batch, hidden))
    hidden_new = new(steps if keep else 0, batch, hidden) if kind == "gru" else nothing(gates)
    if is_lstm and not keep and not steps:
        cells.copy_(first_c)
    _kernels.recurrent_forward(
        dtype_name(gates),
        kind,
        gates.data_ptr(),
        weight_hh.data_ptr(),
        _address(bias_ih),
        _address(bias_hh),
        first_h.data_ptr(),
        first_c.data_ptr(),
        _address(lengths),
        out.data_ptr(),
        cells.data_ptr(),
        hidden_new.data_ptr(),
        (steps, batch, hidden),
        keep,
        h.data_ptr(),
    )
    c = cells if not keep or not is_lstm else cells[-1].clone() if steps else first_c.clone()
    if not keep or out is gates:
        gates = nothing(gates)
    if not keep:
        cells = none
    if x.dtype is torch.bfloat16:
        out, h, c = out.to(x.dtype), h.to(x.dtype), c.to(x.dtype)
    return out, h, c, cells, gates, hidden_new


def _contiguous(x: Any) -> Any:
    return None if x is None else x.contiguous()


def _widened(x: Any) -> Any:
    """Contiguous, and float32 where it is bfloat16: as states are, and all of a recurrence without a tile unit."""
    if x is None:
        return None
    return x.float().contiguous() if x.dtype is torch.bfloat16 else x.contiguous()


def _copy(grad: Tensor | None, like: Tensor, batch: int, hidden: int) -> Tensor:
    """Of a last state's gradient, which the kernel writes the first's over."""
    if grad is None:
        return like.new_zeros(batch, hidden)
    return grad.to(like.dtype, copy=True).contiguous()


def without_padding(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """`x` [T, B, I] with zeros behind the rows' lengths, and these in one piece.

    A gradient of 0 times padding that is NaN would be NaN in the weights' gradients.
    """
    lengths = lengths.contiguous()
    return x.masked_fill((torch.arange(x.shape[0], device=x.device)[:, None] >= lengths)[..., None], 0.0), lengths


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


@recurrent.register_fake
def _recurrent_fake(
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
    steps, batch, hidden = x.shape[0], x.shape[1], weight_hh.shape[1]
    state, states, none = (batch, hidden), (steps, batch, hidden), (0,)
    kept = x.new_empty(0, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    # Beside the cells what is kept is as narrow as the inputs, where the kernel is.
    is_narrow = x.device.type == "cuda" or (x.dtype is torch.bfloat16 and _kernels.has_recurrent("bfloat16"))
    gates = x if is_narrow else kept
    is_lstm, is_plain = kind == "lstm", kind in ("tanh", "relu")
    return (
        x.new_empty(states),
        x.new_empty(state),
        x.new_empty(state if is_lstm else none),
        kept.new_empty(states if is_lstm and keep else none),
        gates.new_empty(none if is_plain or not keep else (steps, batch, GATES[kind] * hidden)),
        gates.new_empty((steps if keep else 0, batch, hidden) if kind == "gru" else none),
    )


@op(
    "wordkiln::recurrent_backward",
    schema="(str kind, Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor? h0, Tensor? c0, Tensor? lengths,"
    " Tensor out, Tensor cells, Tensor gates, Tensor hidden_new, Tensor? grad_out, Tensor? grad_h, Tensor? grad_c,"
    " bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def recurrent_backward(
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
    """Gradients of x, both weights, both biases (empty where `needs` says no), h0 and c0 of `recurrent`."""
    steps, batch, hidden = out.shape
    is_lstm = kind == "lstm"
    is_wide = x.dtype is torch.bfloat16 and not _kernels.has_recurrent("bfloat16")
    contiguous = _widened if is_wide else _contiguous
    kernel_weight, kernel_out, grad_out, kernel_h0 = map(contiguous, (weight_hh, out, grad_out, h0))
    first_h = kernel_out.new_zeros(batch, hidden) if kernel_h0 is None else kernel_h0
    state = _widened(x[:0])
    first_c = nothing(state) if not is_lstm else state.new_zeros(batch, hidden) if c0 is None else _widened(c0)
    grad_gates = kernel_out.new_empty(steps, batch, GATES[kind] * hidden)
    grad_hidden_new = torch.empty_like(hidden_new)
    grad_h0 = _copy(grad_h, state, batch, hidden)
    grad_c0 = _copy(grad_c, state, batch, hidden) if is_lstm else state.new_empty(0)
    # Of the pre-activations over all rows, and behind them of the GRU's W_hh h in the new gate.
    sums = state.new_empty((GATES[kind] + (kind == "gru")) * hidden if any(needs[3:]) else 0)
    _kernels.recurrent_backward(
        dtype_name(kernel_out),
        kind,
        gates.data_ptr(),
        grad_gates.data_ptr(),
        hidden_new.data_ptr(),
        grad_hidden_new.data_ptr(),
        kernel_weight.data_ptr(),
        first_h.data_ptr(),
        first_c.data_ptr(),
        _address(lengths),
        kernel_out.data_ptr(),
        cells.data_ptr(),
        _address(grad_out),
        grad_h0.data_ptr(),
        grad_c0.data_ptr(),
        sums.data_ptr(),
        (steps, batch, hidden),
    )
    with no_autocast(x):
        grad_gates, grad_hidden_new = grad_gates.to(x.dtype), grad_hidden_new.to(x.dtype)
        grads = products(x, weight_ih, weight_hh, h0, out, grad_gates, grad_hidden_new, needs)
    return *grads, *bias_gradients(kind, sums.to(x.dtype), needs), grad_h0.to(x.dtype), grad_c0.to(x.dtype)


def products(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    h0: Tensor | None,
    out: Tensor,
    grad_gates: Tensor,
    grad_hidden_new: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and the weights from those of the pre-activations, over all time steps at once."""
    needs_x, needs_weight_ih, needs_weight_hh = needs[:3]
    grad_weight_hh = x.new_empty(0)
    if needs_weight_hh:
        grad_weight_hh = torch.empty_like(weight_hh)
        own = len(weight_hh)
        if grad_hidden_new.numel():
            # The GRU's new gate sees W_hh h through the reset gate.
            own -= out.shape[2]
            product_with_h_before(grad_hidden_new, out, h0, grad_weight_hh[own:])
        product_with_h_before(grad_gates[..., :own], out, h0, grad_weight_hh[:own])
    return (
        grad_gates @ weight_ih if needs_x else x.new_empty(0),
        grad_gates.flatten(0, 1).t() @ x.flatten(0, 1) if needs_weight_ih else x.new_empty(0),
        grad_weight_hh,
    )


def bias_gradients(kind: str, sums: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of both biases from the sums over all rows: of grad_gates, and a GRU's grad_hidden_new behind."""
    hidden = len(sums) // (GATES[kind] + (kind == "gru"))
    of_gates, behind = sums[: GATES[kind] * hidden], sums[GATES[kind] * hidden :]
    return (
        of_gates if needs[3] else sums.new_empty(0),
        torch.cat([of_gates[: len(of_gates) - len(behind)], behind]) if needs[4] else sums.new_empty(0),
    )


def product_with_h_before(grads: Tensor, out: Tensor, h0: Tensor | None, to: Tensor) -> None:
    """`to` becomes the sum over time of grads[t]^T h[t - 1]."""
    torch.mm(grads[1:].flatten(0, 1).t(), out[:-1].flatten(0, 1), out=to)
    if h0 is not None and len(grads):
        to.addmm_(grads[0].t(), h0)


@recurrent_backward.register_fake
def _recurrent_backward_fake(
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
    batch, hidden = out.shape[1:]
    shapes = (x.shape, weight_ih.shape, weight_hh.shape, (GATES[kind] * hidden,), (GATES[kind] * hidden,))
    grads = [x.new_empty(shape if needed else 0) for shape, needed in zip(shapes, needs, strict=True)]
    c = (batch, hidden) if kind == "lstm" else (0,)
    return grads[0], grads[1], grads[2], grads[3], grads[4], x.new_empty(batch, hidden), x.new_empty(c)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    kind, x, weight_ih, weight_hh, _, _, h0, c0, lengths, _ = inputs
    out, _, _, cells, gates, hidden_new = output
    ctx.kind = kind
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(cells, gates, hidden_new)
    ctx.save_for_backward(x, weight_ih, weight_hh, h0, c0, lengths, out, cells, gates, hidden_new)


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_h: Tensor | None, grad_c: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[1:6])
    grads = recurrent_backward(ctx.kind, *ctx.saved_tensors, grad_out, grad_h, grad_c, needs)
    wanted = ctx.needs_input_grad[1:8]
    return (None, *(grad if needed else None for grad, needed in zip(grads, wanted, strict=True)), None, None)


recurrent.register_autograd(_differentiate, setup_context=_save)
