"""`wordkiln export gguf`."""

import pytest

from wordkiln.interop import open_model
from wordkiln.tokenizer import Tokenizer

pytest.importorskip("gguf")
torch = pytest.importorskip("torch")


@pytest.fixture
def run_directory(tmp_path):
    """A run of a Transformer, and a recurrent model."""
    from wordkiln.models import CausalLM, ModelConfig

    tokenizer = Tokenizer.train(["the quick brown fox 明月"] * 3, vocab_size=260)
    for kind, place in (("transformer", "run/best"), ("lstm", "lstm")):
        config = ModelConfig(kind=kind, vocab_size=260, hidden_size=32, eos_token_id=tokenizer.end_id)
        CausalLM(config).save_pretrained(tmp_path / place, tokenizer)
    return tmp_path


def test_a_run_becomes_one_file(wordkiln, run_directory):
    result = wordkiln("export", "gguf", "run", "out.gguf", "--dtype", "q8_0", cwd=run_directory)
    assert result.returncode == 0, result.stderr
    opened = open_model(run_directory / "out.gguf")
    assert result.stdout == f"out.gguf: {(run_directory / 'out.gguf').stat().st_size:,} bytes\n"
    assert opened.tokenizer.encode("quick 明") == Tokenizer.load(run_directory / "run" / "best").encode("quick 明")


def test_info_describes_what_was_written(wordkiln, run_directory):
    assert wordkiln("export", "gguf", "run", "out.gguf", cwd=run_directory).returncode == 0
    result = wordkiln("info", "out.gguf", cwd=run_directory)
    assert result.returncode == 0, result.stderr
    assert "hidden_size 32" in result.stdout


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "out.gguf"), "nothing: does not exist"),
        (("lstm", "out.gguf"), "model_type='wordkiln_lstm': must be one of llama"),
        (("run", "run/best/config.json/out.gguf"), "cannot be written"),
        (("run", "out.gguf", "--dtype", "q2"), "--dtype"),
    ],
)
def test_what_cannot_be_is_one_line(wordkiln, run_directory, arguments, message):
    result = wordkiln("export", "gguf", *arguments, cwd=run_directory)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
