"""The weights of a `TensorSource` into the kernels' panels, straight from the encodings that their file has."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordkiln import _kernels
from wordkiln.runtime._kernel_calls import DType
from wordkiln.runtime.architecture import Architecture, EncodedMatrix, TensorSource

Array = NDArray[np.float32]

# The binding's names, and of which tensors of a layer each is stacked.
_VECTORS = {
    "attention_norm": ("attention_norm.weight",),
    "attention_norm_bias": ("attention_norm.bias",),
    "qkv_bias": ("q.bias", "k.bias", "v.bias"),
    "q_norm": ("q_norm.weight",),
    "k_norm": ("k_norm.weight",),
    "output_bias": ("o.bias",),
    "mlp_norm": ("mlp_norm.weight",),
    "mlp_norm_bias": ("mlp_norm.bias",),
    "gate_bias": ("gate.bias",),
    "up_bias": ("up.bias",),
    "down_bias": ("down.bias",),
}
_MATRICES = {
    "qkv": ("q.weight", "k.weight", "v.weight"),
    "output": ("o.weight",),
    "gate": ("gate.weight",),
    "up": ("up.weight",),
    "down": ("down.weight",),
}


class _Weights(NamedTuple):
    """What becomes one part of a decoder, by the binding's names."""

    vectors: dict[str, Array]
    matrices: dict[str, EncodedMatrix]


def pack(a: Architecture, source: TensorSource, dtype: DType, unused_ids: NDArray[np.int64]) -> _kernels.Decoder:
    """A decoder of the kernels, with all weights of `source`.

    Raises:
        ArgumentError: a weight is not finite, for dtype="int8"; `unused_ids` do not rise, or are no ids.
    """
    native = _kernels.Decoder(
        vocab=a.vocab_size,
        hidden=a.hidden_size,
        heads=a.num_heads,
        kv_heads=a.num_kv_heads,
        head_size=a.head_dim,
        intermediate=a.intermediate_size,
        norm=a.norm,
        norm_eps=a.norm_eps,
        activation=a.activation,
        gated=a.gated,
        qk_norm=a.qk_norm,
        storage=dtype,
    )
    names = frozenset(source.names())
    layers = (functools.partial(_layer, f"layers.{number}.", names, source) for number in range(a.num_layers))
    parts = _read_ahead([functools.partial(_ends, a, names, source), *layers])
    _give(native.set_ends, next(parts), a.max_positions, unused_ids.ctypes.data, len(unused_ids))
    for window in a.windows:
        _give(native.add_layer, next(parts), window or 0)
    return native


def _give(to: Callable[..., None], weights: _Weights, *more: int) -> None:
    """Hand over addresses; the arrays live through the call and no longer."""
    vectors = {name: array.ctypes.data for name, array in weights.vectors.items()}
    to(vectors, {name: (matrix.rows.ctypes.data, matrix.encoding) for name, matrix in weights.matrices.items()}, *more)


def _read_ahead(reads: Sequence[Callable[[], _Weights]]) -> Iterator[_Weights]:
    """The results in turn, the next two being read meanwhile: what the kernels cannot widen is widened there."""
    with concurrent.futures.ThreadPoolExecutor(2) as readers:
        reading: collections.deque[concurrent.futures.Future[_Weights]] = collections.deque()
        for read in reads:
            reading.append(readers.submit(read))
            if len(reading) > 2:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def _ends(a: Architecture, names: frozenset[str], source: TensorSource) -> _Weights:
    vectors = {"norm": "norm.weight", "norm_bias": "norm.bias"}
    if a.rope_frequencies is None:
        vectors["positions"] = "positions.weight"
    arrays = {key: source.read(name) for key, name in vectors.items() if name in names}
    if a.rope_frequencies is not None:
        arrays["frequencies"] = np.array(a.rope_frequencies, np.float32)
    matrices = {"embedding": "embed.weight", "head": "head.weight"}
    return _Weights(arrays, {key: source.encoded(name) for key, name in matrices.items() if name in names})


def _layer(prefix: str, names: frozenset[str], source: TensorSource) -> _Weights:
    vectors = {}
    for key, parts in _VECTORS.items():
        present = [source.read(prefix + part) for part in parts if prefix + part in names]
        if present:
            vectors[key] = present[0] if len(present) == 1 else np.concatenate(present)
    matrices = {
        key: _stacked([prefix + part for part in parts], source)
        for key, parts in _MATRICES.items()
        if prefix + parts[0] in names
    }
    return _Weights(vectors, matrices)


def _stacked(parts: list[str], source: TensorSource) -> EncodedMatrix:
    """One matrix of the outputs of all."""
    matrices = [source.encoded(part) for part in parts]
    if len(matrices) == 1:
        return matrices[0]
    if len({matrix.encoding for matrix in matrices}) > 1:
        matrices = [EncodedMatrix.plain(source.read(part)) for part in parts]
    return EncodedMatrix(np.concatenate([matrix.rows for matrix in matrices]), matrices[0].encoding)
