"""Encoding and decoding beside the fastest exact tokenizers."""

import statistics

import pairs
import peers_tokenizer as peers
import pytest
import tokenizer_worker
from tokenizer_rows import FAST, Goal, chosen, need, note, race

ALL = (*FAST, "tokenizers")


@pytest.mark.parametrize("vocabulary", ["cl100k", "gpt2", "o200k"])
def test_warm(vocabulary):
    race(
        f"English to an array, {vocabulary}",
        Goal(1.0, 1.4),
        vocabulary=vocabulary,
        name="english",
        road="flat",
        against=ALL if vocabulary == "cl100k" else FAST,
    )


@pytest.mark.parametrize("megabytes", [20, 100])
def test_fresh(megabytes):
    race(
        f"{megabytes} MB of English, once, by a fresh tokenizer",
        Goal(1.2, 2.0),
        vocabulary="cl100k",
        name="english",
        road="flat",
        megabytes=megabytes,
        kind="fresh",
        rounds=2,
        against=("gigatoken", "snaptokens", "toktok", "splintr"),
    )


@pytest.mark.parametrize("vocabulary", ["cl100k", "o200k"])
@pytest.mark.parametrize(("name", "must"), [("code", 1.0), ("multilingual", 1.2), ("chinese", 1.2)])
def test_other_text(name, must, vocabulary):
    race(
        f"{name} to an array, {vocabulary}",
        Goal(must, 2.0),
        vocabulary=vocabulary,
        name=name,
        road="flat",
        megabytes=15,
        against=("gigatoken", "snaptokens", "toktok", "splintr", "tiktoken"),
    )


@pytest.mark.parametrize(("road", "what"), [("batch", "a batch to lists"), ("one", "a text a call to a list")])
def test_lists(road, what):
    race(f"English, {what}", Goal(1.0, 1.5), vocabulary="cl100k", name="english", road=road)


@pytest.mark.parametrize(
    ("road", "what"), [("one", "one a call"), ("batch", "a batch to lists"), ("flat", "a batch to an array")]
)
def test_short_strings(road, what):
    race(
        f"short strings, {what}",
        Goal(1.0, 1.5),
        vocabulary="cl100k",
        name="english",
        road=road,
        megabytes=3,
        kind="lines",
        against=ALL,
    )


def test_short_call():
    race(
        "a call with 20 characters",
        Goal(1.0, 200 / 140),
        vocabulary="cl100k",
        name="english",
        road="call",
        megabytes=0.1,
        against=ALL,
    )


def test_decode():
    race(
        "decode English, a list a call",
        Goal(1.0, 2.0),
        vocabulary="cl100k",
        name="english",
        road="decode",
        against=(*FAST, "rs_bpe"),
    )


@pytest.mark.parametrize(("kind", "what"), [("documents", "many texts"), ("whole", "one huge text")])
def test_two_threads(kind, what):
    """How much a second thread brings: our own gain must do, the peers' stand beside it."""
    need("english")
    names = [peers.OURS, *chosen(("gigatoken", "snaptokens", "toktok"))]
    options = {"libraries": names, "vocabulary": "cl100k", "name": "english", "megabytes": 40, "road": "flat"}
    one, two = (tokenizer_worker.run("race", kind=kind, rounds=5, threads=threads, **options) for threads in (1, 2))
    note(what, two["notes"])
    gains = {
        name: statistics.median(one["seconds"][name]) / statistics.median(two["seconds"][name])
        for name in names
        if name in one["seconds"] and name in two["seconds"]
    }
    for peer in names[1:]:
        if peer in gains:
            pairs.ROWS.append(
                pairs.Row(
                    work=f"what a second thread brings, {what}",
                    peer=peers.describe(peer),
                    ours=f"{gains[peers.OURS]:.2f} x",
                    theirs=f"{gains[peer]:.2f} x",
                    ratio=gains[peers.OURS] / gains[peer],
                    verdict=f"ours {pairs.judge(gains[peers.OURS], 1.7, 1.9)}",
                )
            )
