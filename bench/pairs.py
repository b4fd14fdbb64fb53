"""Times ours and a peer alternately (A B A B) and keeps one row of the report for each piece of work.

Paired rounds, because the machine has neighbours: what slows one round slows both of its halves, so the median of
the rounds' ratios moves much less than either time.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Medians of one piece of work; `ratio` is the median over rounds of peer time / our time."""

    work: str
    peer: str
    ours_seconds: float
    peer_seconds: float
    ratio: float
    unit: str
    per_second: float
    limit: str


ROWS: list[Row] = []


def compare(
    work: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    equal: Callable[[Any, Any], None],
    amount: float,
    unit: str,
    limit_per_second: float | None = None,
    rounds: int = 7,
) -> Row:
    """Assert that both give the same result, then time both alternately.

    Args:
        work: What is done, with its sizes.
        peer: Name and version of the other library.
        ours: Does the work once.
        theirs: Does the same work once.
        equal: Raises AssertionError unless the two results are the same.
        amount: How much work one call is, in `unit` (1e6 bytes, FLOP, tokens, ...).
        unit: The unit of `amount`.
        limit_per_second: What the hardware allows at the most, in `unit` per second; the fraction reached is printed.
        rounds: How many times each is run after one warm-up.
    """
    equal(ours(), theirs())
    pairs = []
    for _ in range(rounds):
        ours_seconds = _time(ours)
        pairs.append((ours_seconds, _time(theirs)))
    our_median = statistics.median(pair[0] for pair in pairs)
    row = Row(
        work=work,
        peer=peer,
        ours_seconds=our_median,
        peer_seconds=statistics.median(pair[1] for pair in pairs),
        ratio=statistics.median(theirs / ours for ours, theirs in pairs),
        unit=unit,
        per_second=amount / our_median,
        limit="" if limit_per_second is None else f"{amount / our_median / limit_per_second:.2f} of the limit",
    )
    ROWS.append(row)
    return row


def report() -> str:
    """The rows so far as a table, with the threads and the load the machine was under."""
    from wordkiln import get_num_threads

    lines = [
        f"{get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}; times are medians, ratio = peer / ours",
        f"{'work':<58} {'ours':>10} {'peer':>10} {'ratio':>6}  rate",
    ]
    for row in ROWS:
        lines.append(
            f"{row.work:<58} {_milliseconds(row.ours_seconds):>10} {_milliseconds(row.peer_seconds):>10} "
            f"{row.ratio:>6.2f}  {row.per_second:,.1f} {row.unit}/s {row.limit} (peer: {row.peer})"
        )
    return "\n".join(lines)


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
