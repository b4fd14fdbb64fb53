"""Beam search against its definition, worked-out tables, transformers, and wrong input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.generation import BeamParams, beam_search, spec_beam


class FunctionModel:
    """Logits as a function of all ids before. The state of a row is its ids."""

    max_positions = None
    eos_token_id = None

    def __init__(self, function, vocab_size):
        self.function = function
        self.vocab_size = vocab_size
        self.rows = []

    def begin(self, prompts):
        state = [tuple(prompt) for prompt in prompts]
        return state, self._logits(state)

    def step(self, state, ids):
        state[:] = [(*row, int(token)) for row, token in zip(state, ids, strict=True)]
        return self._logits(state)

    def select(self, state, rows):
        return [state[row] for row in rows]

    def _logits(self, state):
        self.rows.append(len(state))
        return np.stack([np.asarray(self.function(ids), np.float32) for ids in state])


def random_model(vocab_size, seed=0, scale=1.0):
    def logits(ids):
        values = np.random.default_rng([seed, *ids]).normal(0, scale, vocab_size).astype(np.float32)
        # Some tokens cannot come; one always can.
        values[values < -1.5 * scale] = -np.inf
        values[ids[-1] % vocab_size] = 0.1
        return values

    return FunctionModel(logits, vocab_size)


def assert_same(found, expected):
    assert [(text.ids, text.finish_reason) for text in found] == [(text.ids, text.finish_reason) for text in expected]
    # The normaliser is a sum of float32 exponentials: relative error 1e-6 of it, summed over a text.
    assert [text.score for text in found] == pytest.approx([text.score for text in expected], abs=1e-4, rel=1e-5)


@st.composite
def searches(draw):
    """A model, prompts and settings, all settings in use in some."""
    vocab_size = draw(st.sampled_from([2, 3, 5, 9, 33, 1025, 2100]))
    ids = st.integers(0, vocab_size - 1)
    size, groups = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 1, 2, 3]))
    tokens = draw(st.integers(1, 7))
    end_ids = draw(st.lists(ids, max_size=3, unique=True))
    prompts = draw(st.lists(st.lists(ids, min_size=1, max_size=6), min_size=1, max_size=3))
    words = st.lists(ids, min_size=1, max_size=3).filter(lambda word: len(word) > 1 or word[0] not in end_ids)
    prefixes = st.lists(ids.filter(lambda token: token not in end_ids), max_size=min(3, tokens))
    is_forced = len(set(end_ids)) < vocab_size and draw(st.booleans())
    params = BeamParams(
        num_beams=size * groups,
        num_return=draw(st.integers(1, size * groups)),
        length_penalty=draw(st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.6])),
        early_stopping=draw(st.sampled_from([False, True, "never"])),
        num_beam_groups=groups,
        diversity_penalty=draw(st.sampled_from([0.0, 0.5, 3.0])),
        max_new_tokens=tokens,
        min_new_tokens=draw(st.integers(0, tokens)),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2, 3])),
        end_ids=end_ids,
        forced_prefix=[draw(prefixes) for _ in prompts] if is_forced else (),
        bad_words=draw(st.lists(words, max_size=3)),
    )
    model = random_model(vocab_size, draw(st.integers(0, 1000)), draw(st.sampled_from([0.3, 1.0, 4.0])))
    return model, prompts, params


@pytest.mark.property
@given(searches())
def test_texts_and_scores_are_those_of_the_definition(case):
    model, prompts, params = case
    prefixes = params.forced_prefix or [()] * len(prompts)
    expected = [
        spec_beam.search(lambda ids: model.function(ids).tolist(), tuple(prompt), params, prefix)
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    if all(expected):
        for found, texts in zip(beam_search(model, prompts, params), expected, strict=True):
            assert_same(found, texts)
    else:
        with pytest.raises(ArgumentError, match=r"prompt \d+: after \d+ tokens none is left|prompt \d+.*every logit"):
            beam_search(model, prompts, params)


def table_model(rows):
    """Probabilities of the next token, by the ids before."""
    logits = {ids: [math.log(p) if p else -math.inf for p in row] for ids, row in rows.items()}
    return FunctionModel(logits.__getitem__, len(next(iter(rows.values()))))


# Token 0 is the prompt, token 3 ends a text. Greedy takes 1 (0.5) and then has to choose among poor tokens.
TABLE = {
    (0,): [0.0, 0.5, 0.4, 0.1],
    (0, 1): [0.3, 0.35, 0.3, 0.05],
    (0, 2): [0.0, 0.0, 0.1, 0.9],
    (0, 1, 0): [0.2, 0.2, 0.2, 0.4],
    (0, 1, 1): [0.1, 0.1, 0.1, 0.7],
    (0, 1, 2): [0.25, 0.25, 0.25, 0.25],
    (0, 2, 2): [0.1, 0.1, 0.1, 0.7],
}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # One beam is greedy; its end, 0.7, is the best of the third step.
        ({"num_beams": 1}, [([1, 1, 3], 0.5 * 0.35 * 0.7, 3)]),
        # Two find the text that begins with the second best.
        ({"num_beams": 2, "num_return": 2}, [([2, 3], 0.4 * 0.9, 2), ([1, 1, 3], 0.5 * 0.35 * 0.7, 3)]),
        ({"num_beams": 2, "max_new_tokens": 1, "num_return": 2}, [([1], 0.5, 1), ([2], 0.4, 1)]),
        # [2, 3] may not end before the third token; [2, 2] has 0.04.
        ({"num_beams": 2, "min_new_tokens": 2, "num_return": 2}, [([1, 1, 3], 0.1225, 3), ([1, 0, 3], 0.06, 3)]),
        # 3 may never follow 2; [3] has ended with log 0.1 = -2.3.
        ({"num_beams": 2, "bad_words": [[1], [2, 3]]}, [([2, 2, 0], 0.4 * 0.1 * 0.1, 3)]),
        # After it all four are equal: the lowest token comes first.
        ({"num_beams": 2, "forced_prefix": [[1, 2]]}, [([1, 2, 0], 0.5 * 0.3 * 0.25, 3)]),
        # 0 is in the prompt; [1, 2] has nothing to go on with, what has ended stays.
        ({"num_beams": 2, "no_repeat_ngram_size": 1, "bad_words": [[2, 3]]}, [([1, 3], 0.5 * 0.05, 2)]),
        # The second group pays 2 for token 1, so it takes token 2, which costs it nothing.
        (
            {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 2.0, "num_return": 2},
            [([2, 3], 0.4 * 0.9, 2), ([1, 1, 3], 0.5 * 0.35 * 0.7, 3)],
        ),
    ],
)
def test_worked_out_table(settings, expected):
    params = BeamParams(**{"max_new_tokens": 3, "end_ids": [3]} | settings)
    (texts,) = beam_search(table_model(TABLE), [[0]], params)
    assert [text.ids for text in texts] == [ids for ids, _, _ in expected]
    # float32 logits
    assert [text.score for text in texts] == pytest.approx([math.log(p) / n for _, p, n in expected], rel=1e-6)
    assert {text.finish_reason for text in texts} <= {"end", "length"}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("early_stopping", "length_penalty", "steps"),
    # After two tokens [1] has ended with log 0.4 = -0.92 and [0, 1] with log 0.2 / 2 = -0.80, and log 0.25 / 2 = -0.69
    # runs. After three the worst of the two best is -0.80, and log 0.005 = -5.3 runs: -1.77 now, -0.66 if eight cost no
    # more; after four -9.2 / 8 = -1.15.
    [(True, 1.0, 2), (False, 1.0, 3), ("never", 1.0, 4), (False, 0.0, 3), ("never", 0.0, 3)],
)
def test_early_stopping_modes(early_stopping, length_penalty, steps):
    model = FunctionModel(lambda ids: np.log([0.5, 0.4, 0.1] if len(ids) < 3 else [0.02, 0.97, 0.01]), 3)
    params = BeamParams(
        num_beams=2, max_new_tokens=8, end_ids=[1], early_stopping=early_stopping, length_penalty=length_penalty
    )
    beam_search(model, [[2]], params)
    assert len(model.rows) == steps


@pytest.mark.golden
def test_a_row_is_stepped_for_each_text_that_runs_and_no_other():
    long = FunctionModel(lambda ids: np.log([0.2, 0.3, 0.5] if ids[0] == 0 else [0.6, 0.3, 0.1]), 3)
    params = BeamParams(num_beams=2, end_ids=[2], max_new_tokens=4, early_stopping=True)
    beam_search(long, [[0], [1], [1]], params)
    # Three prompts; then two beams each; the first is done after its second end.
    assert long.rows[:2] == [3, 6]
    assert long.rows[2:] == [4, 4]


def test_a_text_is_the_same_in_every_batch():
    model = random_model(300)
    prompts = [[1, 2], [3], [4, 5, 6]]
    params = BeamParams(num_return=4, max_new_tokens=8, end_ids=[7, 8])
    together = beam_search(model, prompts, params)
    assert together == [beam_search(model, [prompt], params)[0] for prompt in prompts]


def test_a_batch_on_all_threads_gives_what_one_thread_gives():
    logits = np.random.default_rng(3).normal(0, 2, (16, 40_000)).astype(np.float32)
    model = FunctionModel(lambda ids: logits[sum(ids) % 16], 40_000)
    params = BeamParams(num_beams=8, num_return=8, max_new_tokens=4)
    prompts = [[1], [2], [3, 4]]
    assert beam_search(model, prompts, params) == [beam_search(model, [prompt], params)[0] for prompt in prompts]


def test_no_prompts():
    assert beam_search(random_model(5), [], BeamParams()) == []


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"logits of row 1 \(prompt 1\): the logit of token 2 is NaN"),
        (np.inf, r"logits of row 1 \(prompt 1\): the logit of token 2 is [+]inf"),
        (-np.inf, r"logits of row 1 \(prompt 1\): every logit is -inf"),
    ],
)
def test_a_bad_row_is_named(value, message):
    bad = np.full(4, -np.inf)
    bad[2] = value
    model = FunctionModel(lambda ids: bad if ids == (1,) else np.zeros(4), 4)
    with pytest.raises(ArgumentError, match=message):
        beam_search(model, [[0], [1]], BeamParams())


@pytest.mark.abuse
def test_a_prompt_without_a_token_to_go_on_with_is_named():
    params = BeamParams(bad_words=[[0, 0], [0, 1], [0, 2]])
    model = FunctionModel(lambda ids: [0.0, -np.inf, -np.inf], 3)
    with pytest.raises(ArgumentError, match="prompt 1: after 0 tokens none is left"):
        beam_search(model, [[1], [0]], params)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("num_beams", [0, -1, 1025, 2.5, "3", None, True]),
        ("num_return", [0, 5, 1.0]),
        ("length_penalty", [math.nan, math.inf, 17, "x", None]),
        ("early_stopping", [None, "always", 2, 1.0]),
        ("num_beam_groups", [0, 3, 5, None]),
        ("diversity_penalty", [-1, math.nan, 1e10]),
        ("max_new_tokens", [0, 2**31, None]),
        ("min_new_tokens", [-1, 129]),
        ("no_repeat_ngram_size", [-1, 1.5]),
        ("end_ids", [3, [-1], ["a"], None, [2**31]]),
        ("forced_prefix", [3, [3], [[-1]], "ab"]),
        ("bad_words", [3, [3], [[-1]], ["ab"]]),
    ],
)
def test_settings_are_checked(field, values):
    for value in values:
        with pytest.raises(ArgumentError, match=f"^{field}"):
            BeamParams(**{field: value})


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("settings", "prompts", "message"),
    [
        ({}, [[]], r"prompts\[0\]: is empty"),
        ({}, [[0], [5]], "prompts=5: must be ids from 0 to 4"),
        ({}, [["a"]], r"prompts\[0\]="),
        ({}, 3, "prompts: is int"),
        ({"end_ids": [5]}, [[0]], "end_ids=5"),
        ({"end_ids": [1] * 257}, [[0]], "end_ids=257 ids"),
        ({"bad_words": [[]]}, [[0]], "bad_words="),
        ({"bad_words": [[9]]}, [[0]], "bad_words=9"),
        ({"bad_words": [[1]], "end_ids": [1]}, [[0]], "bad_words=.*end id"),
        ({"forced_prefix": [[1]]}, [[0], [0]], "forced_prefix=1 lists"),
        ({"forced_prefix": [[7]]}, [[0]], "forced_prefix=7"),
        ({"forced_prefix": [[1]], "end_ids": [1]}, [[0]], "forced_prefix=1: must be no end id"),
        ({"forced_prefix": [[1, 1]], "max_new_tokens": 1}, [[0]], "forced_prefix=2 ids"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, prompts, message):
    with pytest.raises(ArgumentError, match=message):
        beam_search(random_model(5), prompts, BeamParams(**settings))


@pytest.mark.abuse
def test_positions_and_wrong_models():
    model = random_model(5)
    model.max_positions = 10
    with pytest.raises(ArgumentError, match="max_new_tokens=9: with the 2 tokens"):
        beam_search(model, [[0], [1, 2]], BeamParams(max_new_tokens=9))
    model._logits = lambda state: np.zeros((len(state), 6), np.float32)
    with pytest.raises(ArgumentError, match="logits: float32"):
        beam_search(model, [[0]], BeamParams(max_new_tokens=2))
    model._logits = lambda state: np.zeros((len(state), 5))
    with pytest.raises(ArgumentError, match="logits: float64"):
        beam_search(model, [[0]], BeamParams(max_new_tokens=2))


@pytest.mark.abuse
def test_huge_settings_take_no_memory():
    params = BeamParams(num_beams=1024, max_new_tokens=2**31 - 1, no_repeat_ngram_size=2**31 - 1, end_ids=[1])
    (texts,) = beam_search(FunctionModel(lambda ids: [-50.0, 50.0], 2), [[0]], BeamParams(end_ids=[1]))
    assert texts[0].ids == [1]
    model = FunctionModel(lambda ids: [-np.inf, 0.0], 2)
    assert [text.ids for text in beam_search(model, [[0]], params)[0]] == [[1]]
