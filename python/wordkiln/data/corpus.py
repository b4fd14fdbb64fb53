"""Text files, JSON lines and folders of them, read as a stream of pieces of documents."""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from wordkiln.errors import ArgumentError, FormatError, PathError

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

PIECE_CHARACTERS = 1 << 20
MAX_LINE_BYTES = 64 << 20
_SUFFIXES = ("*.txt", "*.jsonl")
_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Piece(NamedTuple):
    """A part of a document. `key` names the document; the last piece has `ends_document`."""

    key: str
    text: str
    ends_document: bool


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus; `key` is its path inside the source it came from, the same on every machine."""

    path: Path
    key: str
    is_jsonl: bool
    compression: str


class Corpus:
    """The documents of text files (one each), JSON lines files (one a line) and folders of both.

    Args:
        sources: paths of files or folders. Folders are searched recursively, in sorted order. ``.gz`` and ``.xz``
            files are unpacked on the way.
        include: glob patterns of the files to take from folders, such as ``["*.py"]``, matched with the name and with
            the path inside the folder (and without ``.gz``, ``.xz``). By default ``*.txt`` and ``*.jsonl``.
        text_field: the field of a JSON line that holds the text.
        errors: "strict" raises at the first byte that is not UTF-8, "replace" reads U+FFFD there.

    Raises:
        PathError: a source is missing, or a folder holds no such file.
        ArgumentError: `errors` is neither of the two, or there are no sources.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        include: Sequence[str] | str | None = None,
        text_field: str = "text",
        errors: str = "strict",
    ) -> None:
        if errors not in ("strict", "replace"):
            raise ArgumentError(f"errors={errors!r}: must be 'strict' or 'replace'")
        self.files = _find_files(sources, include)
        self.total_bytes = sum(file.path.stat().st_size for file in self.files)
        self._finished_bytes = 0
        self._raw: IO[bytes] | None = None
        self._text_field = text_field
        self._errors = errors

    @property
    def bytes_read(self) -> int:
        """Bytes of the files that `pieces` has read so far, as they are on disk, of `total_bytes`."""
        open_bytes = self._raw.tell() if self._raw is not None and not self._raw.closed else 0
        return self._finished_bytes + open_bytes

    def document_keys(self) -> Iterator[str]:
        """The names of the documents, in order. JSON lines files are read for it, without a look into the lines."""
        for file in self.files:
            if file.is_jsonl:
                for number, _, line in self._lines(file):
                    if line.strip():
                        yield f"{file.key}:{number}"
            else:
                yield file.key

    def pieces(self) -> Iterator[Piece]:
        """The documents in order, each as one or more pieces; a document without text gives one empty piece.

        Raises:
            FormatError: a line is no JSON object with such a text, a file is not UTF-8 or not well packed; the
                message has the file and the line or byte.
        """
        self._finished_bytes = 0
        for file in self.files:
            yield from self._json_pieces(file) if file.is_jsonl else self._text_pieces(file)
            self._finished_bytes += file.path.stat().st_size

    def _text_pieces(self, file: SourceFile) -> Iterator[Piece]:
        text = ""
        for part in self._decoded(file):
            text += part
            if len(text) > PIECE_CHARACTERS:
                cut = _cut(text)
                yield Piece(file.key, text[:cut], False)
                text = text[cut:]
        yield Piece(file.key, text, True)

    def _decoded(self, file: SourceFile) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(self._errors)
        with self._open(file) as stream:
            offset, final = 0, False
            while not final:
                block = stream.read(PIECE_CHARACTERS)
                final = not block
                try:
                    text = decoder.decode(block, final)
                except UnicodeDecodeError as error:
                    raise _not_utf8(file, offset + len(block) - len(error.object) + error.start) from error
                yield text.removeprefix("\ufeff") if offset == 0 else text
                offset += len(block)

    def _json_pieces(self, file: SourceFile) -> Iterator[Piece]:
        for number, offset, line in self._lines(file):
            if not line.strip():
                continue
            try:
                text = line.decode(errors=self._errors).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, offset + error.start) from error
            yield Piece(f"{file.key}:{number}", self._field(file, number, text), True)

    def _field(self, file: SourceFile, number: int, line: str) -> str:
        where = f"{file.path}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: not JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get(self._text_field), str):
            raise FormatError(f"{where}: must be a JSON object whose field {self._text_field!r} is a string")
        text = cast(str, record[self._text_field])
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self._errors == "replace":
                return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            raise FormatError(f"{where}: field {self._text_field!r} has half a surrogate pair") from error
        return text

    def _lines(self, file: SourceFile) -> Iterator[tuple[int, int, bytes]]:
        """Number from 1, byte offset, content."""
        number, offset = 0, 0
        with self._open(file) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise FormatError(f"{file.path}: line {number}: longer than {MAX_LINE_BYTES} bytes")
                yield number, offset, line
                offset += len(line)

    @contextmanager
    def _open(self, file: SourceFile) -> Iterator[IO[bytes]]:
        opener = _OPENERS.get(file.compression)
        try:
            with open(file.path, "rb") as raw, opener(raw) if opener else raw as stream:
                self._raw = raw
                yield cast(IO[bytes], stream)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise FormatError(f"{file.path}: not a whole {file.compression[1:]} file: {error}") from error
        except OSError as error:
            if isinstance(error, PathError):
                raise
            raise PathError(f"{file.path}: cannot be read: {error.strerror or error}") from error


def find_files(sources: Sources, *, include: Sequence[str] | str | None = None) -> list[Path]:
    """The files that a `Corpus` of these sources reads, in its order; empty files are left out.

    Raises:
        PathError: a source is missing, or a folder holds no such file.
        ArgumentError: there are no sources.
    """
    return [file.path for file in _find_files(sources, include)]


def _find_files(sources: Sources, include: Sequence[str] | str | None) -> list[SourceFile]:
    patterns = (include,) if isinstance(include, str) else tuple(_SUFFIXES if include is None else include)
    paths = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not paths:
        raise ArgumentError("sources: must name at least one file or folder")
    files: dict[Path, SourceFile] = {}
    for index, source in enumerate(map(Path, paths)):
        if source.is_dir():
            found = _files_of_folder(source, patterns)
            if not found:
                raise PathError(f"{source}: no file matches {', '.join(patterns)} in this folder")
        elif source.is_file():
            found = [source]
        else:
            raise PathError(f"{source}: {'not a file or folder' if source.exists() else 'does not exist'}")
        for path in found:
            name = path.relative_to(source).as_posix() if path != source else path.name
            if path.stat().st_size:
                files.setdefault(path.resolve(), _source_file(path, f"{index}/{name}"))
    return list(files.values())


def _files_of_folder(folder: Path, include: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _matches(path, folder, include))


def _matches(path: Path, folder: Path, include: tuple[str, ...]) -> bool:
    relative = path.relative_to(folder).as_posix()
    plain = relative.removesuffix(".gz").removesuffix(".xz")
    names = (relative, plain, relative.rpartition("/")[2], plain.rpartition("/")[2])
    return any(fnmatch(name, pattern) for name in names for pattern in include)


def _source_file(path: Path, key: str) -> SourceFile:
    compression = path.suffix if path.suffix in _OPENERS else ""
    return SourceFile(path, key, path.name.removesuffix(compression).endswith(".jsonl"), compression)


def _not_utf8(file: SourceFile, offset: int) -> FormatError:
    return FormatError(f"{file.path}: byte {offset}: not UTF-8 (errors='replace' reads U+FFFD there)")


def _cut(text: str) -> int:
    """Where to cut a long text so that its tokens stay those of the whole text.

    No split pattern in use joins a line break that follows a visible character with a letter or digit after it. A text
    without such a place near its end is cut at a line break, or anywhere.
    """
    start = max(1, len(text) - (PIECE_CHARACTERS >> 2))
    position = len(text)
    while (position := text.rfind("\n", start, position)) != -1:
        if not text[position - 1].isspace() and text[position + 1 : position + 2].isalnum():
            return position + 1
    return text.rfind("\n", start) + 1 or len(text)
