"""What every op checks before it calls a kernel, and the one warning when a call has to run on the reference."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError

_warned: set[str] = set()


def check_tensor(name: str, x: Tensor, shape: tuple[int | None, ...], like: Tensor | None = None) -> None:
    """Refuse `x` unless it is a floating-point tensor of `shape` (None: any size), of the dtype and device of `like`."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name}: must be a torch.Tensor, not {type(x).__name__}")
    if x.dim() != len(shape) or any(w not in (None, g) for w, g in zip(shape, x.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ArgumentError(f"{name}: shape {list(x.shape)} must be [{wanted}]")
    if not x.dtype.is_floating_point:
        raise ArgumentError(f"{name}: dtype {x.dtype} must be a floating-point one")
    if like is not None and x.dtype != like.dtype:
        raise ArgumentError(f"{name}: dtype {x.dtype} must be {like.dtype}, as the other inputs")
    if like is not None and x.device != like.device:
        raise ArgumentError(f"{name}: device {x.device} must be {like.device}, as the other inputs")


def kernel_takes(x: Tensor) -> bool:
    """Whether the CPU kernels take tensors of this dtype and device."""
    return x.device.type in ("cpu", "meta") and x.dtype in (torch.float32, torch.float64)


def warn_once(op: str, reason: str) -> None:
    """Say, once per process and reason, that `op` runs on the reference."""
    message = f"wordkiln.ops.{op} has no kernel for {reason}: the slower plain torch reference runs instead"
    if message not in _warned and not torch.compiler.is_compiling():
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=4)
