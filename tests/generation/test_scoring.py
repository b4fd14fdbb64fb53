"""Scores, perplexity and next tokens against their definitions, on a model whose every logit is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.generation import LanguageModel
from wordkiln.generation._scores import windows


class CountingModel:
    """After n ids of a row every id but one has the same probability, and the id n one of its own."""

    vocab_size = 257
    max_positions = 16
    eos_token_id = 256

    def __init__(self):
        self.seen = []

    def score(self, rows):
        self.seen += [len(row) for row in rows]
        return [np.array([self.logprob(place, row[place]) for place in range(1, len(row))], np.float32) for row in rows]

    def logprob(self, place, token_id):
        return -1.0 - place / 8 - token_id / 512

    def begin(self, prompts):
        logits = np.zeros((len(prompts), self.vocab_size), np.float32)
        logits[:, [7, 97, 200]] = np.log([10, 30, 10])
        return None, logits


@pytest.fixture
def model(byte_tokenizer):
    return LanguageModel(CountingModel(), byte_tokenizer)


def approximately(values):
    return pytest.approx(values, abs=1e-6)  # float32 logarithms of size 1


def test_a_text_begins_a_document(model):
    score = model.score("ab")
    logprobs = [model.model.logprob(1, 97), model.model.logprob(2, 98)]
    assert score.ids == [97, 98]
    assert score.logprobs == approximately(logprobs)
    assert score.total == approximately(sum(logprobs))
    assert score.perplexity == approximately(math.exp(-sum(logprobs) / 2))
    assert score.bits_per_byte == approximately(-sum(logprobs) / math.log(2) / 2)


def test_bytes_are_those_of_the_text_not_its_tokens(model):
    score = model.score("文")
    assert (len(score.ids), score.num_bytes) == (3, 3)


def test_a_context_is_not_scored(model):
    logprobs = [model.model.logprob(3, 97), model.model.logprob(4, 98)]
    assert model.score("ab", context="xyz").logprobs == approximately(logprobs)
    scores = model.score(["ab", "b"], context=["xyz", "x"])
    assert scores[0].logprobs == approximately(logprobs)
    assert scores[1].logprobs == approximately([model.model.logprob(1, 98)])
    with pytest.raises(ArgumentError, match="context: 1 for 2 texts"):
        model.score(["a", "b"], context=["x"])


def test_where_nothing_can_stand_before_a_text_its_first_token_is_not_scored(byte_tokenizer):
    model = CountingModel()
    model.eos_token_id = byte_tokenizer.end_id = None
    score = LanguageModel(model, byte_tokenizer).score("abc")
    assert (score.ids, score.num_bytes) == ([98, 99], 2)


def test_a_beginning_of_the_tokenizer_stands_before_texts_and_prompts(byte_tokenizer):
    byte_tokenizer.add_special_tokens = lambda ids: [5, 6, *ids, 7]
    model = LanguageModel(CountingModel(), byte_tokenizer)
    model.score("abc")
    assert model.model.seen == [5]
    begun = []
    model.model.begin = lambda prompts: begun.append(prompts) or CountingModel().begin(prompts)
    model.next_tokens("abc")
    model.next_tokens("")
    assert begun == [[[5, 6, 97, 98, 99]], [[5, 6]]]


def test_an_empty_text_has_no_perplexity(model):
    score = model.score("")
    assert (score.ids, score.total, score.num_bytes) == ([], 0.0, 0)
    assert math.isnan(score.perplexity)
    assert math.isnan(score.bits_per_byte)


def test_an_impossible_token_is_infinitely_surprising(model):
    model.model.logprob = lambda place, _: -math.inf if place == 2 else -1.0
    score = model.score("abc")
    assert (score.total, score.perplexity, score.bits_per_byte) == (-math.inf, math.inf, math.inf)


@pytest.mark.property
@given(
    st.lists(st.text("ab文", max_size=12), min_size=1, max_size=5),
    st.integers(2, 16),
    st.data(),
)
def test_windows_score_each_token_once_with_what_its_window_shows(new_byte_tokenizer, byte_texts, size, data):
    model = LanguageModel(CountingModel(), new_byte_tokenizer())
    stride = data.draw(st.integers(1, size - 1))
    scores = model.score(byte_texts, window=size, stride=stride)
    for text, score in zip(byte_texts, scores, strict=True):
        ids = [256, *text.encode()]
        expected = []
        for place in range(1, len(ids)):
            # The first window, counted in strides, that reaches this place.
            start = max(0, math.ceil((place + 1 - size) / stride)) * stride
            expected.append(model.model.logprob(place - start, ids[place]))
        assert score.ids == ids[1:]
        assert score.logprobs == approximately(expected)
    assert max(model.model.seen, default=0) <= size


def test_windows_as_worked_out():
    assert [(window.start, window.scored, window.stop) for window in windows(10, 1, 4, 3)] == [
        (0, 1, 4),
        (3, 4, 7),
        (6, 7, 10),
    ]


def test_perplexity_of_a_long_text_has_half_a_window_to_look_back_at(model):
    text = "a" * 40
    score = model.score(text, stride=8)
    assert model.perplexity(text) == score.perplexity
    assert model.perplexity(text, window=4, stride=3) == model.score(text, window=4, stride=3).perplexity


@pytest.mark.abuse
def test_a_text_that_is_too_long_is_named(model):
    with pytest.raises(ArgumentError, match=r"one of 41 tokens.* exceeds the window of 16: stride=8"):
        model.score("a" * 40)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 1}, "window=1"),
        ({"window": 17}, "window=17: must be an integer from 2 to 16"),
        ({"stride": 0}, "stride"),
        ({"stride": 16}, "stride=16: must be an integer from 1 to 15"),
        ({"window": "x"}, "window"),
    ],
)
def test_wrong_windows_are_named(model, options, named):
    with pytest.raises(ArgumentError, match=named):
        model.score("abc", **options)


@pytest.mark.abuse
def test_what_is_no_text_is_named(model):
    with pytest.raises(ArgumentError, match=r"texts\[1\]: is int"):
        model.score(["a", 1])
    with pytest.raises(ArgumentError, match=r"special_tokens='ids' reads it"):
        model.score("<|end|>")
    assert model.score("<|end|>", special_tokens="ids").ids == [256]
    assert len(model.score("<|end|>", special_tokens="text").ids) == 7


def test_next_tokens_come_by_probability_then_id(model):
    total = 257 - 3 + 50
    tokens = model.next_tokens("x", k=4)
    assert [token.id for token in tokens] == [97, 7, 200, 0]
    assert [token.probability for token in tokens] == approximately([30 / total, 10 / total, 10 / total, 1 / total])
    assert tokens[0].text == "a"
    assert tokens[2].text == "\N{REPLACEMENT CHARACTER}"
    assert tokens[0].logprob == approximately(math.log(30 / total))
    assert len(model.next_tokens("x", k=257)) == 257
    for k in (0, 258, 1.5):
        with pytest.raises(ArgumentError, match="k="):
            model.next_tokens("x", k=k)


@pytest.mark.parity
def test_scores_are_the_log_probabilities_of_generate(random_model):
    completion = random_model.generate("x", max_new_tokens=20, seed=1, prompt_logprobs=True, logprobs=1)
    assert completion.prompt_logprobs == [None]
    scores = random_model.model.score([[*b"x", *completion.ids]])[0]
    assert completion.logprobs == pytest.approx(scores.tolist(), abs=1e-5)  # sums of 257 float32 exponentials
