"""A recurrent layer with layer norms or zoneout on a GPU: the loop of `_cell_loop` with the GPU's kernels."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from wordkiln.ops import _cuda
from wordkiln.ops._attention_kernel import seed_and_offset
from wordkiln.ops._cell_loop import Backend, Cell, Kept
from wordkiln.ops._cell_op import recurrent_cell, recurrent_cell_backward, run_backward, run_forward
from wordkiln.ops._cross_entropy_cuda import add_product

_Eight = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def forward(
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
    """As `recurrent_cell`. Cells and statistics are float32, all else that is kept of the inputs' dtype."""
    cell = Cell(kind, (zoneout_h, zoneout_c), seed is not None, *seed_and_offset(seed), eps)
    inputs = (gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0, c0)
    with _cuda.guard(gates):
        return run_forward(_backend(gates), cell, inputs, lengths, keep)


def backward(
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
    """As `recurrent_cell_backward`."""
    cell = Cell(kind, (zoneout_h, zoneout_c), seed is not None, *seed_and_offset(seed), 0.0)
    kept = Kept(cells, activations, hidden_new, normalised, statistics)
    inputs = (weight_hh, gain_hh, gain_c, bias_c, h0, c0)
    with _cuda.guard(out):
        return run_backward(_backend(out), cell, inputs, lengths, out, kept, (grad_out, grad_h, grad_c))


def _backend(x: Tensor) -> Backend:
    kernels, stream = _cuda.kernels(), _cuda.stream(x)
    return Backend(
        functools.partial(kernels.cell_forward, stream=stream),
        functools.partial(kernels.cell_backward, stream=stream),
        _cuda.dtype_name(x),
        stored=x.dtype,
        wide=torch.float32,
        add_product=add_product,
    )


recurrent_cell.register_kernel("cuda", forward)
recurrent_cell_backward.register_kernel("cuda", backward)
