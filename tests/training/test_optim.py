from __future__ import annotations

import math

import pytest

from wordkiln.training import TrainingConfig, build_optimizer, learning_rate_at


@pytest.mark.golden
def test_schedule_values():
    config = TrainingConfig(learning_rate=1.0, min_learning_rate=0.2, warmup_steps=4, max_steps=13)
    rates = [learning_rate_at(step, config) for step in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # Half of the way from step 4 to step 12 is half of the way down; a quarter of it is cos(pi / 4).
    assert math.isclose(rates[8], 0.6)
    assert math.isclose(rates[6], 0.6 + 0.4 * math.cos(math.pi / 4))
    assert rates[12] == rates[13] == 0.2
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_schedule_defaults():
    long, short = TrainingConfig(learning_rate=1.0, max_steps=5000), TrainingConfig(learning_rate=1.0, max_steps=50)
    assert learning_rate_at(0, long) == 1 / 200
    assert learning_rate_at(0, short) == 1 / 5
    assert learning_rate_at(49, short) == 0.1
    assert learning_rate_at(0, TrainingConfig(learning_rate=1.0, max_steps=1)) == 0.1


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_only_matrices_decay(build_model, kind):
    model = build_model(kind, tie_word_embeddings=True)
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.3))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    for name, value in decay.items():
        assert value == (0.0 if "bias" in name or "norm" in name else 0.3), name


def test_frozen_parameters_are_left_out(build_model):
    model = build_model()
    model.model.embed_tokens.requires_grad_(False)
    optimizer = build_optimizer(model, TrainingConfig())
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters())) - 1
