"""Training beside the other trainers: time, and memory above what the process held before. A process for each."""

import pairs
import peers_tokenizer as peers
import pytest
import tokenizer_worker
from tokenizer_rows import chosen, need

EXACT = "tokenizers"


def train(work, goals, against, *, exact, **options):
    """Rows of time and memory for each peer; `goals` is {peer: (must, moonshot, memory)}."""
    need(options["name"])
    results = {}
    for library in [peers.OURS, *chosen(against)]:
        try:
            results[library] = tokenizer_worker.run("train", library=library, threads=2, **options)
        except (peers.UnavailableError, tokenizer_worker.DiedError) as error:
            if library == peers.OURS:
                raise
            pairs.NOTES.append(f"{work}: {peers.describe(library)}: {error}")
    ours = results.pop(peers.OURS)
    if exact and EXACT in results:
        assert ours["tokens"] == results[EXACT]["tokens"]
    for peer, theirs in results.items():
        must, moonshot, memory = goals.get(peer, (1.0, 1.0, 1.0))
        time_ratio, memory_ratio = theirs["seconds"] / ours["seconds"], theirs["growth"] / ours["growth"]
        row(work, peer, ours, theirs, "seconds", time_ratio, pairs.judge(time_ratio, must, moonshot))
        row(work, peer, ours, theirs, "growth", memory_ratio, pairs.judge(memory_ratio, memory))


def row(work, peer, ours, theirs, what, ratio, verdict):
    unit = {"seconds": "s", "growth": "MB"}[what]
    pairs.ROWS.append(
        pairs.Row(
            work=f"{work}: {'time' if what == 'seconds' else 'memory'}",
            peer=peers.describe(peer),
            ours=f"{ours[what]:.2f} {unit}",
            theirs=f"{theirs[what]:.2f} {unit}",
            ratio=ratio,
            verdict=verdict,
            rate=agreement(ours["tokens"], theirs["tokens"]) if what == "seconds" else "",
        )
    )


def agreement(ours, theirs):
    if theirs is None:
        return "tokens of another kind"
    first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        # Bytes that the text lacks have a place in our vocabulary, in gigabpe's a merge has it.
        return "the same merges"
    common = len(set(ours) & set(theirs)) / len(set(ours))
    return f"{common:.1%} of the tokens in common, merges differ from number {first}"


def test_english_from_files():
    train(
        "train 32k, 100 MB of English, files",
        {"gigabpe": (1.0, 1.5, 1.0)},
        ("gigabpe", "gigatoken", "sentencepiece", EXACT),
        exact=True,
        vocab_size=32_000,
        pattern="gpt2",
        name="english",
        megabytes=100,
        from_file=True,
    )


def test_english_from_iterator():
    train(
        "train 32k, 100 MB of English, iterator",
        {"rustbpe": (2.0, 3.5, 2.0)},
        ("rustbpe", EXACT),
        exact=True,
        vocab_size=32_000,
        pattern="cl100k",
        name="english",
        megabytes=100,
        from_file=False,
    )


@pytest.mark.parametrize(
    ("megabytes", "against"), [(4, ("sentencepiece", "rustbpe", EXACT)), (16, ("sentencepiece", "rustbpe"))]
)
def test_chinese(megabytes, against):
    train(
        f"train 8k, {megabytes} MB of Chinese, iterator",
        {},
        against,
        exact=True,
        vocab_size=8_000,
        pattern="cl100k",
        name="chinese",
        megabytes=megabytes,
        from_file=False,
    )


@pytest.mark.parametrize("name", ["code"])
def test_parity(name):
    train(
        f"train 8k, 10 MB of {name}, iterator",
        {},
        ("rustbpe", "bpeasy", EXACT),
        exact=True,
        vocab_size=8_000,
        pattern="cl100k",
        name=name,
        megabytes=10,
        from_file=False,
    )
