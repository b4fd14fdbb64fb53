"""What the rows of SmolLM2 have in common: models kept while they are needed, texts, and when two results agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pairs
import peers_models
import peers_runtime
import pytest

# Of the size of the largest logit: the weights are the same in float32, rounded in different ways else.
# llama.cpp keeps its cache in float16 beside float32 weights, too, and rounds the rows of quantised products to int8.
TOLERANCES = {"float32": 2e-3, "bfloat16": 0.05, "int8": 0.1}
LLAMA_TOLERANCES = {"f32": 0.01, "f16": 0.05, "q8_0": 0.1, "q4_0": 0.3}
# What part of the tokens of a peer's greedy text ours must choose too behind the same ids, by its weights.
AGREEMENT = {"int8": 0.9, "int4": 0.75}
# Natural logarithms a token by which the best texts of two roundings of the weights may differ in probability.
NEARLY_AS_PROBABLE = {"bfloat16": 0.25, "int8": 0.25, "int4": 0.5}
# Two tokens are level when float32 sums in another order may swap them.
LEVEL = 0.02
# The same of two beams, a token.
LEVEL_BEAMS = 1e-4
_MAKERS = {
    "ours": peers_runtime.Ours,
    "transformers": peers_runtime.Transformers,
    "llama.cpp": peers_runtime.LlamaCpp,
    "ctranslate2": peers_runtime.CTranslate2,
    "onnxruntime": peers_runtime.OnnxRuntime,
}
_models = {}


def model(library, kind):
    """One model of ours and one peer's at a time: memory is not what is compared here."""
    if (library, kind) not in _models:
        for key in [key for key in _models if (key[0] == "ours") == (library == "ours")]:
            del _models[key]
        _models[library, kind] = _MAKERS[library](kind)
    return _models[library, kind]


def peer(library, kind):
    """The same; skips where it is missing, and the report says why."""
    try:
        return model(library, kind)
    except peers_models.MissingError as error:
        pairs.NOTES.append(str(error))
        pytest.skip(str(error))


def prompts_of(rows, length, offset=0):
    """Ids of pieces of our own docs."""
    from wordkiln.tokenizer import Tokenizer

    docs = Path(__file__).parents[1] / "docs"
    text = "".join((docs / name).read_text() for name in ("beam.md", "runtime.md", "sampling.md"))
    ids = Tokenizer.load(peers_models.hugging_face()).encode(text)
    starts = [offset + row * (length + 16) for row in range(rows)]
    return [ids[start : start + length] for start in starts]


def near_logits(tolerance):
    def check(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())

    return check


def same_texts(prompts):
    """Greedy texts in float32: equal up to a choice between level tokens."""

    def check(ours, theirs):
        for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
            assert len(mine) == len(other)
            places = [place for place, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1]]
            if not places:
                continue
            side = model("ours", "float32")
            logits = side.begin([prompt + mine[: places[0]]])[0]
            assert abs(logits[mine[places[0]]] - logits[other[places[0]]]) <= LEVEL

    return check


def same_choices(prompts, dtype, least):
    """Greedy texts of other weights: behind what theirs has written, ours would mostly choose as it did."""

    def check(ours, theirs):
        assert [len(text) for text in ours] == [len(text) for text in theirs]
        side = model("ours", dtype)
        logits, equal = side.begin(prompts), 0
        for ids in np.transpose(theirs):
            logits[:, peers_runtime.END] = -np.inf
            equal += int((logits.argmax(1) == ids).sum())
            logits = side.step(ids)
        assert equal >= least * np.size(theirs), f"{equal} of {np.size(theirs)} tokens are ours' choices too"

    return check


def texts_as_good(prompts, dtype, tolerance):
    """The best texts of two searches: the same, or nearly as probable under our weights."""

    def check(ours, theirs):
        side = model("ours", dtype).model
        for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
            assert len(mine) == len(other)
            if mine != other:
                scores = [scores[len(prompt) - 1 :].mean() for scores in side.score([prompt + mine, prompt + other])]
                assert abs(scores[0] - scores[1]) <= tolerance, scores

    return check
