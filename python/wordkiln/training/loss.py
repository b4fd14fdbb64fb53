"""The loss of a batch, and a model's loss on held-out text, in nats per token and in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wordkiln import ops
from wordkiln.data import Split
from wordkiln.errors import ArgumentError
from wordkiln.models import CausalLM, State

_IGNORED = -100


class Evaluation(NamedTuple):
    """A model's loss on text it did not see.

    Attributes:
        loss: mean cross-entropy, nats per token.
        bits_per_byte: the same per UTF-8 byte of the text: it compares models whatever their vocabularies.
        tokens: tokens predicted.
        bytes: bytes that these tokens stand for; end-of-document tokens stand for none but cost their nats.
    """

    loss: float
    bits_per_byte: float
    tokens: int
    bytes: int


def batch_loss(model: CausalLM, inputs: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Mean cross-entropy of a batch, without ever holding its logits.

    Args:
        model: the model.
        inputs: int64 [B, T].
        targets: int64 [B, T]; -100 does not count.
        state: recurrent state to go on from.

    Returns:
        The loss, a scalar, and the state after the batch.
    """
    hidden, state = model.hidden(inputs, state)
    return ops.linear_cross_entropy(hidden, model.output_weight, targets, ignore_index=_IGNORED), state


def evaluate(
    model: CausalLM,
    split: Split,
    *,
    batch_size: int = 16,
    sequence_length: int = 128,
    max_tokens: int | None = None,
    carry_state: bool | None = None,
    check: Callable[[], None] | None = None,
) -> Evaluation:
    """The loss of `model` on a split, or on its fixed first part: every token but the first is predicted once.

    The text is cut into `batch_size` lanes (fewer if they would be shorter than a sequence) that are walked in windows
    of `sequence_length`: a token is predicted from those before it in its window and, with `carry_state`, its lane.

    Args:
        model: in any mode; it is put into eval mode for the time.
        split: at least 2 tokens.
        batch_size: lanes at once.
        sequence_length: window.
        max_tokens: predict so many tokens at most, from the start of the split. Default: all.
        carry_state: carry a recurrent state from window to window. Default: for recurrent models.
        check: called between batches; what it raises ends the evaluation.

    Raises:
        ArgumentError: a size is not positive, or the split has fewer than 2 tokens.
    """
    for name, value in (("batch_size", batch_size), ("sequence_length", sequence_length), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name}={value}: must be at least 1")
    if split.num_tokens < 2:
        raise ArgumentError(f"the {split.name} split has {split.num_tokens} tokens: evaluation needs at least 2")
    if carry_state is None:
        carry_state = model.config.is_recurrent
    tokens = min(split.num_tokens - 1, max_tokens or split.num_tokens)
    lanes = max(1, min(batch_size, tokens // sequence_length))
    training = model.training
    model.eval()
    try:
        nats = _sum_of_nats(model, split, tokens, lanes, sequence_length, carry_state, check)
    finally:
        model.train(training)
    num_bytes = split.count_bytes(1, tokens + 1)
    bits_per_byte = nats / num_bytes / math.log(2) if num_bytes else math.inf
    return Evaluation(nats / tokens, bits_per_byte, tokens, num_bytes)


@torch.no_grad()
def _sum_of_nats(
    model: CausalLM,
    split: Split,
    tokens: int,
    lanes: int,
    sequence_length: int,
    carry_state: bool,
    check: Callable[[], None] | None,
) -> float:
    device = model.output_weight.device
    lane_length = -(-tokens // lanes)
    starts = [min(lane * lane_length, tokens) for lane in range(lanes)]
    stops = [min(start + lane_length, tokens) for start in starts]
    state: State | None = None
    nats = 0.0
    for position in range(0, lane_length, sequence_length):
        if check is not None:
            check()
        width = min(sequence_length, lane_length - position)
        inputs = np.zeros((lanes, width), np.int64)
        targets = np.full((lanes, width), _IGNORED, np.int64)
        for lane, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            begin = min(start + position, stop)
            window = split.ids(begin, min(begin + width, stop) + 1)
            inputs[lane, : len(window) - 1] = window[:-1]
            targets[lane, : len(window) - 1] = window[1:]
        loss, after = batch_loss(
            model, torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device), state
        )
        state = after if carry_state else None
        nats += loss.item() * int((targets != _IGNORED).sum())
    return nats
