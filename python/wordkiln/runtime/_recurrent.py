"""LSTM, GRU and tanh-RNN language models on numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wordkiln.models.config import ModelConfig
from wordkiln.models.layout import has_projection
from wordkiln.runtime import _kernel_calls
from wordkiln.runtime._weights import Array

Ids = NDArray[np.int64]
# Tokens of a prompt that are read at once: bounds the memory, and how long Ctrl-C waits.
_CHUNK = 256


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
        return RecurrentState(self.hidden[:, rows], None if self.cells is None else self.cells[:, rows])


def join(states: Sequence[RecurrentState]) -> RecurrentState:
    """One state of the rows of all."""
    hidden = np.concatenate([state.hidden for state in states], axis=1)
    cells = [state.cells for state in states if state.cells is not None]
    return RecurrentState(hidden, np.concatenate(cells, axis=1) if cells else None)


class _Layer:
    def __init__(self, weights: dict[str, Array], number: int) -> None:
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = (
            weights[f"model.rnn.{name}_l{number}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

    def gru(self, x: Array, h: Array) -> Iterator[Array]:
        """torch.nn.GRU's form: the reset gate stands behind the product (gate order r, z, n)."""
        size = h.shape[1]
        for inputs in x @ self.weight_ih.T + self.bias_ih:
            recurrent = h @ self.weight_hh.T + self.bias_hh
            gates = _sigmoid(inputs[:, : 2 * size] + recurrent[:, : 2 * size])
            reset, update = gates[:, :size], gates[:, size:]
            new = np.tanh(inputs[:, 2 * size :] + reset * recurrent[:, 2 * size :])
            h = new + update * (h - new)
            yield h

    def rnn(self, x: Array, h: Array) -> Iterator[Array]:
        for inputs in x @ self.weight_ih.T + (self.bias_ih + self.bias_hh):
            h = np.tanh(inputs + h @ self.weight_hh.T)
            yield h

    def lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates = x @ self.weight_ih.T + (self.bias_ih + self.bias_hh)
        return _kernel_calls.lstm(gates, self.weight_hh, h, c)


class Recurrent:
    """Embedding, stacked layers, and the projection to a tied embedding's width where there is one."""

    def __init__(self, config: ModelConfig, weights: dict[str, Array]) -> None:
        self._config = config
        self._embedding = weights["model.embed_tokens.weight"]
        self._layers = [_Layer(weights, number) for number in range(config.num_hidden_layers)]
        self._projection = weights["model.projection.weight"] if has_projection(config) else None

    def prefill(self, ids: Ids, lengths: Ids) -> tuple[RecurrentState, Array]:
        """Read prompts, filled up on the right: ids [B, T], lengths [B] -> the state, and [B, E] at each last id."""
        state = self._empty_state(len(ids))
        for start in range(0, ids.shape[1], _CHUNK):
            self._advance(state, ids[:, start : start + _CHUNK], lengths - start)
        return state, self._projected(state.hidden[-1])

    def step(self, state: RecurrentState, ids: Ids) -> Array:
        """Append ids [B] to `state`: [B, E]."""
        self._advance(state, ids[:, None], np.ones(len(ids), np.int64))
        return self._projected(state.hidden[-1])

    def outputs(self, ids: Ids) -> Iterator[Array]:
        """Behind every one of ids [B, T]: [B, S, E] for S of them at a time."""
        state = self._empty_state(len(ids))
        for start in range(0, ids.shape[1], _CHUNK):
            chunk = ids[:, start : start + _CHUNK]
            hidden = self._advance(state, chunk, np.full(len(ids), chunk.shape[1]))
            yield self._projected(hidden.transpose(1, 0, 2))

    def _empty_state(self, batch: int) -> RecurrentState:
        shape = (len(self._layers), batch, self._config.hidden_size)
        is_lstm = self._config.kind == "lstm"
        return RecurrentState(np.zeros(shape, np.float32), np.zeros(shape, np.float32) if is_lstm else None)

    def _projected(self, hidden: Array) -> Array:
        return hidden if self._projection is None else hidden @ self._projection.T

    def _advance(self, state: RecurrentState, ids: Ids, lengths: Ids) -> Array:
        """Read ids [B, T]; a row's state becomes that behind its `lengths[row]` first ids; 0 or less: it stays.

        Returns:
            The last layer's hidden states [T, B, hidden_size].
        """
        rows = np.flatnonzero(lengths > 0)
        last = np.minimum(lengths[rows], ids.shape[1]) - 1
        x = np.ascontiguousarray(self._embedding[ids.T])
        for number, layer in enumerate(self._layers):
            h = state.hidden[number]
            if state.cells is not None:
                x, cells = layer.lstm(x, h, state.cells[number])
                state.cells[number, rows] = cells[last, rows]
            else:
                step = layer.gru if self._config.kind == "gru" else layer.rnn
                x = np.stack(list(step(x, h)))
            state.hidden[number, rows] = x[last, rows]
        return x


def _sigmoid(x: Array) -> Array:
    """By tanh, which does not overflow."""
    gate: Array = np.float32(0.5) * (np.tanh(x * np.float32(0.5)) + np.float32(1))
    return gate
