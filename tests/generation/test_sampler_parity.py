"""The stages beside those of Hugging Face's transformers, wherever the two define the same."""

import numpy as np
import pytest

from wordkiln.generation import Sampler, SamplingParams, spec

torch = pytest.importorskip("torch")
process = pytest.importorskip("transformers.generation.logits_process")

V = 300


def logits_of(seed):
    # No two are equal: Hugging Face keeps all that tie with the last, we the lowest ids.
    return np.random.default_rng(seed).permutation(np.linspace(-6, 6, V) ** 3 / 36).astype(np.float32)


WARPERS = {
    "temperature": lambda value: process.TemperatureLogitsWarper(value),
    "top_k": lambda value: process.TopKLogitsWarper(value),
    "top_p": lambda value: process.TopPLogitsWarper(value),
    "min_p": lambda value: process.MinPLogitsWarper(value),
    "typical_p": lambda value: process.TypicalLogitsWarper(value),
    "repetition_penalty": lambda value: process.RepetitionPenaltyLogitsProcessor(value),
    "no_repeat_ngram_size": lambda value: process.NoRepeatNGramLogitsProcessor(value),
    "bad_words_ids": lambda value: process.NoBadWordsLogitsProcessor(value, eos_token_id=None),
    "banned_ids": lambda value: process.SuppressTokensLogitsProcessor(value),
    "logit_bias": lambda value: process.SequenceBiasLogitsProcessor([[[token], bias] for token, bias in value.items()]),
}
# The order of `generate`, where ours is the same.
ORDER = ["logit_bias", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "banned_ids"]
ORDER += ["temperature", "top_k", "top_p", "min_p", "typical_p"]


def peer_probabilities(settings, ids, logits):
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for name in ORDER:
        if name in settings:
            scores = WARPERS[name](settings[name])(torch.tensor([ids]), scores)
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 7},
        {"top_p": 0.85},
        {"min_p": 0.03},
        {"typical_p": 0.6},
        {"typical_p": 0.95, "temperature": 0.8},
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"bad_words_ids": [[5], [1, 2], [2, 1, 4]]},
        {"banned_ids": [1, 250]},
        {"logit_bias": {3: 4.0, 8: -2.0}},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "temperature": 1.3, "top_k": 60, "top_p": 0.95},
        {"temperature": 2.0, "top_k": 80, "top_p": 0.97, "min_p": 0.05, "typical_p": 0.9},
    ],
    ids=str,
)
def test_distribution_is_that_of_transformers(settings, seed):
    logits = logits_of(seed)
    prompt = [1, 2, 3, 1, 2, 1, 4, 2, 1]
    expected = peer_probabilities(settings, prompt, logits)
    params = SamplingParams(**settings)
    kept = spec.kept(spec.edited(logits.astype(np.float64).tolist(), params, prompt), params)
    ours = np.array([kept.get(token, 0.0) for token in range(V)])
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    # The sampler itself, drawn from: each token is where the peer's running sum, by id, passes the number.
    seeds = range(200)
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in seeds], V, [prompt] * len(seeds))
    drawn = sampler.sample(np.repeat(logits[None], len(seeds), axis=0))
    numbers = np.array([spec.uniforms(seed, 0)[0] for seed in seeds])
    sums = expected.cumsum()
    clear = np.abs(sums[None] - numbers[:, None]).min(axis=1) > 1e-5  # float32 weights
    assert (drawn == np.searchsorted(sums, numbers, side="right"))[clear].all()
    assert clear.sum() > 150


@pytest.mark.parity
def test_ends_are_masked_as_by_transformers():
    logits = logits_of(0)[None].repeat(4, axis=0)
    peer = process.MinNewTokensLengthLogitsProcessor(2, 3, [7, 9])
    sampler = Sampler([SamplingParams(temperature=0, min_new_tokens=3, end_ids=[7, 9])] * 4, V, [[1, 2]] * 4)
    logits[:2, 7] = 50
    logits[2:, 9] = 50
    ids = torch.tensor([[1, 2]] * 4)
    for _ in range(5):
        expected = peer(ids, torch.from_numpy(logits)).argmax(-1)
        assert sampler.sample(logits).tolist() == expected.tolist()
        ids = torch.cat([ids, expected[:, None]], 1)
