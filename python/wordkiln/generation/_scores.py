"""How probable texts are under a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation.protocol import StepModel

# Rows and, filled up to the longest, ids that a model reads at once: they bound its memory.
_ROWS = 32
_IDS = 1 << 13


@dataclasses.dataclass(frozen=True)
class TextScore:
    """How probable a text is.

    Attributes:
        ids: the tokens that were scored: those of the text, without the first where nothing stands before it.
        logprobs: the natural log-probability of each, after all before it (within the window, where there is one).
        num_bytes: length of what was scored, in UTF-8.
    """

    ids: list[int]
    logprobs: list[float]
    num_bytes: int

    @property
    def total(self) -> float:
        """Log-probability of the text: the sum of `logprobs`."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp(-total / tokens); NaN where nothing was scored, inf where a token is impossible."""
        return math.inf if self.total == -math.inf else _ratio(-self.total, len(self.ids), math.exp)

    @property
    def bits_per_byte(self) -> float:
        """-log2 of the probability per byte, which models of different tokenizers may be compared by; NaN as above."""
        return _ratio(-self.total / math.log(2), self.num_bytes)


@dataclasses.dataclass(frozen=True)
class NextToken:
    """A token that may come next.

    Attributes:
        text: what it shows by itself; a part of a character shows as U+FFFD.
        id: the token.
        probability: under the model itself, from all tokens.
        logprob: its natural logarithm.
    """

    text: str
    id: int
    probability: float
    logprob: float


@dataclasses.dataclass(frozen=True)
class Window:
    """Places `start` to `stop` of a row of ids, of which those from `scored` on count.

    Attributes:
        start: first place.
        scored: first place that counts.
        stop: behind the last place.
    """

    start: int
    scored: int
    stop: int


def windows(length: int, first: int, size: int, stride: int) -> Iterator[Window]:
    """Windows of at most `size` places, `stride` apart: each place from `first` on counts in the first that holds it.

    The strided evaluation of Hugging Face's "Perplexity of fixed-length models".
    """
    scored = max(first, 1)
    for start in range(0, length, stride):
        stop = min(start + size, length)
        if scored < stop:
            yield Window(start, scored, stop)
            scored = stop
        if stop == length:
            return


def check_window(limit: int | None, window: int | None, stride: int | None, longest: int) -> tuple[int, int]:
    """Size and stride of the windows that a call asks for, where its longest row has `longest` ids.

    Raises:
        ArgumentError: one is out of its range, or the row is longer than the window and there is no stride.
    """
    size = limit if window is None else _checks.integer("window", window, 2, limit)
    if size is None:
        size = max(longest, 2)
    if stride is not None:
        # Every place but the first of a window has something before it, so a stride of size - 1 misses none.
        return size, _checks.integer("stride", stride, 1, size - 1)
    if longest > size:
        raise ArgumentError(
            f"texts: one of {longest} tokens, its beginning or context included, exceeds the window of {size}: "
            f"stride={size // 2} would read it in windows that overlap"
        )
    return size, size


def log_probabilities(
    model: StepModel[Any], rows: Sequence[list[int]], firsts: Sequence[int], size: int, stride: int
) -> list[list[float]]:
    """For each row of ids the log-probabilities of those from place `firsts[row]` (at least 1) on."""
    results: list[list[float]] = [[] for _ in rows]
    pieces = [
        (number, window)
        for number, (row, first) in enumerate(zip(rows, firsts, strict=True))
        for window in windows(len(row), first, size, stride)
    ]
    order = sorted(range(len(pieces)), key=lambda place: pieces[place][1].stop - pieces[place][1].start)
    scores: dict[int, list[float]] = {}
    for group in _groups(order, [window.stop - window.start for _, window in pieces]):
        ids = [rows[pieces[place][0]][pieces[place][1].start : pieces[place][1].stop] for place in group]
        for place, logprobs in zip(group, model.score(ids), strict=True):
            window = pieces[place][1]
            scores[place] = logprobs[window.scored - window.start - 1 :].tolist()
    for place, (number, _) in enumerate(pieces):
        results[number] += scores[place]
    return results


def most_probable(logits: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
    """The most probable tokens of a row of logits and their log-probabilities, best first; of equals the lowest id.

    Raises:
        ArgumentError: the row holds NaN or +inf, or nothing but -inf.
    """
    values = logits.astype(np.float64)
    highest = values.max()
    if not np.isfinite(highest):
        raise ArgumentError(f"logits: the highest is {highest}: no token can be chosen from them")
    total = highest + np.log(np.exp(values - highest).sum())
    ids = np.lexsort((np.arange(len(values)), -values))[:count]
    return [(int(token_id), float(values[token_id] - total)) for token_id in ids if values[token_id] > -np.inf]


def _groups(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """`order`, which is by length, in runs that a model may read at once."""
    group: list[int] = []
    for place in order:
        if group and (len(group) == _ROWS or (len(group) + 1) * lengths[place] > _IDS):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _ratio(amount: float, count: int, of: Any = float) -> float:
    result: float = of(amount / count) if count else math.nan
    return result
