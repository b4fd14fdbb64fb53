"""The plain definition of what the runtime computes, in float64: one text at a time, no cache, loops over heads.

Tested against Hugging Face's models; the kernels are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wordkiln.runtime.architecture import Architecture, TensorSource

Array = NDArray[np.float64]


def logits(architecture: Architecture, source: TensorSource, ids: Sequence[int]) -> Array:
    """The logits after each id of a text: ids [T] -> [T, V]."""
    weights = _Weights(source)
    x = weights.rows("embed", ids)
    if architecture.rope_frequencies is None:
        x = x + weights.rows("positions", range(len(ids)))
    for layer in range(architecture.num_layers):
        x = x + _attention(
            architecture, weights, layer, _norm(architecture, weights, f"layers.{layer}.attention_norm", x)
        )
        x = x + _mlp(architecture, weights, layer, _norm(architecture, weights, f"layers.{layer}.mlp_norm", x))
    head = "head" if "head.weight" in source.names() else "embed"
    return weights.linear(head, _norm(architecture, weights, "norm", x))


class _Weights:
    def __init__(self, source: TensorSource) -> None:
        self._source = source

    def get(self, name: str) -> Array:
        return self._source.read(name).astype(np.float64)

    def rows(self, name: str, ids: Sequence[int]) -> Array:
        return self._source.read(f"{name}.weight")[list(ids)].astype(np.float64)

    def linear(self, name: str, x: Array) -> Array:
        """[T, inputs] -> [T, outputs]."""
        y: Array = x @ self.get(f"{name}.weight").T
        return y + self.get(f"{name}.bias") if f"{name}.bias" in self._source.names() else y


def _norm(architecture: Architecture, weights: _Weights, name: str, x: Array) -> Array:
    weight = weights.get(f"{name}.weight")
    if architecture.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    y: Array = _root_mean_square(x, architecture.norm_eps) * weight
    return y if architecture.norm == "rms" else y + weights.get(f"{name}.bias")


def _root_mean_square(x: Array, eps: float) -> Array:
    y: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    return y


def _attention(architecture: Architecture, weights: _Weights, layer: int, x: Array) -> Array:
    """Grouped-query attention: query head h reads key and value head h // (H / Hkv)."""
    name = f"layers.{layer}"
    q, k, v = (_heads(architecture, weights.linear(f"{name}.{part}", x)) for part in ("q", "k", "v"))
    if architecture.qk_norm:
        q = _root_mean_square(q, architecture.norm_eps) * weights.get(f"{name}.q_norm.weight")
        k = _root_mean_square(k, architecture.norm_eps) * weights.get(f"{name}.k_norm.weight")
    if architecture.rope_frequencies is not None:
        q, k = (_rotated(part, architecture.rope_frequencies) for part in (q, k))
    visible = _visible(len(x), architecture.windows[layer])
    group = architecture.num_heads // architecture.num_kv_heads
    outputs = []
    for head in range(architecture.num_heads):
        scores = q[head] @ k[head // group].T / math.sqrt(architecture.head_dim)
        outputs.append(_softmax(np.where(visible, scores, -np.inf)) @ v[head // group])
    return weights.linear(f"{name}.o", np.concatenate(outputs, -1))


def _heads(architecture: Architecture, x: Array) -> Array:
    """[T, heads * D] -> [heads, T, D]."""
    return x.reshape(len(x), -1, architecture.head_dim).swapaxes(0, 1)


def _visible(length: int, window: int | None) -> NDArray[np.bool_]:
    """[T, T]: which keys (columns) a query (row) sees."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return (distance >= 0) & (distance < (length if window is None else window))


def _rotated(x: Array, frequencies: Sequence[float]) -> Array:
    """Each pair (x[i], x[i + D/2]) of position t turned by t times its angle (Su et al. 2021, RoFormer, 3.2.2)."""
    angles = np.arange(x.shape[1])[:, None] * np.array(frequencies)
    first, second = np.split(x, 2, -1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares


def _mlp(architecture: Architecture, weights: _Weights, layer: int, x: Array) -> Array:
    name = f"layers.{layer}"
    up = weights.linear(f"{name}.up", x)
    if architecture.gated:
        return weights.linear(f"{name}.down", _activation(architecture, weights.linear(f"{name}.gate", x)) * up)
    return weights.linear(f"{name}.down", _activation(architecture, up))


def _activation(architecture: Architecture, x: Array) -> Array:
    """silu: x * sigmoid(x); gelu: x * Phi(x), exactly or by its tanh form (Hendrycks & Gimpel 2016, section 2)."""
    if architecture.activation == "silu":
        gate = np.tanh(0.5 * x)  # a sigmoid that does not overflow
    elif architecture.activation == "gelu_tanh":
        gate = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        gate = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
    y: Array = 0.5 * x * (1 + gate)
    return y
