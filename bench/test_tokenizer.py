"""Training and encoding against Hugging Face tokenizers on Python's standard library."""

import sysconfig
from importlib.metadata import version
from pathlib import Path

import pairs
import pytest
import tokenizers

import wordkiln as wk

MEGABYTES = 8


@pytest.fixture(scope="module")
def texts():
    folder = Path(sysconfig.get_paths()["stdlib"])
    found, size = [], 0
    for path in sorted(folder.rglob("*.py")):
        if size < MEGABYTES * 1e6 and "site-packages" not in path.parts:
            found.append(path.read_text(encoding="utf-8", errors="ignore"))
            size += len(found[-1].encode())
    return found


def hf_tokenizer():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def train_hf(texts, vocab_size):
    tokenizer = hf_tokenizer()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def megabytes(texts):
    return sum(len(text.encode()) for text in texts) / 1e6


def test_train(texts):
    def equal(ours, theirs):
        assert [ours.encode(text) for text in texts[:50]] == [theirs.encode(text).ids for text in texts[:50]]

    pairs.compare(
        f"train 8,000 tokens on {megabytes(texts):.0f} MB of Python",
        f"tokenizers {version('tokenizers')}",
        lambda: wk.Tokenizer.train(iter(texts), vocab_size=8000, pattern="gpt2", special_tokens=()),
        lambda: train_hf(texts, 8000),
        equal=equal,
        amount=megabytes(texts),
        unit="MB",
        rounds=3,
    )


def test_encode_batch(texts, tmp_path):
    ours = wk.Tokenizer.train(iter(texts), vocab_size=8000, pattern="gpt2", special_tokens=())
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pairs.compare(
        f"encode {len(texts)} files, {megabytes(texts):.0f} MB, to lists",
        f"tokenizers {version('tokenizers')}",
        lambda: ours.encode_batch(texts, disallowed_special=()),
        lambda: [encoding.ids for encoding in theirs.encode_batch_fast(texts, add_special_tokens=False)],
        equal=lambda a, b: pytest.fail("ids differ") if a != b else None,
        amount=megabytes(texts),
        unit="MB",
        rounds=5,
    )
