"""Beam search: settings are checked here, a model is driven, the search itself is done by `rust/decode`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wordkiln import _rust
from wordkiln.errors import ArgumentError, Interrupted
from wordkiln.generation import _checks
from wordkiln.generation._constraint import Constraint, fill_masks
from wordkiln.generation.protocol import StepModel

_LARGEST_ID = 2**31 - 1
_MOST_BEAMS = 1024
_LARGEST_LENGTH_PENALTY = 16.0
_LARGEST_DIVERSITY_PENALTY = 1e9

BeamFinish = Literal["end", "length", "interrupted"]


@dataclasses.dataclass(frozen=True)
class BeamParams:
    """How texts are searched (docs/beam.md defines each).

    Attributes:
        num_beams: texts of a prompt that are written side by side, 1 to 1024. Default 4.
        num_return: most texts given for a prompt, 1 (the default) to `num_beams`.
        length_penalty: a text of n tokens scores the sum of its log-probabilities / n**length_penalty, -16 to 16; 1.0,
            the default, is their mean; more favours longer texts.
        early_stopping: when a prompt is done, once `num_beams` of its texts have ended. True: at once. False, the
            default: when the best running text would score no better than the worst of them if it ended now. "never":
            when it cannot come to score better.
        num_beam_groups: groups of beams that are kept apart, a divisor of `num_beams`; 1, the default: all are one.
            (Vijayakumar et al. 2018, "Diverse beam search", section 3.)
        diversity_penalty: what a token costs a group for each beam of the groups before it that took it in the same
            step, 0 (the default) to 1e9.
        max_new_tokens: a text is over when it has so many tokens, 1 to 2**31 - 1. Default 128.
        min_new_tokens: no end token before so many others, 0 (the default) to `max_new_tokens`.
        no_repeat_ngram_size: no run of so many tokens comes twice in prompt and text; 0, the default: any may.
        end_ids: tokens that end a text, at most 256.
        forced_prefix: for each prompt the ids that its texts must begin with, none of them an end id; or (), the
            default. They count for score and length.
        bad_words: runs of ids that may not come; one that begins in the prompt may not be completed either.

    Raises:
        ArgumentError: a value is out of its range.
    """

    num_beams: int = 4
    num_return: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    end_ids: Sequence[int] = ()
    forced_prefix: Sequence[Sequence[int]] = ()
    bad_words: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if self.early_stopping not in (False, True, "never") or not isinstance(self.early_stopping, bool | str):
            raise ArgumentError(f"early_stopping={self.early_stopping!r}: must be False, True or 'never'")
        beams = _checks.integer("num_beams", self.num_beams, 1, _MOST_BEAMS)
        tokens = _checks.integer("max_new_tokens", self.max_new_tokens, 1, _LARGEST_ID)
        checked: dict[str, Any] = {"num_beams": beams, "max_new_tokens": tokens}
        for name, low, high in (
            ("num_return", 1, beams),
            ("num_beam_groups", 1, beams),
            ("min_new_tokens", 0, tokens),
            ("no_repeat_ngram_size", 0, _LARGEST_ID),
        ):
            checked[name] = _checks.integer(name, getattr(self, name), low, high)
        for name, least, most in (
            ("length_penalty", -_LARGEST_LENGTH_PENALTY, _LARGEST_LENGTH_PENALTY),
            ("diversity_penalty", 0.0, _LARGEST_DIVERSITY_PENALTY),
        ):
            checked[name] = _checks.real(name, getattr(self, name), least, most)
        checked["end_ids"] = _ids("end_ids", self.end_ids)
        for name in ("forced_prefix", "bad_words"):
            lists = _sequence(name, getattr(self, name))
            checked[name] = tuple(_ids(f"{name}[{index}]", ids) for index, ids in enumerate(lists))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.num_beams % self.num_beam_groups:
            raise ArgumentError(
                f"num_beam_groups={self.num_beam_groups}: must be a divisor of num_beams={self.num_beams}"
            )


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A text that a search found.

    Attributes:
        ids: its tokens after the prompt, the end token included.
        score: the sum of their natural log-probabilities, less what diversity cost, over len(ids)**length_penalty.
        finish_reason: "end": an end token came; "length": `max_new_tokens`; "interrupted": Ctrl-C.
    """

    ids: list[int]
    score: float
    finish_reason: BeamFinish


def beam_search(
    model: StepModel[Any],
    prompts: Sequence[Sequence[int]],
    params: BeamParams,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """Search the most probable continuations of each prompt.

    Each prompt is read once; from then on the model steps one row for each text that is being written: at most
    `params.num_beams` of each prompt, none of one that is done.

    Args:
        model: anything with the step protocol.
        prompts: non-empty lists of ids, of any lengths.
        params: how to search.
        constraint: what each text must match (one that `max_new_tokens` ended only begins so). Its end ids must be
            among `params.end_ids`.

    Returns:
        For each prompt its texts, the best first: `params.num_return`, or fewer where so few exist.

    Raises:
        ArgumentError: a prompt is empty, holds an id that the model does not know, or with `max_new_tokens` exceeds its
            `max_positions`; a setting does not fit the prompts or the vocabulary; a row of logits holds NaN, +inf or
            nothing but -inf; what is banned leaves a prompt no token to go on with.
        Interrupted: Ctrl-C; `completions` is what would have been returned had all texts been over at their last token.
    """
    rows = [list(_ids(f"prompts[{index}]", ids)) for index, ids in enumerate(_sequence("prompts", prompts))]
    _check_prompts(rows, params.max_new_tokens, model.max_positions)
    search = _rust.BeamSearch(params, rows, model.vocab_size)
    if constraint is not None:
        _check_constraint(constraint, params, model.vocab_size)
    try:
        if rows:
            _run(model, rows, search, constraint)
    except KeyboardInterrupt:
        raise Interrupted(_found(search, running=True)) from None
    return _found(search, running=False)


def _found(search: _rust.BeamSearch, *, running: bool) -> list[list[Hypothesis]]:
    return [[Hypothesis(*text) for text in texts] for texts in search.hypotheses(running)]


def _run(
    model: StepModel[Any], prompts: list[list[int]], search: _rust.BeamSearch, constraint: Constraint | None
) -> None:
    matchers = [constraint.matcher() for _ in prompts] if constraint else None
    state, logits = model.begin(prompts)
    while True:
        masks = fill_masks(matchers) if matchers else None
        parents, tokens = search.step(_checked(logits, search.rows, model.vocab_size), masks)
        if not len(parents):
            return
        if not np.array_equal(parents, np.arange(len(logits))):
            state = model.select(state, parents.tolist())
        if matchers:
            matchers = [matchers[parent].copy() for parent in parents]
            for matcher, token in zip(matchers, tokens.tolist(), strict=True):
                matcher.commit(token)
        logits = model.step(state, tokens)


def _check_constraint(constraint: Constraint, params: BeamParams, vocab_size: int) -> None:
    if constraint.vocab_size != vocab_size:
        raise ArgumentError(
            f"constraint: its tokenizer has {constraint.vocab_size} tokens, but the model's vocab_size is {vocab_size}"
        )
    if not constraint.end_ids or not set(constraint.end_ids) <= set(params.end_ids):
        raise ArgumentError(
            f"constraint: its end ids are {list(constraint.end_ids)}: must be one or more of "
            f"params.end_ids={list(params.end_ids)}"
        )


def _checked(logits: Any, rows: int, vocab_size: int) -> NDArray[np.float32]:
    shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", type(logits).__name__)
    if shape != (rows, vocab_size) or dtype != np.float32:
        raise ArgumentError(f"logits: {dtype} {list(shape or ())}: must be float32 [{rows}, {vocab_size}]")
    return np.require(logits, requirements=["C", "A"])


def _check_prompts(prompts: list[list[int]], max_new_tokens: int, max_positions: int | None) -> None:
    for index, ids in enumerate(prompts):
        if not ids:
            raise ArgumentError(f"prompts[{index}]: is empty")
        if max_positions is not None and len(ids) + max_new_tokens > max_positions:
            raise ArgumentError(
                f"max_new_tokens={max_new_tokens}: with the {len(ids)} tokens of prompts[{index}] it exceeds the "
                f"model's {max_positions} positions"
            )


def _ids(name: str, ids: Iterable[Any]) -> tuple[int, ...]:
    return tuple(_checks.integer(name, id_, 0, _LARGEST_ID) for id_ in _sequence(name, ids))


def _sequence(name: str, values: Any) -> Iterable[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}: is {type(values).__name__}: must be a list")
    return values
