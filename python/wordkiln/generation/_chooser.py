"""The sampler of a batch whose rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.generation._constraint import fill_masks
from wordkiln.generation._row import Row, Token
from wordkiln.generation._sampler import Sampler

_EVERY = 0xFFFFFFFF


class Chooser:
    """Chooses the next token of each row."""

    def __init__(self, vocab_size: int) -> None:
        self._sampler = Sampler([], vocab_size)
        self._words = -(-vocab_size // 32)
        self._rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that come behind those that are here."""
        self._sampler.extend([row.params for row in rows], [row.prompt for row in rows])
        self._rows += rows

    def select(self, going: Sequence[int]) -> None:
        """Keep these rows alone, in this order."""
        self._rows = [self._rows[index] for index in going]
        self._sampler.select(going)

    def choose(self, logits: NDArray[Any]) -> list[Token | str]:
        """A token for each row of `logits` [B, V]; in the place of one that has none what is wrong."""
        ids, logprobs, faults = self._sampler.sample_partial(np.ascontiguousarray(logits), self._masks())
        top = self._sampler.top_logprobs() if any(row.params.logprobs for row in self._rows) else [[]] * len(ids)
        return [
            str(faults[index]) if index in faults else Token(token_id, logprob, dict(most))
            for index, (token_id, logprob, most) in enumerate(zip(ids.tolist(), logprobs.tolist(), top, strict=True))
        ]

    def _masks(self) -> NDArray[np.uint32] | None:
        """What constraints allow each row; rows without one may have every token."""
        places = [index for index, row in enumerate(self._rows) if row.matcher is not None]
        if not places:
            return None
        masks = np.full((len(self._rows), self._words), _EVERY, np.uint32)
        allowed = fill_masks([row.matcher for row in self._rows if row.matcher is not None])
        masks[places] = 0  # the model may have ids that the tokenizer has not
        masks[places, : allowed.shape[1]] = allowed
        return masks
