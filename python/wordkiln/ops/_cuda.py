"""The GPU kernels of `wordkiln._cuda`: whether they are there, and what a launch needs from torch."""

from __future__ import annotations

import contextlib
import functools
import os
from types import ModuleType

import torch
from torch import Tensor

LEAST_CAPABILITY = 80
_AS_IT_IS = contextlib.nullcontext()
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

try:
    from wordkiln import _cuda as _built
except ImportError:  # a build without CUDA has no such module
    # For mypy it is a module (the stub); where stubs are left out the comment would be the error.
    _built = None  # type: ignore[assignment, unused-ignore]

_module: ModuleType | None = _built


def kernels() -> ModuleType:
    """The module, where `lacks` has found nothing."""
    assert _module is not None
    return _module


def lacks(x: Tensor) -> str | None:
    """Why the GPU kernels do not take tensors of this dtype on this GPU, or None where they do."""
    missing = device_lacks(x.device.index or 0)
    return missing if missing is not None or x.dtype in _DTYPES else f"dtype {x.dtype} on a GPU"


def device_lacks(device: int) -> str | None:
    """Why there are no kernels for this GPU, or None where there are.

    WORDKILN_CUDA_KERNELS=0 in the environment turns them off.
    """
    if os.environ.get("WORDKILN_CUDA_KERNELS") == "0":
        return "device cuda (WORDKILN_CUDA_KERNELS=0)"
    if _module is None:
        return "device cuda (built without CUDA: WORDKILN_CUDA=ON pip install . adds the kernels)"
    return _device_lacks(_module, device)


@functools.cache
def _device_lacks(module: ModuleType, device: int) -> str | None:
    if module.device_count() <= device:
        return f"device cuda:{device} ({module.why_no_device() or 'there is no such device'})"
    capability = module.capability(device)
    if capability < LEAST_CAPABILITY:
        return f"a GPU of compute capability {capability / 10} (the kernels need {LEAST_CAPABILITY / 10})"
    return None


def dtype_name(x: Tensor) -> str:
    """The dtype as `_cuda` names it."""
    return str(x.dtype).removeprefix("torch.")


def guard(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes the device of `x` the current one, which launches go to."""
    # torch.cuda's own functions, which do the same behind layers of Python, take some 2 us each.
    if not x.is_cuda or x.get_device() == torch._C._cuda_getDevice():
        return _AS_IT_IS
    return torch.cuda.device(x.device)


def stream(x: Tensor) -> int:
    """The address of torch's current stream on the device of `x`."""
    return torch._C._cuda_getCurrentRawStream(x.get_device()) if x.is_cuda else 0


class Workspace:
    """Scratch for one launch, on the device of `like`: kernels say how many bytes they need and get the address.

    torch keeps the memory for work that comes later on the same stream, so it may go before the kernels are done.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: Tensor | None = None

    def __call__(self, size: int) -> int:
        self._memory = self._like.new_empty(size, dtype=torch.uint8)
        return self._memory.data_ptr()


def aligned(x: Tensor) -> Tensor:
    """`x`, or a copy, as the kernels read it: rows in one piece, of multiples of 16 bytes, zeros added."""
    part = 16 // x.element_size()
    if x.shape[-1] % part:
        return torch.nn.functional.pad(x, (0, -x.shape[-1] % part))
    if x.is_contiguous() and x.data_ptr() % 16 == 0:
        return x
    fits = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(step % part == 0 for step in x.stride()[:-1])
    return x if fits else x.clone(memory_format=torch.contiguous_format)
