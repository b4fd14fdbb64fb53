"""The step protocol on numpy."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln.errors import ArgumentError
from wordkiln.models.config import ModelConfig
from wordkiln.runtime import _cache, _recurrent
from wordkiln.runtime._cache import CacheState
from wordkiln.runtime._decoder import Decoder
from wordkiln.runtime._recurrent import Recurrent, RecurrentState
from wordkiln.runtime._weights import Array, load_weights

Ids = NDArray[np.int64]
# Logits that `score` holds at once: they bound its memory.
_LOGITS = 1 << 24


class StepState:
    """A batch of rows in the middle of their texts. Opaque: give it to `step`, `select` and `join`."""

    def __init__(self, inner: RecurrentState | CacheState) -> None:
        self._inner = inner

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._inner)


class RuntimeModel:
    """A finished language model, stepped on numpy float32 arrays; no torch.

    Args:
        config: its shape.
        weights: float32, by the names of the checkpoint. The dictionary is consumed.

    Attributes:
        config: see above.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Array]) -> None:
        self.config = config
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self._output_weight = weights[head]
        self._network: Any = Recurrent(config, weights) if config.is_recurrent else Decoder(config, weights)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int | None:
        """Most ids that a row can hold, or None: no limit."""
        return self.config.max_position_embeddings

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a document, or None."""
        return self.config.eos_token_id

    def begin(self, prompts: Sequence[Sequence[int]]) -> tuple[StepState, Array]:
        """Read prompts of any lengths, at least one id each.

        Returns:
            The state, and float32 logits [B, V] after the last id of each prompt.

        Raises:
            ArgumentError: there is no prompt; one is empty, too long, or holds something that is no id.
        """
        ids, lengths = self._padded("prompts", prompts)
        state, hidden = self._network.prefill(ids, lengths)
        return StepState(state), hidden @ self._output_weight.T

    def step(self, state: StepState, ids: NDArray[Any]) -> Array:
        """Append one id to each row of `state`, in place.

        Args:
            state: of B rows.
            ids: integers [B].

        Returns:
            float32 logits [B, V].

        Raises:
            ArgumentError: there is not one id for each row, an id is out of range, or a row is full.
        """
        array = _checked_ids("ids", ids, self.vocab_size)
        if len(array) != len(state):
            raise ArgumentError(f"ids: {len(array)} ids for {len(state)} rows")
        if isinstance(state._inner, CacheState) and state._inner.lengths.max() == self.max_positions:
            row = int(state._inner.lengths.argmax())
            raise ArgumentError(f"row {row}: is max_position_embeddings={self.max_positions} ids long and cannot go on")
        hidden: Array = self._network.step(state._inner, array)
        return hidden @ self._output_weight.T

    def select(self, state: StepState, rows: Sequence[int]) -> StepState:
        """The state of these rows alone, in this order; a row may be named twice.

        Raises:
            ArgumentError: no row is named, or one that does not exist.
        """
        chosen = [operator.index(row) for row in rows]
        if not chosen:
            raise ArgumentError("rows: must name at least one")
        for row in chosen:
            if not 0 <= row < len(state):
                raise ArgumentError(f"rows: {row}: must be 0 to {len(state) - 1}")
        return StepState(state._inner.select(chosen))

    def join(self, states: Sequence[StepState]) -> StepState:
        """One state of the rows of all, in this order. The states given may not be used any more.

        Raises:
            ArgumentError: there is no state.
        """
        if not states:
            raise ArgumentError("states: must hold at least one")
        join: Any = _recurrent.join if self.config.is_recurrent else _cache.join
        return StepState(join([state._inner for state in states]))

    def score(self, rows: Sequence[Sequence[int]]) -> list[Array]:
        """How probable texts are.

        Returns:
            For each row of n ids float32 natural log-probabilities [n - 1] of ids 1 to n - 1, each after those before.

        Raises:
            ArgumentError: as `begin`.
        """
        ids, lengths = self._padded("rows", rows)
        scores = np.empty((len(ids), ids.shape[1] - 1), np.float32)
        start = 0
        # The last id is followed by nothing that could be scored.
        for hidden in self._network.outputs(ids[:, :-1]):
            stop = start + hidden.shape[1]
            scores[:, start:stop] = self._log_probabilities(hidden, ids[:, start + 1 : stop + 1])
            start = stop
        return [row[: length - 1] for row, length in zip(scores, lengths, strict=True)]

    def _log_probabilities(self, hidden: Array, targets: Ids) -> Array:
        """Of `targets` [B, S] under the logits of `hidden` [B, S, E]."""
        flat, ids = hidden.reshape(-1, hidden.shape[2]), targets.ravel()
        result = np.empty(len(ids), np.float32)
        at_once = max(1, _LOGITS // self.vocab_size)
        for start in range(0, len(ids), at_once):
            logits = flat[start : start + at_once] @ self._output_weight.T
            some = ids[start : start + at_once]
            highest = logits.max(axis=1)
            chosen = logits[np.arange(len(some)), some]
            total = np.exp(logits - highest[:, None]).sum(axis=1)
            result[start : start + at_once] = chosen - highest - np.log(total)
        return result.reshape(targets.shape)

    def _padded(self, name: str, rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Rows of ids, checked, filled up on the right; and their lengths."""
        checked = [self._checked_row(f"{name}[{row}]", ids) for row, ids in enumerate(rows)]
        if not checked:
            raise ArgumentError(f"{name}: must hold at least one")
        lengths = np.array([len(row) for row in checked], np.int64)
        ids = np.zeros((len(checked), lengths.max()), np.int64)
        for row, own in enumerate(checked):
            ids[row, : len(own)] = own
        return ids, lengths

    def _checked_row(self, name: str, row: Sequence[int]) -> Ids:
        ids = _checked_ids(name, row, self.vocab_size)
        if self.max_positions is not None and len(ids) > self.max_positions:
            raise ArgumentError(f"{name}: {len(ids)} ids: must be at most max_position_embeddings={self.max_positions}")
        return ids


def load_model(path: str | os.PathLike[str]) -> RuntimeModel:
    """Open a checkpoint directory (config.json, model.safetensors).

    Raises:
        PathError: a file is missing or cannot be read.
        FormatError: the config is of no model that we know, or the weights are not exactly those of the config.
    """
    config = ModelConfig.load(path)
    return RuntimeModel(config, load_weights(Path(path), config))


def _checked_ids(name: str, ids: Any, vocab_size: int) -> Ids:
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
