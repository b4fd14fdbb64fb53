"""Writing with stand-in models: batches, ends, stop strings, seeds, streams, wrong arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError
from wordkiln.generation import Completion, LanguageModel, derive_seed
from wordkiln.generation._stop import StopMatcher

CHINESE = "你好，世界！🙂"


def test_the_end_token_ends_a_text(scripted):
    completion = scripted({"p": CHINESE}).generate("p")
    assert completion == Completion(CHINESE, [*CHINESE.encode(), 256], [0.0] * (len(CHINESE.encode()) + 1), "end")


def test_max_new_tokens_ends_a_text(scripted):
    completion = scripted({"p": "abcdef"}).generate("p", max_new_tokens=3)
    assert (completion.text, len(completion.ids), completion.finish_reason) == ("abc", 3, "length")


def test_a_character_cut_by_the_limit_becomes_a_replacement_character(scripted):
    completion = scripted({"p": "a你"}).generate("p", max_new_tokens=3)
    assert completion.text == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("\n\n", "一行\n二行", "stop"),
        (["zzz", "二"], "一行\n", "stop"),
        (["行\n二", "行"], "一", "stop"),
        ("三", "一行\n二行\n\n", "stop"),
        ("三行完", "一行\n二行\n\n三行", "end"),
        ((), "一行\n二行\n\n三行", "end"),
    ],
)
def test_stop_strings(scripted, stop, text, reason):
    model = scripted({"p": "一行\n二行\n\n三行"})
    completion = model.generate("p", stop=stop)
    assert (completion.text, completion.finish_reason) == (text, reason)
    stream = model.stream("p", stop=stop)
    assert ("".join(stream), stream.finish_reason) == (text, reason)


def test_prompts_of_a_batch_end_each_at_its_time(scripted):
    answers = {"a": "1", "b": "four", "c": "", "d": "四"}
    model = scripted(answers)
    completions = model.generate(list(answers))
    assert [completion.text for completion in completions] == list(answers.values())
    assert model.model.batch_sizes == [4, 3, 2, 2, 1]


def test_samples_come_by_prompt_and_read_it_once(scripted):
    model = scripted({"a": "1", "b": "22"})
    completions = model.generate(["a", "b"], n=3)
    assert [completion.text for completion in completions] == ["1"] * 3 + ["22"] * 3
    assert model.model.batch_sizes == [2, 6, 3]
    assert isinstance(model.generate("a", n=2), list)
    assert model.generate([]) == []


def test_a_text_does_not_depend_on_its_batch(random_model):
    prompts = ["x", "yy", "文"]
    options = {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.95, "seed": 5}
    together = random_model.generate(prompts, n=3, **options)
    for index, prompt in enumerate(prompts):
        assert random_model.generate(prompt, **options) == together[3 * index]
        for sample in range(3):
            alone = random_model.generate(prompt, **options | {"seed": derive_seed(5, sample)})
            assert alone == together[3 * index + sample]
    assert len({completion.text for completion in together[:3]}) == 3
    assert random_model.generate(prompts, **options | {"seed": [5, 6, 7]})[0] == together[0]


def test_without_a_seed_texts_differ(random_model):
    assert len({random_model.generate("x", max_new_tokens=30).text for _ in range(3)}) == 3


@pytest.mark.property
@given(st.integers(0, 2**64 - 1), st.lists(st.text("ab\ufffd ", min_size=1, max_size=3), max_size=2))
def test_a_stream_is_what_generate_gives(make_random_model, seed, stop):
    model = make_random_model()
    options = {"max_new_tokens": 30, "seed": seed, "stop": stop}
    pieces = list(model.stream("x", **options))
    assert all(pieces)
    assert "".join(pieces) == model.generate("x", **options).text


def test_a_stream_gives_whole_characters_as_they_come(scripted):
    assert list(scripted({"p": CHINESE}).stream("p")) == list(CHINESE)


def test_an_empty_prompt_starts_a_document(random_model, byte_tokenizer):
    options = {"temperature": 0, "max_new_tokens": 5}
    assert random_model.generate("", **options).ids[0] == random_model.model._logits[256].argmax()
    byte_tokenizer.end_id = random_model.model.eos_token_id = None
    with pytest.raises(ArgumentError, match="prompt: is empty"):
        LanguageModel(random_model.model, byte_tokenizer).generate("")


def test_ctrl_c_ends_a_stream_behind_what_was_written(scripted):
    model = scripted({"p": "ab你好世界"})
    step, calls = model.model.step, 0

    def interrupted(state, ids):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return step(state, ids)

    model.model.step = interrupted
    stream = model.stream("p", stop="b你好吗")
    # "b你" was held back, as a stop string may begin there; a byte of 好 had come.
    assert "".join(stream) == "ab你\N{REPLACEMENT CHARACTER}"
    assert stream.finish_reason == "interrupted"
    assert list(stream) == []


@given(st.text("aab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.data())
@pytest.mark.property
def test_stop_matcher_cuts_at_the_stop_string_that_ends_first(text, stops, data):
    matcher = StopMatcher(tuple(stops))
    shown, seen, rest = "", "", text
    while rest and not matcher.found:
        size = data.draw(st.integers(1, len(rest)))
        seen, rest = seen + rest[:size], rest[size:]
        shown += matcher.push(seen[-size:])
        found = [seen.find(stop) for stop in stops if stop in seen]
        assert matcher.found == bool(found)
        assert shown == seen[: min(found)] if found else seen.startswith(shown)
    assert matcher.found or shown + matcher.finish() == text


@pytest.mark.abuse
@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": 200},
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 2},
        {"seed": -1},
        {"seed": [1, 2]},
        {"stop": [""]},
        {"stop": [3]},
        {"n": 0},
    ],
)
def test_wrong_arguments_are_named_before_any_work(random_model, options):
    random_model.model.begin = None
    name = next(iter(options))
    with pytest.raises(ArgumentError, match=name):
        random_model.generate("x", **options)
    if name != "n" and options != {"seed": [1, 2]}:
        with pytest.raises(ArgumentError, match=name):
            random_model.stream("x", **options)


@pytest.mark.abuse
def test_a_prompt_that_is_no_text_is_named(random_model):
    for prompt in ([1], [None], b"x"):
        with pytest.raises(ArgumentError, match="prompt"):
            random_model.generate(prompt)
    with pytest.raises(ArgumentError, match="prompt"):
        random_model.stream(["x"])


@pytest.mark.abuse
def test_the_tokenizer_of_another_model_is_refused(random_model, byte_tokenizer):
    byte_tokenizer.vocab_size = 300
    with pytest.raises(ArgumentError, match="300 tokens, but the model's vocab_size is 257"):
        LanguageModel(random_model.model, byte_tokenizer)
