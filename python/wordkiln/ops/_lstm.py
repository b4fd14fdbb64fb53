"""`ops.lstm`: one layer of an LSTM over a whole sequence."""

from __future__ import annotations

from torch import Tensor

from wordkiln.ops import reference
from wordkiln.ops._recurrence import check_layer


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer in one direction, gates in torch's order (input, forget, cell, output).

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
    return reference.lstm(x, weight_ih, weight_hh, bias_ih, bias_hh, state)
