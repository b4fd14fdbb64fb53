"""`wordkiln demo` at a hundredth of its length, on this package's own source."""

from importlib import import_module
from pathlib import Path

import pytest

import wordkiln as wk


@pytest.fixture(scope="module")
def output(tmp_path_factory, wordkiln):
    folder = tmp_path_factory.mktemp("demo")
    package = Path(wk.__file__).parent
    result = wordkiln("demo", "--corpus", package, "--include", "*.py", "--scale", 0.003, "-o", "out", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "out", result.stdout


def test_table_and_samples(output):
    folder, text = output
    for name in ("unigram entropy", "gzip -9", "xz -9", "lstm", "transformer", "bits per byte", "tokens/s"):
        assert name in text
    for kind in ("lstm", "transformer"):
        assert (folder / kind / "loss.png").stat().st_size > 5000
        assert str(Path(kind) / "loss.png") in text.replace("\n", "")
        wk.load(folder / kind)


def test_yardsticks_measure_the_held_out_text(output):
    folder, _ = output
    demo = import_module("wordkiln.cli.demo")
    dataset = wk.data.TokenDataset.load(folder / "data")
    text = demo.held_out_text(wk.Tokenizer.load(folder / "tokenizer.json"), dataset)
    assert len(text) == dataset.valid.num_bytes
    _, held_out = demo.split_files(Path(wk.__file__).parent, ["*.py"])
    assert len(text) == sum(file.stat().st_size for file in held_out)


def test_unigram_entropy_of_a_known_split():
    demo = import_module("wordkiln.cli.demo")

    class Split:
        num_tokens, num_bytes = 4, 8

        def ids(self, start, stop):
            import numpy as np

            return np.array([0, 0, 1, 2], dtype=np.uint16)[start:stop]

    class Dataset:
        valid = Split()

    # 1/2, 1/4, 1/4: 1.5 bits a token, 4 tokens, 8 bytes.
    assert demo.unigram_bits_per_byte(Dataset()) == pytest.approx(0.75)
