"""Tokenizer, runtime, generation and command line where torch is not installed."""

import os
import subprocess
import sys

SCRIPT = """
import sys
sys.modules["torch"] = None  # importing it raises, as if it were not there

import numpy as np
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner

import wordkiln as wk
from wordkiln.cli.generate import generate
from wordkiln.models.layout import parameter_shapes

tokenizer = wk.Tokenizer.train(["床前明月光,疑是地上霜。"] * 5, vocab_size=280)
app = typer.Typer()
app.command()(generate)
for kind in ("lstm", "gru", "rnn", "transformer"):
    config = wk.models.ModelConfig(kind=kind, vocab_size=280, hidden_size=32)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    tokenizer.save(".")
    config.save(".")
    save_file(weights, "model.safetensors")
    model = wk.load(".")
    written = model.generate("床前", max_new_tokens=20, seed=4).text
    assert "".join(model.stream("床前", max_new_tokens=20, seed=4)) == written
    result = CliRunner().invoke(app, [".", "--prompt", "床前", "--max-new-tokens", "20", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "床前" + written + "\\n"
try:
    wk.load(".", backend="torch")
except wk.errors.DependencyError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
"""


def test_a_finished_model_needs_no_torch(tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
