from __future__ import annotations

import gzip
import json
import lzma
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.data import Corpus, corpus
from wordkiln.errors import ArgumentError, FormatError, PathError

CHINESE = "子曰：學而時習之，不亦說乎？\n有朋自遠方來，不亦樂乎？\n"


def documents(*args, **kwargs):
    found, text = {}, ""
    for piece in Corpus(*args, **kwargs).pieces():
        text += piece.text
        if piece.ends_document:
            found[piece.key] = text
            text = ""
    assert not text
    return found


def test_folder_is_read_recursively_in_sorted_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text(CHINESE, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "\\u4e8c"}\n')
    (tmp_path / "c.txt").write_text("three")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    read = documents(tmp_path)
    assert list(read.items()) == [
        ("0/a.jsonl:1", "one"),
        ("0/a.jsonl:3", "二"),
        ("0/b/2.txt", CHINESE),
        ("0/c.txt", "three"),
    ]
    assert list(Corpus(tmp_path).document_keys()) == list(read)


def test_include_takes_other_names_from_folders(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "x.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("no")
    assert documents(tmp_path, include=["*.py"]) == {"0/pkg/x.py": "x = 1\n"}
    assert documents(tmp_path, include="pkg/*") == {"0/pkg/x.py": "x = 1\n"}
    with pytest.raises(PathError, match=r"no file matches \*\.rs"):
        Corpus(tmp_path, include=["*.rs"])


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "x.txt").write_text("once")
    assert documents([tmp_path, tmp_path / "x.txt"]) == {"0/x.txt": "once"}


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files(tmp_path, suffix, pack):
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(CHINESE.encode()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(b'{"body": "x"}'))
    read = documents(tmp_path, text_field="body")
    assert list(read.values()) == [CHINESE, "x"]
    cut = tmp_path / f"cut.txt{suffix}"
    cut.write_bytes(pack(os.urandom(5000).hex().encode())[:-2000])
    with pytest.raises(FormatError, match="not a whole"):
        documents(cut)
    cut.write_bytes(b"not packed at all")
    with pytest.raises(FormatError, match="not a whole"):
        documents(cut)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert list(documents(tmp_path).values()) == ["abc"]


@pytest.mark.abuse
@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, (1 << 20) + 3])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe4\xb8", b"\xed\xa0\x80"])
def test_bytes_that_are_not_utf8_are_named_by_file_and_offset(tmp_path, before, bad):
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * before + bad + b"rest")
    with pytest.raises(FormatError, match=rf"x\.txt: byte {before}: not UTF-8"):
        documents(path)
    assert documents(path, errors="replace")["0/x.txt"].endswith("\ufffdrest")


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b"[]", "line 2: must be a JSON object"),
        (b'{"body": "x"}', "line 2: must be a JSON object whose field 'text'"),
        (b'{"text": 3}', "line 2: must be a JSON object whose field 'text'"),
        (b'{"text": "\\ud800"}', "line 2: field 'text' has half a surrogate pair"),
        (b'{"text": "\xff"}', "byte 27: not UTF-8"),
    ],
)
def test_bad_json_lines_are_named_by_file_and_line(tmp_path, line, reason):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(FormatError, match=rf"x\.jsonl: {reason}"):
        documents(path)


@pytest.mark.abuse
def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 1000)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "x" * 1000}))
    with pytest.raises(FormatError, match="line 1: longer than 1000 bytes"):
        documents(tmp_path)


@pytest.mark.abuse
def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(PathError, match="does not exist"):
        Corpus(tmp_path / "none.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PathError, match="not a file or folder"):
        Corpus(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match="at least one"):
        Corpus([])
    with pytest.raises(ArgumentError, match="errors='ignore'"):
        Corpus(tmp_path, errors="ignore")


@pytest.mark.property
@given(st.text(alphabet="ab 1\n\r。子", max_size=300))
def test_pieces_join_to_the_text_and_are_bounded(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("piece") / "x.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE_CHARACTERS", 8)
        pieces = list(Corpus(path).pieces())
    assert "".join(piece.text for piece in pieces) == text
    assert all(len(piece.text) <= 16 for piece in pieces)
    assert [piece.ends_document for piece in pieces[:-1]] == [False] * (len(pieces) - 1)


def test_long_texts_are_cut_at_a_line_end_before_a_letter(monkeypatch):
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 80)
    safe = "word\nword\n\n word\n"
    assert corpus._cut("x" * 80 + safe + "next\n\n  last") == 80 + len(safe)
    assert corpus._cut("子" * 80 + "\n　　子") == 81
    assert corpus._cut("子" * 81) == 81
