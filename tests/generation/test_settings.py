"""The settings of a call: one list of them, each checked, each with its effect on what is written."""

import dataclasses
import json
import re
import typing

import pytest

from wordkiln.errors import ArgumentError
from wordkiln.generation import BeamParams, BeamSettings, GenerationSettings, SamplingParams, load
from wordkiln.generation._settings import SamplingSettings, Settings


def test_every_field_of_sampling_params_is_a_setting():
    fields = {field.name: field for field in dataclasses.fields(SamplingParams)}
    # Those that LanguageModel fills in: from `seed`, from what ends a text, from `logprobs`.
    assert SamplingSettings.__annotations__.keys() == fields.keys() - {"seed", "end_ids", "logprobs"}
    hints = typing.get_type_hints(SamplingParams)
    for name, hint in typing.get_type_hints(SamplingSettings).items():
        assert hint == hints[name], name


def test_every_setting_is_checked():
    own = {field.name for field in dataclasses.fields(Settings)} - {"sampling"}
    assert GenerationSettings.__annotations__.keys() == own | SamplingSettings.__annotations__.keys()


def test_every_field_of_beam_params_is_a_setting_of_beam():
    fields = {field.name for field in dataclasses.fields(BeamParams)}
    shared = {"schema", "regex", "choices", "grammar", "truncate", "special_tokens"}
    assert BeamSettings.__annotations__.keys() - shared == fields - {"end_ids", "forced_prefix"} | {"prefix"}


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 1}, "temprature: is no setting: did you mean temperature?"),
        ({"max_tokens": 1}, "max_tokens: is no setting: did you mean max_new_tokens?"),
        ({"xyzzy": 1}, "xyzzy: is no setting; there are bad_words, "),
        ({"end_ids": [1]}, "end_ids: is no setting"),
        ({"truncate": "right"}, "truncate='right': must be one of 'left', None"),
        ({"special_tokens": 1}, "special_tokens=1: must be one of 'error', 'ids', 'text'"),
        ({"prompt_logprobs": 1}, "prompt_logprobs=1: must be one of True, False"),
        ({"logprobs": 1001}, "logprobs=1001: must be an integer from 0 to 1000"),
        ({"stop_ids": [257]}, "stop_ids: 257: must be 0 to 256"),
        ({"stop_ids": 5}, "stop_ids=5: must be a sequence of ids"),
        ({"stop": 5}, "stop=5: must be a string or several"),
        ({"bad_words": [""]}, "bad_words[0]='': must be a non-empty string"),
        ({"banned_ids": [257]}, "257"),
        ({"logit_bias": {257: 1.0}}, "257"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
    ],
)
def test_wrong_settings_are_named(random_model, settings, message):
    random_model.model.step = None
    with pytest.raises(ArgumentError, match=re.escape(message)):
        random_model.generate("x", **settings)
    if not settings.keys() & {"banned_ids", "logit_bias"}:
        random_model.model.begin = None
        for method in (
            random_model.stream,
            lambda text, **given: random_model.batch([text], **given),
            random_model.chat,
        ):
            with pytest.raises(ArgumentError, match=re.escape(message)):
                method("x", **settings)


def test_stop_ids_end_a_text_and_are_not_shown(scripted):
    completion = scripted({"p": "abc"}).generate("p", stop_ids=[ord("c")])
    assert (completion.text, completion.ids, completion.finish_reason) == ("ab", [97, 98, 99], "stop")


def prefer(model, last, *following):
    """Behind `last` the letters of `following` come first, in this order."""
    for place, letter in enumerate(following):
        model.model._logits[ord(last), ord(letter)] = 50 - place


def test_bad_words_do_not_come(random_model):
    prefer(random_model, "x", "a")
    prefer(random_model, "a", "b", "c")
    prefer(random_model, "b", "a")
    prefer(random_model, "c", "c")
    settings = {"temperature": 0, "max_new_tokens": 4}
    assert random_model.generate("x", **settings).text == "abab"
    assert random_model.generate("x", bad_words=["ab"], **settings).text == "accc"
    assert random_model.generate("x", bad_words_ids=[list(b"bab")], **settings).text == "abac"
    assert random_model.generate("xa", bad_words=["ab"], **settings).text == "cccc"
    assert random_model.beam("x", bad_words=["ab"], max_new_tokens=2, num_beams=1)[0].text == "ac"


def test_penalties_know_the_prompt(random_model):
    prefer(random_model, "x", "a", "b")
    settings = {"temperature": 0, "max_new_tokens": 1}
    assert random_model.generate("x", repetition_penalty=2, **settings).text == "a"
    assert random_model.generate("ax", repetition_penalty=2, **settings).text == "b"
    assert random_model.generate("ax", presence_penalty=9, **settings).text == "a"
    assert random_model.batch(["x", "ax"], repetition_penalty=2, **settings)[1].text == "b"


def test_what_is_recommended_holds_where_the_caller_names_nothing(random_model):
    greedy = random_model.generate("x", temperature=0, max_new_tokens=5).ids
    random_model.recommended = {"do_sample": True, "top_k": 1, "max_new_tokens": 5}
    assert random_model.generate("x").ids == greedy
    stream = random_model.stream("x")
    assert "".join(stream) == random_model.generate("x").text
    assert next(random_model.iter_batch(["x"])).ids == stream.completion.ids == greedy
    assert random_model.generate("x", max_new_tokens=2).ids == greedy[:2]
    assert random_model.generate("x", top_k=0, seed=1).ids != greedy


def test_a_file_that_says_not_to_sample_does_not_stop_who_wants_to(random_model):
    settings = {"max_new_tokens": 20, "seed": 3}
    greedy, drawn = random_model.generate("x", temperature=0, **settings), random_model.generate("x", **settings)
    assert greedy.ids != drawn.ids
    # Its temperature would flatten the distribution; transformers does not look at it either.
    random_model.recommended = {"do_sample": False, "temperature": 50.0, "top_p": 0.1}
    assert random_model.generate("x", **settings).ids == greedy.ids
    for named in ({"temperature": 1.0}, {"top_k": 0}):
        assert random_model.generate("x", **named, **settings).ids == drawn.ids


def test_beams_take_what_is_recommended_for_them(random_model):
    wanted = random_model.beam("x", num_beams=3, length_penalty=0.0, max_new_tokens=4)
    assert wanted != random_model.beam("x", max_new_tokens=4)
    random_model.recommended = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 4, "top_p": 0.5}
    assert random_model.beam("x") == wanted
    # transformers' way to say that there is no search at all.
    random_model.recommended = {"num_beams": 1, "max_new_tokens": 4}
    assert random_model.beam("x") == random_model.beam("x", num_beams=4, max_new_tokens=4)


def test_min_new_tokens_holds_back_the_ends(random_model):
    random_model.model._logits[:, [256, 7]] += 50
    assert random_model.generate("x", temperature=0, stop_ids=[7]).finish_reason in ("end", "stop")
    completion = random_model.generate("x", temperature=0, stop_ids=[7], min_new_tokens=9)
    assert len(completion.ids) == 10


def test_a_prompt_that_is_too_long_is_an_error_or_is_cut(random_model):
    begun = []
    begin = random_model.model.begin
    random_model.model.begin = lambda prompts: begun.extend(prompts) or begin(prompts)
    prompt = "a" * 100 + "b" * 100
    with pytest.raises(
        ArgumentError, match=r"max_new_tokens=50: with the prompt's 200 tokens .* 200 positions; truncate"
    ):
        random_model.generate(prompt, max_new_tokens=50)
    random_model.generate(prompt, max_new_tokens=50, truncate="left")
    assert begun == [list(b"a" * 50 + b"b" * 100)]
    with pytest.raises(ArgumentError, match="200 positions"):
        random_model.generate(prompt, max_new_tokens=200, truncate="left")


def test_special_tokens_in_a_prompt_are_what_the_caller_says(random_model):
    begun = []
    begin = random_model.model.begin
    random_model.model.begin = lambda prompts: begun.extend(prompts) or begin(prompts)
    with pytest.raises(ArgumentError, match=r"prompt: the text holds the special token .*special_tokens='ids'"):
        random_model.generate("a<|end|>")
    random_model.generate("a<|end|>", special_tokens="ids", max_new_tokens=1)
    random_model.generate("a<|end|>", special_tokens="text", max_new_tokens=1)
    assert begun == [[97, 256], list(b"a<|end|>")]


@pytest.fixture(scope="module")
def small(checkpoint):
    return load(checkpoint)


def test_a_text_matches_its_constraint(small):
    settings = {"seed": 1, "max_new_tokens": 60}
    assert small.generate("x", choices=["red", "绿色", "blue"], **settings).text in ("red", "绿色", "blue")
    completion = small.generate("x", regex=r"[0-9]{3}-[a-c]+z", **settings)
    assert completion.finish_reason == "length" or re.fullmatch(r"[0-9]{3}-[a-c]+z", completion.text)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
    completion = small.generate("x", schema=schema | {"additionalProperties": False}, seed=2, max_new_tokens=200)
    assert completion.finish_reason == "length" or isinstance(json.loads(completion.text)["n"], int)
    assert small.generate("x", grammar='start: "ab" "c"', **settings).text == "abc"


def test_rows_with_a_constraint_do_not_touch_each_other(small):
    settings = {"seed": 3, "max_new_tokens": 40, "choices": ["red", "green", "blue", "绿色的"]}
    prompts = ["a", "bb", "床前", "d", "ee"]
    together = small.generate(prompts, **settings)
    # Ids, not log-probabilities: a batch of another size may round in another way.
    alone = [small.generate(prompt, **settings).ids for prompt in prompts]
    assert [completion.ids for completion in together] == alone
    assert [completion.ids for completion in small.batch(prompts, max_batch_size=2, **settings)] == alone
    assert {completion.finish_reason for completion in together} == {"end"}


def test_beam_finds_the_most_probable_of_the_choices(small):
    choices = ["red", "green", "blue"]
    end = "<|end|>"
    best = max(choices, key=lambda text: small.score(text + end, context="床前", special_tokens="ids").total)
    found = small.beam("床前", choices=choices, num_beams=16, num_return=16, length_penalty=0.0, max_new_tokens=20)
    assert found[0].text == best
    assert {text.text for text in found} == set(choices)


@pytest.mark.abuse
def test_wrong_constraints_are_named(small):
    for settings, named in (
        ({"regex": "("}, "regex"),
        ({"regex": "a", "choices": ["b"]}, "must be one of schema, regex, choices, grammar"),
        ({"schema": "{"}, "schema"),
        ({"choices": []}, "choices"),
        ({"grammar": "nonsense"}, "grammar"),
    ):
        with pytest.raises(ArgumentError, match=named):
            small.generate("x", **settings)
