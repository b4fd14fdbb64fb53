"""Llama-shaped decoders on numpy: RMSNorm, rotary positions, grouped-query attention over a cache, SwiGLU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wordkiln.models.config import ModelConfig
from wordkiln.runtime import _kernel_calls
from wordkiln.runtime._cache import CacheState
from wordkiln.runtime._weights import Array

Ids = NDArray[np.int64]
# Tokens of a prompt that are read at once: bounds the memory, and how long Ctrl-C waits.
_CHUNK = 256


class _Layer:
    """Weights of one layer; those that meet the same input are one matrix."""

    def __init__(self, weights: dict[str, Array], number: int) -> None:
        def take(*names: str) -> Array:
            return np.concatenate([weights.pop(f"model.layers.{number}.{name}.weight") for name in names])

        self.qkv = take("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.attention_output = take("self_attn.o_proj")
        self.gate_and_up = take("mlp.gate_proj", "mlp.up_proj")
        self.down = take("mlp.down_proj")
        self.attention_norm = take("input_layernorm")
        self.mlp_norm = take("post_attention_layernorm")


class Decoder:
    """The decoder; takes its layers' weights out of `weights`, so that no weight is kept twice."""

    def __init__(self, config: ModelConfig, weights: dict[str, Array]) -> None:
        self._config = config
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self._layers = [_Layer(weights, number) for number in range(config.num_hidden_layers)]
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        self._frequencies = np.float32(config.rope_theta) ** -exponents

    def prefill(self, ids: Ids, lengths: Ids) -> tuple[CacheState, Array]:
        """Read prompts, filled up on the right: ids [B, T], lengths [B] -> the state, and [B, E] at each last id.

        What stands behind a row's end is computed too: no earlier token sees it, and later ones take its place.
        """
        state = CacheState(self._config, len(ids), ids.shape[1])
        last = np.empty((len(ids), self._config.hidden_size), np.float32)
        for start in range(0, ids.shape[1], _CHUNK):
            chunk = ids[:, start : start + _CHUNK]
            positions = np.broadcast_to(np.arange(start, start + chunk.shape[1]), chunk.shape)
            x = self._forward(state, chunk, positions, None)
            rows = np.flatnonzero((lengths > start) & (lengths <= start + chunk.shape[1]))
            last[rows] = x[rows, lengths[rows] - 1 - start]
        state.lengths = lengths.copy()
        return state, self._normalised(last, self._norm)

    def step(self, state: CacheState, ids: Ids) -> Array:
        """Append ids [B] to `state`: [B, E]."""
        state.reserve(int(state.lengths.max()) + 1)
        lengths = state.lengths + 1
        x = self._forward(state, ids[:, None], state.lengths[:, None], lengths)
        state.lengths = lengths
        return self._normalised(x[:, 0], self._norm)

    def outputs(self, ids: Ids) -> Iterator[Array]:
        """Behind every one of ids [B, T]: [B, S, E] for S of them at a time."""
        state = CacheState(self._config, len(ids), ids.shape[1])
        for start in range(0, ids.shape[1], _CHUNK):
            chunk = ids[:, start : start + _CHUNK]
            positions = np.broadcast_to(np.arange(start, start + chunk.shape[1]), chunk.shape)
            yield self._normalised(self._forward(state, chunk, positions, None), self._norm)

    def _forward(self, state: CacheState, ids: Ids, positions: Ids, key_lengths: Ids | None) -> Array:
        """[B, S] ids at [B, S] positions -> [B, S, E], the cache filled up to the last position."""
        angles = positions[:, :, None, None].astype(np.float32) * self._frequencies
        rotation = (np.cos(angles), np.sin(angles))
        x = self._embedding[ids]
        for number, layer in enumerate(self._layers):
            x += self._attention(
                state, number, self._normalised(x, layer.attention_norm), positions, rotation, key_lengths
            )
            x += _mlp(layer, self._normalised(x, layer.mlp_norm))
        return x

    def _attention(
        self,
        state: CacheState,
        number: int,
        x: Array,
        positions: Ids,
        rotation: tuple[Array, Array],
        key_lengths: Ids | None,
    ) -> Array:
        config, layer = self._config, self._layers[number]
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        qkv = (x @ layer.qkv.T).reshape(*x.shape[:2], heads + 2 * kv_heads, config.head_dim)
        q = _rotate(qkv[:, :, :heads], rotation)
        k = _rotate(qkv[:, :, heads : heads + kv_heads], rotation)
        keys, values = state.write(number, k, qkv[:, :, heads + kv_heads :], positions)
        out = _kernel_calls.attention(q, keys, values, key_lengths, config.head_dim**-0.5)
        output: Array = out.reshape(*x.shape[:2], heads * config.head_dim) @ layer.attention_output.T
        return output

    def _normalised(self, x: Array, weight: Array) -> Array:
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        normalised: Array = x / np.sqrt(mean_square + np.float32(self._config.rms_norm_eps)) * weight
        return normalised


def _mlp(layer: _Layer, x: Array) -> Array:
    gate, up = np.split(x @ layer.gate_and_up.T, 2, axis=-1)
    # silu by tanh, which does not overflow.
    silu = gate * (np.float32(0.5) * (np.tanh(gate * np.float32(0.5)) + np.float32(1)))
    output: Array = (silu * up) @ layer.down.T
    return output


def _rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Turn each pair (x[i], x[i + D/2]) by its angle (Su et al. 2021, RoFormer, section 3.2.2)."""
    cos, sin = rotation
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
