"""LSTM and GRU with layer norms in the cell or zoneout: where `ops.lstm` and `ops.gru` go when asked for either."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._cell_op import recurrent_cell
from wordkiln.ops._checks import kernel_lacks, warn_once
from wordkiln.ops._layer_norms import LayerNorms, check_norms, check_zoneout
from wordkiln.ops._op import no_autocast, wants_gradient
from wordkiln.ops._recurrent_op import GATES, without_padding

_Layer = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]  # x, both weights, both biases


def run(
    kind: str,
    layer: _Layer,
    state: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    norms: LayerNorms | None,
    zoneout: tuple[float, ...],
    training: bool,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    """The outputs and the parts of the last state.

    Args:
        kind: "lstm" or "gru".
        layer: checked, as are `state` (h, and c of an LSTM) and `lengths`.
        state: see there.
        lengths: see there.
        norms: not checked, as all that follow.
        zoneout: of each part of the state.
        training: whether zoneout draws.
        seed: of the draw.

    Raises:
        ArgumentError: norms, zoneout or seed do not fit.
    """
    check_norms(norms, layer[2], GATES[kind])
    _check_no_steps(layer[0], lengths)
    zoneout = check_zoneout(zoneout, "hc" if kind == "lstm" else "h", seed)
    draws = training and any(zoneout)
    if draws and seed is None:
        seed = torch.randint(2**32, (2,), device="cpu")  # int64; a user may have set another default device
    lacks = kernel_lacks(layer[0], bfloat16=True, cuda=True)
    if lacks is not None:
        warn_once(kind, lacks)
        return _by_definition(kind, layer, state, lengths, norms, zoneout, training, seed)
    return _by_kernels(kind, layer, state, lengths, norms, zoneout, seed if draws else None)


def _check_no_steps(x: Tensor, lengths: Tensor | None) -> None:
    """The kernels look at lengths in every step: without one it is done here."""
    if lengths is None or len(x) or lengths.is_cuda or torch.compiler.is_compiling():
        return
    for row, length in enumerate(lengths.tolist()):
        if length:
            raise ArgumentError(f"lengths[{row}]={length}: must be 0 to 0")


def _by_definition(
    kind: str,
    layer: _Layer,
    state: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    norms: LayerNorms | None,
    zoneout: tuple[float, ...],
    training: bool,
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    options: dict[str, Any] = {"norms": norms, "training": training, "seed": seed}
    x, weight_hh = layer[0], layer[2]
    zeros = x.new_zeros(x.shape[1], weight_hh.shape[1])
    first = tuple(zeros if part is None else part for part in state)
    if kind == "gru":
        return reference.gru(*layer, first[0], lengths, zoneout=zoneout[0], **options)
    out, last = reference.lstm(*layer, (first[0], first[1]), lengths, zoneout=(zoneout[0], zoneout[1]), **options)
    return out, *last


def _by_kernels(
    kind: str,
    layer: _Layer,
    state: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    norms: LayerNorms | None,
    zoneout: tuple[float, ...],
    seed: Tensor | None,
) -> tuple[Tensor, ...]:
    x, weight_ih, weight_hh, bias_ih, bias_hh = layer
    if lengths is not None:
        x, lengths = without_padding(x, lengths)
    bias_new = None
    if kind == "gru" and bias_hh is not None:
        # The last third stands behind the reset gate; the kernel adds it.
        hidden = weight_hh.shape[1]
        bias_new, bias_hh = bias_hh[2 * hidden :], F.pad(bias_hh[: 2 * hidden], (0, hidden))
    bias = bias_ih if bias_hh is None else bias_hh if bias_ih is None else bias_ih + bias_hh
    gain_ih, gain_hh, gain_c, bias_c, eps = (None, None, None, None, 0.0) if norms is None else norms
    with no_autocast(x):
        gates = F.linear(x, weight_ih, bias if gain_ih is None else None)
        if gain_ih is not None:
            gates = F.layer_norm(gates, gain_ih.shape, gain_ih, bias, eps)
    h0, c0 = state if kind == "lstm" else (state[0], None)
    tensors = (gates, weight_hh, bias_new, gain_hh, gain_c, bias_c, h0, c0)
    probabilities = zoneout if kind == "lstm" else (zoneout[0], 0.0)
    out, h, c, *_ = recurrent_cell(kind, *tensors, lengths, seed, *probabilities, eps, wants_gradient(tensors))
    return (out, h, c) if kind == "lstm" else (out, h)
