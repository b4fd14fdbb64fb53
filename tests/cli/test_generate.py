"""`wordkiln generate` with a stand-in model; the real one runs in tests/generation/test_without_torch.py."""

import pytest
import typer
from typer.testing import CliRunner

from wordkiln.cli.generate import generate
from wordkiln.errors import PathError
from wordkiln.generation import derive_seed


class Stream(list):
    finish_reason = "length"


class Model:
    def __init__(self):
        self.calls = []

    def stream(self, prompt, **options):
        self.calls.append((prompt, options))
        return Stream(["世", "界"])


@pytest.fixture
def model(monkeypatch):
    model = Model()
    monkeypatch.setattr("wordkiln.generation.load", lambda path, dtype: model)
    return model


def invoke(*arguments, **options):
    app = typer.Typer()
    app.command()(generate)
    return CliRunner().invoke(app, [*arguments], **options)


def test_options_reach_the_model(model):
    line = "dir --prompt 你好 --max-new-tokens 7 --temperature 0.5 --top-k 9 --top-p 0.8 --seed 3 --stop a --stop b"
    result = invoke(*line.split())
    assert (result.exit_code, result.stdout) == (0, "你好世界\n")
    options = {"max_new_tokens": 7, "temperature": 0.5, "top_k": 9, "top_p": 0.8, "seed": 3, "stop": ["a", "b"]}
    assert model.calls == [("你好", options)]


def test_a_prompt_from_standard_input(model):
    assert invoke("dir", "--prompt", "-", input="问").stdout == "问世界\n"


def test_several_texts_follow_derived_seeds(model):
    result = invoke("dir", "-n", "2", "--seed", "5")
    assert result.stdout == "--- 1 of 2\n世界\n--- 2 of 2\n世界\n"
    assert [options["seed"] for _, options in model.calls] == [5, derive_seed(5, 1)]


def test_an_interrupt_is_the_end_of_all(model, monkeypatch):
    monkeypatch.setattr(Stream, "finish_reason", "interrupted")
    assert invoke("dir", "-n", "3").stdout == "--- 1 of 3\n世界\n"


def test_a_wrong_path_is_a_named_error(tmp_path):
    assert isinstance(invoke(str(tmp_path / "nothing")).exception, PathError)
