"""Token ids and numbers of rows as models of either backend take them."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.errors import ArgumentError


def checked_ids(name: str, ids: Any, vocab_size: int) -> NDArray[np.int64]:
    """A flat sequence of at least one id as int64; refuses everything else by its name."""
    try:
        array = np.asarray(ids)
    except (ValueError, OverflowError) as error:
        raise ArgumentError(f"{name}: must be a flat sequence of integers") from error
    if array.ndim != 1 or not len(array):
        raise ArgumentError(f"{name}: shape {list(array.shape)}: must be a flat sequence of at least one id")
    if array.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: {array.dtype}: must be integers")
    if not 0 <= array.min() <= array.max() < vocab_size:
        raise ArgumentError(f"{name}: ids from {array.min()} to {array.max()}: must be 0 to {vocab_size - 1}")
    return array.astype(np.int64)


def checked_unused(unused_ids: Collection[int], vocab_size: int) -> NDArray[np.int64]:
    """Ids of a model that are no tokens, rising, each once; refuses what is no id, and all of them."""
    unused = np.unique(checked_ids("unused_ids", [*unused_ids, 0], vocab_size)[:-1])
    if len(unused) == vocab_size:
        raise ArgumentError("unused_ids: are all ids of the model")
    return unused


def checked_selection(rows: Sequence[int], count: int) -> list[int]:
    """At least one number of `count` rows; refuses everything else."""
    try:
        chosen = [operator.index(row) for row in rows]
    except TypeError as error:
        raise ArgumentError("rows: must be a sequence of integers") from error
    if not chosen:
        raise ArgumentError("rows: must name at least one")
    for row in chosen:
        if not 0 <= row < count:
            raise ArgumentError(f"rows: {row}: must be 0 to {count - 1}")
    return chosen
