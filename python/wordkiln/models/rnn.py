"""The recurrent language model: embedding, stacked LSTM, GRU or tanh layers (Zaremba et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wordkiln import nn as kiln_nn
from wordkiln.errors import ArgumentError
from wordkiln.models.config import ModelConfig
from wordkiln.models.layout import has_projection
from wordkiln.models.state import KeyValueCache, State, select_rows

_MODULES: dict[str, type[kiln_nn.LSTM | kiln_nn.GRU | kiln_nn.RNN]] = {
    "lstm": kiln_nn.LSTM,
    "gru": kiln_nn.GRU,
    "rnn": kiln_nn.RNN,
}


class Recurrent(nn.Module):
    """Ids to hidden states; dropout on the ways that are not recurrent (Zaremba et al. 2014, section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = _MODULES[config.kind](
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            # torch warns about dropout between the layers of one layer.
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.projection = (
            nn.Linear(config.hidden_size, config.embedding_size, bias=False) if has_projection(config) else None
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, state: State | None = None, in_place: bool = False) -> tuple[Tensor, State]:
        """Continue `state` by `ids`.

        Args:
            ids: int64 [B, T].
            state: what the last call gave, or None for zeros.
            in_place: no difference here: the new state is a new tensor.

        Returns:
            Hidden states [B, T, E] (E = embedding_size behind a projection, else hidden_size) and the new state.

        Raises:
            ArgumentError: `state` is of another kind of model.
        """
        output, last = self.rnn(self.dropout(self.embed_tokens(ids)), self._torch_state(state))
        output = self.dropout(output)
        if self.projection is not None:
            output = self.projection(output)
        return output, last if isinstance(last, tuple) else (last,)

    def prefill(self, ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, State]:
        """Read prompts of different lengths at once: `ids` [B, T] filled up on the right.

        From one length to the next longer one, only the rows that go on are run.

        Returns:
            The hidden state at each row's last id, [B, E], and the state.
        """
        start = min(lengths)
        hidden, state = self(ids[:, :start])
        hidden = hidden[:, -1]
        for stop in sorted(set(lengths))[1:]:
            rows = [row for row, length in enumerate(lengths) if length >= stop]
            output, part = self(ids[rows, start:stop], select_rows(state, rows))
            hidden[rows] = output[:, -1]
            for whole, new in zip(state, part, strict=True):
                whole[:, rows] = new
            start = stop
        return hidden, state

    def _torch_state(self, state: State | None) -> Tensor | tuple[Tensor, ...] | None:
        if state is None:
            return None
        parts = 2 if self.config.kind == "lstm" else 1
        if isinstance(state, KeyValueCache) or len(state) != parts:
            raise ArgumentError(
                f"state: must be the tuple of {parts} tensors that a model of kind {self.config.kind} gave"
            )
        return state if parts == 2 else state[0]
