"""What the runtime steps: the shape of a Transformer decoder, and its weights, whatever file they lie in.

`interop` describes a file by these two; the runtime reads each weight once, packs it and lets it go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a Transformer decoder: Llama's, GPT-2's, Qwen's and what lies between. Pre-norm, causal.

    Attributes:
        vocab_size: V.
        hidden_size: E.
        num_layers: L.
        num_heads: H, of queries.
        num_kv_heads: Hkv, divides H.
        head_dim: D; H * D need not be E.
        intermediate_size: F, width of the MLP.
        max_positions: most tokens of a row.
        norm: "rms" (a weight) or "layer" (weight and bias).
        norm_eps: inside the root of each norm.
        rope_frequencies: D / 2 angles per position, scaled already where the model scales them: element i of a head
            turns with element i + D / 2 (Hugging Face's order). None: positions are learned.
        activation: of the MLP.
        gated: whether the MLP is down(activation(gate) * up), else down(activation(up)).
        qk_norm: whether each head of q and k has an RMS norm before it is turned (Qwen3).
        windows: of each layer: a query sees only so many last keys, itself included; None: all of them.
        eos_token_ids: ids that end a text.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    rope_frequencies: tuple[float, ...] | None
    activation: Literal["silu", "gelu", "gelu_tanh"]
    gated: bool
    qk_norm: bool = False
    windows: tuple[int | None, ...]
    eos_token_ids: tuple[int, ...] = ()


Encoding = Literal["float32", "float16", "bfloat16", "q4_0", "q4_1", "q8_0"]


class EncodedMatrix(NamedTuple):
    """A matrix as it lies in a file (csrc/include/wordkiln/encoding.h).

    Attributes:
        rows: [outputs, bytes of a row], C-contiguous, perhaps a read-only view of the file; float32 aligned.
        encoding: of each row.
    """

    rows: NDArray[np.uint8]
    encoding: Encoding

    @classmethod
    def plain(cls, array: NDArray[np.float32]) -> EncodedMatrix:
        """Of float32 [outputs, inputs]."""
        return cls(np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"]).view(np.uint8), "float32")


class TensorSource(Protocol):
    """The weights of one decoder, by these names, [outputs, inputs] each (biases where the file has them):

    embed.weight [V, E], positions.weight [max_positions, E] (learned ones), norm.weight [E] (.bias), head.weight [V, E]
    (left out where the embedding serves); and for each layer n from 0:
    layers.n.attention_norm.weight [E] (.bias), layers.n.q.weight [H * D, E] (.bias), layers.n.k.weight [Hkv * D, E]
    (.bias), layers.n.v.weight [Hkv * D, E] (.bias), layers.n.q_norm.weight [D] and layers.n.k_norm.weight [D]
    (qk_norm), layers.n.o.weight [E, H * D] (.bias), layers.n.mlp_norm.weight [E] (.bias), layers.n.gate.weight [F, E]
    (gated; .bias), layers.n.up.weight [F, E] (.bias), layers.n.down.weight [E, F] (.bias).
    """

    def names(self) -> Collection[str]:
        """Which there are. Names and shapes have been checked against the architecture."""
        ...

    def read(self, name: str) -> NDArray[np.float32]:
        """One of them as float32, C-contiguous, perhaps a read-only view of the file."""
        ...

    def encoded(self, name: str) -> EncodedMatrix:
        """A matrix as it lies in the file where the kernels know its encoding, else as float32."""
        ...
