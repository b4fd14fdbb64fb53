"""What every op checks before it calls a kernel, and the one warning when a call has to run on the reference."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError
from wordkiln.ops import _cuda

_warned: set[str] = set()


def check_tensor(name: str, x: Tensor, shape: tuple[int | None, ...], like: Tensor | None = None) -> None:
    """Refuse `x` unless it is a floating-point tensor of `shape` (None: any size), in dtype and device as `like`."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name}: must be a torch.Tensor, not {type(x).__name__}")
    check_shape(name, x, shape)
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"{name}: dtype {x.dtype} must be a floating-point one")
    if like is not None and x.dtype != like.dtype:
        raise ArgumentError(f"{name}: dtype {x.dtype} must be {like.dtype}, as the other inputs")
    if like is not None and x.device != like.device:
        raise ArgumentError(f"{name}: device {x.device} must be {like.device}, as the other inputs")


def check_shape(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse `x` unless it is of `shape` (None: any size)."""
    if not _fits(x.shape, shape):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ArgumentError(f"{name}: shape {list(x.shape)} must be [{wanted}]")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    # A list: any() of a generator takes three times as long.
    return not [size for size, want in zip(shape, wanted, strict=True) if want is not None and size != want]


_DTYPE_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


def kernel_lacks(x: Tensor, *, bfloat16: bool = False, cuda: bool = False) -> str | None:
    """Why the kernels do not take tensors of this dtype and device, or None where they do.

    Args:
        x: one of the inputs.
        bfloat16: whether the op has kernels for bfloat16 besides those for float32 and float64 on the CPU.
        cuda: whether it has kernels for GPUs.
    """
    if cuda and x.is_cuda:
        return _cuda.lacks(x)
    if not x.is_cpu and x.device.type != "meta":
        return f"device {x.device.type}"
    taken = x.dtype in _DTYPE_NAMES and (bfloat16 or x.dtype != torch.bfloat16)
    return None if taken else f"dtype {x.dtype}"


def same_kind(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the others, but for None, have the dtype and the device of `x`."""
    return all(other is None or (other.dtype == x.dtype and other.device == x.device) for other in others)


def dtype_name(x: Tensor) -> str:
    """The dtype as `_kernels` names it."""
    return _DTYPE_NAMES[x.dtype]


def warn_once(op: str, reason: str) -> None:
    """Say, once per process and reason, that `op` runs on the reference."""
    message = f"wordkiln.ops.{op} has no kernel for {reason}: the slower plain torch reference runs instead"
    if message not in _warned and not torch.compiler.is_compiling():
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def check_layer(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    gates: int,
) -> None:
    """Refuse inputs that do not fit one layer of `gates` gates."""
    check_tensor("x", x, (None, None, None))
    check_tensor("weight_hh", weight_hh, (None, None), like=x)
    hidden = weight_hh.shape[1]
    check_tensor("weight_hh", weight_hh, (gates * hidden, hidden), like=x)
    check_tensor("weight_ih", weight_ih, (gates * hidden, x.shape[2]), like=x)
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None:
            check_tensor(name, bias, (gates * hidden,), like=x)
    for name, part in (("state h", h0), ("state c", c0)):
        if part is not None:
            check_tensor(name, part, (x.shape[1], hidden), like=x)


def check_row_lengths(x: Tensor, lengths: Tensor | None) -> None:
    """Refuse `lengths` unless they are int64 [B] where `x` [T, B, I] is; kernels look at their values."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise ArgumentError(f"lengths: must be a torch.Tensor, not {type(lengths).__name__}")
    if lengths.dtype != torch.int64 or lengths.shape != x.shape[1:2]:
        raise ArgumentError(f"lengths: {lengths.dtype} {list(lengths.shape)} must be torch.int64 [{x.shape[1]}]")
    if lengths.device != x.device:
        raise ArgumentError(f"lengths: device {lengths.device} must be {x.device}, as the other inputs")
