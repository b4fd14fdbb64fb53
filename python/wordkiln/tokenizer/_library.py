"""WordPiece, Unigram and SentencePiece files, run by the libraries that made them."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from wordkiln import _rust
from wordkiln.errors import ArgumentError, DependencyError, FormatError
from wordkiln.tokenizer import _template
from wordkiln.tokenizer._core import Ids, Special
from wordkiln.tokenizer._tokenizer import Tokenizer

_NARROW = 1 << 16

Place = tuple[int, int]
"""Start and end of a token, in characters."""


class _Backend(Protocol):
    """A library's tokenizer: ordinary text to ids and back."""

    kind: str
    size: int
    specials: dict[str, int]

    def encode(self, text: str, with_specials: bool) -> list[int]: ...
    def places(self, text: str) -> tuple[list[int], list[Place]]: ...
    def decode(self, ids: list[int]) -> str: ...
    def token(self, id: int) -> bytes | None: ...


class _HuggingFace:
    """A tokenizer.json of any kind. One of the two objects reads special tokens in the text, one does not."""

    def __init__(self, content: bytes) -> None:
        library = _import("tokenizers")
        try:
            text = content.decode()
            self._reads, self._ignores = library.Tokenizer.from_str(text), library.Tokenizer.from_str(text)
        except BaseException as error:
            # A panic in the library is no Exception; that of a file must not end the program.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise FormatError(f"not a tokenizer.json: {error}") from None
            raise
        for one in (self._reads, self._ignores):
            one.no_padding()
            one.no_truncation()
        self._ignores.encode_special_tokens = True
        self.kind = type(self._reads.model).__name__.lower()
        added = self._reads.get_added_tokens_decoder()
        self.specials = {token.content: id for id, token in sorted(added.items()) if token.special}
        self._tokens = {id: token for token, id in self._reads.get_vocab(with_added_tokens=True).items()}
        self.size = max(self._tokens, default=-1) + 1

    def encode(self, text: str, with_specials: bool) -> list[int]:
        library = self._reads if with_specials else self._ignores
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    def places(self, text: str) -> tuple[list[int], list[Place]]:
        encoding = self._ignores.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        text: str = self._reads.decode(ids, skip_special_tokens=False)
        return text

    def token(self, id: int) -> bytes | None:
        return _spelled(self._tokens.get(id))


class _SentencePiece:
    """A SentencePiece model file. Control tokens have ids that no text gets."""

    kind = "sentencepiece"

    def __init__(self, content: bytes) -> None:
        library = _import("sentencepiece")
        self._library = library.SentencePieceProcessor()
        try:
            self._library.LoadFromSerializedProto(content)
        except Exception as error:
            raise FormatError(f"not a SentencePiece model: {error}") from None
        self.size = self._library.GetPieceSize()
        if self.size == 0:
            raise FormatError("not a SentencePiece model: it has no pieces")
        pieces = {self._library.IdToPiece(id): id for id in range(self.size)}
        self.specials = {piece: id for piece, id in pieces.items() if self._library.IsControl(id)}

    def encode(self, text: str, with_specials: bool) -> list[int]:
        if not with_specials or not self.specials:
            return list(self._library.EncodeAsIds(text))
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, self.specials))})", text):
            if part in self.specials:
                ids.append(self.specials[part])
            elif part:
                ids += self._library.EncodeAsIds(part)
        return ids

    def places(self, text: str) -> tuple[list[int], list[Place]]:
        mapping = self._library.EncodeAsOffsetMapping(text)
        return mapping["ids"], mapping["offsets"]

    def decode(self, ids: list[int]) -> str:
        return str(self._library.DecodeIds(ids))

    def token(self, id: int) -> bytes | None:
        return _spelled(self._library.IdToPiece(id)) if 0 <= id < self.size else None


class _Stream:
    """Ids to text as they come, by decoding the last few again."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode, self._ids, self._given = decode, list[int](), 0

    def push(self, id: int) -> str:
        text = self._decode([*self._ids, id])
        self._ids.append(id)
        if text.endswith("\ufffd") and len(self._ids) - self._given < 8:
            return ""
        new = text[len(self._decode(self._ids[: self._given])) :]
        # One id before is enough for a library to see whether a space belongs between.
        self._ids, self._given = self._ids[-1:], 1
        return new

    def finish(self) -> str:
        text = self._decode(self._ids)[len(self._decode(self._ids[: self._given])) :]
        self._ids, self._given = [], 0
        return text


class LibraryTokenizer(Tokenizer):
    """A `Tokenizer` that a library runs. Its text may not come back exactly: such vocabularies do not hold every text.

    Lone surrogates and bytes that are not UTF-8 are U+FFFD to it. `merges` is empty.
    """

    _backend: _Backend
    _content: bytes

    def __new__(cls, content: bytes) -> Self:
        """From the bytes of a tokenizer.json or of a SentencePiece model."""
        self = super().__new__(cls, _placeholder())
        self._content = content
        self._backend = _HuggingFace(content) if content.lstrip()[:1] == b"{" else _SentencePiece(content)
        return self

    def encode(
        self, text: str | bytes, *, allowed_special: Special = frozenset(), disallowed_special: Special = "all"
    ) -> list[int]:
        text = _text(text)
        specials = self._backend.specials
        allowed = set(specials) if allowed_special == "all" else set(allowed_special)
        if unknown := allowed - specials.keys():
            raise ArgumentError(f"allowed_special: {min(unknown)!r} is not a special token of this tokenizer")
        refused = set(specials) - allowed if disallowed_special == "all" else set(disallowed_special)
        for token in sorted(refused):
            if token and token in text:
                raise ArgumentError(
                    f"the text holds the special token {token!r}: name it in allowed_special to encode it as one id, "
                    "or pass disallowed_special=() to encode it as ordinary text"
                )
        if not any(token in text for token in specials.keys() - allowed):
            return self._backend.encode(text, with_specials=True) if allowed else self._ordinary(text)
        ids: list[int] = []
        parts = re.split(f"({'|'.join(map(re.escape, allowed))})", text) if allowed else [text]
        for part in filter(None, parts):
            ids += [specials[part]] if part in allowed else self._ordinary(part)
        return ids

    def _ordinary(self, text: str) -> list[int]:
        ids = self._backend.encode(text, with_specials=False)
        specials = self._backend.specials
        if not set(specials.values()) & set(ids):
            return ids
        # The library's model knows the token's text as an ordinary piece: cut it after its first character.
        cuts = (f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in specials if len(token) > 1)
        parts = filter(None, re.split("|".join(cuts), text))
        return [id for part in parts for id in self._backend.encode(part, with_specials=False)]

    def count(
        self, text: str | bytes, *, allowed_special: Special = frozenset(), disallowed_special: Special = "all"
    ) -> int:
        return len(self.encode(text, allowed_special=allowed_special, disallowed_special=disallowed_special))

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> list[list[int]]:
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise ArgumentError("texts: must be a collection of str or bytes")
        special = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
        return [self.encode(text, **special) for text in texts]

    def encode_flat(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> tuple[Ids, npt.NDArray[np.int64]]:
        lists = self.encode_batch(texts, allowed_special=allowed_special, disallowed_special=disallowed_special)
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        flat = (id for ids in lists for id in ids)
        if self.vocab_size <= _NARROW:
            return np.fromiter(flat, np.uint16, int(offsets[-1])), offsets
        return np.fromiter(flat, np.uint32, int(offsets[-1])), offsets

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        return self._backend.decode([self._known(id) for id in _listed(ids)])

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def decode_stream(self) -> _Stream:  # type: ignore[override]  # the same two methods
        return _Stream(self.decode)

    def token_bytes(self, id: int) -> bytes:
        return self._backend.token(self._known(id)) or b""

    def to_json(self) -> bytes:
        if self._backend.kind == "sentencepiece":
            raise ArgumentError("a SentencePiece model has no tokenizer.json")
        return self._content

    def to_tiktoken_bytes(self) -> bytes:
        raise ArgumentError(f"a rank file cannot hold this tokenizer: it is {self._backend.kind}, not byte-level BPE")

    @property
    def vocab_size(self) -> int:
        return self._backend.size

    @property
    def pattern(self) -> str:
        """What kind of tokenizer it is: its way of cutting is the library's."""
        return self._backend.kind

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._backend.specials)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        return []

    @property
    def vocabulary(self) -> dict[int, bytes]:
        tokens = ((id, self._backend.token(id)) for id in range(self.vocab_size))
        return {id: token for id, token in tokens if token is not None}

    def add_special_tokens(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        raw = json.loads(self._content).get("post_processor") if self._backend.kind != "sentencepiece" else None
        return _template.apply(raw, list(ids), None if pair is None else list(pair))

    def __len__(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restored, (self._content, self._settings)

    def _offsets(
        self, text: str | bytes, characters: bool, allowed: Special, disallowed: Special
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise ArgumentError(
                    f"text: a {self._backend.kind} tokenizer needs UTF-8 for offsets: {error}"
                ) from None
        ids = self.encode(text, allowed_special=allowed, disallowed_special=disallowed)
        text = _text(text)
        found, places = self._places(text, allowed)
        if found != ids:
            raise ArgumentError(f"offsets: a {self._backend.kind} tokenizer gives none for special tokens as text")
        offsets = np.array(places, np.int64).reshape(-1, 2)
        if not characters:
            offsets = np.cumsum([0, *(len(char.encode()) for char in text)], dtype=np.int64)[offsets]
        return ids, offsets

    def _places(self, text: str, allowed: Special) -> tuple[list[int], list[Place]]:
        specials = self._backend.specials
        named = set(specials) if allowed == "all" else set(allowed)
        ids: list[int] = []
        places: list[Place] = []
        at = 0
        for part in re.split(f"({'|'.join(map(re.escape, named))})", text) if named else [text]:
            if part in named:
                ids.append(specials[part])
                places.append((at, at + len(part)))
            elif part:
                some, where = self._backend.places(part)
                ids += some
                places += [(at + start, at + stop) for start, stop in where]
            at += len(part)
        return ids, places

    def _last_cut(self, text: bytes) -> int | None:
        return None

    def _file(self) -> tuple[str, bytes]:
        return ("tokenizer.model" if self._backend.kind == "sentencepiece" else "tokenizer.json"), self._content

    def _copy(self) -> Self:
        copy = type(self)(self._content)
        copy._settings = self._settings
        return copy

    def _known(self, id: Any) -> int:
        if isinstance(id, bool) or not hasattr(id, "__index__"):
            raise ArgumentError("ids: must be a sequence of integers")
        if not 0 <= int(id) < self.vocab_size or self._backend.token(int(id)) is None:
            raise ArgumentError(f"id {int(id)}: the vocabulary has {self.vocab_size} ids and none of them is it")
        return int(id)


def read_json(content: bytes) -> Any:
    """What the file holds, or None if it is no JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def is_library_json(file: Any) -> bool:
    """Whether a tokenizer.json is well-formed and of a kind that the native core does not run."""
    try:
        model = file["model"]
        steps = _steps(file.get("pre_tokenizer"))
        if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or model.get("unk_token"):
            return True
        return "ByteLevel" not in {step["type"] for step in steps} or _is_odd(file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _is_odd(file: Any) -> bool:
    normal = {step["type"] for step in _steps(file.get("normalizer"))} <= {"NFC"}
    spaced = any(step.get("add_prefix_space") for step in _steps(file.get("pre_tokenizer")))
    return spaced or not normal or bool(file["model"].get("dropout"))


def _steps(value: Any) -> list[Any]:
    if value is None:
        return []
    if value["type"] != "Sequence":
        return [value]
    return [step for part in value.get("pretokenizers", value.get("normalizers")) for step in _steps(part)]


@functools.cache
def _placeholder() -> _rust.TokenizerCore:
    """The native core that every Tokenizer has; here none of it is used."""
    ranks = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    return _rust.tokenizer_from_tiktoken(ranks, "bytes", [])


def _restored(content: bytes, settings: Any) -> LibraryTokenizer:
    tokenizer = LibraryTokenizer(content)
    tokenizer._settings = settings
    return tokenizer


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DependencyError(
            f"this tokenizer is run by {name}, which is not installed: pip install 'wordkiln[formats]'"
        ) from None


def _text(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    if not isinstance(text, str):
        raise ArgumentError(f"text: must be str or bytes, not {type(text).__name__}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _spelled(token: str | None) -> bytes | None:
    if token is None:
        return None
    if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
        return bytes([int(match[1], 16)])
    return token.replace("\u2581", " ").encode("utf-8", "surrogatepass")


def _listed(ids: Any) -> Iterable[Any]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise ArgumentError("ids: must be a sequence of integers")
    return ids
