"""`TrainingConfig`: everything about a run that is a number or a choice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wordkiln.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Attributes:
        learning_rate: the highest one, above 0.
        min_learning_rate: where the cosine ends, 0 to `learning_rate`. Default (None): a tenth of it.
        warmup_steps: steps of linear rise. Default (None): a tenth of `max_steps`, at most 200.
        max_steps: optimizer steps in all.
        batch_size: rows B of a batch.
        sequence_length: tokens T of a row.
        weight_decay: of the matrices (embeddings too); biases and gains are not decayed.
        betas: of Adam, each 0 to below 1.
        max_grad_norm: gradients are scaled down to this norm; infinity for no limit.
        eval_every: steps between validations. The last step is always validated.
        eval_tokens: tokens of the validation split to use, from its start. Default (None): all.
        patience: stop after this many validations in a row without a better loss. Default (None): never.
        seed: of the batches and of dropout, 0 to 2**63 - 1.
        log_every: steps between rows of log.csv.
        batches: "random" windows or "contiguous" rows whose recurrent state is carried from step to step. Default
            (None): contiguous for recurrent models, random for transformers.
        precision: "float32" or "bfloat16": what the model computes in. Weights, moments and checkpoints are float32
            either way.
        keep_memory: on Linux, keep freed memory in this process rather than give it back and fault it in again in
            every step: faster, at the price of a resident size that does not shrink (see `wordkiln doctor`).

    Raises:
        ArgumentError: a value is out of its range.
    """

    learning_rate: float = 1e-3
    min_learning_rate: float | None = None
    warmup_steps: int | None = None
    max_steps: int = 2000
    batch_size: int = 16
    sequence_length: int = 128
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    eval_every: int = 200
    eval_tokens: int | None = None
    patience: int | None = None
    seed: int = 0
    log_every: int = 20
    batches: str | None = None
    precision: str = "float32"
    keep_memory: bool = True

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "sequence_length", "eval_every", "log_every"):
            _check_integer(name, getattr(self, name), 1, 2**40)
        for name in ("eval_tokens", "patience"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1, 2**40)
        _check_integer("seed", self.seed, 0, 2**63 - 1)
        _check_number("learning_rate", self.learning_rate, 0.0, 1e6, open_low=True)
        if self.min_learning_rate is not None:
            _check_number("min_learning_rate", self.min_learning_rate, 0.0, self.learning_rate)
        if self.warmup_steps is not None:
            _check_integer("warmup_steps", self.warmup_steps, 0, self.max_steps)
        _check_number("weight_decay", self.weight_decay, 0.0, 1e6)
        _check_number("max_grad_norm", self.max_grad_norm, 0.0, math.inf, open_low=True)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ArgumentError(f"betas={self.betas!r}: must be two numbers")
        for beta in self.betas:
            _check_number("betas", beta, 0.0, math.nextafter(1.0, 0.0))
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.batches not in (None, "random", "contiguous"):
            raise ArgumentError(f"batches={self.batches!r}: must be 'random' or 'contiguous'")
        if self.precision not in ("float32", "bfloat16"):
            raise ArgumentError(f"precision={self.precision!r}: must be 'float32' or 'bfloat16'")
        if type(self.keep_memory) is not bool:
            raise ArgumentError(f"keep_memory={self.keep_memory!r}: must be True or False")

    def replace(self, fields: Mapping[str, Any]) -> TrainingConfig:
        """A copy with these fields changed.

        Raises:
            ArgumentError: a field is unknown, or its value out of range.
        """
        known = {field.name for field in dataclasses.fields(self)}
        for name in fields:
            if name not in known:
                raise ArgumentError(f"{name}: no field of TrainingConfig; there are {', '.join(sorted(known))}")
        return dataclasses.replace(self, **fields)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ArgumentError(f"{name}={value!r}: must be an integer from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (open_low and value == low):  # type: ignore[operator]  # `number` says so
        raise ArgumentError(f"{name}={value!r}: must be a number {'above' if open_low else 'from'} {low} up to {high}")
