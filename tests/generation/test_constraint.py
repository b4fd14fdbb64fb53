"""Constraints: whatever is written under a mask matches, whatever matches can be written; beams; hostile grammars."""

import contextlib
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wordkiln as wk
from wordkiln.errors import ArgumentError
from wordkiln.generation import BeamParams, Constraint, beam_search, fill_masks

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture(scope="module")
def tokenizer():
    texts = ['{"name": "Bo", "age": 7}', "床前明月光,疑是地上霜。", "the cat and the hat 12 12"] * 5
    return wk.Tokenizer.train(texts, vocab_size=300, special_tokens=["<|end|>", "<|x|>"])


def allowed(masks, row=0):
    bits = np.unpackbits(masks[row].view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def write(constraint, tokenizer, seed, longest=80):
    """A random text under the constraint, and whether it ended."""
    random = np.random.default_rng(seed)
    matcher, ids = constraint.matcher(), []
    while len(ids) < longest:
        may_come = sorted(allowed(fill_masks([matcher])))
        assert (tokenizer.end_id in may_come) == matcher.is_accepting
        token = int(random.choice(may_come))
        matcher.commit(token)
        if token == tokenizer.end_id:
            assert matcher.is_finished
            return tokenizer.decode(ids), True
        ids.append(token)
    return tokenizer.decode_bytes(ids).decode(errors="replace"), False


@pytest.mark.property
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_what_is_written_matches(tokenizer, seed):
    text, ended = write(Constraint(tokenizer, schema=PERSON), tokenizer, seed)
    if ended:
        person = json.loads(text)
        assert list(person) == ["name", "age"]
        assert len(person["name"]) <= 6
        assert 0 <= person["age"] <= 99
    text, ended = write(Constraint(tokenizer, regex="[a-z月]{1,3}( [0-9]+)?"), tokenizer, seed)
    assert not ended or re.fullmatch("[a-z月]{1,3}( [0-9]+)?", text)
    text, ended = write(Constraint(tokenizer, choices=["the hat", "the", "月光", '"\n\\']), tokenizer, seed)
    assert ended
    assert text in ["the hat", "the", "月光", '"\n\\']
    text, ended = write(Constraint(tokenizer, grammar='start: "a" start "b" | "x"'), tokenizer, seed)
    assert not ended or re.fullmatch(f"(a{{{text.count('b')}}})x(b*)", text)


@pytest.mark.property
@settings(max_examples=30)
@given(name=st.text(max_size=6).filter(lambda text: text.isprintable()), age=st.integers(0, 99))
def test_what_matches_can_be_written(tokenizer, name, age):
    text = json.dumps({"name": name, "age": age}, ensure_ascii=False, separators=(",", ":"))
    matcher = Constraint(tokenizer, schema=json.dumps(PERSON)).matcher()
    for token in tokenizer.encode(text):
        assert token in allowed(fill_masks([matcher]))
        assert not matcher.is_accepting
        matcher.commit(token)
    assert matcher.is_finished
    assert allowed(fill_masks([matcher])) == {tokenizer.end_id}


@pytest.mark.golden
def test_masks_have_the_layout_of_the_sampler(tokenizer):
    matchers = [Constraint(tokenizer, choices=[text]).matcher() for text in ("a", "b")]
    masks = fill_masks([*matchers, matchers[0]])
    assert (masks.shape, masks.dtype) == ((3, -(-tokenizer.vocab_size // 32)), np.uint32)
    for row, text in enumerate("aba"):
        (token,) = tokenizer.encode(text)
        assert allowed(masks, row) == {token}
        assert masks[row, token // 32] == 1 << token % 32
    assert fill_masks([]).shape[0] == 0


def test_copies_go_their_own_way(tokenizer):
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    first = Constraint(tokenizer, regex="[ab]c?").matcher()
    second = first.copy()
    first.commit(a)
    assert a in allowed(fill_masks([second]))
    second.commit(b)
    assert first.is_accepting
    assert second.is_accepting
    assert not first.is_finished


def test_any_of_several_end_tokens_ends(tokenizer):
    x = tokenizer.special_tokens["<|x|>"]
    ends = {tokenizer.end_id, x}
    matcher = Constraint(tokenizer, choices=["a"], end_ids=sorted(ends)).matcher()
    matcher.commit(tokenizer.encode("a")[0])
    assert allowed(fill_masks([matcher])) == ends
    matcher.commit(x)
    assert matcher.is_finished
    without = Constraint(tokenizer, choices=["a"], end_ids=[]).matcher()
    without.commit(tokenizer.encode("a")[0])
    assert without.is_finished
    assert allowed(fill_masks([without])) == set()


def test_beams_keep_to_the_constraint(tokenizer):
    size = tokenizer.vocab_size
    logits = np.random.default_rng(0).normal(0, 2, (size, size)).astype(np.float32)

    class Bigrams:
        vocab_size, max_positions, eos_token_id = size, None, None

        def begin(self, prompts):
            return None, logits[[prompt[-1] for prompt in prompts]]

        def step(self, state, ids):
            return logits[ids]

        def select(self, state, rows):
            return None

    params = BeamParams(num_beams=4, num_return=4, max_new_tokens=80, end_ids=[tokenizer.end_id])
    constraint = Constraint(tokenizer, regex="(the|a|月光){2} [0-9]{1,3}")
    for texts in beam_search(Bigrams(), [[1], [2, 3]], params, constraint):
        found = [tokenizer.decode(text.ids[:-1]) for text in texts]
        assert len(set(map(tuple, (text.ids for text in texts)))) == 4
        assert all(re.fullmatch("(the|a|月光){2} [0-9]{1,3}", text) for text in found), found
        assert all(text.finish_reason == "end" for text in texts)
    # The best of all texts that match: three, and the scores are the model's.
    choices = ["a", "b", "the"]
    logprobs = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    params = BeamParams(num_beams=8, num_return=8, end_ids=[tokenizer.end_id], length_penalty=0.0)
    (texts,) = beam_search(Bigrams(), [[1]], params, Constraint(tokenizer, choices=choices))
    assert {tokenizer.decode(text.ids[:-1]) for text in texts} == set(choices)
    for text in texts:
        path = [1, *text.ids]
        assert text.score == pytest.approx(sum(logprobs[a, b] for a, b in itertools.pairwise(path)), rel=1e-5)
    with pytest.raises(ArgumentError, match="constraint: its end ids"):
        beam_search(Bigrams(), [[1]], BeamParams(), constraint)


@pytest.mark.abuse
def test_a_token_that_may_not_come_is_named(tokenizer):
    matcher = Constraint(tokenizer, choices=["a"]).matcher()
    (b,) = tokenizer.encode("b")
    for token, message in [(b, f"token {b}: the constraint"), (tokenizer.end_id, "token"), (300, "token_id=300")]:
        with pytest.raises(ArgumentError, match=message):
            matcher.commit(token)
    matcher.commit(tokenizer.encode("a")[0])
    assert matcher.is_finished


def chain(length):
    """Rules that follow into each other."""
    return "start: r0\n" + "".join(f"r{rule}: r{rule + 1}\n" for rule in range(length))


HOSTILE = {
    "no JSON": {"schema": "{"},
    "no schema": {"schema": {"type": "nonsense"}},
    "deep JSON": {"schema": "[" * 100_000},
    "deep schema": {"schema": '{"items":' * 5000 + "{}" + "}" * 5000},
    "a set": {"schema": {"enum": {1, 2}}},
    "NaN": {"schema": {"const": float("nan")}},
    "long schema": {"schema": " " * (2**20 + 1)},
    "foreign reference": {"schema": {"$ref": "http://example.com/x"}},
    "missing reference": {"schema": {"$ref": "#/$defs/missing"}},
    "nothing matches": {"schema": {"type": "integer", "minimum": 3, "maximum": 2}},
    "open parenthesis": {"regex": "("},
    "look-ahead": {"regex": "a(?=b)"},
    "deep regex": {"regex": "(" * 20_000 + ")" * 20_000},
    "long regex": {"regex": "a" * (2**16 + 1)},
    "surrogate": {"regex": "\ud800"},
    "no text": {"regex": 3},
    "no choice": {"choices": []},
    "empty choice": {"choices": ["a", ""]},
    "one string": {"choices": "ab"},
    "numbers": {"choices": [1]},
    "empty grammar": {"grammar": ""},
    "missing rule": {"grammar": "start: missing"},
    "deep grammar": {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "chain of rules": {"grammar": chain(300)},
    "long grammar": {"grammar": chain(8000)},
    "many properties": {"schema": {"properties": {f"p{number}": {} for number in range(1025)}}},
    "many objects": {"schema": {"prefixItems": [{"properties": {f"p{n}": {} for n in range(1000)}}] * 10}},
}


@pytest.mark.abuse
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_grammars_are_refused(tokenizer, case):
    (name,) = HOSTILE[case]
    with pytest.raises(ArgumentError, match=rf"^{name}"):
        Constraint(tokenizer, **HOSTILE[case])


@pytest.mark.abuse
def test_exactly_one_kind_must_be_given(tokenizer):
    with pytest.raises(ArgumentError, match="nothing given"):
        Constraint(tokenizer)
    with pytest.raises(ArgumentError, match=r"\['regex', 'choices'\] given"):
        Constraint(tokenizer, regex="a", choices=["a"])
    with pytest.raises(ArgumentError, match="end_ids=300"):
        Constraint(tokenizer, regex="a", end_ids=[300])


EXPENSIVE = {
    "counted": {"regex": "(((a{1,100}){1,100}){1,100}){1,100}"},
    "subsets": {"regex": "(a|b)*a(a|b){24}"},
    "intersections": {"regex": "&".join(f"(.*{letter}.*)" for letter in "abcdefghijklmnopq")},
    "ambiguous": {"grammar": 'start: s\ns: s s | "a" | "a" s | s "a"\n'},
    "long text": {"schema": {"type": "string", "maxLength": 100_000}},
    "many choices": {"choices": [f"{number:05}" for number in range(20_000)]},
    "many properties": {"schema": {"properties": {f"p{number}": {"type": "integer"} for number in range(1000)}}},
    "deep rules": {"grammar": chain(4000) + 'r4000: "a"\n'},
}


@pytest.mark.abuse
@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", EXPENSIVE)
def test_expensive_grammars_end_in_bounded_time(tokenizer, case):
    """Either they work, or they are refused. pytest's own limit of time is what fails where neither happens."""
    with contextlib.suppress(ArgumentError):
        text, _ = write(Constraint(tokenizer, **EXPENSIVE[case]), tokenizer, 0, longest=20)
        assert text
