"""`export_gguf`: a finished Transformer as one GGUF file, which llama.cpp runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wordkiln import _files
from wordkiln.errors import ArgumentError, DependencyError, FormatError
from wordkiln.interop._gguf_model import ROPE_FACTORS, plan_of
from wordkiln.interop._gguf_vocabulary import vocabulary
from wordkiln.interop._layout import Plan
from wordkiln.interop._open import open_model
from wordkiln.interop._opened import OpenedModel
from wordkiln.interop._source import Array, pairs_together
from wordkiln.runtime.architecture import Architecture

GgufDType = Literal["f32", "f16", "bf16", "q8_0"]
# Our name -> ggml's, and the number that general.file_type has.
_DTYPES = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32), "q8_0": ("Q8_0", 7)}
_QUANTIZATION_VERSION = 2
_LARGEST_F16 = 65504.0


def export_gguf(path: str | os.PathLike[str], out: str | os.PathLike[str], dtype: GgufDType = "f16") -> None:
    """Write a GGUF file of a model, its tokenizer and chat template.

    The file is written whole or not at all. Matrices are kept in `dtype`; what a token has one number of for each
    column (norms, biases) in float32, and so are rows that are no multiple of 32 wide for "q8_0" in float16.

    Args:
        path: what `open_model` takes, of the shape of Llama, Qwen3 or GPT-2, its tokenizer byte-level BPE.
        out: the file, replaced where there is one.
        dtype: "f32", "f16" (the default), "bf16" or "q8_0" (8 bits and a scale for 32 weights).

    Raises:
        ArgumentError: another dtype; a weight too large for "f16".
        FormatError: the model or its tokenizer is of a kind that GGUF or llama.cpp has no place for.
        PathError: a file cannot be read or written.
        DependencyError: the library `gguf` is not installed.
    """
    if dtype not in _DTYPES:
        raise ArgumentError(f"dtype={dtype!r}: must be one of {', '.join(_DTYPES)}")
    library = _library()
    opened = open_model(path)
    try:
        kind = _kind(opened)
        metadata = _metadata(kind, opened) | vocabulary(opened)
        factors = _rope_factors(kind, opened.architecture)
    except FormatError as error:
        raise FormatError(f"{path}: cannot be exported: {error}") from error
    names = opened.source.names()
    biases = {name.split(".")[-2] for name in names if name.endswith(".bias")}
    plan = plan_of(kind, opened.architecture, biases, "head.weight" not in names)
    metadata |= {"general.name": Path(path).resolve().stem, "general.file_type": _DTYPES[dtype][1]}
    with _files.replace_file(out) as temporary:
        _Writer(library, temporary, kind, dtype).write(metadata, opened, plan, factors)


def _kind(opened: OpenedModel) -> str:
    """GGUF's architecture: the one of its kinds that computes the same."""
    architecture, names = opened.architecture, opened.source.names()
    if any(window is not None and window < architecture.max_positions for window in architecture.windows):
        raise FormatError(f"sliding windows ({architecture.windows[-1]}): llama.cpp has none for this kind of model")
    shape = (architecture.norm, architecture.gated, architecture.activation, architecture.rope_frequencies is not None)
    if shape == ("layer", False, "gelu_tanh", False):
        return "gpt2"
    if shape != ("rms", True, "silu", True):
        raise FormatError(f"activation={architecture.activation!r}: llama.cpp has another for this kind of model")
    if not architecture.qk_norm:
        return "llama"
    if any(name.endswith(".bias") for name in names):
        raise FormatError("biases beside norms of q and k: llama.cpp has no such model")
    return "qwen3"


def _metadata(kind: str, opened: OpenedModel) -> dict[str, Any]:
    architecture = opened.architecture
    keys: dict[str, Any] = {
        "vocab_size": architecture.vocab_size,
        "context_length": architecture.max_positions,
        "embedding_length": architecture.hidden_size,
        "block_count": architecture.num_layers,
        "feed_forward_length": architecture.intermediate_size,
        "attention.head_count": architecture.num_heads,
        "attention.head_count_kv": architecture.num_kv_heads,
        "attention.key_length": architecture.head_dim,
        "attention.value_length": architecture.head_dim,
    }
    if architecture.norm == "layer":
        keys["attention.layer_norm_epsilon"] = architecture.norm_eps
    else:
        keys["attention.layer_norm_rms_epsilon"] = architecture.norm_eps
    if architecture.rope_frequencies is not None:
        keys |= {"rope.freq_base": _theta(architecture), "rope.dimension_count": architecture.head_dim}
    general = {"general.quantization_version": _QUANTIZATION_VERSION}
    return general | {f"{kind}.{key}": value for key, value in keys.items()}


def _theta(architecture: Architecture) -> float:
    """The base of the angles, where they are those of one base; else the usual one, to be divided by factors."""
    frequencies = architecture.rope_frequencies or ()
    if len(frequencies) > 1 and frequencies[0] == 1.0:
        theta: float = frequencies[1] ** (-architecture.head_dim / 2)
        if np.allclose(frequencies, _plain(theta, architecture.head_dim), rtol=1e-9, atol=0):
            return theta
    return 10000.0


def _plain(theta: float, head_dim: int) -> Any:
    return theta ** -(np.arange(0, head_dim, 2) / head_dim)


def _rope_factors(kind: str, architecture: Architecture) -> Array | None:
    """What llama.cpp divides the angles of the base by, in a tensor that its Llama reads."""
    if architecture.rope_frequencies is None:
        return None
    factors = _plain(_theta(architecture), architecture.head_dim) / np.array(architecture.rope_frequencies)
    if np.allclose(factors, 1, rtol=1e-9, atol=0):
        return None
    if kind != "llama":
        raise FormatError("scaled rotary positions: llama.cpp has none for this kind of model")
    return np.asarray(factors, np.float32)


class _Writer:
    def __init__(self, library: Any, path: Path, kind: str, dtype: str) -> None:
        self._library = library
        self._writer = library.GGUFWriter(path, kind)
        self._encoding = library.GGMLQuantizationType[_DTYPES[dtype][0]]

    def write(self, metadata: dict[str, Any], opened: OpenedModel, plan: Plan, factors: Array | None) -> None:
        for key, value in metadata.items():
            self._add(key, value)
        shapes = {part.tensor: part.shape for part in plan.values()}
        if factors is not None:
            shapes[ROPE_FACTORS] = factors.shape
        for name, shape in shapes.items():
            encoding = self._encoding_of(shape)
            width = self._library.quants.quant_shape_to_byte_shape(shape, encoding)
            self._writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(width)), raw_dtype=encoding)
        try:
            self._writer.write_header_to_file()
            self._writer.write_kv_data_to_file()
            self._writer.write_ti_data_to_file()
            for name, array in _tensors(opened, plan):
                self._writer.write_tensor_data(self._encoded(name, array))
            if factors is not None:
                self._writer.write_tensor_data(factors)
        finally:
            self._writer.close()

    def _add(self, key: str, value: Any) -> None:
        if isinstance(value, bool):
            self._writer.add_bool(key, value)
        elif isinstance(value, int):
            self._writer.add_uint32(key, value)
        elif isinstance(value, float):
            self._writer.add_float32(key, value)
        elif isinstance(value, str):
            self._writer.add_string(key, value)
        else:
            self._writer.add_array(key, value)

    def _encoding_of(self, shape: tuple[int, ...]) -> Any:
        types = self._library.GGMLQuantizationType
        if len(shape) < 2:
            return types.F32
        block = self._library.GGML_QUANT_SIZES[self._encoding][0]
        return types.F16 if shape[-1] % block else self._encoding

    def _encoded(self, name: str, array: Array) -> Any:
        encoding = self._encoding_of(array.shape)
        if encoding.name in ("F16", "Q8_0") and np.abs(array).max(initial=0) > _LARGEST_F16:
            raise ArgumentError(f"dtype: {name} holds values above {_LARGEST_F16:g}: must be 'f32' or 'bf16'")
        return self._library.quants.quantize(array, encoding)


def _tensors(opened: OpenedModel, plan: Plan) -> Iterator[tuple[str, Array]]:
    """Each tensor of the file, as float32."""
    fused: dict[str, list[str]] = {}
    for name, part in plan.items():
        fused.setdefault(part.tensor, []).append(name)
    for tensor, names in fused.items():
        arrays = [opened.source.read(name) for name in names]
        heads = plan[names[0]].pairs_of_heads
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        yield tensor, np.ascontiguousarray(array if heads is None else pairs_together(array, heads))


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise DependencyError(
            "GGUF files are written by gguf, which is not installed: pip install 'wordkiln[gguf]'"
        ) from None
    return gguf
