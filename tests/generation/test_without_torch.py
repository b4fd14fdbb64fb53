"""Tokenizer, runtime, generation and command line where torch is not installed."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
sys.modules["torch"] = None  # importing it raises, as if it were not there

import json

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

import wordkiln as wk
from wordkiln.cli import app
from wordkiln.models.layout import parameter_shapes

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}"
MESSAGES = [{"role": "user", "content": "床前"}]
settings = {"max_new_tokens": 20, "seed": 4}
options = ["--max-new-tokens", "20", "--seed", "4"]

def run(*arguments, input=None):
    result = CliRunner().invoke(app, arguments, input=input)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout

tokenizer = wk.Tokenizer.train(["床前明月光,疑是地上霜。"] * 5, vocab_size=280).with_chat_template(TEMPLATE)
for kind in ("lstm", "gru", "rnn", "transformer"):
    positions = {"max_position_embeddings": 100} if kind == "transformer" else {}
    config = wk.models.ModelConfig(kind=kind, vocab_size=280, hidden_size=32, **positions)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    tokenizer.save(".")
    config.save(".")
    save_file(weights, "model.safetensors")
    model = wk.load(".")

    written = model.generate("床前", **settings).text
    assert "".join(model.stream("床前", **settings)) == written
    assert [text.text for text in model.batch(["明", "床前"], **settings)][1] == written
    assert run("generate", ".", "--prompt", "床前", *options) == "床前" + written + "\\n"
    assert run("stream", ".", "--prompt", "床前", *options) == written + "\\n"
    (line,) = run("generate", ".", "--input", "-", *options, input='"床前"').splitlines()
    assert json.loads(line)["finish_reason"] == "length"

    assert model.generate("床前", choices=["明月", "光"], **settings).text in ("明月", "光")
    best = model.beam("床前", num_beams=3, num_return=2, max_new_tokens=5)
    assert best[0].score >= best[1].score
    assert best[0].text in run("beam", ".", "--prompt", "床前", "--num-beams", "3", "--max-new-tokens", "5")

    score = model.score("床前明月光")
    assert abs(json.loads(run("score", ".", "床前明月光", "--json"))["logprob"] - score.total) < 1e-9
    assert model.perplexity("床前明月光" * 30, window=40) > 1
    assert len(model.next_tokens("床前", k=5)) == 5

    answer = model.chat(MESSAGES, **settings).text
    assert run("chat", ".", *options, input=json.dumps(MESSAGES)) == answer + "\\n"
for needs_torch in (
    lambda: wk.load(".", backend="torch"),
    lambda: wk.Trainer,
    lambda: wk.tasks.train_language_model("nothing.txt", "run"),  # before the missing file
):
    try:
        needs_torch()
    except wk.errors.DependencyError as error:
        assert "pip install" in str(error)
    else:
        raise AssertionError
"""

ROOT = Path(__file__).parents[2]
# The others need torch, or take longer; WORDKILN_TESTS_WITHOUT=torch runs any.
FILES = ("test_language_model.py", "test_batch.py", "test_scoring.py", "test_settings.py", "test_load.py")


def run(arguments, folder, environment):
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_a_finished_model_needs_no_torch(tmp_path):
    run(["-c", SCRIPT], tmp_path, {"PYTHONWARNINGS": "error"})


def test_the_tests_pass_without_torch():
    files = [f"tests/generation/{name}" for name in FILES]
    said = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *files], ROOT, {"WORDKILN_TESTS_WITHOUT": "torch"})
    assert " passed" in said
