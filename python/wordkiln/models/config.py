"""`ModelConfig`: the shape of a language model, with Hugging Face's field names. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from wordkiln import _files
from wordkiln._json_files import read_json
from wordkiln.errors import ArgumentError, FormatError
from wordkiln.models import _checks, _json

Kind = Literal["lstm", "gru", "rnn", "transformer"]
KINDS: tuple[str, ...] = get_args(Kind)

MAX_PARAMETERS = 2**34  # 64 GiB of float32: far above a small model, far below what would hide a wrong number

# Largest value of each size. A config is checked against these before anything is allocated.
_LIMITS = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "embedding_size": 2**16,
    "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10,
    "intermediate_size": 2**18,
    "max_position_embeddings": 2**24,
}
_DEFAULT_POSITIONS = 2048
_TRANSFORMER_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "max_position_embeddings")
# Typed Any so that the fields below read as int: __post_init__ puts an int in the place of each None that applies.
_UNSET: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a language model.

    Attributes:
        kind: "lstm", "gru", "rnn" (tanh) or "transformer" (Llama's shape: RMSNorm, rotary positions, SwiGLU,
            grouped-query attention, no biases).
        vocab_size: number of token ids, 1 to 2**24.
        hidden_size: width of a layer, 1 to 65536.
        num_hidden_layers: 1 to 1024.
        embedding_size: width of the embedding; None: hidden_size. Another width only for recurrent kinds.
        num_attention_heads: transformer only; None: heads 64 wide (or the largest smaller power of two that divides).
        num_key_value_heads: transformer only; divides num_attention_heads; None: the same number.
        intermediate_size: transformer only: width of the MLP; None: 8/3 hidden_size up to a multiple of 64
            (Shazeer 2020, "GLU Variants Improve Transformer", section 3: the third matrix paid by 2/3 of the width).
        max_position_embeddings: transformer only: most tokens in one sequence; None: 2048.
            Recurrent kinds: None, no limit.
        rope_theta: base of the rotary angles (Su et al. 2021, RoFormer, section 3.2.2).
        rms_norm_eps: added to the mean square inside RMSNorm.
        dropout: probability, 0 to below 1.
        tie_word_embeddings: the output layer uses the embedding's weight.
        eos_token_id: id that ends a document, or None.

    Raises:
        ArgumentError: a value is out of its range or does not fit another.
    """

    kind: Kind
    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 2
    embedding_size: int = _UNSET
    num_attention_heads: int = _UNSET
    num_key_value_heads: int = _UNSET
    intermediate_size: int = _UNSET
    max_position_embeddings: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    dropout: float = 0.0
    tie_word_embeddings: bool = False
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArgumentError(f"kind={_checks.shown(self.kind)}: must be one of {', '.join(KINDS)}")
        for name, limit in _LIMITS.items():
            if getattr(self, name) is not None or name in ("vocab_size", "hidden_size", "num_hidden_layers"):
                self._set(name, _checks.integer(name, getattr(self, name), 1, limit))
        self._set("rope_theta", _checks.real("rope_theta", self.rope_theta, 1.0, 1e12))
        self._set("rms_norm_eps", _checks.real("rms_norm_eps", self.rms_norm_eps, 1e-12, 1.0))
        self._set("dropout", _checks.real("dropout", self.dropout, 0.0, 1.0))
        if self.dropout == 1.0:
            raise ArgumentError("dropout=1.0: must be below 1")
        if not isinstance(self.tie_word_embeddings, bool):
            raise ArgumentError(f"tie_word_embeddings={_checks.shown(self.tie_word_embeddings)}: must be True or False")
        if self.eos_token_id is not None:
            self._set("eos_token_id", _checks.integer("eos_token_id", self.eos_token_id, 0, self.vocab_size - 1))
        if self.embedding_size is None:
            self._set("embedding_size", self.hidden_size)
        if self.is_recurrent:
            self._check_recurrent()
        else:
            self._complete_transformer()
        if self.num_parameters > MAX_PARAMETERS:
            raise ArgumentError(
                f"{self.num_parameters} parameters (vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, "
                f"num_hidden_layers={self.num_hidden_layers}): must be at most {MAX_PARAMETERS}"
            )

    @property
    def is_recurrent(self) -> bool:
        """Whether the kind is lstm, gru or rnn."""
        return self.kind != "transformer"

    @property
    def head_dim(self) -> int:
        """Width of one attention head (transformer only)."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_parameters(self) -> int:
        """Number of weights; a tied output layer counts once."""
        from wordkiln.models import layout  # layout reads configs: imported here, not at the top, to break the cycle

        return layout.count_parameters(self)

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json: a Hugging Face Llama config for a transformer, our own for recurrent kinds."""
        return _json.to_hugging_face(self) if self.kind == "transformer" else _json.to_recurrent(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config that `to_dict` or Hugging Face's Llama wrote.

        Keys that only describe (transformers_version, torch_dtype, ...) are skipped; a key that changes the mathematics
        (rope_scaling, attention_bias, ...) must have the value that Wordkiln computes, any other key is refused.

        Raises:
            FormatError: a key is missing, unknown, or has a value that Wordkiln does not take.
        """
        try:
            return cls(**_json.fields_of(values))
        except ArgumentError as error:
            raise FormatError(f"model config: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path`: a file, or config.json in a folder that exists.

        Raises:
            PathError: it cannot be written.
        """
        path = Path(path)
        _files.write_file(path / "config.json" if path.is_dir() else path, _json.dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelConfig:
        """Read a config.json, or the one in a checkpoint directory.

        Raises:
            PathError: there is none, or it cannot be read.
            FormatError: it is no config of a model that Wordkiln knows.
        """
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        values = read_json(path, _json.LIMIT)
        try:
            return cls.from_dict(values)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_recurrent(self) -> None:
        for name in _TRANSFORMER_SIZES:
            if getattr(self, name) is not None:
                raise ArgumentError(f"{name}={getattr(self, name)}: only for kind='transformer', not {self.kind!r}")

    def _complete_transformer(self) -> None:
        if self.embedding_size != self.hidden_size:
            raise ArgumentError(
                f"embedding_size={self.embedding_size}: must be hidden_size={self.hidden_size} for kind='transformer'"
            )
        if self.num_attention_heads is None:
            width = next((size for size in (64, 32, 16, 8, 4, 2) if self.hidden_size % size == 0), self.hidden_size)
            self._set("num_attention_heads", self.hidden_size // width)
        if self.num_key_value_heads is None:
            self._set("num_key_value_heads", self.num_attention_heads)
        if self.intermediate_size is None:
            self._set("intermediate_size", -(-self.hidden_size * 8 // (3 * 64)) * 64)
        if self.max_position_embeddings is None:
            self._set("max_position_embeddings", _DEFAULT_POSITIONS)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ArgumentError(
                f"hidden_size={self.hidden_size}: must be num_attention_heads={self.num_attention_heads} "
                "times an even head size (rotary positions turn pairs)"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ArgumentError(
                f"num_key_value_heads={self.num_key_value_heads}: must divide "
                f"num_attention_heads={self.num_attention_heads}"
            )
