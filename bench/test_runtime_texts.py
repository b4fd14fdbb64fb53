"""SmolLM2-135M writes and searches texts beside the libraries that only do whole ones, and beside transformers' beams.

Each side chooses its own tokens; in float32 the texts are the same.
"""

import time

import pairs
import pytest
from runtime_rows import (
    AGREEMENT,
    LEVEL_BEAMS,
    NEARLY_AS_PROBABLE,
    TOLERANCES,
    model,
    near_logits,
    peer,
    prompts_of,
    same_choices,
    same_texts,
    texts_as_good,
)

NEW, BEAM_NEW, BEAMS = 128, 32, 4
# library, its kind of weights, ours beside it: there is no int4 of ours
PEERS = (
    ("ctranslate2", "float32", "float32"),
    ("ctranslate2", "int8", "int8"),
    ("onnxruntime", "fp32", "float32"),
    ("onnxruntime", "int4", "int8"),
)
SEARCHERS = (("transformers", "float32", "float32"), ("transformers", "bfloat16", "bfloat16"), *PEERS)
# ours / peer that must be reached (issue 5's table)
WRITE_GOALS = {(8, "fp32"): 1.4}
PREFILL_GOALS = {("ctranslate2", "float32"): 1.2, ("ctranslate2", "int8"): 1.3, ("onnxruntime", "fp32"): 1.2}
SEARCH_GOALS = {(1, "fp32"): 1.5, (8, "fp32"): 2.0}


@pytest.mark.parametrize(("library", "kind", "dtype"), PEERS)
@pytest.mark.parametrize("batch", [1, 8])
def test_write(library, kind, dtype, batch):
    theirs, ours = peer(library, kind), model("ours", dtype)
    prompts = prompts_of(batch, 64)
    goal = WRITE_GOALS.get((batch, kind))
    pairs.compare(
        f"SmolLM2 {dtype}, {NEW} tokens behind 64 ids, greedy, batch {batch}",
        theirs.name,
        lambda: ours.write(prompts, NEW),
        lambda: theirs.write(prompts, NEW),
        equal=same_texts(prompts) if dtype == "float32" else same_choices(prompts, dtype, AGREEMENT[kind]),
        amount=(NEW - 1) * batch,
        unit="tokens",
        goal=None if goal is None else (goal, goal),
        rounds=3,
    )


@pytest.mark.parametrize(("library", "kind", "dtype"), PEERS)
def test_prefill(library, kind, dtype):
    theirs, ours = peer(library, kind), model("ours", dtype)
    offsets = iter(range(10**6))

    def read(side):
        # Other ids each time: ours would find a prompt that it has read before.
        return side.begin(prompts_of(1, 512, next(offsets) // 2))

    goal = PREFILL_GOALS.get((library, kind))
    pairs.compare(
        f"SmolLM2 {dtype}, a prompt of 512 ids",
        theirs.name,
        lambda: read(ours),
        lambda: read(theirs),
        equal=near_logits(0.3 if kind == "int4" else TOLERANCES[dtype]),
        amount=512,
        unit="tokens",
        goal=None if goal is None else (goal, goal),
        rounds=5,
    )


@pytest.mark.parametrize(("library", "kind", "dtype"), SEARCHERS)
@pytest.mark.parametrize("batch", [1, 8])
def test_beams(library, kind, dtype, batch):
    theirs, ours = peer(library, kind), model("ours", dtype)
    prompts = prompts_of(batch, 64)
    goal = SEARCH_GOALS.get((batch, kind))
    # Total and length decide alone, as all texts have one length: the definitions are the same. A search is no greedy
    # walk, though: roundings of the weights lead it apart early.
    pairs.compare(
        f"SmolLM2 {dtype}, {BEAM_NEW} tokens behind 64 ids, {BEAMS} beams, batch {batch}",
        theirs.name,
        lambda: ours.search(prompts, BEAMS, BEAM_NEW),
        lambda: theirs.search(prompts, BEAMS, BEAM_NEW),
        equal=texts_as_good(prompts, dtype, NEARLY_AS_PROBABLE.get(kind, LEVEL_BEAMS)),
        amount=BEAM_NEW * batch,
        unit="tokens",
        goal=None if goal is None else (goal, goal),
        rounds=3,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_first_token_of_beams(dtype):
    """Beside our own greedy search: the prompt is read once for all beams."""
    ours = model("ours", dtype)
    offsets = iter(range(10**6))

    def prompts():
        return prompts_of(1, 512, next(offsets))

    def search():
        given = prompts()
        start = time.perf_counter()
        ours.search(given, BEAMS, 1)
        return pairs.Timed(None, time.perf_counter() - start)

    def write():
        given = prompts()
        start = time.perf_counter()
        ours.write(given, 1)
        return pairs.Timed(None, time.perf_counter() - start)

    pairs.compare(
        f"SmolLM2 {dtype}, first token behind 512 ids, {BEAMS} beams",
        "our greedy search",
        search,
        write,
        equal=lambda *_: None,  # other prompts: one that was read before is found again
        amount=1,
        unit="tokens",
        goal=(0.95, 1.0),
        rounds=5,
    )
