"""AdamW with decay on matrices only, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from wordkiln.training.config import TrainingConfig

_FUSED_DEVICES = ("cpu", "cuda")
_MAX_DEFAULT_WARMUP = 200


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """The learning rate of `step` (from 0): linear warm-up, then a cosine down to the minimum (Loshchilov and Hutter
    2017, "SGDR", section 3, without restarts).

    The warm-up's first step already learns (1 / warmup_steps of the rate); the last step has the minimum exactly.
    """
    warmup = config.warmup_steps
    if warmup is None:
        warmup = min(_MAX_DEFAULT_WARMUP, config.max_steps // 10)
    low = config.learning_rate / 10 if config.min_learning_rate is None else config.min_learning_rate
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    last = config.max_steps - 1
    share = 1.0 if step >= last else (step - warmup) / (last - warmup)
    return low + (config.learning_rate - low) * (1 + math.cos(math.pi * share)) / 2


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over the trainable parameters of `model`, fused where torch offers it.

    Weight decay is for matrices: biases and normalisation gains (one dimension) are left alone.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=fused,
    )
