"""The readable definition of sampling, in float64: what `rust/decode` must do, and is tested against.

A token is a function of its row's logits, settings, and one uniform number; the uniform number is a function of the
row's seed and step. Nothing else enters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from wordkiln.generation._sampler import SamplingParams

_WORD = 2**32 - 1


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """The Philox4x32-10 block (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, step: int) -> float:
    """The number in [0, 1) that sequence `seed` has at `step`."""
    a, b, _, _ = philox4x32((step & _WORD, step >> 32, 0, 0), (seed & _WORD, seed >> 32))
    return float((a >> 5) * 2**26 + (b >> 6)) / 2**53


def derive_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of those that start from `seed`."""
    if index == 0:
        return seed
    a, b, _, _ = philox4x32((index & _WORD, index >> 32, 0, 1), (seed & _WORD, seed >> 32))
    return b << 32 | a


def kept(logits: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """The tokens that temperature, top_k and top_p leave, by id, with their probabilities."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.temperature == 0:
        return {ranked[0]: 1.0}
    if params.top_k:
        ranked = ranked[: params.top_k]
    probabilities = _softmax([logits[token] for token in ranked], params.temperature)
    count = len(ranked)
    if params.top_p < 1:
        reached = 0.0
        for count, probability in enumerate(probabilities, 1):  # noqa: B007  (the count is the result)
            reached += probability
            if reached >= params.top_p:
                break
    total = sum(probabilities[:count])
    return dict(sorted((token, p / total) for token, p in zip(ranked[:count], probabilities[:count], strict=True)))


def choose(logits: Sequence[float], params: SamplingParams, number: float) -> int:
    """The first token, by id, at which the running sum of the kept probabilities passes `number`."""
    reached = 0.0
    chosen = -1
    for token, probability in kept(logits, params).items():
        if probability > 0:
            chosen = token
            reached += probability
            if reached > number:
                break
    return chosen


def _softmax(logits: Sequence[float], temperature: float) -> list[float]:
    weights = [math.exp((logit - logits[0]) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]
