"""The keys and values that a decoder has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wordkiln.models.config import ModelConfig
from wordkiln.runtime._weights import Array

Ids = NDArray[np.int64]


class CacheState:
    """Keys and values of B rows, for each layer [B, Hkv, capacity, D]; a row's first `lengths[row]` places count.

    Attributes:
        lengths: int64 [B].
    """

    def __init__(self, config: ModelConfig, batch: int, capacity: int) -> None:
        self._limit = config.max_position_embeddings or capacity
        self.lengths: Ids = np.zeros(batch, np.int64)
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        # Zeros, not whatever was there: a NaN behind a row's end would pass through a weight of 0.
        self._buffer: Array = np.zeros(shape, np.float32)

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    def reserve(self, needed: int) -> None:
        """Make room for `needed` places: doubling keeps the cost of copying linear in the number of tokens."""
        capacity = self._buffer.shape[4]
        if needed <= capacity:
            return
        shape = list(self._buffer.shape)
        shape[4] = max(needed, min(2 * capacity, self._limit))
        buffer = np.zeros(shape, np.float32)
        buffer[..., :capacity, :] = self._buffer
        self._buffer = buffer

    def write(self, layer: int, keys: Array, values: Array, positions: Ids) -> tuple[Array, Array]:
        """Put new keys and values [B, S, Hkv, D] at `positions` [B, S]; all of the layer's up to the last, as views."""
        used = int(positions.max()) + 1
        rows = np.arange(len(positions))[:, None]
        for buffer, new in zip(self._buffer[layer], (keys, values), strict=True):
            buffer[rows, :, positions] = new
        return self._buffer[layer, 0, :, :, :used], self._buffer[layer, 1, :, :, :used]

    def select(self, rows: list[int]) -> CacheState:
        """The state of these rows."""
        state = object.__new__(CacheState)
        state._limit = self._limit
        state.lengths = self.lengths[rows]
        state._buffer = self._buffer[:, :, rows]
        return state


def join(states: Sequence[CacheState]) -> CacheState:
    """One state of the rows of all."""
    joined = object.__new__(CacheState)
    joined._limit = states[0]._limit
    joined.lengths = np.concatenate([state.lengths for state in states])
    capacity = int(joined.lengths.max())
    shape = list(states[0]._buffer.shape)
    shape[2], shape[4] = len(joined), capacity
    joined._buffer = np.zeros(shape, np.float32)
    row = 0
    for state in states:
        used = min(state._buffer.shape[4], capacity)
        joined._buffer[:, :, row : row + len(state), :, :used] = state._buffer[..., :used, :]
        row += len(state)
    return joined
