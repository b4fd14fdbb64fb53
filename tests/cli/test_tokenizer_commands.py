"""`wordkiln tokenizer`: what it prints, and the one line and exit code 2 of its errors."""

import io
import sys
from types import SimpleNamespace

import pytest

from wordkiln.cli import main
from wordkiln.tokenizer import Tokenizer


@pytest.fixture
def run(monkeypatch, capfdbinary):
    """Runs the command line in this process; gives exit code and output as `subprocess.run` would."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["wordkiln", "tokenizer", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capfdbinary.readouterr()
        return SimpleNamespace(returncode=exited.value.code, stdout=out, stderr=err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("the cat sat on the mat, 中文分词。\n" * 20, encoding="utf-8")
    Tokenizer.train(folder / "text.txt", vocab_size=280).save(folder)
    return folder


def test_training_writes_what_the_class_does(run, trained, tmp_path):
    result = run("train", trained / "text.txt", "--vocab-size", 280, "--output", tmp_path / "t.json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"Tokenizer(vocab_size=280, pattern='cl100k', special_tokens=[<|end|>]) written to " in result.stdout
    assert (tmp_path / "t.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("text", ["the cat 中文", "", "\n two\nlines \n"])
def test_encode_and_decode_undo_each_other(run, trained, text):
    ids = run("encode", trained, text)
    assert (ids.returncode, ids.stderr) == (0, b"")
    (trained / "input.txt").write_bytes(text.encode())
    assert run("encode", trained / "tokenizer.json", "--file", trained / "input.txt").stdout == ids.stdout
    assert run("encode", trained, stdin=text.encode()).stdout == ids.stdout
    decoded = run("decode", trained, stdin=ids.stdout)
    assert (decoded.returncode, decoded.stdout) == (0, text.encode())
    assert run("decode", trained, *ids.stdout.decode().split()).stdout == text.encode()


def test_bytes_that_are_not_utf8_pass_through(run, trained):
    ids = run("encode", trained, stdin=b"\xff\x00a")
    assert run("decode", trained, stdin=ids.stdout).stdout == b"\xff\x00a"


def test_special_tokens_are_read_on_request(run, trained):
    assert run("encode", trained, "<|end|>", "--special").stdout == b"279\n"
    refused = run("encode", trained, "<|end|>")
    assert refused.returncode == 2
    assert b'the text holds the special token "<|end|>"' in refused.stderr


def test_options_of_training(run, trained, tmp_path):
    options = [
        "--pattern",
        "o200k",
        "--special",
        "<a>",
        "--special",
        "<b>",
        "--min-frequency",
        2,
        "--max-memory",
        "1GB",
    ]
    result = run("train", trained / "text.txt", "--vocab-size", 270, "-o", tmp_path, *options)
    assert result.returncode == 0, result.stderr
    assert b"vocab_size=270, pattern='o200k', special_tokens=[<a>, <b>]" in result.stdout
    assert (tmp_path / "tokenizer.json").exists()


def test_show_marks_the_tokens(run, trained):
    result = run("show", trained, "the cat")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"|" in result.stdout
    assert b"bytes per token" in result.stdout
    assert run("show", trained, stdin=b"the cat").stdout == result.stdout
    assert b"\x1b[" in run("show", trained, "the cat", "--color").stdout


def test_compare_tells_bytes_per_token(run, trained, tmp_path):
    other = Tokenizer.train([("the cat " * 9)], vocab_size=262)
    other.save(tmp_path / "other.json")
    (tmp_path / "a.txt").write_text("the cat sat")
    (tmp_path / "b.txt").write_text("中文分词\n")
    result = run("compare", trained, tmp_path / "other.json", "--corpus", tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    assert [line.split("  ")[0] for line in lines[-5:]] == ["a.txt", "b.txt", "lines: cjk", "lines: latin", "all"]
    per_token = 11 / Tokenizer.load(trained).count("the cat sat")
    assert [float(lines[-n].split()[-8]) for n in (5, 2)] == pytest.approx([per_token] * 2, abs=1e-3)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{}", "a", "--file", "b"], "TEXT and --file: give one of them"),
        (["compare", "{}", "--corpus", "missing"], "missing: no such file or folder"),
        (["train", "missing.txt"], "wordkiln: missing.txt: no such file or folder"),
        (["train", "{}/text.txt", "-o", "{}/no/folder/t.json"], "no such folder to write t.json to"),
        (["train", "{}/text.txt", "--vocab-size", "9000"], "vocab_size=9000 cannot be reached"),
        (["train", "{}/text.txt", "--vocab-size", "10"], "vocab_size=10: must be at least 256"),
        (["train", "{}/text.txt", "--pattern", "x"], 'pattern="x": must be one of'),
        (["encode", "missing.json", "a"], "missing.json: cannot be read: No such file or directory"),
        (["encode", "{}/text.txt", "a"], "not a tokenizer.json"),
        (["encode", "{}", "a", "--file", "b"], "TEXT and --file: give one of them"),
        (["encode", "{}", "--file", "{}/nothing"], "nothing: cannot be read"),
        (["decode", "{}", "9999"], "id 9999"),
        (["decode", "{}", "--file", "{}/text.txt"], "IDS: must be integers"),
    ],
)
def test_errors_are_one_line(run, trained, arguments, message):
    result = run(*[argument.replace("{}", str(trained)) for argument in arguments])
    assert result.returncode == 2
    assert message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("command", [[], ["train"], ["encode"], ["decode"], ["show"], ["compare"]])
def test_help_reads_well(run, command):
    result = run(*command, "--help")
    assert result.returncode == 0
    assert b"wordkiln tokenizer" in result.stdout
