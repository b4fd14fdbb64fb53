"""What a model carries from one call to the next: recurrent state, or a transformer's cache of keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the tokens seen so far; rows may have different lengths and do not see each other.

    Attributes:
        layers: per layer (keys, values), each [B, capacity, Hkv, D]; what lies behind a row's length is not read.
        lengths: tokens seen, per row.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    lengths: tuple[int, ...]


# lstm: (h, c); gru and rnn: (h,); each [num_hidden_layers, B, hidden_size].
State = tuple[Tensor, ...] | KeyValueCache


def batch_size(state: State) -> int:
    """Number of rows."""
    return len(state.lengths) if isinstance(state, KeyValueCache) else state[0].shape[1]


def detach_state(state: State) -> State:
    """The same state without its history: truncated back-propagation through time stops here."""
    if isinstance(state, KeyValueCache):
        layers = tuple((keys.detach(), values.detach()) for keys, values in state.layers)
        return KeyValueCache(layers, state.lengths)
    return tuple(part.detach() for part in state)


def join_rows(states: Sequence[State]) -> State:
    """One state of the rows of all, in this order; all are of one model."""
    if not all(isinstance(state, KeyValueCache) for state in states):
        return tuple(torch.cat(parts, 1) for parts in zip(*states, strict=True))
    caches = [state for state in states if isinstance(state, KeyValueCache)]
    longest = max(max(cache.lengths) for cache in caches)
    layers = tuple(
        (
            _stacked([cache.layers[depth][0] for cache in caches], longest),
            _stacked([cache.layers[depth][1] for cache in caches], longest),
        )
        for depth in range(len(caches[0].layers))
    )
    return KeyValueCache(layers, tuple(length for cache in caches for length in cache.lengths))


def _stacked(parts: Sequence[Tensor], length: int) -> Tensor:
    """Keys or values [B, capacity, Hkv, D] of several caches, each cut or filled up with zeros to `length`."""
    rows = [part[:, :length] for part in parts]
    # Zeros, not whatever was there: a NaN behind a row's end would pass through a weight of 0.
    return torch.cat([torch.nn.functional.pad(row, (0, 0, 0, 0, 0, length - row.shape[1])) for row in rows])


def select_rows(state: State, rows: Sequence[int]) -> State:
    """A copy that holds `rows` of `state`, in this order; a row may be named several times."""
    if isinstance(state, KeyValueCache):
        index = torch.tensor(rows, device=state.layers[0][0].device)
        layers = tuple((keys[index], values[index]) for keys, values in state.layers)
        return KeyValueCache(layers, tuple(state.lengths[row] for row in rows))
    index = torch.tensor(rows, device=state[0].device)
    return tuple(part[:, index] for part in state)
