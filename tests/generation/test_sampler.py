"""The sampler against its definition: tables, generated inputs, chi-square, wrong input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import Sampler, SamplingParams, derive_seed, spec

SEEDS = st.integers(0, 2**64 - 1)


def logits_of(probabilities):
    return np.log(np.asarray([probabilities], np.float32))


@pytest.mark.golden
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert spec.philox4x32(counter, key) == expected


@pytest.mark.property
@given(SEEDS, SEEDS)
def test_random_numbers_and_derived_seeds_are_those_of_the_definition(seed, step):
    assert _rust.uniform(seed, step) == spec.uniform(seed, step)
    assert derive_seed(seed, step) == spec.derive_seed(seed, step)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"temperature": 0}, {1: 1.0}),
        ({"temperature": 0.5}, {0: 0.01 / 0.3, 1: 0.16 / 0.3, 2: 0.04 / 0.3, 3: 0.09 / 0.3}),
        ({"top_k": 1}, {1: 1.0}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 9}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"top_p": 0}, {1: 1.0}),
        ({"top_p": 0.39}, {1: 1.0}),
        ({"top_p": 0.41}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.89}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
        ({"top_p": 0.5, "top_k": 2}, {1: 1.0}),
        ({"top_p": 0.5, "temperature": 0.5}, {1: 1.0}),
        ({"top_p": 0.5, "temperature": 100}, {1: None, 3: None}),
    ],
)
def test_table_of_what_is_kept(settings, expected):
    logits = logits_of([0.1, 0.4, 0.2, 0.3])
    params = SamplingParams(**settings)
    kept = spec.kept(logits[0].tolist(), params)
    assert list(kept) == list(expected)
    for token, probability in expected.items():
        assert probability is None or kept[token] == pytest.approx(probability, rel=1e-6)  # float32 logits
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in range(400)], 4)
    drawn = sampler.sample(np.repeat(logits, 400, axis=0))
    # The rarest kept token has probability 1/30: 400 draws miss it with a chance of one in a million.
    assert sorted(set(drawn.tolist())) == list(expected)


@st.composite
def rows(draw):
    """Logits with ties, masked tokens and wide ranges, over more than one block of 64, and settings."""
    size = draw(st.sampled_from([1, 2, 5, 63, 64, 65, 200, 700]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.normal(0, draw(st.sampled_from([0.01, 1, 5, 40])), size).astype(np.float32)
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        logits[random.random(size) < 0.5] = -np.inf
        logits[random.integers(size)] = 1.0
    params = SamplingParams(
        temperature=draw(st.sampled_from([0, 0.05, 0.7, 1.0, 3.0])),
        top_k=draw(st.sampled_from([0, 1, 2, 7, 40, 600])),
        top_p=draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999, 1.0])),
        seed=draw(SEEDS),
    )
    return logits, params


def is_near_a_boundary(logits, params, number):
    """Whether float32 weights (relative error 3e-7) may decide differently from float64 ones."""
    whole = SamplingParams(params.temperature, params.top_k)
    ranked = np.sort(list(spec.kept(logits, whole).values()))[::-1].cumsum()
    chosen = np.cumsum(list(spec.kept(logits, params).values()))
    near_top_p = params.top_p < 1 and np.abs(ranked - params.top_p).min() < 1e-5
    return near_top_p or np.abs(chosen - number).min() < 1e-5


@pytest.mark.property
@given(rows())
def test_choice_is_that_of_the_definition(case):
    logits, params = case
    sampler = Sampler([params], len(logits))
    values = logits.astype(np.float64).tolist()
    for step in range(3):
        (chosen,), (logprob,) = sampler.sample_with_logprobs(logits[None])
        number = spec.uniform(params.seed, step)
        if params.temperature == 0 or not is_near_a_boundary(values, params, number):
            assert chosen == spec.choose(values, params, number)
        probability = spec.kept(values, SamplingParams())[int(chosen)]
        # Logits up to 200 in float32 and a sum of float32 weights.
        assert logprob == pytest.approx(math.log(probability) if probability else -math.inf, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"temperature": 1.7, "top_k": 30}, {"top_p": 0.8}, {"top_k": 50, "top_p": 0.9}],
)
@pytest.mark.golden
def test_samples_pass_a_chi_square_test(settings):
    logits = np.random.default_rng(5).normal(0, 1.5, 300).astype(np.float32)
    draws, batch = 40_000, 200
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in range(batch)], 300)
    block = np.repeat(logits[None], batch, axis=0)
    counts = sum(np.bincount(sampler.sample(block), minlength=300) for _ in range(draws // batch))
    expected = np.zeros(300)
    for token, probability in spec.kept(logits.astype(np.float64).tolist(), SamplingParams(**settings)).items():
        expected[token] = probability * draws
    assert counts[expected == 0].sum() == 0
    common = expected >= 5  # the test's own condition; the rest is one class
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    used = wanted > 0
    # The seed is fixed: this either always passes or never.
    assert stats.chisquare(observed[used], wanted[used]).pvalue > 0.01


def test_a_row_is_the_same_in_every_batch():
    random = np.random.default_rng(0)
    params = [SamplingParams(0.5 + seed / 4, 20 * (seed % 2), 0.9, seed) for seed in range(5)]
    blocks = random.normal(0, 2, (6, 5, 9000)).astype(np.float32)
    together = Sampler(params, 9000)
    alone = [Sampler([row], 9000) for row in params]
    for block in blocks:
        expected = [sampler.sample(block[[row]])[0] for row, sampler in enumerate(alone)]
        assert together.sample(block).tolist() == expected


def test_select_keeps_each_row_at_its_step():
    params = [SamplingParams(seed=seed) for seed in range(4)]
    logits = np.random.default_rng(1).normal(0, 1, (4, 50)).astype(np.float32)
    whole, some = Sampler(params, 50), Sampler(params, 50)
    for sampler in (whole, some):
        sampler.sample(logits)
    some.select([3, 1, 1])
    expected = whole.sample(logits)
    assert some.sample(logits[[3, 1, 1]]).tolist() == expected[[3, 1, 1]].tolist()
    assert (whole.steps, some.steps, len(some)) == ([2] * 4, [2] * 3, 3)


def test_greedy_takes_the_lowest_of_equal_ids():
    logits = np.zeros((2, 300), np.float32)
    logits[1, [70, 200]] = 1
    assert Sampler([SamplingParams(temperature=0)] * 2, 300).sample(logits).tolist() == [0, 70]


def test_logits_are_read_in_place_and_left_alone():
    logits = np.random.default_rng(2).normal(0, 1, (1, 50)).astype(np.float32)
    before = logits.copy()
    logits.flags.writeable = False
    Sampler([SamplingParams(top_k=5, top_p=0.5)], 50).sample(logits)
    assert (logits == before).all()


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "logits of row 1: the logit of token 2 is NaN"),
        (np.inf, "logits of row 1: the logit of token 2 is [+]inf"),
        (-np.inf, "logits of row 1: every logit is -inf"),
    ],
)
def test_a_bad_row_is_named_and_no_row_goes_on(value, message):
    good = np.zeros((3, 4), np.float32)
    bad = good.copy()
    bad[1] = -np.inf
    bad[1, 2] = value
    params = [SamplingParams(seed=seed) for seed in range(3)]
    sampler = Sampler(params, 4)
    with pytest.raises(ArgumentError, match=message):
        sampler.sample(bad)
    assert sampler.steps == [0, 0, 0]
    assert sampler.sample(good).tolist() == Sampler(params, 4).sample(good).tolist()


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", [-1, math.nan, math.inf, "1", None, 10**400, True, 1j]),
        ("top_k", [-1, 1.5, 2**31, "3", None, True]),
        ("top_p", [-0.1, 1.1, math.nan, None, "x"]),
        ("seed", [-1, 2**64, 1.0, None]),
    ],
)
def test_settings_are_checked(field, values):
    for value in values:
        with pytest.raises(ArgumentError, match=f"^{field}="):
            SamplingParams(**{field: value})


@pytest.mark.abuse
def test_other_arrays_are_refused():
    sampler = Sampler([SamplingParams()] * 2, 6)
    good = np.zeros((2, 6), np.float32)
    for bad, message in [
        (good.astype(np.float64), "float64"),
        (good.astype(">f4"), ">f4"),
        (good.tolist(), "list"),
        (good[0], "shape"),
        (good[:1], "shape"),
        (np.zeros((2, 7), np.float32), "shape"),
        (np.zeros((6, 2), np.float32).T, "C-contiguous"),
        (np.zeros((2, 12), np.float32)[:, ::2], "C-contiguous"),
    ]:
        with pytest.raises(ArgumentError, match=f"logits.*{message}"):
            sampler.sample(bad)
    with pytest.raises(ArgumentError, match="rows=2"):
        sampler.select([0, 2])
    with pytest.raises(ArgumentError, match="vocab_size"):
        Sampler([SamplingParams()], 0)
    with pytest.raises(ArgumentError, match=r"params\[1\]"):
        Sampler([SamplingParams(), None], 5)


@pytest.mark.abuse
def test_a_huge_vocabulary_takes_no_memory_before_its_logits_come():
    assert len(Sampler([SamplingParams(top_k=5)] * 1000, 2**31 - 1)) == 1000


def test_no_rows():
    assert Sampler([], 5).sample(np.zeros((0, 5), np.float32)).tolist() == []
