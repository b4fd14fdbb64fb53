"""What is asked of a cell beyond the plain one: its layer norms and its zoneout."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError
from wordkiln.ops._checks import check_tensor


class LayerNorms(NamedTuple):
    """The layer norms of a recurrent cell (Ba, Kiros and Hinton 2016, equations 20 to 22); G gates: LSTM 4, GRU 3.

    The norm of W_ih x and that of W_hh h go over all gates; their shifts are the layer's biases. An LSTM's cell is
    normalised on its way to the output alone: h = o * tanh(LN(c)).

    Attributes:
        gain_ih: [GH], of W_ih x.
        gain_hh: [GH], of W_hh h.
        gain_c: [H], of an LSTM's cell; None for a GRU.
        bias_c: [H], the shift of the cell's norm; None for a GRU.
        eps: what is added to the variances, more than 0.
    """

    gain_ih: Tensor
    gain_hh: Tensor
    gain_c: Tensor | None = None
    bias_c: Tensor | None = None
    eps: float = 1e-5


def check_norms(norms: LayerNorms | None, weight_hh: Tensor, gates: int) -> None:
    """Refuse `norms` that do not fit a layer with `weight_hh` [GH, H]."""
    if norms is None:
        return
    if not isinstance(norms, LayerNorms):
        raise ArgumentError(f"norms: must be an ops.LayerNorms, not {type(norms).__name__}")
    rows, hidden = weight_hh.shape
    for name in ("gain_ih", "gain_hh"):
        check_tensor(f"norms.{name}", getattr(norms, name), (rows,), like=weight_hh)
    for name in ("gain_c", "bias_c"):
        part = getattr(norms, name)
        if gates == 4:
            check_tensor(f"norms.{name}", part, (hidden,), like=weight_hh)
        elif part is not None:
            raise ArgumentError(f"norms.{name}: must be None, a GRU has no cell")
    if not 0 < norms.eps < math.inf:
        raise ArgumentError(f"norms.eps={norms.eps}: must be more than 0 and finite")


def check_zoneout(zoneout: tuple[float, ...], parts: str, seed: Tensor | None) -> tuple[float, ...]:
    """The probabilities of the parts of the state (their letters: "hc" or "h"), or an error."""
    if not isinstance(zoneout, tuple | list) or len(zoneout) != len(parts):
        raise ArgumentError(f"zoneout={zoneout!r}: must be the pair (of h, of c)")
    for part, probability in zip(parts, zoneout, strict=True):
        if not isinstance(probability, int | float) or not 0 <= probability < 1:
            raise ArgumentError(f"zoneout of {part}={probability!r}: must be at least 0 and less than 1")
    if seed is not None and (not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.shape != (2,)):
        raise ArgumentError("seed: must be an int64 tensor of shape [2]: the seed and the offset")
    return tuple(float(x) for x in zoneout)
