"""Microseconds to choose a token, beside Hugging Face's processors and llama.cpp's chain.

WORDKILN_LOGITS names a file of real logits (bench/real_logits.py writes one): then the rows without top-k use them.
"""

import importlib.util
import os

import numpy as np
import pairs
import pytest
from peers_sampler import PENALTY_RANGE, LlamaSampler, TransformersSampler

from wordkiln.generation import Sampler, SamplingParams, spec

CHAINS = {
    "temperature, top-k, top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "and penalty, min-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1},
    "temperature, top-p": {"temperature": 0.8, "top_p": 0.95},
    "typical-p": {"typical_p": 0.9},
}
GOALS = {"transformers": {"temperature, top-k, top-p": 150.0, "temperature, top-p": 50.0}}
GOALS["llama.cpp"] = {"temperature, top-k, top-p": 3.0, "and penalty, min-p": 5.0, "temperature, top-p": 50.0}
CASES = [
    (chain, vocab_size, batch)
    for chain in ("temperature, top-k, top-p", "and penalty, min-p")
    for vocab_size in (32_000, 50_257, 151_936)
    for batch in (1, 8, 64)
]
REAL = np.load(os.environ["WORDKILN_LOGITS"]) if "WORDKILN_LOGITS" in os.environ else None
OF_MODEL = 49_152 if REAL is None else REAL.shape[1]
CASES += [(chain, OF_MODEL, batch) for chain in ("temperature, top-p", "typical-p") for batch in (1, 8, 64)]


def logits_of(vocab_size, batch):
    """A real model's, or shaped like them: probabilities that fall with the 1.5th power of the rank, with noise."""
    if REAL is not None and vocab_size == OF_MODEL:
        return REAL[:batch].copy()
    random = np.random.default_rng(vocab_size + batch)
    ranks = np.argsort(random.random((batch, vocab_size)), axis=1)
    return (-1.5 * np.log(ranks + 3.0) + random.normal(0, 0.3, ranks.shape)).astype(np.float32)


def prompts_of(vocab_size, batch):
    # The same for each row: llama.cpp's chain knows one text.
    return np.random.default_rng(0).integers(0, vocab_size, (1, PENALTY_RANGE)).repeat(batch, axis=0)


def assert_same_distribution(settings, prompt, logits, probabilities):
    """Where ours draws with a number, the peer's running sum, by id, passes that number."""
    seeds = range(64)
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in seeds], len(logits), [prompt] * len(seeds))
    drawn = sampler.sample(np.repeat(logits[None], len(seeds), axis=0))
    sums = probabilities.astype(np.float64).cumsum()
    numbers = np.array([spec.uniforms(seed, 0)[0] for seed in seeds])
    # Sums in float32 differ by up to 1e-4; a number that lies that near to a token's end says nothing.
    clear = np.abs(sums[None] - numbers[:, None]).min(axis=1) > 1e-4
    expected = np.searchsorted(sums, numbers, side="right")
    assert (drawn == expected)[clear].all()
    assert clear.sum() > 20


def compare(peer, chain, vocab_size, batch, name, sample, theirs):
    calls = 1 if batch == 64 else 4
    pairs.compare(
        f"{chain}, {'real, ' if REAL is not None and vocab_size == OF_MODEL else ''}V {vocab_size}, batch {batch}",
        name,
        lambda: [sample() for _ in range(calls)],
        lambda: [theirs() for _ in range(calls)],
        equal=lambda a, b: None,  # drawn with different numbers; the distributions have been compared
        amount=calls * batch,
        unit="rows",
        goal=(goal, goal) if (goal := GOALS[peer].get(chain)) else None,
        warm=True,
        show=lambda seconds: f"{seconds / calls / batch * 1e6:.1f} us/row",
    )


def ours(settings, prompts, logits):
    rows = [SamplingParams(**settings, seed=seed) for seed in range(len(logits))]
    sampler = Sampler(rows, logits.shape[1])

    def sample():
        return sampler.sample(logits)

    if "repetition_penalty" in settings:
        for row, prompt in enumerate(prompts):
            sampler.add_prompt(row, prompt)
    return sample


@pytest.mark.parametrize(("chain", "vocab_size", "batch"), CASES)
def test_against_transformers(chain, vocab_size, batch):
    settings, logits, prompts = CHAINS[chain], logits_of(vocab_size, batch), prompts_of(vocab_size, batch)
    peer = TransformersSampler(settings, prompts)
    assert_same_distribution(settings, prompts[0], logits[0], peer.probabilities(logits[:1])[0])
    sample = ours(settings, prompts, logits)
    compare("transformers", chain, vocab_size, batch, peer.name, sample, lambda: peer.sample(logits))


@pytest.mark.parametrize(("chain", "vocab_size", "batch"), [case for case in CASES if case[0] != "typical-p"])
def test_against_llama_cpp(chain, vocab_size, batch):
    if importlib.util.find_spec("llama_cpp") is None:
        pairs.NOTES.append("llama.cpp: llama_cpp is not installed here, its rows are missing")
        pytest.skip("llama_cpp is not installed")
    settings, logits, prompts = CHAINS[chain], logits_of(vocab_size, batch), prompts_of(vocab_size, batch)
    peer = LlamaSampler(settings, prompts, vocab_size)
    peer.load(logits)
    assert_same_distribution(settings, prompts[0], logits[0], peer.probabilities()[0])
    sample = ours(settings, prompts, logits)
    compare("llama.cpp", chain, vocab_size, batch, peer.name, sample, peer.sample)
