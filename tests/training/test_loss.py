from __future__ import annotations

import math

import pytest
import torch

from wordkiln.errors import ArgumentError
from wordkiln.training import evaluate


def plain_nats(model, ids, window, carry):
    """The definition: one lane, window after window."""
    total, state = 0.0, None
    for start in range(0, len(ids) - 1, window):
        part = ids[start : start + window + 1]
        logits, after = model(part[None, :-1], state)
        total += torch.nn.functional.cross_entropy(logits[0], part[1:], reduction="sum").item()
        state = after if carry else None
    return total


@pytest.mark.property
@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("tokens", [1, 16, 17, None])
def test_evaluation_is_the_plain_definition(data, tokenizer, build_model, kind, tokens):
    model = build_model(kind).train()
    found = evaluate(model, data.valid, batch_size=1, sequence_length=16, max_tokens=tokens)
    assert model.training
    count = data.valid.num_tokens - 1 if tokens is None else tokens
    ids = torch.from_numpy(data.valid.ids(0, count + 1).astype("int64"))
    with torch.no_grad():
        nats = plain_nats(model.eval(), ids, 16, carry=kind != "transformer")
    assert found.tokens == count
    # float32 means over windows, summed in another order.
    assert math.isclose(found.loss, nats / count, rel_tol=1e-5)
    end = tokenizer.end_id
    assert found.bytes == len(tokenizer.decode_bytes([token for token in ids[1:].tolist() if token != end]))
    assert math.isclose(found.bits_per_byte, nats / found.bytes / math.log(2), rel_tol=1e-5)


@pytest.mark.property
@pytest.mark.parametrize("batch_size", [2, 7])
def test_lanes_count_every_token_once(data, build_model, batch_size):
    # A window of one token needs no context: however the text is cut into lanes, the loss is the same.
    model = build_model("transformer")
    whole = evaluate(model, data.valid, batch_size=1, sequence_length=1, max_tokens=50)
    lanes = evaluate(model, data.valid, batch_size=batch_size, sequence_length=1, max_tokens=50)
    assert lanes.tokens == whole.tokens == 50
    assert math.isclose(lanes.loss, whole.loss, rel_tol=1e-5)


def test_evaluation_repeats_bit_for_bit(data, build_model):
    model = build_model()
    assert evaluate(model, data.valid) == evaluate(model, data.valid)


@pytest.mark.abuse
@pytest.mark.parametrize("field", ["batch_size", "sequence_length", "max_tokens"])
def test_sizes_are_checked(data, build_model, field):
    with pytest.raises(ArgumentError, match=f"{field}=0"):
        evaluate(build_model(), data.valid, **{field: 0})
