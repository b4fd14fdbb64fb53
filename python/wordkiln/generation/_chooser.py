"""The sampler of a batch whose rows come and go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wordkiln.generation._row import Row, Token
from wordkiln.generation._sampler import Sampler


class Chooser:
    """Chooses the next token of each row."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        # One for the rows of each `add`, in their order.
        self._samplers: list[Sampler] = []
        self._rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that come behind those that are here."""
        self._samplers.append(Sampler([row.params for row in rows], self._vocab_size))
        self._rows += rows

    def select(self, going: Sequence[int]) -> None:
        """Keep these rows alone, in ascending order."""
        self._rows = [self._rows[index] for index in going]
        first = 0
        for sampler in self._samplers:
            size = len(sampler)
            sampler.select([index - first for index in going if first <= index < first + size])
            first += size
        self._samplers = [sampler for sampler in self._samplers if len(sampler)]

    def choose(self, logits: NDArray[np.float32]) -> list[Token | str]:
        """A token for each row of `logits` [B, V]; in the place of one that has none the error."""
        tokens: list[Token | str] = []
        for sampler in self._samplers:
            first = len(tokens)
            part = logits[first : first + len(sampler)]
            ids, logprobs = sampler.sample_with_logprobs(part)
            for row, values, token_id, logprob in zip(
                self._rows[first:], part, ids.tolist(), logprobs.tolist(), strict=False
            ):
                tokens.append(Token(token_id, logprob, _top(values, row.top_logprobs)))
        return tokens


def _top(logits: NDArray[np.float32], count: int) -> dict[int, float]:
    """The `count` most probable tokens and their natural log-probabilities, best first."""
    if not count:
        return {}
    values = logits.astype(np.float64)
    highest = values.max()
    total = highest + np.log(np.exp(values - highest).sum())
    ids = np.lexsort((np.arange(len(values)), -values))[:count]
    return {int(token_id): float(values[token_id] - total) for token_id in ids if values[token_id] > -np.inf}
