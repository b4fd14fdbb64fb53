"""Batches of inputs and shifted targets: pure functions of (seed, step), so that resuming needs only a number."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wordkiln.data.shards import Split
from wordkiln.errors import ArgumentError


class Batch(NamedTuple):
    """`targets[b, t]` is the id that follows `inputs[b, t]` in the text.

    Attributes:
        inputs: int64 [B, T].
        targets: int64 [B, T].
        starts_new_state: the rows do not go on where those of the step before ended: a recurrent state starts anew.
    """

    inputs: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    starts_new_state: bool


class Batches(Protocol):
    """What gives the batch of a step."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 0."""
        ...


class RandomWindows:
    """Windows of `sequence_length` tokens from anywhere in the split.

    Args:
        split: where the tokens come from.
        batch_size: rows B.
        sequence_length: columns T.
        seed: 0 to 2**64 - 1; the windows of a step depend on (seed, step) only.

    Raises:
        ArgumentError: a size is not positive, or the split has no T + 1 tokens.
    """

    def __init__(self, split: Split, batch_size: int, sequence_length: int, seed: int = 0) -> None:
        _check_sizes(split, batch_size, sequence_length, needed=sequence_length + 1)
        if not 0 <= seed < 2**64:
            raise ArgumentError(f"seed={seed}: must be 0 to 2**64 - 1")
        self._split, self._rows, self._length, self._seed = split, batch_size, sequence_length, seed

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 0."""
        key = np.array([self._seed, step], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        starts = random.integers(0, self._split.num_tokens - self._length, self._rows)
        return _windows(self._split, starts, self._length, True)


class ContiguousBatches:
    """Rows that go on from step to step, for recurrent models (truncated backpropagation through time).

    The split is cut into `batch_size` lanes of equal length, row b of the steps walks along lane b, and at their ends
    starts again (`starts_new_state`). What does not divide evenly, less than B * T tokens, is left out at the end of
    every even walk and at the beginning of every odd one, so that two walks see every token.

    Raises:
        ArgumentError: a size is not positive, or the split has no B * T + 1 tokens.
    """

    def __init__(self, split: Split, batch_size: int, sequence_length: int) -> None:
        _check_sizes(split, batch_size, sequence_length, needed=batch_size * sequence_length + 1)
        self._split, self._rows, self._length = split, batch_size, sequence_length
        self.steps_per_walk = (split.num_tokens - 1) // (batch_size * sequence_length)
        self._left_out = (split.num_tokens - 1) % (batch_size * sequence_length)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 0."""
        walk, position = divmod(step, self.steps_per_walk)
        lane = self.steps_per_walk * self._length
        first = (self._left_out if walk % 2 else 0) + position * self._length
        return _windows(self._split, first + lane * np.arange(self._rows), self._length, position == 0)


def _windows(split: Split, starts: npt.NDArray[np.int64], length: int, starts_new_state: bool) -> Batch:
    windows = np.stack([split.ids(int(start), int(start) + length + 1) for start in starts]).astype(np.int64)
    return Batch(
        np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:]), starts_new_state=starts_new_state
    )


def _check_sizes(split: Split, batch_size: int, sequence_length: int, needed: int) -> None:
    for name, value in (("batch_size", batch_size), ("sequence_length", sequence_length)):
        if value < 1:
            raise ArgumentError(f"{name}={value}: must be at least 1")
    if split.num_tokens < needed:
        raise ArgumentError(
            f"batch_size={batch_size}, sequence_length={sequence_length}: needs {needed} tokens,"
            f" the {split.name} split has {split.num_tokens}"
        )
