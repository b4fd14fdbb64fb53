import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.models import CausalLM, ModelConfig

VOCAB = 37
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15]]

# As in test_causal_lm.py: two orders of the same float32 sums.
TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}


def whole(model, ids):
    """The definition: the last logits of one row run alone, from its beginning."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0][0, -1].numpy()


def check(model, logits, texts):
    assert logits.dtype == np.float32
    assert logits.shape == (len(texts), VOCAB)
    for row, text in zip(logits, texts, strict=True):
        np.testing.assert_allclose(row, whole(model, text), **TOLERANCE)


def test_ragged_prompts_then_steps(model):
    texts = [list(prompt) for prompt in PROMPTS]
    state, logits = model.begin(texts)
    assert len(state) == len(PROMPTS)
    check(model, logits, texts)
    for step in range(10):  # the key-value buffers grow more than once
        ids = np.array([(7 * step + 3 * row) % VOCAB for row in range(len(texts))], np.int32)
        texts = [[*text, int(i)] for text, i in zip(texts, ids, strict=True)]
        check(model, model.step(state, ids), texts)


def test_select_repeats_drops_and_leaves_the_old_state(model):
    state, _ = model.begin(PROMPTS)
    chosen = model.select(state, [2, 0, 2, 4])
    texts = [PROMPTS[row] for row in (2, 0, 2, 4)]
    for ids in ([20, 21, 22, 23], [24, 25, 26, 27], [28, 29, 30, 31]):
        texts = [[*text, i] for text, i in zip(texts, ids, strict=True)]
        check(model, model.step(chosen, ids), texts)
    check(model, model.step(state, [1, 2, 3, 4, 5]), [[*p, i] for p, i in zip(PROMPTS, [1, 2, 3, 4, 5], strict=True)])
    shorter = model.select(chosen, np.array([1]))
    check(model, model.step(shorter, [9]), [[*texts[1], 9]])


def test_two_selections_do_not_share_memory(model):
    state, _ = model.begin([[1, 2], [3]])
    model.step(state, [4, 5])  # the buffers now have room, so the next steps write in place
    left, right = model.select(state, [0, 1]), model.select(state, [0, 1])
    model.step(left, [6, 7])
    check(model, model.step(right, [8, 9]), [[1, 2, 4, 8], [3, 5, 9]])
    check(model, model.step(state, [10, 11]), [[1, 2, 4, 10], [3, 5, 11]])
    check(model, model.step(left, [12, 13]), [[1, 2, 4, 6, 12], [3, 5, 7, 13]])


@pytest.mark.property
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_walk_of_steps_and_selections(model, data):
    ids = st.integers(0, VOCAB - 1)
    texts = data.draw(st.lists(st.lists(ids, min_size=1, max_size=8), min_size=1, max_size=4))
    state, logits = model.begin(texts)
    check(model, logits, texts)
    for _ in range(data.draw(st.integers(1, 5))):
        rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=4))
        state, texts = model.select(state, rows), [texts[row] for row in rows]
        new = data.draw(st.lists(ids, min_size=len(rows), max_size=len(rows)))
        texts = [[*text, i] for text, i in zip(texts, new, strict=True)]
        check(model, model.step(state, new), texts)


def test_reports_what_generation_asks_for(model):
    assert model.vocab_size == VOCAB
    assert model.eos_token_id == 1
    assert model.max_positions == (None if model.config.is_recurrent else 24)


def test_steps_without_dropout_inside_training(model):
    model.train()
    model.model.dropout.p = 0.5
    _, logits = model.begin(PROMPTS)
    assert model.training
    assert model.model.dropout.training
    model.eval()
    check(model, logits, PROMPTS)


def test_reaches_the_last_position_and_no_further():
    model = CausalLM(
        ModelConfig(kind="transformer", vocab_size=VOCAB, hidden_size=32, max_position_embeddings=24)
    ).eval()
    texts = [[1] * 22, [2]]
    state, _ = model.begin(texts)
    for ids in ([3, 4], [5, 6]):
        texts = [[*text, i] for text, i in zip(texts, ids, strict=True)]
        check(model, model.step(state, ids), texts)
    with pytest.raises(ArgumentError, match="row 0: is max_position_embeddings=24"):
        model.step(state, [1, 1])
    rest = model.select(state, [1])
    check(model, model.step(rest, [7]), [[*texts[1], 7]])
    with pytest.raises(ArgumentError, match="25 ids: must be at most max_position_embeddings=24"):
        model.begin([[1] * 25])


@pytest.mark.abuse
@pytest.mark.parametrize(
    "prompts",
    [[], [[]], [[1], []], [[1, 37]], [[-1]], [[1.5]], [["a"]], [[[1]]], [[1, [2]]], [[10**30]], [[True]], [5], 5],
    ids=str,
)
def test_refuses_bad_prompts(model, prompts):
    with pytest.raises(ArgumentError, match="prompts"):
        model.begin(prompts)


@pytest.mark.abuse
def test_a_refused_step_changes_nothing(model):
    state, _ = model.begin([[1, 2], [3]])
    for ids in ([1], [1, 2, 3], [1, 37], [-1, 0], [0.5, 1.0], [[1], [2]], []):
        with pytest.raises(ArgumentError, match="ids"):
            model.step(state, ids)
    for rows in ([], [2], [-1], [0.5], 0):
        with pytest.raises(ArgumentError, match="rows"):
            model.select(state, rows)
    check(model, model.step(state, [4, 5]), [[1, 2, 4], [3, 5]])


def test_joined_states_go_on_as_if_they_had_been_one(model):
    first, _ = model.begin(PROMPTS[:2])
    model.step(first, [20, 21])
    second, _ = model.begin(PROMPTS[2:4])
    third, _ = model.begin([PROMPTS[4] * 5])  # longer than the buffers of the others
    state = model.join([first, second, third])
    assert len(state) == 5
    texts = [[*PROMPTS[0], 20], [*PROMPTS[1], 21], PROMPTS[2], PROMPTS[3], PROMPTS[4] * 5]
    for step in range(3):
        ids = [step + row for row in range(5)]
        texts = [[*text, i] for text, i in zip(texts, ids, strict=True)]
        check(model, model.step(state, ids), texts)
    state, texts = model.select(state, [4, 0]), [texts[4], texts[0]]
    check(model, model.step(state, [1, 2]), [[*text, i] for text, i in zip(texts, [1, 2], strict=True)])
    with pytest.raises(ArgumentError, match="states"):
        model.join([])


def test_scores_are_log_probabilities_of_each_id_after_those_before(model, monkeypatch):
    from wordkiln.models import stepping

    # So that a text of a test crosses the borders of chunks.
    monkeypatch.setattr(stepping, "_CHUNK", 4)
    monkeypatch.setattr(stepping, "_LOGITS", 3 * VOCAB)
    for row, ids in zip(model.score(PROMPTS), PROMPTS, strict=True):
        assert row.dtype == np.float32
        expected = [
            torch.tensor(whole(model, ids[:place])).log_softmax(0)[ids[place]].item() for place in range(1, len(ids))
        ]
        np.testing.assert_allclose(row, expected, atol=5e-6, rtol=1e-5)
    with pytest.raises(ArgumentError, match="rows"):
        model.score([[1], []])
