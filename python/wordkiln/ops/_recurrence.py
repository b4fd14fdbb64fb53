"""`ops.gru` and `ops.rnn`: they have no kernel and run on the reference."""

from __future__ import annotations

from torch import Tensor

from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_layer


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer in one direction, gates in torch's order (reset, update, new).

    Args:
        x: [T, B, I].
        weight_ih: [3H, I].
        weight_hh: [3H, H].
        bias_ih: [3H], or None.
        bias_hh: [3H], or None.
        state: the first h [B, H]. Default zeros.

    Returns:
        The outputs [T, B, H], and the last h [B, H].

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit.
    """
    check_layer(x, weight_ih, weight_hh, bias_ih, bias_hh, state, gates=3)
    return reference.gru(x, weight_ih, weight_hh, bias_ih, bias_hh, state)


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """One layer of the plain recurrence `h = tanh(W_ih x + b_ih + W_hh h + b_hh)` in one direction.

    Args:
        x: [T, B, I].
        weight_ih: [H, I].
        weight_hh: [H, H].
        bias_ih: [H], or None.
        bias_hh: [H], or None.
        state: the first h [B, H]. Default zeros.
        nonlinearity: "tanh" (default) or "relu".

    Returns:
        The outputs [T, B, H], and the last h [B, H].

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit, or `nonlinearity` is another word.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity={nonlinearity!r}: must be 'tanh' or 'relu'")
    check_layer(x, weight_ih, weight_hh, bias_ih, bias_hh, state, gates=1)
    return reference.rnn(x, weight_ih, weight_hh, bias_ih, bias_hh, state, nonlinearity)
