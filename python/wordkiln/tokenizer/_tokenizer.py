"""The Tokenizer: training, loading and saving around the native core, which does the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from wordkiln import _files, _rust
from wordkiln.errors import FormatError
from wordkiln.tokenizer import _tekken, _vocabulary, _wordpiece
from wordkiln.tokenizer._checks import byte_count, check_characters, check_int, check_names
from wordkiln.tokenizer._core import Core, read_bytes
from wordkiln.tokenizer._settings import Settings
from wordkiln.tokenizer._sources import Source, read_sources

PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "whitespace", "bytes", "none")
"""How text can be cut into pre-tokens, the pieces that merges never cross."""

Progress = Callable[[str, int, int | None], object]

_FILE_NAME = "tokenizer.json"
_WORDPIECE = "vocab.txt"
_FILE_NAMES = (_FILE_NAME, "tekken.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", _WORDPIECE)
_SHOWN = 6
_SHOWN_PATTERN = 60
_FILE_LIMIT = 512 << 20
# Python's JSON takes twenty times a file's size; the largest that a library has to run, Gemma's, has 33 MB.
_LIBRARY_LIMIT = 48 << 20
_END_TOKENS = ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>")


class Tokenizer(Core):
    """Byte-level BPE (Sennrich et al. 2016, section 3.2, over bytes as in Radford et al. 2019, section 2.2).

    Immutable and safe to share between threads. Every text has ids: any str (a lone surrogate counts as its three
    bytes) and any bytes, UTF-8 or not. Make one with `train`, `load` or `from_tiktoken`.

    Encoding takes the keywords `allowed_special` and `disallowed_special`, as tiktoken does. Each is "all" or a
    collection of texts. A text that holds a disallowed one is an ArgumentError; allowed ones, which must be special
    tokens of this tokenizer, become their id; the rest is ordinary text. The defaults, none and "all" (all that are
    not allowed), refuse special tokens in the text, which is what text from a user needs. Added tokens that a file does
    not call special are ordinary vocabulary: they are matched wherever they stand, as Hugging Face does.

    A file that asks for Unicode normalization (NFC: Qwen's) gets it before text is cut; `decode` then gives the
    normalized text. `encode` adds no tokens around the text: see `add_special_tokens`.
    """

    _settings = Settings()

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
                vocab_size=check_int("vocab_size", vocab_size, 256),
                pattern=pattern,
                special_tokens=check_names(special_tokens),
                min_frequency=check_int("min_frequency", min_frequency, 1),
                max_memory=byte_count(max_memory),
                ties=ties,
                initial_alphabet=check_characters(initial_alphabet),
                base=base,
                progress=progress,
            )
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer's file, or the one in a directory with its settings and chat template.

        Byte-level BPE in Hugging Face's tokenizer.json is run by Wordkiln itself. Files of other kinds (WordPiece,
        Unigram, BPE with byte fallback, SentencePiece models) are run by the libraries `tokenizers` and
        `sentencepiece` (`pip install 'wordkiln[formats]'`) behind the same methods. Mistral's tekken.json is read
        natively. tiktoken's rank files do not tell how text is cut: see `from_tiktoken`.

        Args:
            path: A tokenizer.json, tekken.json, SentencePiece model or WordPiece vocab.txt; or a directory with one
                of them (the first in this order), whose tokenizer_config.json and chat_template.jinja are read too.

        Raises:
            PathError: It cannot be read.
            FormatError: It is malformed, or uses a feature that nobody here follows exactly.
            DependencyError: It needs a library that is not installed.
        """
        path = Path(path)
        settings = Settings()
        if path.is_dir():
            settings = Settings.load(path)
            names = [name for name in _FILE_NAMES if (path / name).is_file()]
            path /= names[0] if names else _FILE_NAME
        try:
            content = read_bytes(path, _FILE_LIMIT)
            if path.name == _WORDPIECE:
                content = _wordpiece.tokenizer_json(_wordpiece.lines(content), settings.as_dict())
            tokenizer = cls._of(content)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        tokenizer._settings = settings
        return tokenizer

    @classmethod
    def _of(cls, content: bytes) -> Tokenizer:
        from wordkiln.tokenizer import _library

        if content[:1] == b"\n":  # the first field of a SentencePiece model, which no JSON begins with here
            return _library.LibraryTokenizer(content)
        try:
            return cls(content)
        except FormatError:
            if len(content) > _LIBRARY_LIMIT:
                raise
            file = _library.read_json(content)
            if _tekken.is_tekken(file):
                return cls(_tekken.tokenizer_json(file))
            if not _library.is_library_json(file):
                raise
        return _library.LibraryTokenizer(content)

    @classmethod
    def from_vocabulary(
        cls,
        tokens: Sequence[str],
        merges: Iterable[str | tuple[str, str]],
        *,
        pattern: str,
        special_tokens: Iterable[str] | Mapping[str, int] = (),
        added_tokens: Iterable[str] = (),
        ignore_merges: bool = False,
        normalize: bool = False,
    ) -> Self:
        """Make a byte-level BPE tokenizer of its tables, such as those in a GGUF file's metadata.

        Args:
            tokens: The token of each id in the spelling of GPT-2's files (a space is U+0120).
            merges: Pairs of tokens in their order, each a tuple or a string with a space between.
            pattern: A name of PATTERNS, or a regex; see `train`.
            special_tokens: Those that text from users must not hold; ones that are not in `tokens` need an id (a dict).
            added_tokens: Those among `tokens` that are matched in any text before it is cut.
            ignore_merges: Whether a pre-token that is a token is taken whole (Llama 3 and tiktoken's vocabularies).
            normalize: Whether text is brought into NFC (Qwen).

        Raises:
            FormatError: The tables do not fit together.
            ArgumentError: The pattern is unknown; a special token has no id.
        """
        return cls._of_tables(
            _vocabulary.numbered(tokens),
            merges,
            pattern=pattern,
            special_tokens=special_tokens,
            added_tokens=added_tokens,
            ignore_merges=ignore_merges,
            normalize=normalize,
        )

    @classmethod
    def _of_tables(cls, ids: dict[str, int], merges: Iterable[str | tuple[str, str]], **options: Any) -> Self:
        return cls(_vocabulary.tokenizer_json(ids, merges, **options))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer of a GGUF file.

        Byte-level BPE (`tokenizer.ggml.model` "gpt2") is run by Wordkiln itself; "llama" (SentencePiece) and "bert"
        (WordPiece) by their libraries, as in `load`. The chat template and the special tokens' names come along.

        Args:
            metadata: The file's keys and values, of which those that start with "tokenizer." are read. Lists may be
                numpy arrays.

        Raises:
            FormatError: A key is missing or wrong, or names a model or a `pre` that nobody here follows exactly.
            DependencyError: It needs a library that is not installed.
        """
        from wordkiln.tokenizer import _gguf

        tables = _gguf.Tables.read(metadata)
        settings = Settings(tables.settings())
        if tables.kind == "llama":
            tokenizer = cls._of(tables.sentencepiece())
        elif tables.kind == "bert":
            tokenizer = cls._of(_wordpiece.tokenizer_json(tables.wordpiece(), settings.as_dict()))
        else:
            tokenizer = cls._of_tables(
                tables.ordinary(),
                tables.merges,
                pattern=tables.pattern(),
                special_tokens=tables.special_tokens(),
                added_tokens=tables.added_tokens(),
                ignore_merges=tables.takes_whole_pieces(),
                normalize=tables.normalizes(),
            )
        tokenizer._settings = settings
        return tokenizer

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
            pattern: One of PATTERNS ("cl100k" for cl100k_base, "o200k" for o200k_base, "gpt2" for r50k_base), or a
                regex.
            special_tokens: Special tokens and their ids.

        Raises:
            PathError: It cannot be read.
            FormatError: It is not a rank file.
            ArgumentError: The pattern is unknown or a special token has the id of another token.
        """
        specials = dict(special_tokens or {})
        for content, id in specials.items():
            check_int(f"special_tokens[{content!r}]", id, 0)
        try:
            return cls(
                _rust.tokenizer_from_tiktoken(read_bytes(Path(path), _FILE_LIMIT), pattern, list(specials.items()))
            )
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tokenizer.json. Hugging Face's `tokenizers` reads it alike.

        Args:
            path: The file to write; or a directory, which also gets the tokenizer_config.json and chat_template.jinja
                that the tokenizer was read with.

        Raises:
            PathError: It cannot be written; an old file is untouched.
        """
        path = Path(path)
        name, content = self._file()
        if path.is_dir():
            _files.write_file(path / name, content)
            self._settings.save(path)
        else:
            _files.write_file(path, content)

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

    @property
    def settings(self) -> dict[str, Any]:
        """The content of tokenizer_config.json, empty where there was none; a new dict at each call."""
        return self._settings.as_dict()

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the tokenizer."""
        return self._settings.chat_template()

    def with_chat_template(self, template: str | None) -> Self:
        """The same tokenizer with another chat template, or with none."""
        copy = self._copy()
        copy._settings = self._settings.with_chat_template(template)
        return copy

    @property
    def bos_id(self) -> int | None:
        """Id of the settings' bos_token."""
        return self._settings.special_id("bos_token", self.special_tokens)

    @property
    def eos_id(self) -> int | None:
        """Id of the settings' eos_token, else `end_id`."""
        id = self._settings.special_id("eos_token", self.special_tokens)
        return self.end_id if id is None else id

    @property
    def pad_id(self) -> int | None:
        """Id of the settings' pad_token."""
        return self._settings.special_id("pad_token", self.special_tokens)

    def _pad_id(self, pad_id: int | None) -> int:
        ids = (pad_id, self.pad_id, self.end_id)
        return super()._pad_id(next((id for id in ids if id is not None), None))

    def _file(self) -> tuple[str, bytes]:
        return _FILE_NAME, self.to_json()

    def _copy(self) -> Self:
        copy = type(self)(self)
        copy._settings = self._settings
        return copy

    def __repr__(self) -> str:
        names = list(self.special_tokens)
        shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]
        specials = ", ".join(shown)
        pattern = self.pattern if len(self.pattern) <= _SHOWN_PATTERN else f"{self.pattern[:_SHOWN_PATTERN]}…"
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={pattern!r}, special_tokens=[{specials}])"

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

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restored, (type(self), self.to_json(), self._settings)


def _restored(kind: type[Tokenizer], content: bytes, settings: Settings) -> Tokenizer:
    tokenizer = kind(content)
    tokenizer._settings = settings
    return tokenizer
