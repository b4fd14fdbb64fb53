"""The affine map: torch's own product, which is near the machine's peak, and packed weights for a few rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops._checks import check_tensor


def linear(x: Tensor, weight: Tensor | PackedLinear, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`.

    Args:
        x: [..., I].
        weight: [O, I]; or packed weights, for few rows and without a gradient: x is then float32 on the CPU.
        bias: [O], or None, as it must be with packed weights, which hold theirs.

    Returns:
        [..., O].

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit; packed weights with a bias or an x that wants a gradient.
    """
    if x.dim() == 0:
        raise ArgumentError("x: shape [] must be [..., I]")
    if isinstance(weight, PackedLinear):
        if bias is not None:
            raise ArgumentError("bias: must be None with packed weights; give it to ops.PackedLinear")
        return weight._multiply(x)
    check_tensor("weight", weight, (None, x.shape[-1]), like=x)
    if bias is not None:
        check_tensor("bias", bias, (weight.shape[0],), like=x)
    return F.linear(x, weight, bias)


class PackedLinear:
    """Weights and bias of `linear`, laid out once for products with 1 to 64 rows, for inference on the CPU.

    They are copies: weights that change afterwards need a new object. (A cache behind `linear` could not tell, so there
    is none.) Whatever the weights are stored as, products and sums are float32.

    Args:
        weight: float32 [O, I] on the CPU.
        bias: float32 [O], or None.
        storage: of the weights: "float32"; "bfloat16", rounded to nearest even; "int8", -127 to 127 times a scale for
            each 64 inputs of an output.

    Raises:
        ArgumentError: shapes, dtypes or devices do not fit, `storage` is another, or an int8 weight is not finite.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, storage: Literal["float32", "bfloat16", "int8"] = "float32"
    ) -> None:
        check_tensor("weight", weight, (None, None))
        self._check_kernel("weight", weight)
        if bias is not None:
            check_tensor("bias", bias, (weight.shape[0],), like=weight)
        weight = weight.detach().contiguous()
        bias = None if bias is None else bias.detach().contiguous()
        pointer = 0 if bias is None else bias.data_ptr()
        self._outputs, self._inputs = weight.shape
        self._packed = _kernels.PackedLinear(weight.data_ptr(), pointer, self._outputs, self._inputs, storage)

    def _multiply(self, x: Tensor) -> Tensor:
        leading = x.shape[:-1]
        # The checks that name what does not fit take 4 us.
        if x.dtype is not torch.float32 or not x.is_cpu or x.shape[-1] != self._inputs:
            check_tensor("x", x, (*leading, self._inputs))
            self._check_kernel("x", x)
        if x.requires_grad and torch.is_grad_enabled():
            raise ArgumentError("x: requires a gradient, which packed weights do not give; ops.linear does")
        x = x.contiguous()
        out = x.new_empty(*leading, self._outputs)
        self._packed(x.data_ptr(), out.data_ptr(), leading.numel())
        return out

    @property
    def nbytes(self) -> int:
        """Memory that the packed weights take."""
        return self._packed.nbytes

    @staticmethod
    def _check_kernel(name: str, x: Tensor) -> None:
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ArgumentError(f"{name}: {x.dtype} on {x.device} must be torch.float32 on the CPU")
