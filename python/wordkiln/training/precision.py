"""Where gradients are computed: in the model itself, or in a bfloat16 copy of it (Micikevicius et al. 2018, "Mixed
precision training", section 3.1: the optimizer keeps float32 master weights, else small steps would round to nothing).

bfloat16 has the exponents of float32, so losses are not scaled. A copy, rather than torch.autocast, which casts every
weight in every step and keeps the sums between layers in float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from wordkiln.models import CausalLM


class ComputeModel:
    """What a training step runs forward and backward, beside the model whose weights the optimizer changes.

    Args:
        model: float32; its weights are the master weights.
        precision: "float32": the model itself; "bfloat16": a copy that `refresh` brings up to date.
    """

    def __init__(self, model: CausalLM, precision: str) -> None:
        self.model = model
        if precision == "bfloat16":
            self.model = copy.deepcopy(model).to(torch.bfloat16)
        own = [parameter for parameter in model.parameters() if parameter.requires_grad]
        copied = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._pairs = [] if self.model is model else list(zip(own, copied, strict=True))

    def cast(self, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        """A recurrent state in the dtype that the model computes in."""
        return state and tuple(part.to(self.model.output_weight.dtype) for part in state)

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Give the master weights the gradients of the copy, in float32, and take them from the copy."""
        gradients: tuple[list[Tensor], list[Tensor]] = ([], [])
        for own, copied in self._pairs:
            if copied.grad is None:
                own.grad = None
                continue
            if own.grad is None:
                own.grad = torch.empty_like(own)
            gradients[0].append(own.grad)
            gradients[1].append(copied.grad)
            copied.grad = None
        if gradients[0]:
            torch._foreach_copy_(*gradients)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the master weights into the copy."""
        if self._pairs:
            torch._foreach_copy_([copied for _, copied in self._pairs], [own for own, _ in self._pairs])

    def forget_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """After a step. The master weights of a copy keep their buffers, which the next step overwrites."""
        if not self._pairs:
            optimizer.zero_grad()
