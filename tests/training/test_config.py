from __future__ import annotations

import pytest

from wordkiln.errors import ArgumentError
from wordkiln.training import TrainingConfig


@pytest.mark.abuse
@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"min_learning_rate": 1.0},
        {"warmup_steps": -1},
        {"warmup_steps": 2001},
        {"max_steps": 0},
        {"max_steps": 10.0},
        {"batch_size": True},
        {"sequence_length": 0},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"betas": 0.9},
        {"max_grad_norm": 0.0},
        {"eval_every": 0},
        {"eval_tokens": 0},
        {"patience": 0},
        {"seed": -1},
        {"log_every": 0},
        {"batches": "sorted"},
    ],
)
def test_values_out_of_range_are_named(fields):
    with pytest.raises(ArgumentError, match=f"^{next(iter(fields))}="):
        TrainingConfig(**fields)


def test_replace_names_unknown_fields():
    assert TrainingConfig().replace({"seed": 3}).seed == 3
    with pytest.raises(ArgumentError, match="lr: no field of TrainingConfig; there are"):
        TrainingConfig().replace({"lr": 0.1})
