"""The sampler given what it must refuse: errors name the field, the value and the limit, and nothing has changed."""

import math

import numpy as np
import pytest

from wordkiln.errors import ArgumentError
from wordkiln.generation import Sampler, SamplingParams


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
        ("min_p", [-0.1, 1.1, math.nan, None]),
        ("typical_p", [-0.1, 1.1, "x"]),
        ("top_n_sigma", [-1, math.inf]),
        ("xtc_probability", [-1, 2]),
        ("xtc_threshold", [-1, 2]),
        ("mirostat_tau", [-1, math.nan]),
        ("mirostat_eta", [-1, math.inf]),
        ("repetition_penalty", [0, -1, math.inf]),
        ("presence_penalty", [math.nan, 1e39]),
        ("frequency_penalty", [None, -1e39]),
        ("dry_multiplier", [-1]),
        ("dry_base", [0, -1]),
        ("dry_allowed_length", [0, 1.5]),
        ("dry_range", [-1]),
        ("no_repeat_ngram_size", [-1, True]),
        ("min_new_tokens", [-1]),
        ("logprobs", [-1]),
    ],
)
def test_settings_are_checked(field, values):
    for value in values:
        with pytest.raises(ArgumentError, match=f"^{field}="):
            SamplingParams(**{field: value})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("logit_bias", [{-1: 0}, {1: math.nan}, {0: math.inf}, {0.5: 1}, [1, 2], None, {2**31: 1}]),
        ("banned_ids", ["12", 3, [-1], [1.5], [2**31], [None]]),
        ("forced_ids", ["", [-1]]),
        ("end_ids", [0, [True]]),
        ("dry_breakers", [b"1", [2**40]]),
        ("bad_words_ids", [[1], [[]], [[1, -1]], "ab"]),
    ],
)
def test_ids_are_checked(field, values):
    for value in values:
        with pytest.raises(ArgumentError, match=f"^{field}"):
            SamplingParams(**{field: value})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_bias": {6: 1.0}}, r"logit_bias\[0\]=6 of row 1"),
        ({"banned_ids": [0, 6]}, r"banned_ids\[1\]=6 of row 1"),
        ({"forced_ids": [7]}, r"forced_ids\[0\]=7 of row 1"),
        ({"end_ids": [2**31 - 1]}, r"end_ids\[0\]=2147483647 of row 1"),
        ({"dry_breakers": [6]}, r"dry_breakers\[0\]=6 of row 1"),
        ({"bad_words_ids": [[1], [2, 6]]}, r"bad_words_ids\[1\]=6 of row 1"),
    ],
)
def test_ids_have_to_be_of_the_vocabulary(settings, message):
    with pytest.raises(ArgumentError, match=f"^{message}: must be below the vocabulary's size, 6"):
        Sampler([SamplingParams(), SamplingParams(**settings)], 6)


@pytest.mark.abuse
def test_prompts_are_checked_before_anything_changes():
    sampler = Sampler([SamplingParams(repetition_penalty=2)], 6)
    for bad in ([6], [-1], [2**70], [0.5], "ab", [[1]], None, ["1"]):
        with pytest.raises(ArgumentError, match=r"^ids"):
            sampler.add_prompt(0, bad)
    with pytest.raises(ArgumentError, match=r"^row=1"):
        sampler.add_prompt(1, [0])
    with pytest.raises(ArgumentError, match=r"^prompts: 2 of them: must be 1"):
        sampler.extend([SamplingParams()], [[], []])
    with pytest.raises(ArgumentError, match=r"^prompts\[1\]\[0\]=9"):
        sampler.extend([SamplingParams()] * 2, [[1], [9]])
    with pytest.raises(ArgumentError, match=r"^banned_ids\[0\]=6 of row 2"):
        sampler.extend([SamplingParams(), SamplingParams(banned_ids=[6])])
    assert len(sampler) == 1
    sampler.add_prompt(0, [])
    sampler.add_prompt(0, np.array([5, 0], np.uint16))


@pytest.mark.abuse
def test_masks_are_checked():
    sampler = Sampler([SamplingParams()] * 2, 33)
    logits = np.zeros((2, 33), np.float32)
    for bad, message in [
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((2, 2), np.uint64), "uint64"),
        (np.zeros((2, 1), np.uint32), "shape"),
        (np.zeros(4, np.uint32), "shape"),
        (np.zeros((2, 4), np.uint32)[:, ::2], "C-contiguous"),
        ([[1, 1]], "list"),
    ]:
        with pytest.raises(ArgumentError, match=f"^masks.*{message}"):
            sampler.sample(logits, bad)
    with pytest.raises(ArgumentError, match="logits of row 0: its mask and its banned tokens leave no token"):
        sampler.sample(logits, np.zeros((2, 2), np.uint32))
    assert sampler.steps == [0, 0]


@pytest.mark.abuse
def test_other_arrays_are_refused():
    sampler = Sampler([SamplingParams()] * 2, 6)
    good = np.zeros((2, 6), np.float32)
    for bad, message in [
        (good.astype(np.float64), "float64"),
        (good.astype(np.int16), "int16"),
        (good.astype(np.float16)[:1], "shape"),
        (good.astype(np.float16).repeat(2, axis=1)[:, ::2], "C-contiguous"),
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
