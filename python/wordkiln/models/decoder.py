"""The transformer decoder: Llama's shape (Touvron et al. 2023, section 2.2) with Hugging Face's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wordkiln.errors import ArgumentError
from wordkiln.models.config import ModelConfig
from wordkiln.models.layers import MLP, Attention, RMSNorm, Slots
from wordkiln.models.state import KeyValueCache, State


class DecoderLayer(nn.Module):
    """Attention and MLP, each normalised before and added to its input; dropout as in Vaswani et al. 2017, 5.4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, slots: Slots, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[B, T, hidden_size] -> the same shape, and the layer's keys and values."""
        attended, past = self.self_attn(self.input_layernorm(x), slots, past)
        normed, x = self.post_attention_layernorm(self.dropout(attended), x)
        return x + self.dropout(self.mlp(normed)), past


class Decoder(nn.Module):
    """Embedding, layers and last norm: ids to hidden states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, state: State | None = None, in_place: bool = False) -> tuple[Tensor, KeyValueCache]:
        """Continue `state` by `ids`.

        Args:
            ids: int64 [B, T].
            state: what the last call gave, or None.
            in_place: write into the buffers of `state`, which is of no use afterwards. Default: leave it as it is.

        Returns:
            Hidden states [B, T, hidden_size] and the new state.

        Raises:
            ArgumentError: a row would become longer than max_position_embeddings; `state` is of another kind of model.
        """
        if state is not None and not isinstance(state, KeyValueCache):
            raise ArgumentError("state: must be the KeyValueCache that a transformer gave")
        self._check_positions(ids.shape[1], state)
        x = self.dropout(self.embed_tokens(ids))
        slots = Slots.plan(self.config, x, state, in_place)
        layers = []
        for depth, layer in enumerate(self.layers):
            x, past = layer(x, slots, None if state is None else state.layers[depth])
            layers.append(past)
        return self.norm(x), KeyValueCache(tuple(layers), slots.lengths)

    def prefill(self, ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, KeyValueCache]:
        """Read prompts of different lengths at once: `ids` [B, T] filled up on the right.

        A row's own tokens never see the filling behind them, and its cache ends at its length.

        Returns:
            The hidden state at each row's last id, [B, hidden_size], and the state.
        """
        hidden, cache = self(ids)
        last = torch.tensor(lengths, device=ids.device) - 1
        return hidden[torch.arange(len(lengths), device=ids.device), last], KeyValueCache(cache.layers, tuple(lengths))

    def _check_positions(self, new: int, state: KeyValueCache | None) -> None:
        limit = self.config.max_position_embeddings
        before = 0 if state is None else max(state.lengths)
        if limit is not None and before + new > limit:
            raise ArgumentError(
                f"{before} tokens and {new} more: must be at most max_position_embeddings={limit} in all"
            )
