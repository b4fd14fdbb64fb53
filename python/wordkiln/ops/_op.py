"""How ops are registered, and how they are called: through torch's dispatcher where somebody may be looking, else
straight. The Python layers of a custom op's dispatch take 5 to 20 us of a call without a gradient and 8 to 75 of one
with it, the more the more arguments the op has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels

_AS_IT_IS = nullcontext()
# device: a user may have set another default one.
_NOTHING = {x: torch.empty(0, dtype=x, device="cpu") for x in (torch.float32, torch.float64, torch.bfloat16)}
_NOTHINGS = {id(x) for x in _NOTHING.values()}


def nothing(x: Tensor) -> Tensor:
    """An empty tensor like `x`, for an output that is not asked for. Mostly the same one: to make one takes 1 us."""
    return _NOTHING[x.dtype] if type(x) is Tensor and x.is_cpu and x.dtype in _NOTHING else x.new_empty(0)


def _own(outputs: Any) -> Any:
    """The outputs with an empty tensor of their own for each `nothing`: those that torch keeps must be new."""
    if isinstance(outputs, Tensor):
        return outputs
    return tuple(x.new_empty(0) if id(x) in _NOTHINGS else x for x in outputs)


class Op:
    """A torch op with kernels for the CPU. Register what else it needs, other devices' kernels too, as for torch's."""

    def __init__(self, name: str, forward: Callable[..., Any], schema: str | None, device_types: str | None) -> None:
        @functools.wraps(forward)
        def of_torch(*inputs: Any) -> Any:
            return _own(forward(*inputs))

        self._op = torch.library.custom_op(name, of_torch, mutates_args=(), device_types=device_types, schema=schema)
        self._name = forward.__name__
        self._kernels: dict[str | None, Callable[..., Any]] = {"cpu": forward}  # by the kind of device
        self._apply: Callable[..., Any] = self._op  # it says so itself where a second derivative is asked for
        self.register_fake = self._op.register_fake

    def register_kernel(self, device_type: str, kernel: Callable[..., Any]) -> None:
        """As torch.library.register_kernel."""
        self._op.register_kernel(device_type, kernel)
        self._kernels[device_type] = kernel

    def register_autograd(self, differentiate: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As torch.library.register_autograd."""
        self._op.register_autograd(differentiate, setup_context=setup_context)

        # Not torch's own form with setup_context, which looks up the signature of forward in every call: 20 to 150 us.
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = _own(self._kernels[_kernels.plain_device(inputs)](*inputs))
            setup_context(ctx, inputs, output)
            return output

        members = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
        function: Any = type(self._name, (torch.autograd.Function,), members)
        self._apply = function.apply

    def __call__(self, *inputs: Any, device: str | None = None) -> Any:
        """Run it. A caller who knows `plain_device` of the inputs says so as `device` and spares a look at each."""
        kernel = None if _is_watched() else self._kernels.get(device or _kernels.plain_device(inputs))
        if kernel is None:
            return self._op(*inputs)
        if wants_gradient(inputs):
            return self._apply(*inputs)
        return kernel(*inputs)


def op(name: str, *, schema: str | None = None, device_types: str | None = "cpu") -> Callable[[Callable[..., Any]], Op]:
    """Make a function an op. It gets plain tensors, of `device_types` (None: any), and may not change them.

    Args:
        name: namespace::name.
        schema: of the op, where the annotations do not tell it.
        device_types: what it runs on.
    """
    return lambda forward: Op(name, forward, schema, device_types)


def wants_gradient(inputs: tuple[Any, ...]) -> bool:
    """Whether a backward pass may follow: a tensor among the inputs of an op is to have a gradient."""
    if not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    return _kernels.any_requires_grad(inputs)


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it torch's products on the device of `x` keep the dtype they are given."""
    if not torch._C._is_any_autocast_enabled():
        return _AS_IT_IS
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _AS_IT_IS


def _is_watched() -> bool:
    """Whether torch.compile, a dispatch mode (fake tensors, make_fx), torch.func or a trace looks at this thread."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )
