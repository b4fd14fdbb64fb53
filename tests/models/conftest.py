"""One small model of each shape; every test of this folder that takes `model` runs on all of them."""

import pytest
import torch

from wordkiln.models import CausalLM, ModelConfig

VOCAB = 37
SHAPES = {
    "lstm": {"kind": "lstm", "hidden_size": 24},
    "lstm-tied-projected": {"kind": "lstm", "hidden_size": 24, "embedding_size": 16, "tie_word_embeddings": True},
    "gru": {"kind": "gru", "hidden_size": 24, "embedding_size": 16},
    "rnn-tied": {"kind": "rnn", "hidden_size": 24, "tie_word_embeddings": True},
    "transformer": {"kind": "transformer", "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 24},
    "transformer-grouped-tied": {
        "kind": "transformer",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 24,
        "tie_word_embeddings": True,
    },
}


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only wait when their sums are shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def config(request):
    return ModelConfig(vocab_size=VOCAB, num_hidden_layers=2, eos_token_id=1, **request.param)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return CausalLM(config).eval()
