"""The step protocol of LSTM, GRU and tanh-RNN language models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln._ids import checked_ids, checked_selection
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.models.config import ModelConfig
from wordkiln.runtime._kernel_calls import DType, PackedLinear, check_dtype
from wordkiln.runtime._recurrent import Recurrent, RecurrentState, join
from wordkiln.runtime._weights import Array, load_weights

Ids = NDArray[np.int64]
# Logits that `score` holds at once: they bound its memory.
_LOGITS = 1 << 24


class RecurrentModel:
    """A finished recurrent language model, stepped on numpy float32 arrays; no torch.

    Args:
        config: its shape.
        weights: float32, by the names of the checkpoint.
        dtype: of the weights in memory, but for an embedding that is not the output layer too: "float32", "bfloat16"
            (rounded to nearest even) or "int8" (127 steps to either side of 0, a scale for each gate row, or for each
            64 inputs of the output layer). Sums are float32. Default "float32".

    Attributes:
        config: see above.

    Raises:
        ArgumentError: another dtype, or a weight that is not finite for "int8".
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Array], dtype: DType = "float32") -> None:
        check_dtype(dtype)
        self.config = config
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self._head = PackedLinear(weights[head], dtype)
        self._network = Recurrent(config, weights, dtype, self._head)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> None:
        """None: a row has no limit."""

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a document, or None."""
        return self.config.eos_token_id

    def begin(self, prompts: Sequence[Sequence[int]]) -> tuple[RecurrentState, Array]:
        """Read prompts of any lengths, at least one id each.

        Returns:
            The state, and float32 logits [B, V] after the last id of each prompt.

        Raises:
            ArgumentError: there is no prompt; one is empty, too long, or holds something that is no id.
        """
        ids, lengths = self._padded("prompts", prompts)
        state, hidden = self._network.prefill(ids, lengths)
        return state, self._head(hidden)

    def step(self, state: RecurrentState, ids: NDArray[Any]) -> Array:
        """Append one id to each row of `state`, in place.

        Args:
            state: of B rows.
            ids: integers [B].

        Returns:
            float32 logits [B, V].

        Raises:
            ArgumentError: there is not one id for each row, or an id is out of range.
        """
        array = checked_ids("ids", ids, self.vocab_size)
        if len(array) != len(state):
            raise ArgumentError(f"ids: {len(array)} ids for {len(state)} rows")
        hidden: Array = self._network.step(state, array)
        return self._head(hidden)

    def select(self, state: RecurrentState, rows: Sequence[int]) -> RecurrentState:
        """The state of these rows alone, in this order; a row may be named twice.

        Raises:
            ArgumentError: no row is named, or one that does not exist.
        """
        return state.select(checked_selection(rows, len(state)))

    def join(self, states: Sequence[RecurrentState]) -> RecurrentState:
        """One state of the rows of all, in this order. The states given may not be used any more.

        Raises:
            ArgumentError: there is no state.
        """
        if not states:
            raise ArgumentError("states: must hold at least one")
        return join(states)

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
            logits = self._head(flat[start : start + at_once])
            some = ids[start : start + at_once]
            highest = logits.max(axis=1)
            chosen = logits[np.arange(len(some)), some]
            total = np.exp(logits - highest[:, None]).sum(axis=1)
            result[start : start + at_once] = chosen - highest - np.log(total)
        return result.reshape(targets.shape)

    def _padded(self, name: str, rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Rows of ids, checked, filled up on the right; and their lengths."""
        checked = [checked_ids(f"{name}[{row}]", ids, self.vocab_size) for row, ids in enumerate(rows)]
        if not checked:
            raise ArgumentError(f"{name}: must hold at least one")
        lengths = np.array([len(row) for row in checked], np.int64)
        ids = np.zeros((len(checked), lengths.max()), np.int64)
        for row, own in enumerate(checked):
            ids[row, : len(own)] = own
        return ids, lengths


def load_model(path: str | os.PathLike[str], dtype: DType = "float32") -> RecurrentModel:
    """Open a checkpoint directory (config.json, model.safetensors) of a recurrent model.

    Raises:
        PathError: a file is missing or cannot be read.
        FormatError: the config is of no model that we know, or the weights are not exactly those of the config.
    """
    config = ModelConfig.load(path)
    if not config.is_recurrent:
        raise FormatError(f"{path}: holds a model of kind={config.kind!r}: interop.open_model opens it")
    return RecurrentModel(config, load_weights(Path(path), config), dtype)
