"""Training: parity with Hugging Face's trainer, sources, limits, interruption."""

import json
import lzma
import signal
import subprocess
import sys
import threading

import pytest

import wordkiln as wk
from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.tokenizer import Tokenizer


def huggingface_merges(tokenizer, texts, vocab_size):
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import models, pre_tokenizers, trainers

    peer = HuggingFace(models.BPE())
    peer.pre_tokenizer = HuggingFace.from_str(tokenizer.to_json().decode()).pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    peer.train_from_iterator(texts, trainer)
    return json.loads(peer.to_str())["model"]["merges"]


def merges_of(tokenizer):
    return json.loads(tokenizer.to_json())["model"]["merges"]


def assert_same_merges(texts, vocab_size, pattern):
    tokenizer = Tokenizer.train(iter(texts), vocab_size=vocab_size, pattern=pattern, special_tokens=[])
    assert merges_of(tokenizer) == huggingface_merges(tokenizer, texts, vocab_size)


@pytest.mark.parity
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "llama3", "qwen2", "whitespace", "none"])
def test_merges_are_those_of_hugging_face(texts, pattern):
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    assert_same_merges(lines, 700, pattern)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "chinese-novels/hongloumeng.txt.xz"])
def test_merges_of_real_text_are_those_of_hugging_face(real_data, name):
    path = real_data / name
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data)[:300_000].decode("utf-8", "ignore")
    texts = text.split("\n\n")
    assert_same_merges(texts, 2000, "cl100k")


def test_files_texts_and_bytes_give_the_same(tmp_path, texts):
    expected = Tokenizer.train(iter(texts), vocab_size=600)
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_text(text, encoding="utf-8", newline="")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "all.jsonl").write_text(lines, encoding="utf-8")
    paths = sorted(tmp_path.glob("*.txt"))
    sources = [paths, [str(path) for path in paths], iter(paths), texts, [text.encode() for text in texts]]
    sources += [tmp_path / "folder", str(tmp_path / "folder"), [paths[0], tmp_path / "folder"]]
    for source in sources[:-1]:
        assert Tokenizer.train(source, vocab_size=600) == expected
    assert Tokenizer.train(sources[-1], vocab_size=600) == Tokenizer.train([texts[0], *texts], vocab_size=600)


def test_a_single_path_and_a_folder(tmp_path, english):
    path = tmp_path / "english.txt"
    path.write_text(english, encoding="utf-8")
    (tmp_path / "ignored.bin").write_bytes(b"\0" * 100)
    expected = Tokenizer.train(path, vocab_size=400)
    assert expected == Tokenizer.train(str(path), vocab_size=400) == Tokenizer.train(tmp_path, vocab_size=400)


def test_the_number_of_threads_changes_nothing(tmp_path, code, chinese):
    path = tmp_path / "text.txt"
    path.write_text((code + chinese) * 60, encoding="utf-8")
    before = wk.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            wk.set_num_threads(threads)
            results.append(Tokenizer.train(path, vocab_size=800))
    finally:
        wk.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer) == 1000
    assert tokenizer.special_tokens == {"<|end|>": 998, "<|user|>": 999}
    assert tokenizer.end_id == 998
    assert tokenizer.pattern == "cl100k"


def test_min_frequency_ends_the_merges():
    texts = ["ab ab ab cd cd ef"]
    with pytest.raises(ArgumentError, match=r"vocab_size=300 cannot be reached: 260 tokens"):
        Tokenizer.train(iter(texts), vocab_size=300, pattern="gpt2", special_tokens=[], min_frequency=2)


def test_progress_is_told_both_phases(texts):
    calls = []
    Tokenizer.train(iter(texts), vocab_size=600, progress=lambda *call: calls.append(call))
    assert ("merging", 600 - 257, 600 - 257) in calls
    assert ("reading", sum(len(text.encode()) for text in texts), None) in calls


def test_an_error_of_the_callback_or_the_iterator_comes_through(texts):
    class StopThisError(Exception):
        pass

    def stop(*_):
        raise StopThisError

    def broken():
        yield texts[0]
        raise StopThisError

    with pytest.raises(StopThisError):
        Tokenizer.train(iter(texts), vocab_size=600, progress=stop)
    with pytest.raises(StopThisError):
        Tokenizer.train(broken(), vocab_size=600)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 256}, r"vocab_size=256: must be at least 257 \(256 bytes and 1 special tokens\)"),
        ({"vocab_size": 0}, "vocab_size=0: must be at least 256"),
        ({"vocab_size": -1}, "vocab_size=-1: must be at least 256"),
        ({"vocab_size": 10**30}, "vocab_size=1000"),
        ({"vocab_size": 2**31}, "vocab_size=2147483648: must be at most 4194304"),
        ({"vocab_size": 300.5}, "vocab_size=300.5: must be an integer"),
        (
            {"vocab_size": 100_000},
            r"vocab_size=100000 cannot be reached: \d+ tokens \(256 bytes, \d+ merges, 1 special",
        ),
        ({"min_frequency": 0}, "min_frequency=0: must be at least 1"),
        ({"pattern": "gpt5"}, 'pattern="gpt5": must be one of'),
        ({"special_tokens": ["<|a|>", "<|a|>"]}, 'special_tokens: "<|a|>" stands there twice'),
        ({"special_tokens": [""]}, "special_tokens: one of them is empty"),
        ({"special_tokens": ["a"]}, 'special_tokens: "a" is how a single byte is spelled'),
        ({"special_tokens": ["<\n>"]}, "must be a string of printable characters"),
        ({"special_tokens": [7]}, "must be a string of printable characters"),
        ({"max_memory": "lots"}, "max_memory='lots': must be such as '2GB'"),
        ({"max_memory": 0}, "max_memory=0: must be a positive number of bytes"),
        ({"max_memory": 1000}, r"max_memory=1000: must be at least 67108864 bytes \(64MiB\)"),
        ({"ties": "ids"}, 'ties="ids": must be "alphabet" or "bytes"'),
        ({"initial_alphabet": ["ab"]}, "initial_alphabet: 'ab' must be one character"),
        ({"initial_alphabet": "\ud800"}, "must be one character"),
        ({"weights": [1, 2]}, "weights: source must be a list of 2 sources"),
    ],
)
def test_wrong_arguments_are_named(texts, fields, message):
    with pytest.raises(ArgumentError, match=message.replace("|", r"\|")):
        Tokenizer.train(iter(texts), **{"vocab_size": 300, **fields})


@pytest.mark.abuse
def test_wrong_sources_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text": 7}\n')
    (tmp_path / "folder").mkdir()
    for source, error, message in [
        ("missing.txt", PathError, "missing.txt: no such file or folder"),
        (["empty.txt", "missing.txt"], PathError, "missing.txt: no such file or folder"),
        ("folder", PathError, "folder: holds no .txt or .jsonl file"),
        ("empty.txt", ArgumentError, "source: holds no text"),
        (["", ""], ArgumentError, "source: holds no text"),
        ([], ArgumentError, "source: is empty"),
        (b"text", ArgumentError, "source: must be a path or an iterable of texts"),
        (7, ArgumentError, "source: must be a path or an iterable of texts, not int"),
        (["text", 7], ArgumentError, "text: must be str or bytes, not int"),
        ("bad.jsonl", FormatError, 'bad.jsonl: line 2 is not a JSON object with a string "text"'),
    ]:
        with pytest.raises(error, match=message):
            Tokenizer.train(source, vocab_size=257)


@pytest.mark.abuse
def test_text_that_is_not_utf8_is_learned_from():
    tokenizer = Tokenizer.train([b"\xff\xfe\xff\xfe", "\ud800\ud800"], vocab_size=260, special_tokens=[])
    assert tokenizer.decode_bytes(tokenizer.encode(b"\xff\xfe\xe4")) == b"\xff\xfe\xe4"


INTERRUPTED = """
import random, sys, wordkiln as wk
text = random.Random(0).randbytes(2_000_000).hex()
def texts():
    while True:
        yield text
        print("working", flush=True)
try:
    if sys.argv[1] == "read":
        wk.Tokenizer.train(texts(), vocab_size=30_000)
    else:
        tick = lambda phase, done, total: print("working", flush=True) if phase == "merging" and done else None
        wk.Tokenizer.train(iter([text]), vocab_size=200_000, pattern="none", progress=tick)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.abuse
@pytest.mark.parametrize("phase", ["read", "merge"])
def test_ctrl_c_is_answered(phase):
    command = [sys.executable, "-c", INTERRUPTED, phase]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert rest.splitlines()[-1] == "interrupted"
    assert process.returncode == 0


def test_training_in_threads(texts):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(Tokenizer.train(iter(texts), vocab_size=500))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({tokenizer.fingerprint for tokenizer in results}) == 1
