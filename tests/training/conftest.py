from __future__ import annotations

import pytest

TEXT = "".join(f"{index % 7} 子曰：學而時習之，不亦說乎？ the cat sat on the mat.\n" for index in range(60))


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from a second thread, and on a busy machine wait for it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer():
    from wordkiln import Tokenizer

    return Tokenizer.train(iter([TEXT]), vocab_size=280)


@pytest.fixture(scope="session")
def data(tmp_path_factory, tokenizer):
    from wordkiln.data import TokenDataset

    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    return TokenDataset.build(folder / "text.txt", tokenizer, folder / "tokens", valid_fraction=0.2)


@pytest.fixture
def build_model(tokenizer):
    """Gives a tiny model of a kind, always with the same weights."""
    import torch

    from wordkiln.models import CausalLM, ModelConfig

    def build(kind="lstm", **fields):
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "dropout": 0.1, "vocab_size": tokenizer.vocab_size}
        with torch.random.fork_rng([]):
            torch.manual_seed(7)
            return CausalLM(ModelConfig(kind=kind, **{**sizes, **fields}))

    return build


@pytest.fixture
def build_trainer(data, tokenizer, build_model, tmp_path):
    """Gives a short run in tmp_path / name."""
    from wordkiln.training import Trainer

    def build(name="run", kind="lstm", model=None, **fields):
        settings = {
            "max_steps": 12,
            "batch_size": 4,
            "sequence_length": 16,
            "eval_every": 4,
            "eval_tokens": 200,
            "log_every": 3,
            "learning_rate": 1e-2,
            "progress": False,
            # For good, in the process of all tests.
            "keep_memory": False,
        }
        model = build_model(kind) if model is None else model
        return Trainer(model, data, tmp_path / name, tokenizer=tokenizer, **{**settings, **fields})

    return build
