"""The whole chain against its definition: prompts, texts, masks, number formats, rows that come and go."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from wordkiln.errors import ArgumentError
from wordkiln.generation import Sampler, SamplingParams, spec

SEEDS = st.integers(0, 2**64 - 1)


def settings(draw, size):
    """Some of the settings; each is off in half of the cases, so that others have something to do."""
    ids = st.integers(0, size - 1)
    choices = {
        "temperature": st.sampled_from([0, 0.05, 0.7, 1.0, 3.0]),
        "top_k": st.sampled_from([1, 2, 7, 40, 600]),
        "top_p": st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999]),
        "min_p": st.sampled_from([0.01, 0.2, 1.0]),
        "typical_p": st.sampled_from([0.0, 0.3, 0.9, 0.999]),
        "top_n_sigma": st.sampled_from([0.5, 1.0, 3.0]),
        "xtc_probability": st.sampled_from([0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.0, 0.01, 0.1]),
        "mirostat_tau": st.sampled_from([0.5, 2.0, 8.0]),
        "mirostat_eta": st.sampled_from([0.0, 0.5]),
        "logit_bias": st.dictionaries(ids, st.sampled_from([-3.0, 2.5, 100.0]), max_size=3),
        "repetition_penalty": st.sampled_from([0.5, 1.3]),
        "presence_penalty": st.sampled_from([-0.5, 1.5]),
        "frequency_penalty": st.sampled_from([-0.25, 0.75]),
        "dry_multiplier": st.sampled_from([0.8]),
        "dry_allowed_length": st.sampled_from([1, 3]),
        "dry_range": st.sampled_from([1, 4, 9]),
        "dry_breakers": st.lists(ids, max_size=2),
        "no_repeat_ngram_size": st.sampled_from([1, 2, 3]),
        "banned_ids": st.lists(ids, max_size=2),
        "bad_words_ids": st.lists(st.lists(ids, min_size=1, max_size=3), max_size=3),
        "forced_ids": st.lists(ids, max_size=2),
        "min_new_tokens": st.sampled_from([2]),
        "end_ids": st.lists(ids, max_size=2),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(choices))))
    return SamplingParams(**{name: draw(choices[name]) for name in sorted(chosen)}, seed=draw(SEEDS))


@st.composite
def cases(draw):
    """Logits with ties, masked tokens and wide ranges, over more than one block of 64, settings, a prompt, a mask."""
    size = draw(st.sampled_from([1, 2, 5, 63, 64, 65, 200, 700]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.normal(0, draw(st.sampled_from([0.01, 1, 5, 40])), (5, size)).astype(np.float32)
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[random.random(logits.shape) < 0.5] = -np.inf
        logits[:, random.integers(size)] = 1.0
    # Few different ids, so that repetitions occur.
    prompt = random.integers(0, min(size, 4), draw(st.sampled_from([0, 1, 12]))).tolist()
    allowed = random.random(size) < 0.7 if draw(st.booleans()) else None
    return logits, settings(draw, size), prompt, allowed


def is_near_a_boundary(logits, row, allowed, second):
    """Whether float32 logits and weights (relative error 3e-7) may decide differently from float64 ones.

    They may where a small change of a setting does, or of an edited logit.
    """
    params = row.params
    edited = spec.edited(logits, params, row.prompt, row.text, allowed)
    outcomes = []
    for sign in (-1, 1):
        moved = {
            name: min(max(getattr(params, name) + sign * 1e-5, 0), 1)
            for name in ("top_p", "min_p", "typical_p", "xtc_threshold")
            if getattr(params, name) not in (0, 1)
        }
        moved["top_n_sigma"] = params.top_n_sigma * (1 + sign * 1e-5)
        fields = {name: getattr(params, name) for name in params.__dataclass_fields__ if name != "_"}
        before = spec.narrowed(edited, SamplingParams(**(fields | moved)), second)
        outcomes.append(list(spec.surprising(before, row.limit + sign * 1e-5)))
    if outcomes[0] != outcomes[1]:
        return True
    # Where edits leave two logits apart by rounding alone, they may change places in float32.
    new = [logit for logit, old in zip(edited, logits, strict=True) if -math.inf < logit != old]
    gaps = np.abs(np.subtract.outer(new, [logit for logit in edited if logit > -math.inf]))
    return bool(((gaps > 0) & (gaps <= 1e-6 * np.maximum(1, np.abs(new))[:, None])).any())


@pytest.mark.property
@given(cases())
def test_choices_are_those_of_the_definition(case):
    logits, params, prompt, allowed = case
    size = logits.shape[1]
    sampler = Sampler([params], size, [prompt])
    row = spec.Row(params, prompt)
    mask = None if allowed is None else pack(allowed)
    for step in range(len(logits)):
        values = logits[step].astype(np.float64).tolist()
        number, second = spec.uniforms(params.seed, step)
        forced = step < len(params.forced_ids)
        if forced and allowed is not None and not allowed[params.forced_ids[step]]:
            with pytest.raises(ArgumentError, match="its mask does not allow the forced token"):
                sampler.sample(logits[[step]], mask)
            return
        edited = spec.edited(values, params, prompt, row.text, allowed)
        if not forced and max(edited) == -math.inf:
            with pytest.raises(ArgumentError, match="leave no token"):
                sampler.sample(logits[[step]], mask)
            return
        if not forced:
            if is_near_a_boundary(values, row, allowed, second):
                return
            before = spec.surprising(spec.narrowed(edited, params, second), row.limit)
            if params.temperature and np.abs(np.cumsum(list(before.values())) - number).min() < 1e-5:
                return
        (chosen,), (logprob,) = sampler.sample_with_logprobs(logits[[step]], mask)
        assert chosen == row.choose(values, allowed)
        # Logits up to 200 in float32 and a sum of float32 weights.
        assert logprob == pytest.approx(values[int(chosen)] - special.logsumexp(values), rel=1e-5, abs=1e-5)


def pack(allowed):
    """A mask of booleans [V] as words [1, ceil(V / 32)]."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view("<u4")[None].astype(np.uint32)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("settings", "prompt", "text", "expected"),
    [
        # Logits are all 1 before, the token after [0, 1, 2] is asked for.
        ({"repetition_penalty": 2.0}, [0, 1], [2], [0.5, 0.5, 0.5, 1, 1]),
        ({"presence_penalty": 0.5}, [0, 1], [2], [1, 1, 0.5, 1, 1]),
        ({"frequency_penalty": 0.25}, [3], [2, 2, 0], [0.75, 1, 0.5, 1, 1]),
        ({"repetition_penalty": 2.0, "presence_penalty": 2.0}, [], [2], [1, 1, -1.5, 1, 1]),
        ({"logit_bias": {1: -3.0}, "repetition_penalty": 2.0}, [1], [], [1, -4, 1, 1, 1]),
        ({"no_repeat_ngram_size": 1}, [0, 1], [3], [-math.inf, -math.inf, 1, -math.inf, 1]),
        ({"no_repeat_ngram_size": 2}, [0, 1, 4], [0], [1, -math.inf, 1, 1, 1]),
        ({"no_repeat_ngram_size": 3}, [2, 0, 1, 4, 3], [2, 0], [1, -math.inf, 1, 1, 1]),
        ({"no_repeat_ngram_size": 3}, [0], [], [1, 1, 1, 1, 1]),
        ({"bad_words_ids": [[3], [0, 4], [1, 2]]}, [2], [0], [1, 1, 1, -math.inf, -math.inf]),
        ({"min_new_tokens": 2, "end_ids": [4]}, [], [0], [1, 1, 1, 1, -math.inf]),
        ({"min_new_tokens": 2, "end_ids": [4]}, [], [0, 0], [1, 1, 1, 1, 1]),
        # [0 1] came before, then 2: a repetition of length 2, which costs 1 * 2 ** (2 - 2).
        ({"dry_multiplier": 1, "dry_base": 2}, [0, 1, 2, 3], [0, 1], [1, 1, 0, 1, 1]),
        ({"dry_multiplier": 1, "dry_base": 2, "dry_allowed_length": 1}, [0, 1, 2, 3], [0, 1], [1, 1, -1, 1, 1]),
        ({"dry_multiplier": 1, "dry_allowed_length": 3}, [0, 1, 2, 3], [0, 1], [1, 1, 1, 1, 1]),
        ({"dry_multiplier": 1, "dry_breakers": [0]}, [0, 1, 2, 3], [0, 1], [1, 1, 1, 1, 1]),
        ({"dry_multiplier": 1, "dry_breakers": [2]}, [0, 1, 2, 3], [0, 1], [1, 1, 1, 1, 1]),
        ({"dry_multiplier": 1, "dry_range": 5}, [0, 1, 2, 3], [0, 1], [1, 1, 1, 1, 1]),
        ({"dry_multiplier": 1, "dry_range": 6}, [0, 1, 2, 3], [0, 1], [1, 1, 0, 1, 1]),
        # Both 0 and 4 have come after [1 1]: 0 after the longer of the two.
        (
            {"dry_multiplier": 0.5, "dry_base": 2},
            [1, 1, 1, 0, 2, 1, 1, 4],
            [1, 1, 1],
            [1 - 1, 1 - 0.5, 1, 1, 1 - 0.5],
        ),
    ],
)
def test_table_of_edits(settings, prompt, text, expected):
    params = SamplingParams(**settings)
    assert spec.edited([1.0] * 5, params, prompt, text) == pytest.approx(expected)
    # The sampler's own logits show beside a sixth token, which nothing edits.
    for token, value in enumerate(expected):
        for offset in (-1e-3, 1e-3):
            sampler = Sampler([SamplingParams(**settings, temperature=0, forced_ids=text)], 6, [prompt])
            for _ in text:
                sampler.sample(np.zeros((1, 6), np.float32))
            logits = np.full((1, 6), -np.inf, np.float32)
            logits[0, [token, 5]] = 1, max(value, -1e3) + offset
            winner = token if offset < 0 and value > -math.inf else 5
            assert sampler.sample(logits).tolist() == [winner]


@pytest.mark.property
@given(SEEDS, st.sampled_from(["float16", "bfloat16", "uint16"]))
def test_other_number_formats_choose_as_their_values_do(seed, form):
    random = np.random.default_rng(seed % 2**32)
    logits = random.normal(0, 4, (3, 150)).astype(np.float32)
    logits[random.random(logits.shape) < 0.1] = -np.inf
    if form == "float16":
        given_logits = logits.astype(np.float16)
        values = given_logits.astype(np.float32)
    else:
        bits = (logits.view(np.uint32) >> 16).astype(np.uint16)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        given_logits = bits if form == "uint16" else bits.view(pytest.importorskip("ml_dtypes").bfloat16)
    params = [SamplingParams(seed=seed, top_p=0.9, logit_bias={3: 1.0} if seed % 2 else {}, logprobs=4)] * 3
    ours, expected = Sampler(params, 150), Sampler(params, 150)
    got, wanted = ours.sample_with_logprobs(given_logits), expected.sample_with_logprobs(values)
    assert [part.tolist() for part in got] == [part.tolist() for part in wanted]
    assert ours.top_logprobs() == expected.top_logprobs()


@pytest.mark.property
@given(st.lists(st.integers(0, 6), max_size=8), SEEDS)
def test_rows_that_come_and_go_write_what_they_write_alone(events, seed):
    """Continuous batching: an event leaves, doubles or adds a row."""
    random = np.random.default_rng(seed % 2**32)
    table = random.normal(0, 2, (40, 40)).astype(np.float32)  # logits by the last id
    names = iter(range(100))

    def new():
        prompt = random.integers(0, 40, 6).tolist()
        params = SamplingParams(
            seed=next(names), repetition_penalty=1.2, frequency_penalty=0.1, dry_multiplier=0.5, mirostat_tau=3.0
        )
        return params, prompt, list(prompt)

    rows = [new(), new()]
    sampler = Sampler([row[0] for row in rows], 40, [row[1] for row in rows])
    for event in [0, *events, 0]:
        if event == 4 and rows:
            sampler.select(range(1, len(rows)))
            rows = rows[1:]
        elif event == 5 and rows:
            sampler.select([*range(len(rows)), 0])
            rows = [*rows, (rows[0][0], rows[0][1], list(rows[0][2]))]
        elif event == 6:
            rows.append(new())
            sampler.extend([rows[-1][0]], [rows[-1][1]])
        if rows:
            for (_, _, ids), token in zip(rows, sampler.sample(table[[row[2][-1] for row in rows]]), strict=True):
                ids.append(int(token))
    for params, prompt, ids in rows:
        alone = Sampler([params], 40)
        alone.add_prompt(0, np.array(prompt))
        written = list(prompt)
        while len(written) < len(ids):
            written.append(int(alone.sample(table[[written[-1]]])[0]))
        assert written == ids


def test_mirostat_reaches_its_target():
    random = np.random.default_rng(3)
    table = random.normal(0, 2, (500, 500)).astype(np.float32)
    target = 4.0
    sampler = Sampler([SamplingParams(mirostat_tau=target, mirostat_eta=0.1)], 500)
    token, surprises = 0, []
    for _ in range(3000):
        (token,), (logprob,) = sampler.sample_with_logprobs(table[[token]])
        surprises.append(-logprob / math.log(2))
    # Feedback holds the mean: the limit moves by 0.1 per bit of error, and has moved by less than 10 in all, so the
    # mean error is below 10 / 0.1 / 3000.
    assert np.mean(surprises) == pytest.approx(target, abs=0.04)


def test_xtc_acts_as_often_as_asked():
    logits = np.log(np.array([[0.6, 0.3, 0.1]], np.float32)).repeat(4000, axis=0)
    params = [SamplingParams(xtc_probability=0.25, xtc_threshold=0.2, seed=seed) for seed in range(4000)]
    counts = np.bincount(Sampler(params, 3).sample(logits), minlength=3) / 4000
    # With a chance of 1/4 token 0 is dropped, and 1 and 2 share: standard deviations below 0.008.
    assert counts == pytest.approx([0.75 * 0.6, 0.75 * 0.3 + 0.25 * 0.75, 0.75 * 0.1 + 0.25 * 0.25], abs=0.03)


def test_top_logprobs_are_those_of_the_logits_as_given():
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.5, 0.0001]], np.float32))
    params = [SamplingParams(logprobs=2, banned_ids=[1], temperature=0.1), SamplingParams(logprobs=9)]
    sampler = Sampler([*params, SamplingParams()], 4)
    logits = np.append(logits, [[0, -np.inf, 0, 0]], axis=0).astype(np.float32)
    sampler.sample(logits)
    first, second, third = sampler.top_logprobs()
    assert [token for token, _ in first] == [1, 3]
    assert [value for _, value in first] == pytest.approx(np.log([0.4, 0.3]), abs=1e-6)
    assert [token for token, _ in second] == [2, 0, 1, 3]
    assert third == []
