"""The loop over time of a layer with layer norms or zoneout, for the CPU's kernels and for a GPU's.

A step is torch's product with W_hh and one kernel, which does all the rest of it. `Backend` is what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wordkiln.ops._recurrent_op import GATES

STATISTICS = 3  # of a row and step: the scale of W_hh h, and the mean and the scale of the cell


class Backend(NamedTuple):
    """Kernels and types of a device.

    Attributes:
        forward: `cell_forward` of the device's kernels.
        backward: `cell_backward`.
        dtype: the kernels' name for the type of what is stored.
        stored: the type of products, gates and outputs.
        wide: the type of states, their gradients, statistics and sums.
        add_product: (total, a, b) adds a @ b to `total`, which may be of the wide type.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]
    dtype: str
    stored: torch.dtype
    wide: torch.dtype
    add_product: Callable[[Tensor, Tensor, Tensor], object]


class Cell(NamedTuple):
    """What a step is beside its inputs; tensors as `_cell_op.recurrent_cell` gets them.

    Attributes:
        kind: "lstm" or "gru".
        zoneout: of h and c.
        draws: whether zoneout draws, else each element keeps the share.
        seed: of the draw, mod 2^64.
        offset: of the draw, mod 2^32.
        eps: of the norms.
    """

    kind: str
    zoneout: tuple[float, float]
    draws: bool
    seed: int
    offset: int
    eps: float

    @property
    def kernel_zoneout(self) -> tuple[float, float, bool, int, int]:
        return (*self.zoneout, self.draws, self.seed, self.offset)


class Kept(NamedTuple):
    """What backward needs of forward: [T, B, ...] each, empty for what the kind has not."""

    cells: Tensor
    activations: Tensor
    hidden_new: Tensor
    normalised: Tensor
    statistics: Tensor


class Gradients(NamedTuple):
    """Of the pre-activations and of W_hh h [T, B, GH], of the first states, and each row's sums over time [B, ...]."""

    gates: Tensor
    products: Tensor
    h: Tensor
    c: Tensor
    gain_hh: Tensor
    gain_c: Tensor
    bias_c: Tensor
    bias_new: Tensor


def forward(
    backend: Backend,
    cell: Cell,
    gates: Tensor,
    weight_hh: Tensor,
    bias_new: Tensor | None,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Kept]:
    """The outputs, and the last h and c (wide). All that is given is contiguous and of the stored type."""
    (steps, batch, rows), hidden = gates.shape, weight_hh.shape[1]
    is_lstm, kept = cell.kind == "lstm", steps if keep else 1

    def new(*shape: int, wide: bool = False, where: bool = True) -> Tensor:
        return gates.new_empty(shape if where else 0, dtype=backend.wide if wide else backend.stored)

    h = wide_state(backend, h0, gates, batch, hidden)
    c = wide_state(backend, c0, gates, batch, hidden) if is_lstm else new(0, wide=True)
    out, products = new(steps, batch, hidden), new(kept, batch, rows)
    saved = Kept(
        cells=new(kept, batch, hidden, wide=True, where=is_lstm),
        activations=new(kept, batch, rows),
        hidden_new=new(kept, batch, hidden, where=not is_lstm),
        normalised=products,
        statistics=new(kept, batch, STATISTICS, wide=True, where=gain_hh is not None).zero_(),  # a GRU has but one
    )
    arrays = tuple(
        0 if x is None else x.data_ptr()
        for x in (
            gates, products, gain_hh, bias_new, gain_c, bias_c, lengths, h, c, out,
            saved.activations, saved.cells, saved.hidden_new, saved.statistics,
        )
    )  # fmt: skip
    before, weight = h0 if h0 is not None else new(batch, hidden).zero_(), weight_hh.t()
    for step in range(steps):
        torch.mm(before, weight, out=products[step if keep else 0])
        backend.forward(
            backend.dtype, cell.kind, arrays, (steps, batch, hidden), step, cell.kernel_zoneout, cell.eps, keep
        )
        before = out[step]
    return out, h, c, saved


def backward(
    backend: Backend,
    cell: Cell,
    weight_hh: Tensor,
    gain_hh: Tensor | None,
    gain_c: Tensor | None,
    bias_c: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    kept: Kept,
    grad_out: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
) -> Gradients:
    """From the last step to the first. Inputs as `forward`; gradients of the last h and c None: zero."""
    steps, batch, hidden = out.shape
    is_lstm, has_norms, rows = cell.kind == "lstm", gain_hh is not None, GATES[cell.kind] * hidden

    def zeros(*shape: int, where: bool) -> Tensor:
        return out.new_zeros(shape if where else 0, dtype=backend.wide)

    grad_gates = torch.empty_like(kept.activations)
    grads = Gradients(
        gates=grad_gates,
        products=grad_gates if is_lstm and not has_norms else torch.empty_like(grad_gates),
        h=wide_state(backend, grad_h, out, batch, hidden),
        c=wide_state(backend, grad_c, out, batch, hidden) if is_lstm else zeros(0, where=False),
        gain_hh=zeros(batch, rows, where=has_norms),
        gain_c=zeros(batch, hidden, where=is_lstm and has_norms),
        bias_c=zeros(batch, hidden, where=is_lstm and has_norms),
        bias_new=zeros(batch, hidden, where=not is_lstm),
    )
    first_h = h0 if h0 is not None else out.new_zeros(batch, hidden)
    first_c = wide_state(backend, c0, out, batch, hidden) if is_lstm else None
    scratch = zeros(batch, hidden, where=is_lstm)
    arrays = tuple(
        0 if x is None else x.data_ptr()
        for x in (
            kept.activations, kept.normalised, kept.hidden_new, kept.statistics, gain_hh, gain_c, bias_c, lengths,
            first_h, first_c, out, kept.cells, grad_out, grads.h, grads.c, scratch, grads.gates, grads.products,
            grads.gain_hh, grads.gain_c, grads.bias_c, grads.bias_new,
        )
    )  # fmt: skip
    for step in reversed(range(steps)):
        backend.backward(backend.dtype, cell.kind, arrays, (steps, batch, hidden), step, cell.kernel_zoneout)
        backend.add_product(grads.h, grads.products[step], weight_hh)
    return grads


def wide_state(backend: Backend, state: Tensor | None, like: Tensor, batch: int, hidden: int) -> Tensor:
    """A copy in the wide type, which the kernels write to; zeros for None."""
    if state is None:
        return like.new_zeros(batch, hidden, dtype=backend.wide)
    return state.to(backend.wide, copy=True, memory_format=torch.contiguous_format)
