"""The Tokenizer: training, loading and saving around the native core, which does the work."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from wordkiln import _files, _rust
from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.tokenizer._sources import Source, read_sources

PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "whitespace", "bytes", "none")
"""How text can be cut into pre-tokens, the pieces that merges never cross."""

Progress = Callable[[str, int, int | None], object]

_FILE_NAME = "tokenizer.json"
_FILE_LIMIT = 512 << 20
_END_TOKENS = ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Tokenizer(_rust.TokenizerCore):
    """Byte-level BPE (Sennrich et al. 2016, section 3.2, over bytes as in Radford et al. 2019, section 2.2).

    Immutable and safe to share between threads. Every text has ids: any str (a lone surrogate counts as its three
    bytes) and any bytes, UTF-8 or not. Make one with `train`, `load` or `from_tiktoken`.

    Encoding takes the keywords `allowed_special` and `disallowed_special`, as tiktoken does. Each is "all" or a
    collection of special tokens' texts. Allowed ones become their id; a text that holds a disallowed one is an
    ArgumentError; the rest is ordinary text. The defaults, none and "all" (all that are not allowed), refuse
    special tokens in the text, which is what text from a user needs.
    """

    @classmethod
    def train(
        cls,
        source: Source | Sequence[Source],
        *,
        vocab_size: int,
        pattern: str | None = None,
        special_tokens: Iterable[str] | None = None,
        min_frequency: int = 1,
        max_memory: int | str | None = "2GB",
        weights: Sequence[int] | None = None,
        initial_alphabet: Iterable[str] = (),
        base: Tokenizer | None = None,
        ties: str = "alphabet",
        progress: Progress | None = None,
    ) -> Self:
        """Learn a vocabulary: merge the most frequent pair of neighbours until `vocab_size` is reached.

        Of pairs that are equally frequent the one with the smaller left id comes first, then the smaller right id;
        these are the merges that Hugging Face's BpeTrainer makes. The result does not depend on the number of threads.
        Ids are the 256 bytes (in GPT-2's order), the merges, the special tokens. Where a special token stands in the
        text, the text is cut, and nothing is learned from it.

        Args:
            source: What to learn from: a file or folder, several of them, an iterable of texts (str or bytes), or a
                mapping from texts to how often they occur. A string alone is a path. A list of strings is read as paths
                if the first one exists, else as texts. In a folder the .txt and .jsonl files count; a .jsonl file is a
                text for each line, its field "text"; any other file is one text, read through a memory map, so it must
                not be shortened meanwhile.
            vocab_size: The number of ids, at least 256 (or those of `base`) and the new special tokens.
            pattern: How text is cut before pairs are counted; one of PATTERNS. "cl100k" (the default, but for the
                pattern of `base`) suits most text, "o200k" keeps more scripts together, "none" merges across
                everything.
            special_tokens: Texts that get an id of their own and are never cut; ("<|end|>",) by default, none with
                `base`, which keeps its own.
            min_frequency: A pair that is seen less often is not merged.
            max_memory: What training may take besides the texts of an iterable, in bytes, or such as "2GB" or "512MiB";
                at least 64 MiB, None for no limit. When more is needed, pre-tokens longer than 64, then 16 bytes are
                cut to that length between characters; then the rarest are left out until half of the table is free.
            weights: With them, `source` is a list of sources as above, and each counts as if it stood there as many
                times as its weight says.
            initial_alphabet: Characters that get a token before anything is learned, however rare they are.
            base: A tokenizer to start from; its ids stay.
            ties: The order of single bytes that decides ties: "alphabet", that of their ids (as Hugging Face has it),
                or "bytes", by value (as rustbpe and bpeasy have it).
            progress: Called now and then as progress(phase, done, total): "reading" in bytes (total None for an
                iterable), then "merging" in merges. An error that it raises stops the training.

        Raises:
            ArgumentError: An argument is out of range; `vocab_size` cannot be reached (the message tells what can);
                `max_memory` is too little.
            PathError: A path is missing, or holds no text.
            FormatError: A line of a .jsonl file is not an object with "text".
        """
        if special_tokens is None:
            special_tokens = () if base is not None else ("<|end|>",)
        return cls(
            _rust.train_tokenizer(
                read_sources(source, weights),
                vocab_size=_check_int("vocab_size", vocab_size, 256),
                pattern=pattern,
                special_tokens=_check_names(special_tokens),
                min_frequency=_check_int("min_frequency", min_frequency, 1),
                max_memory=_bytes(max_memory),
                ties=ties,
                initial_alphabet=_check_characters(initial_alphabet),
                base=base,
                progress=progress,
            )
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a Hugging Face tokenizer.json of byte-level BPE, or the one in a directory.

        Raises:
            PathError: It cannot be read.
            FormatError: It is malformed, or uses a feature that this class does not follow exactly.
        """
        path = Path(path)
        if path.is_dir():
            path /= _FILE_NAME
        try:
            return cls(_read(path))
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Self:
        """Read a tiktoken rank file, which holds neither the pattern nor the special tokens.

        Args:
            path: The file: a line for each token, base64 and rank.
            pattern: One of PATTERNS; "cl100k" for cl100k_base, "o200k" for o200k_base, "gpt2" for r50k_base.
            special_tokens: Special tokens and their ids.

        Raises:
            PathError: It cannot be read.
            FormatError: It is not a rank file.
            ArgumentError: The pattern is unknown or a special token has the id of another token.
        """
        specials = dict(special_tokens or {})
        for content, id in specials.items():
            _check_int(f"special_tokens[{content!r}]", id, 0)
        try:
            return cls(_rust.tokenizer_from_tiktoken(_read(Path(path)), pattern, list(specials.items())))
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json, into `path` if that is a directory. Hugging Face's `tokenizers` reads it alike.

        Raises:
            PathError: It cannot be written; an old file is untouched.
        """
        path = Path(path)
        _files.write_file(path / _FILE_NAME if path.is_dir() else path, self.to_json())

    def to_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """Write a tiktoken rank file (without pattern and special tokens, for which it has no place).

        Raises:
            ArgumentError: Ranks cannot say what this tokenizer does.
            PathError: It cannot be written; an old file is untouched.
        """
        _files.write_file(path, self.to_tiktoken_bytes())

    @property
    def end_id(self) -> int | None:
        """Id of the token that ends a document: the first there is of <|end|>, <|endoftext|>, <|end_of_text|>, </s>."""
        specials = self.special_tokens
        return next((specials[token] for token in _END_TOKENS if token in specials), None)

    def __repr__(self) -> str:
        specials = ", ".join(self.special_tokens)
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r}, special_tokens=[{specials}])"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self.to_json(),)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size <= _FILE_LIMIT:
            return path.read_bytes()
    except OSError as error:
        raise PathError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character
        raise PathError(f"{str(path)!r}: is no path: {error}") from error
    raise FormatError(f"{size} bytes: the limit is {_FILE_LIMIT}")


def _check_int(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name}={value!r}: must be an integer")
    if not least <= value < 2**32:
        raise ArgumentError(f"{name}={value}: must be at least {least} and less than 2**32")
    return int(value)


def _check_names(special_tokens: Iterable[str]) -> list[str]:
    names = [special_tokens] if isinstance(special_tokens, str) else list(special_tokens)
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ArgumentError(f"special_tokens: {name!r} must be a string of printable characters")
    return names


def _check_characters(initial_alphabet: Iterable[str]) -> list[str]:
    characters = list(initial_alphabet)
    for character in characters:
        if not isinstance(character, str) or len(character) != 1 or "\ud800" <= character <= "\udfff":
            raise ArgumentError(f"initial_alphabet: {character!r} must be one character")
    return characters


def _bytes(size: int | str | None) -> int | None:
    if size is None:
        return None
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", size, re.IGNORECASE)
        if match is None or match[2].lower() not in _UNITS:
            raise ArgumentError(f"max_memory={size!r}: must be such as '2GB', '512MiB' or a number of bytes")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 2**63:
        raise ArgumentError(f"max_memory={size!r}: must be a positive number of bytes")
    return size
