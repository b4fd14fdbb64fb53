"""The layers of LSTM, GRU and tanh-RNN language models on our kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wordkiln.models.config import ModelConfig
from wordkiln.models.layout import has_projection
from wordkiln.runtime import _kernel_calls
from wordkiln.runtime._kernel_calls import DType, PackedLinear
from wordkiln.runtime._weights import Array

Ids = NDArray[np.int64]
# Positions of a prompt whose outputs `outputs` gives at once: bounds its memory.
_CHUNK = 256
# Ids that are read in one call of the kernel, whose input weights are read once for all of them; bounds its memory, and
# how long Ctrl-C waits.
_AT_ONCE = 64


class RecurrentState:
    """Hidden states (and an LSTM's cells) of B rows: each [num_hidden_layers, B, hidden_size]."""

    def __init__(self, hidden: Array, cells: Array | None) -> None:
        self.hidden = hidden
        self.cells = cells

    def __len__(self) -> int:
        """B."""
        return int(self.hidden.shape[1])

    def select(self, rows: list[int]) -> RecurrentState:
        """The state of these rows."""
        # Not self.hidden[:, rows], which need not be contiguous.
        hidden, cells = self.hidden.take(rows, axis=1), None if self.cells is None else self.cells.take(rows, axis=1)
        return RecurrentState(hidden, cells)


def join(states: Sequence[RecurrentState]) -> RecurrentState:
    """One state of the rows of all."""
    hidden = np.concatenate([state.hidden for state in states], axis=1)
    cells = [state.cells for state in states if state.cells is not None]
    return RecurrentState(hidden, np.concatenate(cells, axis=1) if cells else None)


_KINDS = {"lstm": "lstm", "gru": "gru", "rnn": "tanh"}


class Recurrent:
    """Embedding, stacked layers, and the projection to a tied embedding's width where there is one.

    Prompts run on the same packed weights as steps, all rows together: there is no second copy of any.

    Args:
        config: the shape.
        weights: float32, by the names of the checkpoint.
        dtype: of the packed weights.
        head: the output layer: a tied embedding's rows are taken out of it.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Array], dtype: DType, head: PackedLinear) -> None:
        self._config = config
        embedding = weights["model.embed_tokens.weight"]
        self._embed: Callable[[Ids], Array] = head.rows if config.tie_word_embeddings else embedding.__getitem__
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers = [
            tuple(np.ascontiguousarray(weights[f"model.rnn.{name}_l{number}"]) for name in names)
            for number in range(config.num_hidden_layers)
        ]
        self._step = _kernel_calls.RecurrentStep(_KINDS[config.kind], dtype, layers)
        self._projection = weights["model.projection.weight"] if has_projection(config) else None

    def prefill(self, ids: Ids, lengths: Ids) -> tuple[RecurrentState, Array]:
        """Read prompts, filled up on the right: ids [B, T], lengths [B] -> the state, and [B, E] at each last id."""
        state = self._empty_state(len(ids))
        for start in range(0, ids.shape[1], _CHUNK):
            self._advance(state, ids[:, start : start + _CHUNK], lengths - start)
        return state, self._projected(state.hidden[-1])

    def step(self, state: RecurrentState, ids: Ids) -> Array:
        """Append ids [B] to `state`: [B, E]."""
        self._step(self._embed(ids), state.hidden, state.cells)
        return self._projected(state.hidden[-1])

    def outputs(self, ids: Ids) -> Iterator[Array]:
        """Behind every one of ids [B, T]: [B, S, E] for S of them at a time."""
        state = self._empty_state(len(ids))
        for start in range(0, ids.shape[1], _CHUNK):
            chunk = ids[:, start : start + _CHUNK]
            hidden = self._advance(state, chunk, np.full(len(ids), chunk.shape[1]))
            yield self._projected(hidden.transpose(1, 0, 2))

    def _empty_state(self, batch: int) -> RecurrentState:
        shape = (self._config.num_hidden_layers, batch, self._config.hidden_size)
        is_lstm = self._config.kind == "lstm"
        return RecurrentState(np.zeros(shape, np.float32), np.zeros(shape, np.float32) if is_lstm else None)

    def _projected(self, hidden: Array) -> Array:
        return hidden if self._projection is None else hidden @ self._projection.T

    def _advance(self, state: RecurrentState, ids: Ids, lengths: Ids) -> Array:
        """Read ids [B, T]; a row's state becomes that behind its `lengths[row]` first ids; 0 or less: it stays.

        Returns:
            The last layer's hidden states [T, B, hidden_size], where a row has that many ids.
        """
        out = np.zeros((ids.shape[1], len(ids), self._config.hidden_size), np.float32)
        for begin, end, rows in _spans(np.minimum(lengths, ids.shape[1])):
            x = self._embed(ids[rows, begin:end].T)
            if len(rows) == len(ids):
                out[begin:end] = self._step.read(x, state.hidden, state.cells)
                continue
            some = state.select(rows.tolist())
            out[begin:end, rows] = self._step.read(x, some.hidden, some.cells)
            state.hidden[:, rows] = some.hidden
            if state.cells is not None:
                state.cells[:, rows] = some.cells
        return out


def _spans(lengths: Ids) -> Iterator[tuple[int, int, Ids]]:
    """Positions begin..end that may be read in one call, and the rows [B] that have all of them."""
    begin = 0
    while len(rows := np.flatnonzero(lengths > begin)):
        end = min(int(lengths[rows].min()), begin + max(1, _AT_ONCE // len(rows)))
        yield begin, end, rows
        begin = end
