"""The sampler against its definition: tables, generated inputs, chi-square, wrong input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wordkiln import _rust
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
    assert _rust.uniforms(seed, step) == spec.uniforms(seed, step)
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
        ({"min_p": 0.7}, {1: 4 / 7, 3: 3 / 7}),
        ({"min_p": 1.0}, {1: 1.0}),
        ({"min_p": 0.3, "temperature": 0.5}, {1: 0.64, 3: 0.36}),
        # Of logits -2.30, -0.92, -1.61, -1.20 the standard deviation is 0.52.
        ({"top_n_sigma": 1.0}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_n_sigma": 1.0, "temperature": 9}, {1: None, 3: None}),
        ({"top_n_sigma": 2.0}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
        # The entropy is 1.28 nats: by distance of the surprise from it 3 (0.08), 2 (0.33), 1 (0.36), 0 (1.02).
        ({"typical_p": 0}, {3: 1.0}),
        ({"typical_p": 0.4}, {2: 2 / 5, 3: 3 / 5}),
        ({"typical_p": 0.6}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
        ({"xtc_probability": 1, "xtc_threshold": 0.15}, {0: 1 / 3, 2: 2 / 3}),
        ({"xtc_probability": 1, "xtc_threshold": 0.35}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
        ({"xtc_probability": 1, "xtc_threshold": 0.15, "top_k": 2}, {3: 1.0}),
        ({"xtc_probability": 1, "xtc_threshold": 0}, {0: 1.0}),
        # Surprises in bits: 3.32, 1.32, 2.32, 1.74; the limit starts at twice tau.
        ({"mirostat_tau": 0.9}, {1: 4 / 7, 3: 3 / 7}),
        ({"mirostat_tau": 0.1}, {1: 1.0}),
        ({"mirostat_tau": 5}, {0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}),
    ],
)
def test_table_of_what_is_kept(settings, expected):
    logits = logits_of([0.1, 0.4, 0.2, 0.3])
    params = SamplingParams(**settings)
    kept = spec.kept(logits[0].tolist(), params, 0.0)
    assert list(kept) == list(expected)
    for token, probability in expected.items():
        assert probability is None or kept[token] == pytest.approx(probability, rel=1e-6)  # float32 logits
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in range(400)], 4)
    drawn = sampler.sample(np.repeat(logits, 400, axis=0))
    # The rarest kept token has probability 1/30: 400 draws miss it with a chance of one in a million.
    assert sorted(set(drawn.tolist())) == list(expected)


def expected_of(logits, params):
    return spec.kept(spec.edited(logits.astype(np.float64).tolist(), params), params, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 30},
        {"top_p": 0.8},
        {"top_k": 50, "top_p": 0.9},
        {"min_p": 0.05},
        {"typical_p": 0.7},
        {"top_n_sigma": 1.5},
        {"xtc_probability": 1, "xtc_threshold": 0.01},
        {"mirostat_tau": 3.0, "mirostat_eta": 0.0},
        {"logit_bias": {0: 3.0, 17: 5.0}, "banned_ids": [5, 6], "top_p": 0.9},
    ],
)
@pytest.mark.golden
def test_samples_pass_a_chi_square_test(settings):
    logits = np.random.default_rng(5).normal(0, 1.5, 300).astype(np.float32)
    draws, batch = 40_000, 200
    sampler = Sampler([SamplingParams(**settings, seed=seed) for seed in range(batch)], 300)
    block = np.repeat(logits[None], batch, axis=0)
    counts = sum(np.bincount(sampler.sample(block), minlength=300) for _ in range(draws // batch))
    expected = np.zeros(300)
    for token, probability in expected_of(logits, SamplingParams(**settings)).items():
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


def test_rows_that_cannot_be_sampled_stay_while_others_go_on():
    good = np.random.default_rng(0).normal(0, 1, (4, 70)).astype(np.float32)
    bad = good.copy()
    bad[1, 3] = np.nan
    masks = np.full((4, 3), 2**32 - 1, np.uint32)
    masks[2] = 0
    params = [SamplingParams(seed=seed) for seed in range(4)]
    sampler, whole = Sampler(params, 70), Sampler(params, 70)
    expected = whole.sample(good)
    ids, logprobs, faults = sampler.sample_partial(bad, masks)
    assert ids.tolist() == [expected[0], -1, -1, expected[3]]
    assert np.isnan(logprobs).tolist() == [False, True, True, False]
    assert list(faults) == [1, 2]
    assert "logits of row 1: the logit of token 3 is NaN" in str(faults[1])
    assert "logits of row 2: its mask" in str(faults[2])
    assert sampler.steps == [1, 0, 0, 1]


def test_no_rows():
    assert Sampler([], 5).sample(np.zeros((0, 5), np.float32)).tolist() == []
