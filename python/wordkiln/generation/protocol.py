"""The step protocol: the few methods through which generation drives any model, be it the runtime's or torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")


class StepModel(Protocol[State]):
    """A model that continues rows of ids, one id per row and step.

    Attributes:
        vocab_size: V, the number of logits of a row.
        max_positions: most ids a row can hold, or None where there is no limit.
        eos_token_id: the id that ends a document, or None.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_positions(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def begin(self, prompts: Sequence[Sequence[int]], /) -> tuple[State, NDArray[np.float32]]:
        """Read non-empty prompts of any lengths; float32 logits [B, V] after the last id of each."""
        ...

    def step(self, state: State, ids: NDArray[Any], /) -> NDArray[np.float32]:
        """Append one id to each row of `state`, in place: ids [B] -> float32 logits [B, V]."""
        ...

    def select(self, state: State, rows: Sequence[int], /) -> State:
        """The state of these rows alone, in this order; a row may be named twice. `state` itself may go on as well."""
        ...

    def join(self, states: Sequence[State], /) -> State:
        """One state of the rows of all, in this order. The states given may not be used any more."""
        ...

    def score(self, rows: Sequence[Sequence[int]], /) -> list[NDArray[np.float32]]:
        """For each row of n >= 1 ids float32 [n - 1]: the natural log-probability of each id but the first."""
        ...
