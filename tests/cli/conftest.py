"""The command line in a process of its own, or in this one on a small model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wordkiln():
    """Runs `wordkiln ARGUMENTS` in a folder and gives what came of it."""

    def call(
        *arguments: object, cwd: Path, input: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wordkiln", *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"} | environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A random LSTM of 300 tokens, with a chat template; written without torch."""
    import numpy as np
    from safetensors.numpy import save_file

    import wordkiln as wk
    from wordkiln.models.layout import parameter_shapes

    directory = tmp_path_factory.mktemp("checkpoint")
    texts = ["床前明月光,疑是地上霜。\n", "the quick brown fox jumps over the lazy dog\n"] * 3
    tokenizer = wk.Tokenizer.train(texts, vocab_size=300)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.with_chat_template(template).save(directory)
    config = wk.models.ModelConfig(kind="lstm", vocab_size=300, hidden_size=32)
    config.save(directory)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors")
    return directory
