import json
from typing import ClassVar

import numpy as np
import pytest
import safetensors.numpy
import torch

from wordkiln.errors import FormatError, PathError
from wordkiln.models import CausalLM, ModelConfig
from wordkiln.models.checkpoint import tokenizer_fingerprint


def rewrite(path, change):
    """Change the tensors of a saved model, as numpy arrays by name."""
    weights = safetensors.numpy.load_file(path / "model.safetensors")
    change(weights)
    safetensors.numpy.save_file(weights, path / "model.safetensors")


def test_round_trip(model, tmp_path):
    path = tmp_path / "new" / "模型"
    model.save_pretrained(path)
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    loaded = CausalLM.from_pretrained(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert all(weight.requires_grad for weight in loaded.parameters())
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    assert json.loads((path / "generation_config.json").read_text()) == {"eos_token_id": 1}


def test_replaces_an_older_checkpoint_and_loaded_weights_live_on(model, tmp_path):
    model.save_pretrained(tmp_path / "run")
    old = CausalLM.from_pretrained(tmp_path / "run")
    before = old.model.embed_tokens.weight.clone()
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1)
    model.save_pretrained(tmp_path / "run")
    assert torch.equal(old.model.embed_tokens.weight, before)
    assert torch.equal(CausalLM.from_pretrained(tmp_path / "run").model.embed_tokens.weight, before + 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_keeps_the_old_checkpoint_when_saving_fails(model, tmp_path):
    class Broken:
        fingerprint = "0"

        def save(self, path):
            raise RuntimeError("no tokenizer")

    model.save_pretrained(tmp_path / "run")
    with pytest.raises(RuntimeError, match="no tokenizer"):
        model.save_pretrained(tmp_path / "run", tokenizer=Broken())
    CausalLM.from_pretrained(tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_saves_the_tokenizer_beside_the_model(model, tmp_path):
    class Tokenizer:
        fingerprint = "abc"
        special_tokens: ClassVar = {"<|a|>": 0, "<|end|>": model.eos_token_id}
        settings: ClassVar = {"pad_token": "<|a|>"}

        def save(self, path):
            (path / "tokenizer.json").write_text("{}")

    model.save_pretrained(tmp_path / "run", tokenizer=Tokenizer())
    assert (tmp_path / "run" / "tokenizer.json").read_text() == "{}"
    assert tokenizer_fingerprint(tmp_path / "run") == "abc"
    settings = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert settings.get("eos_token") == (None if model.eos_token_id is None else "<|end|>")
    assert settings["pad_token"] == "<|a|>"
    model.save_pretrained(tmp_path / "run", tokenizer=Tokenizer())
    assert CausalLM.from_pretrained(tmp_path / "run").config == model.config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reads_half_precision_as_float32(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path / "half")
    loaded = CausalLM.from_pretrained(tmp_path / "half")
    for ours, saved in zip(loaded.parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, saved.float())


@pytest.mark.abuse
def test_never_deletes_other_files(model, tmp_path):
    (tmp_path / "novel.txt").write_text("ten years of work")
    with pytest.raises(PathError, match=r"novel\.txt"):
        model.save_pretrained(tmp_path)
    with pytest.raises(PathError, match="is a file"):
        model.save_pretrained(tmp_path / "novel.txt")
    assert (tmp_path / "novel.txt").read_text() == "ten years of work"


@pytest.mark.abuse
class TestHostileFiles:
    @pytest.fixture
    def path(self, model, tmp_path):
        model.save_pretrained(tmp_path / "run")
        return tmp_path / "run"

    def refuses(self, path, match):
        with pytest.raises(FormatError, match=match):
            CausalLM.from_pretrained(path)

    def test_truncated(self, path):
        content = (path / "model.safetensors").read_bytes()
        for size in (0, 5, 8, 100, len(content) // 2, len(content) - 1):
            (path / "model.safetensors").write_bytes(content[:size])
            self.refuses(path, "model.safetensors")

    def test_longer_than_its_header_says(self, path):
        with open(path / "model.safetensors", "ab") as file:
            file.write(b"more")
        self.refuses(path, "model.safetensors")

    def test_missing_tensor(self, path):
        rewrite(path, lambda weights: weights.pop("model.embed_tokens.weight"))
        self.refuses(path, "misses 'model.embed_tokens.weight'")

    def test_extra_tensors(self, path):
        rewrite(path, lambda weights: weights.update({f"extra{i}": np.zeros(1, np.float32) for i in range(9)}))
        self.refuses(path, "extra .* and 6 more")

    def test_wrong_shape(self, path):
        rewrite(path, lambda weights: weights.update({"model.embed_tokens.weight": np.zeros((3, 3), np.float32)}))
        self.refuses(path, r"shape \[3, 3\], but the config asks for \[37, ")

    @pytest.mark.parametrize("dtype", [np.int32, np.float64])
    def test_wrong_dtype(self, path, dtype):
        key = "model.embed_tokens.weight"
        rewrite(path, lambda weights: weights.update({key: weights[key].astype(dtype)}))
        self.refuses(path, "dtype")

    def test_mixed_dtypes(self, path):
        key = "model.embed_tokens.weight"
        rewrite(path, lambda weights: weights.update({key: weights[key].astype(np.float16)}))
        self.refuses(path, "several dtypes")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, path, value):
        rewrite(path, lambda weights: weights["model.embed_tokens.weight"].__setitem__((2, 3), value))
        self.refuses(path, "holds NaN or infinity")

    def test_name_that_stands_twice(self, path):
        content = (path / "model.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size].rstrip()
        entry = header[header.index(b'"model.embed_tokens.weight"') :]
        entry = entry[: entry.index(b"}") + 1]
        header = header[:-1] + b"," + entry + b"}"
        (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        self.refuses(path, "stands twice")

    @pytest.mark.parametrize("size", [2**24, 10**18, -1, 1e18, None])
    def test_config_of_another_size(self, path, size):
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(values | {"vocab_size": size}))
        self.refuses(path, "vocab_size|embed_tokens")

    def test_missing_files(self, path):
        (path / "model.safetensors").unlink()
        with pytest.raises(PathError, match=r"model\.safetensors"):
            CausalLM.from_pretrained(path)
        (path / "model.safetensors.index.json").write_text("{}")
        self.refuses(path, "several files")


@pytest.mark.abuse
def test_random_headers_give_a_named_error(tmp_path):
    CausalLM(ModelConfig(kind="rnn", vocab_size=5, hidden_size=4)).save_pretrained(tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    content = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        for place in random.integers(0, len(content), 3):
            broken[place] = random.integers(256)
        file.write_bytes(broken)
        try:
            CausalLM.from_pretrained(tmp_path / "run")
        except FormatError:
            continue
