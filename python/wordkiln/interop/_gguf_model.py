"""The metadata of a GGUF file -> `Architecture`, and GGUF's names of the tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from wordkiln.errors import ArgumentError, FormatError
from wordkiln.interop._fields import LIMITS
from wordkiln.interop._gguf_file import GgufFile
from wordkiln.interop._layout import Part, Plan, Shape, tensor_shapes
from wordkiln.models import _checks
from wordkiln.runtime.architecture import Architecture

_KINDS = ("llama", "qwen2", "qwen3", "gpt2")
_PARTS = {
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "embed": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "head": "output",
}
_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
ROPE_FACTORS = "rope_freqs.weight"  # what Llama 3.1's angles are divided by


def describe(file: GgufFile) -> tuple[Architecture, Plan]:
    """The decoder in a file, and where its tensors lie.

    Raises:
        FormatError: an architecture, key or value that the runtime does not compute, with its name.
    """
    kind = file.metadata.get("general.architecture")
    if kind not in _KINDS:
        raise FormatError(f"general.architecture={_checks.shown(kind)}: must be one of {', '.join(_KINDS)}")
    try:
        architecture = _architecture(str(kind), file)
    except ArgumentError as error:
        raise FormatError(str(error)) from error
    tied = "output.weight" not in file.shapes
    biases = _biases(str(kind), file)
    return architecture, plan_of(str(kind), architecture, biases, tied)


def plan_of(kind: str, architecture: Architecture, biases: Collection[str], tied: bool) -> Plan:
    """Where each tensor lies in a file of this kind."""
    shapes = tensor_shapes(architecture, biases=biases, tied=tied)
    return {name: _part(kind, architecture, name, shape) for name, shape in shapes.items()}


def is_ignorable(name: str) -> bool:
    """Whether a tensor outside the plan is read elsewhere."""
    return name == ROPE_FACTORS


class _Keys:
    """Metadata under the architecture's name, checked."""

    def __init__(self, kind: str, metadata: Mapping[str, Any]) -> None:
        self._kind, self._metadata = kind, metadata

    def value(self, name: str) -> Any:
        return self._metadata.get(f"{self._kind}.{name}")

    def size(self, name: str, limit: str, default: int | None = None) -> int:
        value = self.value(name)
        value = default if value is None else value
        if value is None:
            raise FormatError(f"{self._kind}.{name} is missing")
        return _checks.integer(f"{self._kind}.{name}", value, 1, LIMITS[limit])

    def real(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self.value(name)
        return _checks.real(f"{self._kind}.{name}", default if value is None else value, low, high)


def _architecture(kind: str, file: GgufFile) -> Architecture:
    keys = _Keys(kind, file.metadata)
    gpt2 = kind == "gpt2"
    hidden, heads = (
        keys.size("embedding_length", "hidden_size"),
        keys.size("attention.head_count", "num_attention_heads"),
    )
    kv_heads = keys.size("attention.head_count_kv", "num_key_value_heads", heads)
    if heads % kv_heads:
        raise FormatError(f"{kind}.attention.head_count_kv={kv_heads}: must divide head_count={heads}")
    layers = keys.size("block_count", "num_hidden_layers")
    head_dim = _head_dim(kind, keys, hidden, heads)
    vocab_size = _vocab_size(file)
    norm: Literal["layer", "rms"] = "layer" if gpt2 else "rms"
    return Architecture(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=keys.size("feed_forward_length", "intermediate_size"),
        max_positions=keys.size("context_length", "max_position_embeddings"),
        norm=norm,
        norm_eps=keys.real(f"attention.layer_norm_{'' if gpt2 else 'rms_'}epsilon", 1e-12, 1.0),
        rope_frequencies=None if gpt2 else _frequencies(keys, head_dim, file),
        activation="gelu_tanh" if gpt2 else "silu",
        gated=not gpt2,
        qk_norm=kind == "qwen3",
        windows=(_window(kind, keys),) * layers,
        eos_token_ids=_end_ids(file.metadata, vocab_size),
    )


def _head_dim(kind: str, keys: _Keys, hidden: int, heads: int) -> int:
    given = keys.value("attention.key_length")
    if given is None and hidden % heads:
        raise FormatError(f"{kind}.embedding_length={hidden}: must be a multiple of head_count={heads}")
    head_dim = keys.size("attention.key_length", "head_dim", hidden // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.size(name, "head_dim", head_dim) != head_dim:
            raise FormatError(f"{kind}.{name}={keys.value(name)}: must be the width of a head, {head_dim}")
    if kind != "gpt2" and head_dim % 2:
        raise FormatError(f"{kind}: heads of {head_dim}: must be even (rotary positions turn pairs)")
    return head_dim


def _vocab_size(file: GgufFile) -> int:
    """The rows of the embedding: the key of that name is optional, and some files have another number there."""
    shape = file.shapes.get("token_embd.weight")
    if shape is None or len(shape) != 2:
        raise FormatError(
            f"token_embd.weight: {'is missing' if shape is None else f'shape {list(shape)}'}: must be [V, E]"
        )
    return _checks.integer("token_embd.weight: rows", shape[0], 1, LIMITS["vocab_size"])


def _window(kind: str, keys: _Keys) -> int | None:
    window = keys.value("attention.sliding_window")
    if window in (None, 0):
        return None
    window = keys.size("attention.sliding_window", "max_position_embeddings")
    if window >= keys.size("context_length", "max_position_embeddings"):
        return None
    if kind != "llama":
        raise FormatError(f"{kind}.attention.sliding_window={window}: which layers have it is not told")
    return window


def _frequencies(keys: _Keys, head_dim: int, file: GgufFile) -> tuple[float, ...]:
    theta = keys.real("rope.freq_base", 1.0, 1e12, 10000.0)
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    scaling = keys.value("rope.scaling.type")
    if scaling == "linear":
        frequencies /= keys.real("rope.scaling.factor", 1.0, 1e6)
    elif scaling not in (None, "none"):
        raise FormatError(f"rope.scaling.type={_checks.shown(scaling)}: must be none or linear")
    if ROPE_FACTORS in file.shapes:
        if file.shapes[ROPE_FACTORS] != (head_dim // 2,):
            raise FormatError(f"{ROPE_FACTORS}: shape {list(file.shapes[ROPE_FACTORS])}: must be [{head_dim // 2}]")
        factors = file.read(ROPE_FACTORS, (slice(None),)).astype(np.float64)
        if not ((factors >= 1e-6) & (factors <= 1e6)).all():
            raise FormatError(f"{ROPE_FACTORS}: must be from 1e-6 to 1e6")
        frequencies = frequencies / factors
    return tuple(frequencies.tolist())


def _end_ids(metadata: Mapping[str, Any], vocab_size: int) -> tuple[int, ...]:
    names = ("eos", "eot", "eom")
    values = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
    return tuple(
        dict.fromkeys(
            _checks.integer(f"tokenizer.ggml.{name}_token_id", value, 0, vocab_size - 1)
            for name, value in values.items()
            if value is not None
        )
    )


def _biases(kind: str, file: GgufFile) -> set[str]:
    """GPT-2's linears have all; of the others those that are in the first layer, and then in each."""
    if kind == "gpt2":
        return {"q", "k", "v", "o", "up", "down"}
    return {name for name in _LINEARS if f"blk.0.{_PARTS[name]}.bias" in file.shapes}


def _part(kind: str, architecture: Architecture, name: str, shape: Shape) -> Part:
    if not name.startswith("layers."):
        part, what = name.split(".")
        return Part(f"{_PARTS[part]}.{what}", shape)
    _, number, part, what = name.split(".")
    if kind == "gpt2" and part in ("q", "k", "v"):
        width, place = shape[0], "qkv".index(part)
        return Part(f"blk.{number}.attn_qkv.{what}", (3 * width, *shape[1:]), (place * width, (place + 1) * width))
    heads = {"q": architecture.num_heads, "k": architecture.num_kv_heads}.get(part) if kind == "llama" else None
    return Part(f"blk.{number}.{_PARTS[part]}.{what}", shape, pairs_of_heads=heads)
