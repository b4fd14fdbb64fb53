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


def select_rows(state: State, rows: Sequence[int]) -> State:
    """A copy that holds `rows` of `state`, in this order; a row may be named several times."""
    if isinstance(state, KeyValueCache):
        index = torch.tensor(rows, device=state.layers[0][0].device)
        layers = tuple((keys[index], values[index]) for keys, values in state.layers)
        return KeyValueCache(layers, tuple(state.lengths[row] for row in rows))
    index = torch.tensor(rows, device=state[0].device)
    return tuple(part[:, index] for part in state)
