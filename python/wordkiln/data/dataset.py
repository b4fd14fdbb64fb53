"""A corpus as token ids on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wordkiln._files import recover_directory, write_directory
from wordkiln.data.build import Progress, assign_splits, explicit_splits, write_dataset
from wordkiln.data.corpus import Corpus, Sources
from wordkiln.data.manifest import TOKEN_LENGTHS_FILE, TOKENIZER_FILE, Manifest, Shard, read_manifest
from wordkiln.data.shards import Split
from wordkiln.errors import ArgumentError, FormatError

if TYPE_CHECKING:
    from wordkiln.tokenizer import Tokenizer

_MAX_SHARD_TOKENS = 1 << 30
_DEFAULT_SHARD_TOKENS = 1 << 26


class TokenDataset:
    """Train and validation tokens in a directory: made by `build`, opened by `load`.

    Attributes:
        path: the directory.
        train: the split to learn from.
        valid: the held-out split.
        vocab_size: ids are below it.
        tokenizer_fingerprint: of the tokenizer that made the ids.
        fingerprint: of this data set; equal for equal tokens.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.vocab_size = manifest.vocab_size
        self.tokenizer_fingerprint = manifest.tokenizer_fingerprint
        self.fingerprint = manifest.fingerprint
        self._manifest = manifest
        self._token_lengths = np.fromfile(path / TOKEN_LENGTHS_FILE, np.dtype("<u4"))
        self.train = self._split("train")
        self.valid = self._split("valid")

    @classmethod
    def build(
        cls,
        sources: Sources,
        tokenizer: Tokenizer,
        output_dir: str | os.PathLike[str],
        *,
        valid_sources: Sources | None = None,
        valid_fraction: float = 0.05,
        seed: int = 0,
        include: Sequence[str] | str | None = None,
        text_field: str = "text",
        errors: str = "strict",
        shard_tokens: int = _DEFAULT_SHARD_TOKENS,
        progress: Progress | None = None,
    ) -> TokenDataset:
        """Encode a corpus. It is streamed: memory does not grow with it.

        Args:
            sources: files (.txt, .jsonl, also .gz and .xz of them) and folders, see `Corpus`.
            tokenizer: its `end_id`, if any, ends every document. Special tokens in the text are ordinary text.
            output_dir: what was there is replaced once everything is written.
            valid_sources: the validation text; without it, `valid_fraction` of the documents is held out whole,
                chosen by a hash of (seed, path), or of a single document its tail.
            valid_fraction: above 0 and below 1.
            seed: of that choice.
            include: glob patterns of the files to take from folders, such as ``["*.py"]``.
            text_field: the field of a JSON line that holds the text.
            errors: "strict" or "replace", for bytes that are not UTF-8.
            shard_tokens: tokens in a shard file at most, 1 to 2**30.
            progress: called now and then with (bytes of the files read, bytes of all files).

        Raises:
            PathError: a path is missing or empty, or the data set cannot be written.
            FormatError: a file is not UTF-8 or a line not such JSON.
            ArgumentError: an argument is out of its range.
        """
        if not 0 < valid_fraction < 1:
            raise ArgumentError(f"valid_fraction={valid_fraction}: must be above 0 and below 1")
        if not 1 <= shard_tokens <= _MAX_SHARD_TOKENS:
            raise ArgumentError(f"shard_tokens={shard_tokens}: must be 1 to {_MAX_SHARD_TOKENS}")
        corpus = Corpus(sources, include=include, text_field=text_field, errors=errors)
        corpora = [corpus]
        if valid_sources is None:
            pieces = assign_splits(corpus, valid_fraction, seed)
        else:
            corpora.append(Corpus(valid_sources, include=include, text_field=text_field, errors=errors))
            pieces = explicit_splits(*corpora)

        def report() -> None:
            if progress is not None:
                progress(sum(each.bytes_read for each in corpora), sum(each.total_bytes for each in corpora))

        with write_directory(output_dir) as folder:
            write_dataset(folder, tokenizer, pieces, shard_tokens, report)
        return cls.load(output_dir)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenDataset:
        """Open a data set. Every size in its manifest is checked against the files first.

        Raises:
            PathError: there is no data set at `path`.
            FormatError: the manifest is malformed or of another version, or a file is truncated or missing.
        """
        path = Path(path)
        recover_directory(path)
        return cls(path, read_manifest(path))

    def verify(self) -> None:
        """Read every shard and compare its sha256 with the manifest.

        Raises:
            FormatError: one was changed.
        """
        for shards in self._manifest.splits.values():
            for shard in shards:
                with open(self.path / shard.file, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != shard.sha256:
                    raise FormatError(f"{self.path / shard.file}: sha256 is {found}, the manifest has {shard.sha256}")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, from the copy kept with them.

        Raises:
            FormatError: the copy is another tokenizer.
        """
        from wordkiln.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.path / TOKENIZER_FILE)
        self.check_tokenizer(tokenizer)
        return tokenizer

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one that made the ids.

        Raises:
            FormatError: its fingerprint differs.
        """
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise FormatError(
                f"{self.path}: its tokens were made by another tokenizer"
                f" ({self.tokenizer_fingerprint[:12]}..., not {tokenizer.fingerprint[:12]}...)"
            )

    def _split(self, name: str) -> Split:
        shards: tuple[Shard, ...] = self._manifest.splits[name]
        return Split(
            name,
            [self.path / shard.file for shard in shards],
            [shard.tokens for shard in shards],
            sum(shard.bytes for shard in shards),
            self._manifest.dtype,
            self._token_lengths,
        )
