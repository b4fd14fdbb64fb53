"""Beam search against its definition, worked-out tables, transformers, and wrong input."""

import itertools
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
