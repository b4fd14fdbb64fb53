"""`ops.lstm`, `ops.gru` and `ops.rnn`: one layer over a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import _cells, reference
from wordkiln.ops._checks import check_layer, check_row_lengths, kernel_lacks, warn_once
from wordkiln.ops._layer_norms import LayerNorms
from wordkiln.ops._op import wants_gradient
from wordkiln.ops._recurrent_op import recurrent, without_padding

_NO_ZONEOUT = (0.0, 0.0)
# Of x, both weights, both biases, the state and the lengths; asked before the slower checks.
_LSTM_SHAPES = _kernels.TensorShapes("t b i, 4h i, 4h h, 4h ?, 4h ?, b h ?, b h ?, int64: b ?")
_GRU_SHAPES = _kernels.TensorShapes("t b i, 3h i, 3h h, 3h ?, 3h ?, b h ?, int64: b ?")
_RNN_SHAPES = _kernels.TensorShapes("t b i, h i, h h, h ?, h ?, b h ?, int64: b ?")


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    *,
    norms: LayerNorms | None = None,
    zoneout: tuple[float, float] = _NO_ZONEOUT,
    training: bool = True,
    seed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer in one direction, gates in torch's order (input, forget, cell, output).

    The kernel takes float32, float64 and bfloat16 on the CPU; on a GPU, where built with CUDA, float32, bfloat16 and
    float16 (docs/cuda.md, also when cuDNN is the better choice). In the 16-bit types sums and c are float32 inside; h
    is rounded for its product, but not on a CPU without a tile unit, where all is widened (docs/recurrence.md). Other
    dtypes and devices run on `ops.reference.lstm`, with one warning.

    Args:
        x: [T, B, I].
        weight_ih: [4H, I].
        weight_hh: [4H, H].
        bias_ih: [4H], or None.
        bias_hh: [4H], or None.
        state: the first h and c, each [B, H]. Default zeros.
        lengths: int64 [B], how many steps of each row there are (0 to T). Behind them x is not looked at, the outputs
            are 0 and the state stays. Those on a GPU are clamped to 0 to T, not checked. Default T.
        norms: gains and shifts of layer norms in the cell. Default none.
        zoneout: the probabilities with which each element of h and of c keeps its value before the step (Krueger et
            al. 2017), at least 0 and less than 1. h is made of the new cell as it is before its own zoneout. Default 0.
        training: whether zoneout draws; else each element takes the expectation. Default True.
        seed: int64 [2], the seed (mod 2^64) and the offset (mod 2^32) of zoneout. Which elements is a function of it,
            the row, the step and the unit alone (`reference.zoneout_shares`). Default: drawn from torch's generator.

    Returns:
        The outputs [T, B, H], and the last (h, c), each [B, H].

    Raises:
        ArgumentError: shapes, dtypes, devices or lengths do not fit, or norms, zoneout or seed.
    """
    h0, c0 = (None, None) if state is None else _pair(state)
    tensors = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, lengths)
    has_more = norms is not None or zoneout != _NO_ZONEOUT
    device = None if has_more or torch.compiler.is_compiling() else _LSTM_SHAPES.device(*tensors)
    if device is None:
        check_layer(*tensors[:-1], gates=4)
        check_row_lengths(x, lengths)
    if has_more:
        out, h, c = _cells.run("lstm", tensors[:5], (h0, c0), lengths, norms, zoneout, training, seed)
        return out, (h, c)
    if device != "cpu":
        lacks = kernel_lacks(x, bfloat16=True, cuda=True)
        if lacks is not None:
            warn_once("lstm", lacks)
            return reference.lstm(x, weight_ih, weight_hh, bias_ih, bias_hh, state, lengths)
    out, h, c = _run(device, "lstm", x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, lengths)
    return out, (h, c)


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    norms: LayerNorms | None = None,
    zoneout: float = 0.0,
    training: bool = True,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer in one direction, gates in torch's order (reset, update, new).

    The reset gate stands behind the product, as in torch: n = tanh(W_in x + b_in + r (W_hn h + b_hn)). Dtypes and
    devices as `lstm`.

    Args:
        x: [T, B, I].
        weight_ih: [3H, I].
        weight_hh: [3H, H].
        bias_ih: [3H], or None.
        bias_hh: [3H], or None.
        state: the first h [B, H]. Default zeros.
        lengths: as `lstm`.
        norms: as `lstm`; n = tanh(LN(W_in x) + b_in + r (LN(W_hn h) + b_hn)), each norm over all three gates.
        zoneout: the probability with which each element of h keeps its value before the step. Default 0.
        training: as `lstm`.
        seed: as `lstm`.

    Returns:
        The outputs [T, B, H], and the last h [B, H].

    Raises:
        ArgumentError: shapes, dtypes, devices or lengths do not fit, or norms, zoneout or seed.
    """
    tensors = (x, weight_ih, weight_hh, bias_ih, bias_hh, state, lengths)
    has_more = norms is not None or zoneout != 0.0
    device = None if has_more or torch.compiler.is_compiling() else _GRU_SHAPES.device(*tensors)
    if device is None:
        check_layer(*tensors[:-1], None, gates=3)
        check_row_lengths(x, lengths)
    if has_more:
        out, h = _cells.run("gru", tensors[:5], (state,), lengths, norms, (zoneout,), training, seed)
        return out, h
    if device != "cpu":
        lacks = kernel_lacks(x, bfloat16=True, cuda=True)
        if lacks is not None:
            warn_once("gru", lacks)
            return reference.gru(x, weight_ih, weight_hh, bias_ih, bias_hh, state, lengths)
    out, h, _ = _run(device, "gru", x, weight_ih, weight_hh, bias_ih, bias_hh, state, None, lengths)
    return out, h


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One layer of the plain recurrence `h = tanh(W_ih x + b_ih + W_hh h + b_hh)` in one direction.

    Dtypes as `lstm`, on the CPU; there is no kernel for GPUs.

    Args:
        x: [T, B, I].
        weight_ih: [H, I].
        weight_hh: [H, H].
        bias_ih: [H], or None.
        bias_hh: [H], or None.
        state: the first h [B, H]. Default zeros.
        nonlinearity: "tanh" (default) or "relu".
        lengths: as `lstm`.

    Returns:
        The outputs [T, B, H], and the last h [B, H].

    Raises:
        ArgumentError: shapes, dtypes, devices or lengths do not fit, or `nonlinearity` is another word.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity={nonlinearity!r}: must be 'tanh' or 'relu'")
    tensors = (x, weight_ih, weight_hh, bias_ih, bias_hh, state, lengths)
    if torch.compiler.is_compiling() or _RNN_SHAPES.device(*tensors) != "cpu":
        check_layer(*tensors[:-1], None, gates=1)
        check_row_lengths(x, lengths)
        lacks = kernel_lacks(x, bfloat16=True)
        if lacks is not None:
            warn_once("rnn", lacks)
            return reference.rnn(x, weight_ih, weight_hh, bias_ih, bias_hh, state, nonlinearity, lengths)
    out, h, _ = _run(None, nonlinearity, x, weight_ih, weight_hh, bias_ih, bias_hh, state, None, lengths)
    return out, h


def _run(
    device: str | None,
    kind: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if lengths is not None:
        x, lengths = without_padding(x, lengths)
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0)
    out, h, c, *_ = recurrent(kind, *inputs, lengths, wants_gradient(inputs), device=device)
    return out, h, c


def _pair(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ArgumentError("state: must be the pair (h, c)")
    h, c = state
    return h, c
