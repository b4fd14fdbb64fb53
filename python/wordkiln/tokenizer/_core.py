"""What every tokenizer can do beyond the native core: offsets, padding, files, tables, pieces in colour."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from wordkiln import _rust
from wordkiln.errors import ArgumentError, PathError
from wordkiln.tokenizer import _show, _template

Special = Literal["all"] | Collection[str]
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

_CHUNK = 16 << 20


class Core(_rust.TokenizerCore):
    """The methods of `Tokenizer` that are built on encoding and decoding."""

    def encode_with_offsets(
        self,
        text: str | bytes,
        *,
        unit: Literal["char", "byte"] = "char",
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        """The ids of a text, and for each the place in the text that it stands for.

        Args:
            text: The text.
            unit: "char" for positions in a str, "byte" for positions in its UTF-8 form, or in bytes. A token that is a
                part of a character has, in characters, the place of the whole character.
            allowed_special: As for `encode`.
            disallowed_special: As for `encode`.

        Returns:
            The ids, N of them, and an int64 array [N, 2] of starts and ends. Where the tokenizer's normalization makes
            one character of several, its tokens have the place of all of them. A special token's place includes the
            space that it swallows.

        Raises:
            ArgumentError: `unit` is another, or "char" for bytes; the text holds a special token that is not allowed.
        """
        if unit not in ("char", "byte"):
            raise ArgumentError(f'unit={unit!r}: must be "char" or "byte"')
        if unit == "char" and isinstance(text, bytes):
            raise ArgumentError('unit="char": bytes have no characters; pass unit="byte", or a str')
        return self._offsets(text, unit == "char", allowed_special, disallowed_special)

    def encode_padded(
        self,
        texts: Iterable[str | bytes],
        *,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        truncation: Literal["right", "left", "error"] = "right",
        padding_side: Literal["right", "left"] = "right",
        pad_id: int | None = None,
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The ids of texts as one array, a row for each text.

        Args:
            texts: B texts.
            max_length: The most ids of a row; None for no limit.
            padding: "longest" makes the rows as long as the longest text's ids, "max_length" as `max_length`.
            truncation: What a text with more ids than `max_length` loses: its end ("right") or its start ("left");
                "error" refuses it.
            padding_side: Where the padding stands.
            pad_id: The id of the padding; None for the settings' pad_token, else `end_id`, else 0. The mask tells
                padding from text whatever its id.
            allowed_special: As for `encode`.
            disallowed_special: As for `encode`.

        Returns:
            ids int64 [B, T] and mask bool [B, T], which is true where a text has an id.

        Raises:
            ArgumentError: An option has another value; padding to `max_length` without one; a text is too long.
        """
        _one_of("padding", padding, ("longest", "max_length"))
        _one_of("truncation", truncation, ("right", "left", "error"))
        _one_of("padding_side", padding_side, ("right", "left"))
        if max_length is None and padding == "max_length":
            raise ArgumentError('padding="max_length": needs max_length')
        if max_length is not None and (isinstance(max_length, bool) or not 0 < max_length < 2**31):
            raise ArgumentError(f"max_length={max_length!r}: must be at least 1 and less than 2**31")
        flat, offsets = self.encode_flat(texts, allowed_special=allowed_special, disallowed_special=disallowed_special)
        starts, lengths = offsets[:-1], np.diff(offsets)
        longest = int(lengths.max(initial=0))
        if max_length is not None and longest > max_length:
            if truncation == "error":
                row = int(lengths.argmax())
                raise ArgumentError(f"texts[{row}]: has {longest} ids: max_length is {max_length}")
            kept = np.minimum(lengths, max_length)
            starts = starts + (lengths - kept) * (truncation == "left")
            lengths, longest = kept, max_length
        width = max_length if padding == "max_length" and max_length is not None else longest
        columns = np.arange(width)
        first = (width - lengths if padding_side == "left" else np.zeros_like(lengths))[:, None]
        mask = (columns >= first) & (columns < first + lengths[:, None])
        ids = np.full(mask.shape, self._pad_id(pad_id), np.int64)
        ids[mask] = flat[(starts[:, None] + columns - first)[mask]]
        return ids, mask

    def encode_file(
        self,
        path: str | os.PathLike[str],
        *,
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> Ids:
        """The ids of a file's text as one array [N], uint16 where the vocabulary allows it, else uint32.

        Raises:
            PathError: It cannot be read.
        """
        chunks = self.encode_file_chunks(path, allowed_special=allowed_special, disallowed_special=disallowed_special)
        return np.concatenate([self.encode_flat([])[0], *chunks])

    def encode_file_chunks(
        self,
        path: str | os.PathLike[str],
        *,
        chunk_bytes: int = _CHUNK,
        allowed_special: Special = frozenset(),
        disallowed_special: Special = "all",
    ) -> Iterator[Ids]:
        """The ids of a file's text in arrays, one after another; together they are the ids of the whole text.

        The file is read in chunks, which end before a line that begins with a letter; text without such lines, and
        any text where the tokenizer's pattern is "none" or a regex, is read as a whole.

        Args:
            path: The file.
            chunk_bytes: Bytes to read at a time.
            allowed_special: As for `encode`.
            disallowed_special: As for `encode`.

        Raises:
            PathError: It cannot be read.
        """
        if isinstance(chunk_bytes, bool) or not 1 <= chunk_bytes < 2**40:
            raise ArgumentError(f"chunk_bytes={chunk_bytes!r}: must be at least 1 and less than 2**40")
        try:
            with open(path, "rb") as file:
                for part in self._parts_of(file, chunk_bytes):
                    yield self.encode_flat(
                        [part], allowed_special=allowed_special, disallowed_special=disallowed_special
                    )[0]
        except OSError as error:
            raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            if isinstance(error, ArgumentError):
                raise
            raise PathError(f"{str(path)!r}: is no path: {error}") from error  # a NUL character

    def decode_batch(self, batch: Iterable[Sequence[int] | npt.NDArray[Any]]) -> list[str]:
        """The text of each list of ids.

        Raises:
            ArgumentError: An id is none of this vocabulary.
        """
        return [self.decode(ids) for ids in batch]

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that are merged, in their order; a new list at each call."""
        vocabulary = self.vocabulary
        return [(vocabulary[left], vocabulary[right]) for left, right in _rust.tokenizer_merges(self)]

    @property
    def vocabulary(self) -> dict[int, bytes]:
        """The bytes of each id, special tokens included, in the order of ids; a new dict at each call."""
        return _rust.tokenizer_vocabulary(self)

    def add_special_tokens(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """The ids with the special tokens around them that the tokenizer's file asks for (its `post_processor`).

        `encode` never adds any: `tok.add_special_tokens(tok.encode(text))` is what Hugging Face's
        `encode(text, add_special_tokens=True)` gives, and with `pair` what it gives for a pair of texts.

        Raises:
            FormatError: The file's `post_processor` is of a kind that is not known.
        """
        raw = _rust.tokenizer_post_processor(self)
        return _template.apply(json.loads(raw) if raw else None, list(ids), None if pair is None else list(pair))

    def show(self, text: str | bytes, *, file: Any = None, color: bool | None = None) -> None:
        """Print a text with its tokens in colours, for a terminal; without colours they stand between bars.

        Args:
            text: The text; special tokens in it are shown as their ids have them.
            file: Where to print; None for standard output.
            color: Whether to use colours; None for: if `file` is a terminal and NO_COLOR is not set.
        """
        ids = self.encode(text, allowed_special="all", disallowed_special=())
        _show.show([self.token_bytes(id) for id in ids], ids, file, color)

    def _offsets(
        self, text: str | bytes, characters: bool, allowed: Special, disallowed: Special
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        return _rust.tokenizer_offsets(
            self, text, characters=characters, allowed_special=allowed, disallowed_special=disallowed
        )

    def _last_cut(self, text: bytes) -> int | None:
        return _rust.tokenizer_last_cut(self, text)

    def _parts_of(self, file: BinaryIO, chunk_bytes: int) -> Iterator[bytes]:
        rest = b""
        while chunk := file.read(max(chunk_bytes, len(rest))):
            text = rest + chunk
            cut = self._last_cut(text) or 0
            if cut:
                yield text[:cut]
            rest = text[cut:]
        if rest:
            yield rest

    def _pad_id(self, pad_id: int | None) -> int:
        if pad_id is None:
            return 0
        if isinstance(pad_id, bool) or not hasattr(pad_id, "__index__") or not -(2**63) <= pad_id < 2**63:
            raise ArgumentError(f"pad_id={pad_id!r}: must be an integer")
        return int(pad_id)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name}={value!r}: must be one of {', '.join(choices)}")


def read_bytes(path: Path, limit: int) -> bytes:
    """A file's content, if it is not larger than `limit`.

    Raises:
        PathError: It cannot be read.
        FormatError: It is larger.
    """
    from wordkiln.errors import FormatError

    try:
        size = path.stat().st_size
        if size <= limit:
            return path.read_bytes()
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character
        raise PathError(f"{str(path)!r}: is no path: {error}") from error
    raise FormatError(f"{size} bytes: the limit is {limit}")
