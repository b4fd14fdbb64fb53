"""What the tokenizer benchmarks share: who takes part, and rows of the report out of what the workers measured.

Once: `python bench/corpus.py`. Then `make bench BENCH=tokenizer`, or `pytest bench/test_tokenizer_encode.py -k warm`.
WORDKILN_BENCH_PEERS=gigatoken,tiktoken leaves the other peers out.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass

import corpus
import pairs
import peers_tokenizer as peers
import pytest
import tokenizer_worker
import vocabularies

FAST = ("gigatoken", "snaptokens", "toktok", "tuetoken", "splintr", "quicktok", "tiktoken")


@dataclass(frozen=True)
class Goal:
    """How many times faster than each peer ours must be, and what is hoped for."""

    must: float
    moonshot: float


def chosen(names: tuple[str, ...]) -> list[str]:
    """Those that WORDKILN_BENCH_PEERS (names with commas between) does not leave out."""
    only = os.environ.get("WORDKILN_BENCH_PEERS")
    return [name for name in names if only is None or name in only.split(",")]


def need(*names: str) -> None:
    missing = [name for name in names if not corpus.available(name)]
    if missing:
        pytest.skip(f"no corpus {', '.join(missing)}: run `python bench/corpus.py`")
    if not vocabularies.available():
        pytest.skip("no vocabularies: WORDKILN_DATA does not name the folder of the data")


def race(
    work: str,
    goal: Goal,
    *,
    vocabulary: str,
    name: str,
    road: str,
    megabytes: float = 20,
    kind: str = "documents",
    rounds: int = 7,
    threads: int = 1,
    against: tuple[str, ...] = FAST,
) -> None:
    """Let ours and the peers do the work in turn; a row for each peer."""
    need(name)
    result = tokenizer_worker.run(
        "race",
        libraries=[peers.OURS, *chosen(against)],
        vocabulary=vocabulary,
        name=name,
        megabytes=megabytes,
        road=road,
        kind=kind,
        rounds=rounds,
        threads=threads,
    )
    assert result["notes"].get("tiktoken") != tokenizer_worker.OTHER_IDS
    note(work, result["notes"])
    ours = result["seconds"].pop(peers.OURS)
    for peer, theirs in result["seconds"].items():
        ratio = statistics.median(their / our for their, our in zip(theirs, ours, strict=False))
        pairs.ROWS.append(
            pairs.Row(
                work=work,
                peer=peers.describe(peer),
                ours=_speed(road, result["amount"], ours),
                theirs=_speed(road, result["amount"], theirs),
                ratio=ratio,
                verdict=pairs.judge(ratio, goal.must, goal.moonshot),
            )
        )


def note(work: str, notes: dict[str, str]) -> None:
    """Keep why peers have no row."""
    for peer, why in notes.items():
        pairs.NOTES.append(f"{work}: {peer}: {why}")


def _speed(road: str, amount: float, seconds: list[float]) -> str:
    median = statistics.median(seconds)
    return f"{median / amount * 1e9:,.0f} ns" if road == "call" else f"{amount / median:.1f} MB/s"
