"""Checkpoint directories: opened on both backends, and refused with a name for what is wrong."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.generation import load
from wordkiln.models import ModelConfig
from wordkiln.models.layout import parameter_shapes
from wordkiln.tokenizer import Tokenizer

TEXTS = ["床前明月光,疑是地上霜。\n", "举头望明月,低头思故乡。\n", "the quick brown fox jumps over the lazy dog\n"] * 3


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def checkpoint(request, tmp_path_factory):
    """A random model with a tokenizer of its own, written without torch."""
    directory = tmp_path_factory.mktemp("run") / "best"
    directory.mkdir()
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300)
    config = ModelConfig(
        kind=request.param,
        vocab_size=300,
        hidden_size=32,
        max_position_embeddings={"transformer": 200}.get(request.param),
    )
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in parameter_shapes(config).items()
    }
    tokenizer.save(directory)
    config.save(directory)
    save_file(weights, directory / "model.safetensors")
    return directory


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


def test_a_checkpoint_writes(checkpoint):
    model = load(checkpoint)
    assert model.end_id == model.tokenizer.end_id
    options = {"max_new_tokens": 40, "seed": 1}
    completions = model.generate(["床前", "the", ""], n=2, **options)
    assert len({completion.text for completion in completions}) == 6
    for prompt, completion in zip(["床前", "the", ""], completions[::2], strict=True):
        assert "".join(model.stream(prompt, **options)) == completion.text
        assert len(completion.ids) == len(completion.logprobs) <= 40


def test_log_probabilities_are_the_models(checkpoint):
    model = load(checkpoint)
    prompt = model.tokenizer.encode("明月")
    completion = model.generate("明月", max_new_tokens=5, temperature=0.5, top_k=10, seed=3)
    for position, (token, logprob) in enumerate(zip(completion.ids, completion.logprobs, strict=True)):
        logits = model.model.begin([prompt + completion.ids[:position]])[1][0].astype(np.float64)
        # float32 logits of size 1 to 10, computed in another order.
        assert logprob == pytest.approx(logits[token] - np.log(np.exp(logits).sum()), abs=1e-4)


@pytest.mark.parity
def test_backends_write_the_same(checkpoint):
    pytest.importorskip("torch")
    models = [load(checkpoint, backend=backend) for backend in ("runtime", "torch")]
    for temperature in (0, 1):
        ours, theirs = (
            model.generate(["床前明月", "quick"], max_new_tokens=30, temperature=temperature, seed=2)
            for model in models
        )
        assert [completion.ids for completion in ours] == [completion.ids for completion in theirs]


def test_a_run_directory_means_its_best(checkpoint):
    assert load(checkpoint.parent).generate("a", max_new_tokens=5, seed=0) == load(checkpoint).generate(
        "a", max_new_tokens=5, seed=0
    )


@pytest.mark.abuse
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_part_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(PathError, match=name):
        load(copy)


@pytest.mark.abuse
def test_the_tokenizer_of_another_model_is_refused_before_the_weights_are_read(copy):
    Tokenizer.train(TEXTS, vocab_size=310).save(copy)
    (copy / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="310 tokens, but the model's vocab_size is 300"):
        load(copy)


@pytest.mark.abuse
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_malformed_part_is_refused(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(FormatError):
        load(copy)


@pytest.mark.abuse
def test_weights_of_another_config_are_refused(copy):
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        load(copy)


@pytest.mark.abuse
def test_other_paths_and_arguments_are_refused(checkpoint, tmp_path):
    for path in (tmp_path / "nothing", tmp_path, checkpoint / "config.json"):
        with pytest.raises(PathError, match=path.name):
            load(path)
    for options in ({"dtype": "int3"}, {"backend": "jax"}, {"device": "cuda"}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            load(checkpoint, **options)


@pytest.mark.abuse
def test_a_text_longer_than_the_model_is_refused(checkpoint):
    model = load(checkpoint)
    if model.model.max_positions is not None:
        with pytest.raises(ArgumentError, match=r"max_new_tokens=200.*200 positions"):
            model.generate("a", max_new_tokens=200)
