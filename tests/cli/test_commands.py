"""The command line as a user meets it: what it says when something is wrong, and one way from text to text."""

import types

import pytest
import torch

from wordkiln.cli.doctor import examine
from wordkiln.ops import _cuda

TEXT = "從前有座山，山裡有座廟。The quick brown fox jumps over the lazy dog; 0123456789.\n" * 300


@pytest.fixture(scope="module")
def run(tmp_path_factory, wordkiln):
    """A folder with a corpus in it and a finished run, made by the command line itself."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "corpus.txt").write_text(TEXT, encoding="utf-8")
    arguments = "train corpus.txt -o run --vocab-size 300 --hidden-size 16 --layers 1 --steps 4 --batch-size 2"
    result = wordkiln(*arguments.split(), "--sequence-length", 16, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(
    "command", [[], ["train"], ["tokenizer"], ["tokenizer", "train"], ["generate"], ["info"], ["doctor"], ["demo"]]
)
def test_help_names_the_arguments(wordkiln, command, tmp_path):
    result = wordkiln(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage" in result.stdout


def test_run_directory_holds_what_the_readme_says(run):
    names = {path.name for path in (run / "run").iterdir()}
    assert {"tokenizer.json", "data", "best", "last", "log.csv", "loss.png"} <= names
    checkpoint = {path.name for path in (run / "run" / "best").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= checkpoint


def test_generate_is_the_same_for_the_same_seed(wordkiln, run):
    arguments = ["generate", "run", "--prompt", "從前", "--max-new-tokens", 12, "--seed", 3]
    first, second = wordkiln(*arguments, cwd=run), wordkiln(*arguments, cwd=run)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


def test_resume_goes_on(wordkiln, run):
    arguments = "train corpus.txt -o run --steps 6 --batch-size 2 --sequence-length 16 --resume"
    result = wordkiln(*arguments.split(), cwd=run)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", ["", "run", "run/best", "run/tokenizer.json", "run/data"])
def test_info_describes(wordkiln, run, path):
    result = wordkiln("info", *([path] if path else []), cwd=run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


WRONG = {
    "missing source": ("train nothing.txt -o new", "nothing.txt"),
    "empty corpus": ("train empty.txt -o new", "empty"),
    "vocabulary out of reach": ("train tiny.txt -o new --vocab-size 5000", "vocab_size"),
    "vocabulary too small": ("train corpus.txt -o new --vocab-size 10", "vocab_size"),
    "output in use": ("train corpus.txt -o run", "run"),
    "unknown kind": ("train corpus.txt -o new --vocab-size 300 --kind perceptron", "perceptron"),
    "no such device": ("train corpus.txt -o new --vocab-size 300 --device tpu", "device='tpu'"),
    "device without numbers": ("train corpus.txt -o new --vocab-size 300 --device meta", "device='meta'"),
    "negative steps": ("train corpus.txt -o new --vocab-size 300 --steps -1", "max_steps"),
    "nothing to generate from": ("generate nowhere --prompt a", "nowhere"),
    "temperature below zero": ("generate run --prompt a --temperature -1", "temperature"),
    "nothing to describe": ("info nowhere", "nowhere"),
    "tokenizer of nothing": ("tokenizer train nothing.txt --output t.json", "nothing.txt"),
    "ids outside the vocabulary": ("tokenizer decode run/tokenizer.json 99999", "99999"),
}


@pytest.mark.abuse
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line_and_code_2(wordkiln, run, case):
    (run / "empty.txt").write_text("")
    (run / "tiny.txt").write_text("abc abd\n")
    command, named = WRONG[case]
    before = sorted(path for path in run.rglob("*"))
    result = wordkiln(*command.split(), cwd=run)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("wordkiln: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert named in result.stderr
    assert sorted(path for path in run.rglob("*")) == before, "something half-written was left"


@pytest.mark.abuse
@pytest.mark.parametrize("size", [280, 300], ids=["another size", "the same size"])
def test_checkpoint_of_another_tokenizer_is_refused(wordkiln, run, size):
    other = run / "other.json"
    arguments = ["--vocab-size", size, "--pattern", "gpt2", "--output", other]
    assert wordkiln("tokenizer", "train", "corpus.txt", *arguments, cwd=run).returncode == 0
    swapped = run / f"swapped-{size}"
    swapped.mkdir()
    for file in (run / "run" / "best").iterdir():
        (swapped / file.name).write_bytes(file.read_bytes())
    (swapped / "tokenizer.json").write_bytes(other.read_bytes())
    result = wordkiln("generate", swapped, "--prompt", "a", cwd=run)
    assert result.returncode == 2
    assert "tokenizer" in result.stderr


def module_for_a_gpu(capability):
    module = types.ModuleType("_cuda")
    module.device_count, module.capability = lambda: 1, lambda device: capability
    return module


@pytest.mark.parametrize(
    ("available", "module", "good", "text"),
    [
        (False, None, True, "none that torch can use"),
        (
            True,
            None,
            False,
            "H100, on plain torch alone: no kernels for device cuda (built without CUDA",
        ),
        (True, module_for_a_gpu(75), False, "capability 7.5"),
        (True, module_for_a_gpu(90), True, "--device cuda"),
    ],
)
def test_doctor_on_the_gpu(monkeypatch, available, module, good, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(_cuda, "_module", module)
    found = next(finding for finding in examine() if finding.name == "GPU")
    assert found.good is good
    assert text in found.text
