"""Many prompts through one batch: order, texts as `generate` gives them, failures of single prompts, progress."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.generation import Completion


def test_rows_take_the_places_of_those_that_ended(scripted):
    answers = {"a": "1", "b": "four", "c": "", "d": "22", "e": "333", "f": "", "g": "55555"}
    model = scripted(answers)
    completions = model.batch(list(answers), max_batch_size=3)
    assert [completion.text for completion in completions] == list(answers.values())
    assert max(model.model.batch_sizes) == 3
    # 7 texts of 24 tokens with their ends: one by one they would take 24 steps and 7 prompts.
    assert len(model.model.batch_sizes) < 20


@pytest.mark.property
@given(
    st.lists(st.text("xyz文", min_size=1, max_size=5), max_size=12),
    st.integers(1, 6),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)
def test_a_prompt_gets_the_text_that_generate_gives_it(make_random_model, prompts, max_batch_size, seed, as_iterator):
    model = make_random_model()
    settings = {"max_new_tokens": 12, "top_p": 0.9, "seed": seed, "stop": ["ab", "\n"], "logprobs": 2}
    if as_iterator:
        completions = list(model.iter_batch(iter(prompts), max_batch_size=max_batch_size, **settings))
    else:
        completions = model.batch(prompts, max_batch_size=max_batch_size, **settings)
    assert completions == [model.generate(prompt, **settings) for prompt in prompts]


def test_samples_stay_beside_their_prompt(random_model):
    settings = {"max_new_tokens": 8, "seed": 3}
    expected = [random_model.generate(prompt, n=3, **settings) for prompt in "abcd"]
    found = random_model.batch(list("abcd"), n=3, max_batch_size=7, **settings)
    assert found == list(itertools.chain(*expected))
    assert random_model.batch(list("ab"), seed=[4, 5], max_new_tokens=8)[1] == random_model.generate(
        "b", seed=5, max_new_tokens=8
    )


def test_prompts_of_an_iterator_are_read_as_they_are_needed(random_model):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield "x"

    completions = random_model.iter_batch(endless(), max_batch_size=4, max_new_tokens=5)
    assert taken == 0
    assert len(list(itertools.islice(completions, 6))) == 6
    # Those written, those being written, and the next.
    assert taken <= 6 + 4 + 4 + 1


def test_a_prompt_that_cannot_be_written_fails_alone(random_model):
    settings = {"max_new_tokens": 10, "seed": 1}
    prompts = ["a", "b" * 191, "c", "<|end|>", None, "d" * 190]
    completions = random_model.batch(prompts, max_batch_size=2, **settings)
    assert [completion.finish_reason == "error" for completion in completions] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert completions[0] == random_model.generate("a", **settings)
    assert "191 tokens it exceeds the model's 200 positions" in completions[1].error
    assert "prompts[3]" in completions[3].error
    assert "prompts[4]: is NoneType" in completions[4].error
    assert completions[1].text == ""


def test_a_row_of_nan_fails_alone(random_model):
    prompts = ["a", "b", "c"]
    settings = {"max_new_tokens": 20, "seed": 1, "stop": ["zzzz"]}
    expected = random_model.generate(prompts, **settings)
    poisoned = expected[1].ids[4]
    assert all(poisoned not in completion.ids for completion in (expected[0], expected[2]))
    random_model.model._logits[poisoned, 7] = np.nan
    for completions in (random_model.generate(prompts, **settings), random_model.batch(prompts, **settings)):
        assert [completions[0], completions[2]] == [expected[0], expected[2]]
        assert completions[1].finish_reason == "error"
        assert "token 7 is NaN" in completions[1].error
        assert completions[1].ids == expected[1].ids[: len(completions[1].ids)]
        assert poisoned == completions[1].ids[-1]
    with pytest.raises(ArgumentError, match="token 7 is NaN"):
        random_model.generate("b", **settings)
    stream = random_model.stream("b", **settings)
    pieces = []
    with pytest.raises(ArgumentError, match="token 7 is NaN"):
        pieces.extend(stream)
    assert "".join(pieces) == completions[1].text or pieces
    assert stream.finish_reason == "error"


def test_progress_is_told(scripted):
    calls = []
    model = scripted({"a": "1", "b": "22", "c": ""})
    model.batch(["a", "b", "c"], max_batch_size=2, progress=lambda *numbers: calls.append(numbers))
    assert calls[-1] == (3, 3, 2 + 3 + 1)
    assert calls == sorted(calls)
    list(model.iter_batch(iter(["a"]), progress=lambda *numbers: calls.append(numbers)))
    assert calls[-1] == (1, None, 2)
    assert model.batch(["a"], progress=True)[0].text == "1"


def test_no_prompts_are_no_completions(random_model):
    assert random_model.batch([]) == random_model.generate([]) == list(random_model.iter_batch([])) == []


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"n": 5, "max_batch_size": 4}, "n=5"),
        ({"seed": [1]}, "seed"),
        ({"temprature": 1.0}, "temprature: is no setting: did you mean temperature"),
    ],
)
def test_wrong_settings_are_named_before_any_work(random_model, settings, named):
    random_model.model.begin = None
    for method in (random_model.batch, random_model.iter_batch):
        with pytest.raises(ArgumentError, match=named):
            method(["a", "b"], **settings)
        with pytest.raises(ArgumentError, match="prompts"):
            method("a")


def test_a_completion_says_what_it_was_asked_for(scripted):
    completion = scripted({"p": "ab"}).generate("p", logprobs=3)
    assert completion.top_logprobs == [{97: 0.0}, {98: 0.0}, {256: 0.0}]
    assert completion == Completion("ab", [97, 98, 256], [0.0] * 3, "end", completion.top_logprobs)


@pytest.mark.parametrize("backend", ["runtime", "torch"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_rows_that_join_a_real_model_get_their_own_texts(tmp_path, kind, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    model = small_model(tmp_path, kind, backend)
    prompts = ["床前明月光" * 6, "the", "quick brown", "", "霜" * 20, "x", "明月"]
    settings = {"max_new_tokens": 25, "seed": 7, "repetition_penalty": 1.1}
    alone = [model.generate(prompt, **settings) for prompt in prompts]
    for max_batch_size in (2, 5):
        completions = model.batch(prompts, max_batch_size=max_batch_size, **settings)
        assert [completion.ids for completion in completions] == [completion.ids for completion in alone]
        for completion, expected in zip(completions, alone, strict=True):
            # float32 logits of size 1 to 10, summed in another order in a batch of another size.
            assert completion.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def small_model(directory, kind, backend):
    """A random model that ends its texts now and then."""
    from safetensors.numpy import save_file

    import wordkiln as wk
    from wordkiln.models.layout import parameter_shapes

    tokenizer = wk.Tokenizer.train(["床前明月光,疑是地上霜。\n", "the quick brown fox\n"] * 3, vocab_size=300)
    positions = {"max_position_embeddings": 200} if kind == "transformer" else {}
    config = wk.models.ModelConfig(kind=kind, vocab_size=300, hidden_size=32, **positions)
    random = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    tokenizer.save(directory)
    config.save(directory)
    save_file(weights, directory / "model.safetensors")
    return wk.load(directory, backend=backend)
