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
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Row:
    """Medians of one piece of work; `ratio` is how many times better ours is, the median over rounds."""

    work: str
    peer: str
    ours: str
    theirs: str
    ratio: float
    verdict: str = ""
    rate: str = ""


class Timed(NamedTuple):
    """What a call gives that measures the part of itself that counts."""

    result: Any
    seconds: float


ROWS: list[Row] = []
NOTES: list[str] = []


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
    goal: tuple[float, float] | None = None,
    rounds: int = 7,
    warm: bool = False,
    show: Callable[[float], str] | None = None,
) -> Row:
    """Assert that both give the same result, then time both alternately.

    Args:
        work: What is done, with its sizes.
        peer: Name and version of the other library.
        ours: Does the work once; where it returns a `Timed`, only those seconds count.
        theirs: Does the same work once.
        equal: Raises AssertionError unless the two results are the same.
        amount: How much work one call is, in `unit` (1e6 bytes, FLOP, tokens, ...).
        unit: The unit of `amount`.
        limit_per_second: What the hardware allows at the most, in `unit` per second; the fraction reached is printed.
        goal: The ratio that must be reached, and the one hoped for.
        rounds: How many times each is run after one warm-up.
        warm: Before every round wait until the other's threads have stopped spinning, and run once untimed, so that
            neither finds the other's data in the caches.
        show: How the report writes a time in seconds; None: in milliseconds.
    """
    equal(*(made.result if isinstance(made, Timed) else made for made in (ours(), theirs())))
    times = []
    for _ in range(rounds):
        our_seconds = _time(ours, warm)
        times.append((our_seconds, _time(theirs, warm)))
    per_second = amount / statistics.median(ours for ours, _ in times)
    limit = "" if limit_per_second is None else f" {per_second / limit_per_second:.2f} of the limit"
    ratio = statistics.median(theirs / ours for ours, theirs in times)
    show = show or milliseconds
    row = Row(
        work=work,
        peer=peer,
        ours=show(statistics.median(ours for ours, _ in times)),
        theirs=show(statistics.median(theirs for _, theirs in times)),
        ratio=ratio,
        verdict="" if goal is None else judge(ratio, *goal),
        rate=f"{per_second:,.1f} {unit}/s{limit}",
    )
    ROWS.append(row)
    return row


def judge(value: float, must: float, moonshot: float | None = None, *, least: bool = True) -> str:
    """Whether `value` reaches what it must, and what is hoped for; it counts up from a least or down from a most."""
    reaches = float.__ge__ if least else float.__le__
    goals = f"{must:.3g}" if moonshot is None else f"{must:.3g}, hoped {moonshot:.3g}"
    if not reaches(float(value), float(must)):
        return f"SHORT of {goals}"
    return f"beyond {goals}" if moonshot is not None and reaches(float(value), float(moonshot)) else f"reaches {goals}"


def report() -> str:
    """The rows so far as a table, with the threads and the load the machine was under."""
    from wordkiln import get_num_threads

    allocator = "tuned" if "MALLOC_TOP_PAD_" in os.environ else "as it is"
    lines = [
        f"{get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}; allocator {allocator};"
        " medians; ratio: times ours is better",
        f"{'work':<58} {'ours':>10} {'peer':>10} {'ratio':>6}  ",
    ]
    for row in ROWS:
        details = "; ".join(filter(None, [row.verdict, row.rate, f"peer: {row.peer}"]))
        lines.append(f"{row.work:<58} {row.ours:>10} {row.theirs:>10} {row.ratio:>6.2f}  {details}")
    return "\n".join(lines + sorted(set(NOTES)))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _time(work: Callable[[], Any], warm: bool) -> float:
    if warm:
        # GNU OpenMP's workers spin for some milliseconds after a parallel region.
        time.sleep(0.03)
        work()
    start = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - start
    return made.seconds if isinstance(made, Timed) else seconds
