"""The tokenizer in a GGUF file's metadata: the keys `tokenizer.ggml.*` and `tokenizer.chat_template`."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wordkiln._rust import read_strings as read_strings  # for interop, which does not know the native parts
from wordkiln.errors import FormatError

# Token types, which SentencePiece's files number alike.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

_DIGITS_APART = "\\p{N}\ngpt2"
_DEEPSEEK = (
    "\\p{N}{1,3}\n[一-龥\u3040-ゟ゠-ヿ]+\n"
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_PATTERNS = {
    "gpt2": ("gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "roberta-bpe"),
    "llama3": ("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4"),
    "qwen2": ("qwen2", "deepseek-r1-qwen", "stablelm2"),
    "o200k": ("gpt-4o", "llama4"),
    _DIGITS_APART: ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
    _DEEPSEEK: ("deepseek-v3",),
    TEKKEN: ("tekken",),
}
_BY_PRE = {pre: pattern for pattern, names in _PATTERNS.items() for pre in names}
_WHOLE_PIECES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken", "gpt-4o", "llama4")
_NORMALIZED = ("qwen2",)


@dataclass(frozen=True)
class Pre:
    """What llama.cpp's name of a pre-tokenizer stands for, beside the pattern."""

    name: str
    takes_whole_pieces: bool
    normalizes: bool


def pres_of(pattern: str) -> list[Pre]:
    """The names under which text is cut by a pattern.

    cl100k has none of its own: llama3's differs from it in text that ends in a line break and then spaces.
    """
    names = _PATTERNS.get("llama3" if pattern == "cl100k" else pattern, ())
    return [Pre(name, name in _WHOLE_PIECES, name in _NORMALIZED) for name in names]


@dataclass(frozen=True)
class Tables:
    """The metadata, checked."""

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Tables:
        """From the metadata.

        Raises:
            FormatError: A key is missing or of another type.
        """
        kind = metadata.get("tokenizer.ggml.model")
        if kind not in ("gpt2", "llama", "bert"):
            raise FormatError(f"tokenizer.ggml.model={kind!r}: must be one of gpt2, llama, bert")
        tokens = _list(metadata, "tokens", str)
        types = _list(metadata, "token_type", int, len(tokens)) or [_NORMAL] * len(tokens)
        scores = [float(score) for score in _list(metadata, "scores", (int, float), len(tokens))]
        merges = _list(metadata, "merges", str)
        if not tokens:
            raise FormatError("tokenizer.ggml.tokens is missing or empty")
        return cls(kind, str(metadata.get("tokenizer.ggml.pre", "")), tokens, types, merges, scores, metadata)

    def of_type(self, *types: int) -> list[int]:
        """Ids of the tokens of these types."""
        return [id for id, type in enumerate(self.types) if type in types]

    def special_tokens(self) -> dict[str, int]:
        return {self.tokens[id]: id for id in self.of_type(_CONTROL)}

    def added_tokens(self) -> dict[str, int]:
        return {self.tokens[id]: id for id in self.of_type(_USER_DEFINED)}

    def ordinary(self) -> dict[str, int]:
        """Tokens and ids without the places that only fill the model's table.

        Raises:
            FormatError: A token stands there twice.
        """
        used = [id for id, type in enumerate(self.types) if type != _UNUSED]
        ids = {self.tokens[id]: id for id in used}
        if len(ids) < len(used):
            token, first = next((self.tokens[id], id) for id in used if ids[self.tokens[id]] != id)
            last = next(id for id in used if id > first and self.tokens[id] == token)
            raise FormatError(f"tokenizer.ggml.tokens: {token!r} stands there twice, as {first} and {last}")
        return ids

    def pattern(self) -> str:
        """How text is cut.

        Raises:
            FormatError: It is not known under the name in the file.
        """
        if self.pre not in _BY_PRE:
            raise FormatError(f"tokenizer.ggml.pre={self.pre!r}: must be one of {', '.join(sorted(_BY_PRE))}")
        return _BY_PRE[self.pre]

    def takes_whole_pieces(self) -> bool:
        return self.pre in _WHOLE_PIECES

    def normalizes(self) -> bool:
        """llama.cpp does not, but the models were trained on text in NFC."""
        return self.pre in _NORMALIZED

    def settings(self) -> bytes:
        """What a tokenizer_config.json would say."""
        config: dict[str, Any] = {}
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            id = self.metadata.get(f"tokenizer.ggml.{key}_token_id")
            if id is not None:
                if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < len(self.tokens):
                    raise FormatError(f"tokenizer.ggml.{key}_token_id={id!r}: must be 0 to {len(self.tokens) - 1}")
                config[f"{name}_token"] = self.tokens[id]
        for name in ("add_bos_token", "add_eos_token"):
            if isinstance(value := self.metadata.get(f"tokenizer.ggml.{name}"), bool):
                config[name] = value
        template = self.metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            config["chat_template"] = template
        return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")

    def sentencepiece(self) -> bytes:
        """The SentencePiece model that the tokens and scores came from."""
        if not self.scores:
            raise FormatError("tokenizer.ggml.scores is missing")
        pieces = b"".join(
            _field(1, _field(1, token.encode("utf-8", "replace")) + _float(2, score) + _number(3, type))
            for token, score, type in zip(self.tokens, self.scores, self.types, strict=True)
        )
        trainer = _number(3, 2) + _number(35, int(bool(self.of_type(_BYTE))))
        prefix = self.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
        normalizer = _field(1, b"identity") + _number(3, int(prefix)) + _number(4, 0) + _number(5, 1)
        return pieces + _field(2, trainer) + _field(3, normalizer)

    def wordpiece(self) -> list[str]:
        """The lines of the vocab.txt: GGUF marks the starts of words, vocab.txt what goes on."""
        kept = self.of_type(_CONTROL, _UNKNOWN)
        return [
            token
            if id in kept or (token.startswith("[") and token.endswith("]"))
            else token[1:]
            if token.startswith("\u2581")
            else f"##{token}"
            for id, token in enumerate(self.tokens)
        ]


def _list(metadata: Mapping[str, Any], key: str, kind: Any, length: int | None = None) -> list[Any]:
    name = f"tokenizer.ggml.{key}"
    value = metadata.get(name)
    if value is None:
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise FormatError(f"{name}: must be a list")
    value = list(value)
    # By types first: a vocabulary has a hundred thousand items.
    if not all(issubclass(type, kind) for type in set(map(type, value))):
        number = next(number for number, item in enumerate(value) if not isinstance(item, kind))
        raise FormatError(f"{name}[{number}]: is a {type(value[number]).__name__}")
    if length is not None and len(value) != length:
        raise FormatError(f"{name}: has {len(value)} items for {length} tokens")
    return value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _float(number: int, value: float) -> bytes:
    try:
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    except OverflowError:
        raise FormatError(f"tokenizer.ggml.scores: {value!r} is no 32-bit number") from None
