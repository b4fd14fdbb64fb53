from __future__ import annotations

import json
import os

import numpy as np
import pytest

from wordkiln import Tokenizer
from wordkiln.data import TokenDataset
from wordkiln.errors import ArgumentError, FormatError, PathError

CHINESE = "子曰：學而時習之，不亦說乎？\n"


def text_of(split):
    """The documents of a split of byte tokens."""
    ids = split.ids(0, split.num_tokens)
    ends = np.flatnonzero(ids == 256)
    assert ends[-1] == len(ids) - 1
    return [part[part != 256].astype(np.uint8).tobytes().decode() for part in np.split(ids, ends + 1)[:-1]]


def write_files(folder, count):
    folder.mkdir()
    for index in range(count):
        (folder / f"{index:02d}.txt").write_text(f"document {index} {CHINESE}" * (index + 1), encoding="utf-8")
    return folder


def test_one_document_holds_out_its_tail(byte_dataset):
    text = CHINESE * 50
    data = byte_dataset(text)
    (train,), (valid,) = text_of(data.train), text_of(data.valid)
    assert train + valid == text
    assert len(valid) == round(len(text) * 0.1)
    assert data.train.num_bytes + data.valid.num_bytes == len(text.encode())
    assert data.train.num_tokens == data.train.num_bytes + 1
    data.verify()


@pytest.mark.parametrize("count", [2, 3, 40])
def test_several_documents_hold_out_whole_ones(tmp_path, byte_tokenizer, count):
    folder = write_files(tmp_path / "corpus", count)
    build = lambda name, **options: TokenDataset.build(folder, byte_tokenizer, tmp_path / name, **options)  # noqa: E731
    first, again, other = build("first"), build("again"), build("other", seed=1)
    train, valid = text_of(first.train), text_of(first.valid)
    assert sorted(train + valid) == sorted(path.read_text(encoding="utf-8") for path in folder.iterdir())
    assert len(valid) == max(1, round(count * 0.05))
    assert first.fingerprint == again.fingerprint
    if count == 40:
        assert text_of(other.valid) != valid


def test_json_lines_are_documents(tmp_path, byte_tokenizer):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(20)))
    data = TokenDataset.build(path, byte_tokenizer, tmp_path / "out", valid_fraction=0.25)
    assert len(text_of(data.valid)) == 5
    assert sorted(text_of(data.train) + text_of(data.valid)) == sorted(f"line {number}" for number in range(20))


def test_explicit_validation_sources(tmp_path, byte_tokenizer):
    folder = write_files(tmp_path / "corpus", 3)
    (tmp_path / "held.txt").write_text("held out")
    calls = []
    data = TokenDataset.build(
        folder,
        byte_tokenizer,
        tmp_path / "out",
        valid_sources=tmp_path / "held.txt",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert text_of(data.valid) == ["held out"]
    assert len(text_of(data.train)) == 3
    assert calls[-1][0] == calls[-1][1] > 0


def test_special_text_in_a_corpus_is_ordinary(byte_dataset):
    data = byte_dataset("before <|end|> after " * 10)
    assert np.count_nonzero(data.train.ids(0, data.train.num_tokens) == 256) == 1


def test_shards_are_bounded_and_read_across(byte_dataset):
    text = "".join(chr(97 + index % 26) for index in range(1000))
    data = byte_dataset(text, shard_tokens=64)
    assert len(list(data.path.glob("train-*.bin"))) == -(-901 // 64)
    whole = data.train.ids(0, data.train.num_tokens)
    for start, stop in [(0, 64), (63, 65), (60, 300), (128, 128), (900, 901)]:
        assert np.array_equal(data.train.ids(start, stop), whole[start:stop])
        assert data.train.count_bytes(start, stop) == np.count_nonzero(whole[start:stop] != 256)
    for start, stop in [(-1, 4), (4, 3), (0, 902)]:
        with pytest.raises(ArgumentError, match="must be 0 <= start"):
            data.train.ids(start, stop)


def test_many_flushes_give_the_same_ids(tmp_path, byte_tokenizer, monkeypatch):
    folder = write_files(tmp_path / "corpus", 12)
    whole = TokenDataset.build(folder, byte_tokenizer, tmp_path / "whole")
    monkeypatch.setattr("wordkiln.data.build._BATCH_CHARACTERS", 100)
    monkeypatch.setattr("wordkiln.data.corpus.PIECE_CHARACTERS", 50)
    assert TokenDataset.build(folder, byte_tokenizer, tmp_path / "parts").fingerprint == whole.fingerprint


def test_wide_vocabularies_use_four_bytes(tmp_path, byte_tokenizer):
    byte_tokenizer.vocab_size = 1 << 17
    byte_tokenizer.decode_bytes = lambda ids: b"x"
    (tmp_path / "x.txt").write_text("four bytes")
    data = TokenDataset.build(tmp_path / "x.txt", byte_tokenizer, tmp_path / "out")
    assert data.train.ids(0, 4).dtype == np.uint32


@pytest.mark.abuse
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"x"])
def test_an_empty_corpus_is_named_and_leaves_nothing(tmp_path, byte_tokenizer, content):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(PathError, match="no text for the"):
        TokenDataset.build(tmp_path / "x.txt", byte_tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.abuse
def test_a_bad_corpus_leaves_the_old_data_set(tmp_path, byte_tokenizer, byte_dataset):
    old = byte_dataset(CHINESE * 20)
    (tmp_path / "bad.txt").write_bytes(b"text \xff")
    with pytest.raises(FormatError, match="byte 5"):
        TokenDataset.build(tmp_path / "bad.txt", byte_tokenizer, old.path)
    TokenDataset.load(old.path).verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "text.txt", "tokens"]


@pytest.mark.abuse
@pytest.mark.parametrize("options", [{"valid_fraction": 0.0}, {"valid_fraction": 1.0}, {"shard_tokens": 0}])
def test_bad_arguments(byte_dataset, options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        byte_dataset("text", **options)


def edit(data, change):
    path = data.path / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(version=2), "version=2: this release reads version 1"),
        (lambda m: m.update(format="other"), "format='other'"),
        (lambda m: m.update(dtype="object"), "dtype='object'"),
        (lambda m: m.update(dtype="uint32"), "bytes, the manifest needs"),
        (lambda m: m.update(vocab_size=1 << 60), "vocab_size"),
        (lambda m: m.update(vocab_size=4), "bytes, the manifest needs 16"),
        (lambda m: m.update(vocab_size=True), "vocab_size=True"),
        (lambda m: m.pop("tokenizer_fingerprint"), "tokenizer_fingerprint=None"),
        (lambda m: m["splits"].pop("valid"), "splits: must be"),
        (lambda m: m["splits"].update(train=[]), "splits.train.shards: must be a list"),
        (lambda m: m["splits"]["train"].update(shards=[3]), "must be an object"),
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=10**30), "tokens="),
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=10), "the manifest needs 20"),
        (lambda m: m["splits"]["train"]["shards"][0].update(bytes=-1), "bytes=-1"),
        (lambda m: m["splits"]["train"]["shards"][0].update(sha256="x"), "sha256='x'"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../text.txt"), "must be 'train-00000.bin'"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="/etc/passwd"), "must be 'train-00000.bin'"),
    ],
)
def test_edited_manifests_are_refused(byte_dataset, change, reason):
    data = byte_dataset(CHINESE * 20)
    edit(data, change)
    with pytest.raises(FormatError, match=reason):
        TokenDataset.load(data.path)


@pytest.mark.abuse
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{" * 10, b"[" * 200_000, b"\xff\xff", b'{"version": ' + b"9" * 5000 + b"}"]
)
def test_broken_manifests_are_refused(byte_dataset, content):
    data = byte_dataset(CHINESE * 20)
    (data.path / "manifest.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        TokenDataset.load(data.path)


@pytest.mark.abuse
def test_changed_shards_are_refused(byte_dataset, tmp_path):
    data = byte_dataset(CHINESE * 20)
    shard = data.path / "train-00000.bin"
    content = shard.read_bytes()
    for damaged in (content[:-1], content + b"\0\0", b""):
        shard.write_bytes(damaged)
        with pytest.raises(FormatError, match="the manifest needs"):
            TokenDataset.load(data.path)
    shard.write_bytes(b"\xff\xff" + content[2:])
    changed = TokenDataset.load(data.path)
    with pytest.raises(FormatError, match="sha256"):
        changed.verify()
    with pytest.raises(FormatError, match="id 65535 is beyond the vocabulary of 258"):
        changed.train.ids(0, 5)
    shard.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        TokenDataset.load(data.path)
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(content)
    os.symlink(elsewhere, shard)
    with pytest.raises(FormatError, match="not a regular file"):
        TokenDataset.load(data.path)


@pytest.mark.abuse
def test_no_data_set_and_another_tokenizer(byte_dataset, byte_tokenizer, tmp_path):
    with pytest.raises(PathError, match="no data set here"):
        TokenDataset.load(tmp_path)
    data = byte_dataset(CHINESE * 20)
    data.check_tokenizer(byte_tokenizer)
    byte_tokenizer.fingerprint = "c" * 64
    with pytest.raises(FormatError, match="made by another tokenizer"):
        data.check_tokenizer(byte_tokenizer)


def test_a_trained_tokenizer_keeps_chinese_text_byte_for_byte(tmp_path):
    text = "".join(f"第{number}回 子曰：「學而時習之，不亦說乎？」<|end|>\n" for number in range(200))
    (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="\n")
    tokenizer = Tokenizer.train(iter([text]), vocab_size=300)
    data = TokenDataset.build(tmp_path / "x.txt", tokenizer, tmp_path / "out")
    parts = [split.ids(0, split.num_tokens).tolist() for split in (data.train, data.valid)]
    assert [part[-1] for part in parts] == [tokenizer.end_id] * 2
    assert "".join(tokenizer.decode(part[:-1]) for part in parts) == text
    assert data.train.num_bytes + data.valid.num_bytes == len(text.encode())
    assert data.train.count_bytes(0, data.train.num_tokens) == data.train.num_bytes
    assert data.tokenizer() == tokenizer
    Tokenizer.train(iter([text]), vocab_size=301).save(data.path / "tokenizer.json")
    with pytest.raises(FormatError, match="made by another tokenizer"):
        TokenDataset.load(data.path).tokenizer()


@pytest.mark.property
def test_cutting_a_long_text_changes_no_token(tmp_path, real_data, monkeypatch):
    path = real_data / "tinyshakespeare" / "input.txt"
    text = path.read_text(encoding="utf-8")[:200_000]
    (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="\n")
    for pattern in ("cl100k", "gpt2", "o200k"):
        tokenizer = Tokenizer.train(iter([text[:50_000]]), vocab_size=600, pattern=pattern)
        monkeypatch.setattr("wordkiln.data.corpus.PIECE_CHARACTERS", 4000)
        data = TokenDataset.build(tmp_path / "x.txt", tokenizer, tmp_path / "out", valid_sources=tmp_path / "x.txt")
        assert data.train.ids(0, data.train.num_tokens).tolist() == [*tokenizer.encode(text), tokenizer.end_id]
