"""The readable definition of beam search, in float64: what `rust/decode` must do, and is tested against.

A model is here a function: the ids of prompt and text -> the logits of the next token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wordkiln.generation._beam import BeamParams, Hypothesis

Model = Callable[[tuple[int, ...]], Sequence[float]]
Ids = tuple[int, ...]


class Text(NamedTuple):
    """Ids after the prompt, and the sum of their log-probabilities less what diversity cost."""

    ids: Ids
    total: float


class Group:
    """Beams that are ranked among themselves: texts that run, and (score, ids, ended by an end token) of ended ones."""

    def __init__(self) -> None:
        self.running = [Text((), 0.0)]
        self.ended: list[tuple[float, Ids, bool]] = []


def search(model: Model, prompt: Ids, params: BeamParams, prefix: Ids = ()) -> list[Hypothesis]:
    """The texts that beam search finds for one prompt, the best first."""
    groups = [Group() for _ in range(params.num_beam_groups)]
    for step in range(params.max_new_tokens):
        taken: list[int] = []
        for group in groups:
            if group.running:
                advance(group, model, prompt, params, prefix[step : step + 1], taken)
                taken += [text.ids[-1] for text in group.running]
    ended = sorted((text for group in groups for text in group.ended), key=lambda text: -text[0])
    return [
        Hypothesis(list(ids), score, "end" if by_end_id else "length")
        for score, ids, by_end_id in ended[: params.num_return]
    ]


def advance(group: Group, model: Model, prompt: Ids, params: BeamParams, forced: Ids, taken: list[int]) -> None:
    """One step of one group; `taken` are the tokens that earlier groups' texts ran on with in this step."""
    size = params.num_beams // params.num_beam_groups
    continuations = []
    for text in group.running:
        for token, logprob in enumerate(log_softmax(model(prompt + text.ids))):
            if logprob > -math.inf and may_follow(token, prompt, text.ids, params, forced):
                cost = params.diversity_penalty * taken.count(token)
                continuations.append(Text((*text.ids, token), text.total + logprob - cost))
    # Stable: of equal ones the better beam's first, of one beam's the lower token.
    continuations.sort(key=lambda text: -text.total)
    # Enough for `size` to run on, even if every beam takes every end token.
    continuations = continuations[: size * max(2, 1 + len(params.end_ids))]
    written = len(group.running[0].ids) + 1
    is_last = written == params.max_new_tokens
    for text in continuations[:size]:
        by_end_id = text.ids[-1] in params.end_ids
        if by_end_id or is_last:
            group.ended.append((score(text.total, written, params), text.ids, by_end_id))
    group.ended = sorted(group.ended, key=lambda text: -text[0])[:size]
    running = [text for text in continuations if not is_last and text.ids[-1] not in params.end_ids]
    group.running = running[:size]
    if is_done(group, size, written, params):
        group.running = []


def is_done(group: Group, size: int, written: int, params: BeamParams) -> bool:
    """Whether a group that has as many ended texts as beams may stop: the three modes of early_stopping."""
    if len(group.ended) < size or not group.running:
        return not group.running
    if params.early_stopping is True:
        return True
    longest = params.early_stopping == "never" and params.length_penalty > 0
    length = params.max_new_tokens if longest else written
    worst = group.ended[-1][0]
    return score(group.running[0].total, length, params) <= worst


def score(total: float, length: int, params: BeamParams) -> float:
    """What texts of different lengths are compared by."""
    return float(total / length**params.length_penalty)


def may_follow(token: int, prompt: Ids, text: Ids, params: BeamParams, forced: Ids) -> bool:
    """Whether `token` may stand after prompt and text; `forced` is its place's token of the prefix, or nothing."""
    if forced:
        return token == forced[0]
    if token in params.end_ids and len(text) < params.min_new_tokens:
        return False
    ids = (*prompt, *text, token)
    size = params.no_repeat_ngram_size
    if size and ids[-size:] in [ids[start : start + size] for start in range(len(ids) - size)]:
        return False
    return not any(ids[-len(word) :] == tuple(word) for word in params.bad_words)


def log_softmax(logits: Sequence[float]) -> list[float]:
    """The natural log-probabilities of tokens with these logits."""
    highest = max(logits)
    total = sum(math.exp(logit - highest) for logit in logits)
    return [logit - highest - math.log(total) for logit in logits]
