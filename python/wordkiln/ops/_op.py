"""How ops are registered, and how they are called: through torch's dispatcher where somebody may be looking, else
straight. The Python layers of a custom op's dispatch take 5 to 20 us of a call without a gradient and 8 to 75 of one
with it, the more the more arguments the op has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)
# Told apart from tensors first: isinstance(x, Tensor) asks torch's metaclass, 0.1 us for each that is none. Lists are
# of numbers. What is missing here sends its op through the dispatcher.
_OPTIONS = frozenset((type(None), bool, int, float, str, list))


class Op:
    """A torch op with kernels for the CPU. Register what else it needs, other devices' kernels too, as for torch's."""

    def __init__(self, name: str, forward: Callable[..., Any], schema: str | None, device_types: str | None) -> None:
        self._op = torch.library.custom_op(name, forward, mutates_args=(), device_types=device_types, schema=schema)
        self._forward = forward
        self._apply: Callable[..., Any] = self._op  # it says so itself where a second derivative is asked for
        self.register_fake = self._op.register_fake
        self.register_kernel = self._op.register_kernel

    def register_autograd(self, differentiate: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As torch.library.register_autograd."""
        self._op.register_autograd(differentiate, setup_context=setup_context)

        # Not torch's own form with setup_context, which looks up the signature of forward in every call: 20 to 150 us.
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = self._forward(*inputs)
            setup_context(ctx, inputs, output)
            return output

        members = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
        function: Any = type(self._forward.__name__, (torch.autograd.Function,), members)
        self._apply = function.apply

    def __call__(self, *inputs: Any) -> Any:
        if _is_watched():
            return self._op(*inputs)
        needs_gradient = False
        for x in inputs:
            kind = type(x)
            if kind in _OPTIONS:
                continue
            if kind not in _PLAIN or not x.is_cpu:
                return self._op(*inputs)
            needs_gradient = needs_gradient or x.requires_grad
        return self._apply(*inputs) if needs_gradient and torch.is_grad_enabled() else self._forward(*inputs)


def op(name: str, *, schema: str | None = None, device_types: str | None = "cpu") -> Callable[[Callable[..., Any]], Op]:
    """Make a function an op. It gets plain tensors, of `device_types` (None: any), and may not change them.

    Args:
        name: namespace::name.
        schema: of the op, where the annotations do not tell it.
        device_types: what it runs on.
    """
    return lambda forward: Op(name, forward, schema, device_types)


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it torch's products on the device of `x` keep the dtype they are given."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _is_watched() -> bool:
    """Whether torch.compile, a dispatch mode (fake tensors, make_fx), torch.func or a trace looks at this thread."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )
