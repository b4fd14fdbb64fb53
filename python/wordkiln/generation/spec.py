"""The readable definition of sampling, in float64: what `rust/decode` must do, and is tested against.

A token is a function of its row's logits, settings, prompt and text, and two uniform numbers; these are a function of
the row's seed and step. Nothing else enters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from wordkiln.generation._params import SamplingParams

_WORD = 2**32 - 1
# A token 2**125 times less probable than the most probable one counts as impossible: float32 ends there.
_SMALLEST = -125


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


def uniforms(seed: int, step: int) -> tuple[float, float]:
    """The two numbers in [0, 1) that sequence `seed` has at `step`: one to draw by, one for XTC."""
    a, b, c, d = philox4x32((step & _WORD, step >> 32, 0, 0), (seed & _WORD, seed >> 32))
    return ((a >> 5) * 2**26 + (b >> 6)) / 2**53, ((c >> 5) * 2**26 + (d >> 6)) / 2**53


def derive_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of those that start from `seed`."""
    if index == 0:
        return seed
    a, b, _, _ = philox4x32((index & _WORD, index >> 32, 0, 1), (seed & _WORD, seed >> 32))
    return b << 32 | a


class Row:
    """One row of a sampler.

    Args:
        params: its settings.
        prompt: the ids of its prompt.

    Attributes:
        text: the ids it has chosen.
        limit: what mirostat allows now, in bits.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int] = ()) -> None:
        self.params = params
        self.prompt = list(prompt)
        self.text: list[int] = []
        self.limit = 2 * params.mirostat_tau if params.mirostat_tau else math.inf

    def choose(self, logits: Sequence[float], allowed: Sequence[bool] | None = None) -> int:
        """The next token; `allowed` is its mask."""
        step = len(self.text)
        if step < len(self.params.forced_ids):
            token = self.params.forced_ids[step]
        else:
            edited_logits = edited(logits, self.params, self.prompt, self.text, allowed)
            number, second = uniforms(self.params.seed, step)
            before = narrowed(edited_logits, self.params, second)
            token = draw(surprising(before, self.limit), number)
            if self.params.mirostat_tau and self.params.temperature:
                surprise = -math.log2(before[token])
                self.limit -= self.params.mirostat_eta * (surprise - self.params.mirostat_tau)
        self.text.append(token)
        return token


def edited(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    text: Sequence[int] = (),
    allowed: Sequence[bool] | None = None,
) -> list[float]:
    """The logits after biases, penalties, bans and the mask."""
    result = list(logits)
    ids = [*prompt, *text]
    for token, bias in params.logit_bias.items():
        result[token] += bias
    written = Counter(text)
    for token in set(ids):
        if result[token] > 0:
            result[token] /= params.repetition_penalty
        else:
            result[token] *= params.repetition_penalty
        result[token] -= params.frequency_penalty * written[token] + params.presence_penalty * (written[token] > 0)
    if params.dry_multiplier:
        for token, length in repetitions(ids, params.dry_range, params.dry_breakers).items():
            if length >= params.dry_allowed_length:
                result[token] -= params.dry_multiplier * params.dry_base ** (length - params.dry_allowed_length)
    for token in banned(ids, params, len(text)):
        result[token] = -math.inf
    if allowed is not None:
        result = [logit if allowed[token] else -math.inf for token, logit in enumerate(result)]
    return result


def repetitions(ids: Sequence[int], reach: int, breakers: Sequence[int]) -> dict[int, int]:
    """For each id that would go on with a repetition in the last `reach` ids (0: all), the longest one's length."""
    ids = ids[-reach:]
    longest: dict[int, int] = {}
    for place in range(1, len(ids)):
        length = 0
        while length < place and ids[place - 1 - length] == ids[-1 - length] not in breakers:
            length += 1
        if ids[place] not in breakers:
            longest[ids[place]] = max(longest.get(ids[place], 0), length)
    return longest


def banned(ids: Sequence[int], params: SamplingParams, step: int) -> set[int]:
    """The ids that may not come next."""
    result = set(params.banned_ids)
    for word in params.bad_words_ids:
        before = list(word[:-1])
        if list(ids[len(ids) - len(before) :]) == before:
            result.add(word[-1])
    if (size := params.no_repeat_ngram_size) and len(ids) + 1 >= size:
        end = tuple(ids[len(ids) - size + 1 :])
        ngrams = [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]
        result |= {ngram[-1] for ngram in ngrams if ngram[:-1] == end}
    if step < params.min_new_tokens:
        result |= set(params.end_ids)
    return result


def kept(logits: Sequence[float], params: SamplingParams, second: float = 1.0) -> dict[int, float]:
    """The tokens that the chain leaves, by id, with their probabilities; `second` is the number for XTC."""
    return surprising(narrowed(logits, params, second), 2 * params.mirostat_tau or math.inf)


def narrowed(logits: Sequence[float], params: SamplingParams, second: float) -> dict[int, float]:
    """What all stages but mirostat leave."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.temperature == 0:
        return {ranked[0]: 1.0}
    if params.top_n_sigma:
        present = [logit for logit in logits if logit > -math.inf]
        mean = sum(present) / len(present)
        deviation = math.sqrt(sum((logit - mean) ** 2 for logit in present) / len(present))
        ranked = [token for token in ranked if logits[token] >= logits[ranked[0]] - params.top_n_sigma * deviation]
    if params.top_k:
        ranked = ranked[: params.top_k]
    left = _softmax(logits, ranked, params.temperature)
    if params.top_p < 1:
        left = _shortest(left, params.top_p, lambda token: 0.0)
    if params.min_p:
        left = _normalised({token: p for token, p in left.items() if p >= params.min_p * max(left.values())})
    if params.typical_p < 1:
        entropy = -sum(p * math.log(p) for p in left.values() if p)
        left = _shortest(left, params.typical_p, lambda p: abs(-math.log(p) - entropy) if p else math.inf)
    if second < params.xtc_probability:
        top = [token for token, p in left.items() if 0 < p >= params.xtc_threshold]
        left = _normalised({token: p for token, p in left.items() if token not in top[:-1]})
    return left


def surprising(probabilities: dict[int, float], limit: float) -> dict[int, float]:
    """Of `probabilities`, by rank, those of a surprise of at most `limit` bits, or the first; by id."""
    first = next(iter(probabilities))
    few = {token: p for token, p in probabilities.items() if token == first or (p and -math.log2(p) <= limit)}
    return dict(sorted(_normalised(few if limit < math.inf else probabilities).items()))


def draw(probabilities: dict[int, float], number: float) -> int:
    """The first token, by id, at which the running sum of the probabilities passes `number`."""
    reached = 0.0
    chosen = -1
    for token, probability in probabilities.items():
        if probability > 0:
            chosen = token
            reached += probability
            if reached > number:
                break
    return chosen


def _shortest(probabilities: dict[int, float], share: float, key: Callable[[float], float]) -> dict[int, float]:
    """The shortest run that holds `share`, in the order of `key`, then of rank; what is left stays in rank order."""
    reached, run = 0.0, set()
    for token in sorted(probabilities, key=lambda token: key(probabilities[token])):
        run.add(token)
        reached += probabilities[token]
        if reached >= share:
            break
    return _normalised({token: p for token, p in probabilities.items() if token in run})


def _softmax(logits: Sequence[float], ranked: Sequence[int], temperature: float) -> dict[int, float]:
    exponents = {token: (logits[token] - logits[ranked[0]]) / temperature * math.log2(math.e) for token in ranked}
    return _normalised({token: 2**x if x >= _SMALLEST else 0.0 for token, x in exponents.items()})


def _normalised(weights: dict[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}
