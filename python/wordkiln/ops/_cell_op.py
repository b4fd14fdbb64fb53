"""A recurrent layer with layer norms or zoneout as a torch op with its gradient, from its pre-activations on.

The input projection with its norm comes before it, in plain torch. The gradients of weights are products over all time
steps, after the loop of `_cell_loop`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.ops import _cell_loop
from wordkiln.ops._attention_kernel import seed_and_offset
from wordkiln.ops._cell_loop import STATISTICS, Backend, Cell, Gradients, Kept
from wordkiln.ops._op import no_autocast, op
from wordkiln.ops._recurrent_op import GATES, product_with_h_before

_Eight = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@op(
    "wordkiln::recurrent_cell",
    schema="(str kind, Tensor gates, Tensor weight_hh, Tensor? bias_new, Tensor? gain_hh, Tensor? gain_c,"
    " Tensor? bias_c, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? seed, float zoneout_h, float zoneout_c,"
    " float eps, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def recurrent_cell(
    kind: str,
    gates: Tensor,
    weight_hh: Tensor,
    bias_new: Tensor | None,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor | None,
    zoneout_h: float,
    zoneout_c: float,
    eps: float,
    keep: bool,
) -> _Eight:
    """One layer in one direction.

    Args:
        kind: "lstm" or "gru".
        gates: [T, B, GH] the pre-activations but for weight_hh h, with all biases but `bias_new`.
        weight_hh: [GH, H].
        bias_new: [H], the GRU's that the reset gate multiplies; None: zero.
        gain_hh: [GH], of the norm of weight_hh h; None: there are no norms.
        gain_c: [H], of the norm of an LSTM's cell.
        bias_c: [H], its shift.
        h0: [B, H]; None: zero.
        c0: [B, H], LSTM; None: zero.
        lengths: int64 [B]; None: T.
        seed: int64 [2] on the CPU, of zoneout's draw; None: its expectation.
        zoneout_h: probability that an element of h keeps its value.
        zoneout_c: the same of c, LSTM.
        eps: added to variances.
        keep: whether a backward pass will follow.

    Returns:
        out [T, B, H], the last h and c [B, H] and what backward needs (`_cell_loop.Kept`). What the kind or `keep`
        does not ask for is empty.
    """
    cell = Cell(kind, (zoneout_h, zoneout_c), seed is not None, *seed_and_offset(seed), eps)
    inputs = (gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0, c0)
    return run_forward(_backend(gates), cell, inputs, lengths, keep)


def run_forward(
    backend: Backend, cell: Cell, inputs: tuple[Tensor | None, ...], lengths: Tensor | None, keep: bool
) -> _Eight:
    """`recurrent_cell` by the kernels of `backend`; inputs: those before `lengths`."""
    dtype = _dtype_of(inputs[0])
    gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0, c0 = _stored(backend, inputs)
    with no_autocast(gates):
        out, h, c, kept = _cell_loop.forward(
            backend, cell, gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0, c0, lengths, keep
        )
    if not keep:
        kept = Kept(*(x.new_empty(0) for x in kept))
    elif gain_hh is None:
        kept = kept._replace(normalised=kept.normalised.new_empty(0))
    return out.to(dtype), h.to(dtype), c.to(dtype), *kept


def _stored(backend: Backend, tensors: tuple[Tensor | None, ...]) -> Any:
    """As the kernels read them."""
    return tuple(None if x is None else x.to(backend.stored).contiguous() for x in tensors)


def _dtype_of(x: Tensor | None) -> torch.dtype:
    assert x is not None
    return x.dtype


def _backend(x: Tensor) -> Backend:
    """The CPU's: everything is wide, as its recurrences are."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    kernels = _kernels.cell_forward, _kernels.cell_backward
    return Backend(*kernels, str(wide).removeprefix("torch."), wide, wide, Tensor.addmm_)


@recurrent_cell.register_fake
def _recurrent_cell_fake(
    kind: str,
    gates: Tensor,
    weight_hh: Tensor,
    bias_new: Tensor | None,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor | None,
    zoneout_h: float,
    zoneout_c: float,
    eps: float,
    keep: bool,
) -> _Eight:
    (steps, batch, rows), hidden, is_lstm = gates.shape, weight_hh.shape[1], kind == "lstm"
    wide = gates.new_empty(0, dtype=torch.float64 if gates.dtype == torch.float64 else torch.float32)
    stored = gates if gates.device.type == "cuda" else wide
    states = (steps, batch, hidden)
    return (
        gates.new_empty(states),
        gates.new_empty(batch, hidden),
        gates.new_empty((batch, hidden) if is_lstm else (0,)),
        wide.new_empty(states if is_lstm and keep else (0,)),
        stored.new_empty((steps, batch, rows) if keep else (0,)),
        stored.new_empty(states if not is_lstm and keep else (0,)),
        stored.new_empty((steps, batch, rows) if keep and gain_hh is not None else (0,)),
        wide.new_empty((steps, batch, STATISTICS) if keep and gain_hh is not None else (0,)),
    )


@op(
    "wordkiln::recurrent_cell_backward",
    schema="(str kind, Tensor weight_hh, Tensor? gain_hh, Tensor? gain_c, Tensor? bias_c, Tensor? h0, Tensor? c0,"
    " Tensor? lengths, Tensor? seed, float zoneout_h, float zoneout_c, Tensor out, Tensor cells, Tensor activations,"
    " Tensor hidden_new, Tensor normalised, Tensor statistics, Tensor? grad_out, Tensor? grad_h, Tensor? grad_c)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def recurrent_cell_backward(
    kind: str,
    weight_hh: Tensor,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor | None,
    zoneout_h: float,
    zoneout_c: float,
    out: Tensor,
    cells: Tensor,
    activations: Tensor,
    hidden_new: Tensor,
    normalised: Tensor,
    statistics: Tensor,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
) -> _Eight:
    """Gradients of gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0 and c0; empty for what the layer has not."""
    cell = Cell(kind, (zoneout_h, zoneout_c), seed is not None, *seed_and_offset(seed), 0.0)
    kept = Kept(cells, activations, hidden_new, normalised, statistics)
    inputs = (weight_hh, gain_hh, gain_c, bias_c, h0, c0)
    return run_backward(_backend(weight_hh), cell, inputs, lengths, out, kept, (grad_out, grad_h, grad_c))


def run_backward(
    backend: Backend,
    cell: Cell,
    inputs: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    out: Tensor,
    kept: Kept,
    grads: tuple[Tensor | None, ...],
) -> _Eight:
    """`recurrent_cell_backward` by the kernels of `backend`; inputs: those before `lengths`."""
    dtype = _dtype_of(inputs[0])
    weight_hh, gain_hh, gain_c, bias_c, h0, c0 = _stored(backend, inputs)
    grad_out, grad_h, grad_c = _stored(backend, grads)
    out = out.to(backend.stored)
    with no_autocast(out):
        found = _cell_loop.backward(
            backend, cell, weight_hh, gain_hh, gain_c, bias_c, h0, c0, lengths, out, kept, grad_out, grad_h, grad_c
        )
        weight = torch.zeros_like(weight_hh)
        product_with_h_before(found.products, out, h0, weight)
    return _in_order(found, weight, dtype)


def _in_order(found: Gradients, weight: Tensor, dtype: torch.dtype) -> _Eight:
    """As `recurrent_cell_backward` gives them: the rows' sums summed."""
    sums = (x.sum(0) if x.dim() == 2 else x for x in (found.bias_new, found.gain_hh, found.gain_c, found.bias_c))
    bias_new, gain_hh, gain_c, bias_c = (x.to(dtype) for x in sums)
    gates, h, c = (x.to(dtype) for x in (found.gates, found.h, found.c))
    return gates, weight.to(dtype), bias_new, gain_hh, gain_c, bias_c, h, c


@recurrent_cell_backward.register_fake
def _recurrent_cell_backward_fake(
    kind: str,
    weight_hh: Tensor,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor | None,
    zoneout_h: float,
    zoneout_c: float,
    out: Tensor,
    cells: Tensor,
    activations: Tensor,
    hidden_new: Tensor,
    normalised: Tensor,
    statistics: Tensor,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
) -> _Eight:
    (steps, batch, hidden), new, is_lstm = out.shape, weight_hh.new_empty, kind == "lstm"
    rows, norms = GATES[kind] * hidden, gain_hh is not None
    return (
        new(steps, batch, rows),
        new(rows, hidden),
        new(0 if is_lstm else hidden),
        new(rows if norms else 0),
        new(hidden if norms and is_lstm else 0),
        new(hidden if norms and is_lstm else 0),
        new(batch, hidden),
        new((batch, hidden) if is_lstm else 0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    kind, _, weight_hh, _, gain_hh, gain_c, bias_c, h0, c0, lengths, seed, zoneout_h, zoneout_c, _, _ = inputs
    out, _, _, *kept = output
    ctx.kind, ctx.zoneout = kind, (zoneout_h, zoneout_c)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*kept)
    ctx.save_for_backward(weight_hh, gain_hh, gain_c, bias_c, h0, c0, lengths, seed, out, *kept)


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_h: Tensor | None, grad_c: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    before, after = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
    grad_c = grad_c if ctx.kind == "lstm" else None
    grads = recurrent_cell_backward(ctx.kind, *before, *ctx.zoneout, *after, grad_out, grad_h, grad_c)
    wanted = ctx.needs_input_grad[1:9]
    return (None, *(grad if needed else None for grad, needed in zip(grads, wanted, strict=True)), *[None] * 6)


recurrent_cell.register_autograd(_differentiate, setup_context=_save)
