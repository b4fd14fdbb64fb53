"""The affine map. torch's own matrix product is near the machine's peak, so this only checks and forwards."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from wordkiln.errors import ArgumentError
from wordkiln.ops._checks import check_tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O], or None.

    Returns:
        [..., O].

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit.
    """
    if x.dim() == 0:
        raise ArgumentError("x: shape [] must be [..., I]")
    check_tensor("weight", weight, (None, x.shape[-1]), like=x)
    if bias is not None:
        check_tensor("bias", bias, (weight.shape[0],), like=x)
    return F.linear(x, weight, bias)
