"""A process for each piece of tokenizer work, so that threads, memory and crashes of one library stay its own.

`run(work, **options)` starts the process and gives what the function of that name in `_WORK` returned there.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import corpus
import hostile_texts
import memory
import numpy as np
import peers_tokenizer as peers
import peers_trainers

WARM_UP = "A short text to warm up with, 123."
CALLS = 20_000
BUDGET_SECONDS = 2.0
OTHER_IDS = "its ids are others"


class DiedError(Exception):
    """The process ended without a result; the message says how."""


_UNAVAILABLE = 3


def run(work: str, *, threads: int = 1, timeout: float = 300, **options: Any) -> Any:
    """Run one of `_WORK` in a process of its own; with one thread it is held on one core.

    Raises:
        DiedError: It crashed, raised or took longer than `timeout` seconds.
        UnavailableError: The library cannot do that.
    """
    count = str(threads)
    environment = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "WORDKILN_NUM_THREADS"), count)
    environment["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    order = json.dumps([work, {"threads": threads, **options}])
    try:
        process = subprocess.run(
            [sys.executable, __file__, order],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise DiedError(f"took more than {timeout:.0f} s") from None
    last = (process.stderr.strip().splitlines() or [""])[-1]
    if process.returncode == _UNAVAILABLE:
        raise peers.UnavailableError(last)
    if process.returncode:
        raise DiedError(f"exit status {process.returncode}: {last[:160]}")
    return json.loads(process.stdout.splitlines()[-1])


def race(
    libraries: list[str], vocabulary: str, name: str, megabytes: float, road: str, rounds: int, threads: int, kind: str
) -> dict:
    """Let each library do the same work in turn, round after round.

    Args:
        libraries: Who takes part; the results of all must equal those of the first.
        vocabulary: "gpt2", "cl100k" or "o200k".
        name: The corpus.
        megabytes: How much of it.
        road: "one", "batch", "flat" or "decode"; "call" is one short text.
        rounds: How many, after a first one for which no time counts. A slow library takes part in fewer, a very slow
            one in the first one alone, and its time counts.
        threads: 1 counts CPU seconds, more count wall-clock seconds.
        kind: "documents", "lines" (of 20 to 200 characters), "whole" (one text); "fresh" (documents, to a tokenizer
            that has seen nothing; the first round counts too).

    Returns:
        {"amount": megabytes or calls, "seconds": {library: [of each round]}, "notes": {library: why it has none}}
    """
    if threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = _texts(name, megabytes, kind)
    size = sum(len(text.encode()) for text in texts) / 1e6
    roads, notes = _load(libraries, vocabulary, threads, road)
    lists = [roads[libraries[0]].one(text) for text in texts] if road == "decode" else []
    seconds: dict[str, list[float]] = {library: [] for library in roads}
    expected = None
    for round_number in range(rounds + 1):
        for library in list(roads):
            if sum(seconds[library]) > BUDGET_SECONDS and library != libraries[0]:
                continue
            if kind == "fresh":
                roads[library] = peers.load(library, vocabulary, threads)
                roads[library].one(WARM_UP)
            taken, result = _timed(_work(roads[library], road, texts, lists), threads)
            if round_number == 0:
                plain = _plain(roads[library], road, result)
                expected = plain if expected is None else expected
                if not np.array_equal(plain, expected):
                    notes[library] = OTHER_IDS
                    del roads[library], seconds[library]
                    continue
            if round_number or kind == "fresh" or taken > BUDGET_SECONDS:
                seconds[library].append(taken)
            del result
    return {"amount": CALLS if road == "call" else size, "seconds": seconds, "notes": notes}


def _texts(name: str, megabytes: float, kind: str) -> list[str]:
    texts = corpus.documents(name, megabytes)
    if kind == "whole":
        return ["".join(texts)]
    if kind == "lines":
        lines = (line.strip()[:200] for text in texts for line in text.split("\n"))
        return [line for line in lines if len(line) >= 20]
    return texts


def _load(libraries: list[str], vocabulary: str, threads: int, road: str) -> tuple[dict[str, peers.Roads], dict]:
    roads, notes = {}, {}
    for library in libraries:
        try:
            loaded = peers.load(library, vocabulary, threads)
        except peers.UnavailableError as error:
            notes[library] = str(error)
        else:
            if getattr(loaded, road, loaded.one) is None:
                notes[library] = f"has no {road}"
            else:
                roads[library] = loaded
    return roads, notes


def _work(roads: peers.Roads, road: str, texts: list[str], lists: list[list[int]]) -> Callable[[], Any]:
    if road == "call":
        return lambda: [roads.one("The quick brown fox.") for _ in range(CALLS)]
    if road == "one":
        return lambda: [roads.one(text) for text in texts]
    if road == "decode":
        return lambda: [roads.decode(ids) for ids in lists]
    return lambda: getattr(roads, road)(texts)


def _timed(work: Callable[[], Any], threads: int) -> tuple[float, Any]:
    clock = time.process_time if threads == 1 else time.perf_counter
    gc.collect()
    gc.disable()
    start = clock()
    result = work()
    taken = clock() - start
    gc.enable()
    return taken, result


def _plain(roads: peers.Roads, road: str, result: Any) -> np.ndarray:
    """The result as one array, equal for equal results."""
    if road == "flat":
        return roads.flat_ids(result)
    if road == "decode":
        return np.frombuffer("\0".join(result).encode(), np.uint8)
    return np.concatenate([np.asarray([len(ids), *ids], np.uint32) for ids in result])


def train(
    library: str, vocab_size: int, pattern: str, name: str, megabytes: float, from_file: bool, threads: int
) -> dict:
    """Train once.

    Returns:
        {"seconds", "growth": megabytes at the peak above what was held before, "tokens": the learned ones in hex}
    """
    path = corpus.file(name, megabytes) if from_file else None
    texts = None if from_file else corpus.documents(name, megabytes)
    gc.collect()
    held = memory.resident()
    memory.forget_peak()
    start = time.perf_counter()
    source = None if texts is None else iter(texts)
    learned = peers_trainers.train(library, source, path, vocab_size, pattern, threads)
    seconds = time.perf_counter() - start
    growth = memory.resident("VmHWM") - held
    tokens = learned()
    return {"seconds": seconds, "growth": growth, "tokens": tokens and [token.hex() for token in tokens]}


def hostile(library: str, vocabulary: str, cases: dict[str, int], threads: int) -> dict[str, list]:
    """CPU seconds for each case (its megabytes in `cases`), and a fingerprint of the ids.

    A case that takes the process down takes the later ones along; run one at a time to know which.
    """
    one = peers.load(library, vocabulary, threads).one
    one(WARM_UP)
    return {case: _cpu_seconds(one, hostile_texts.hostile(case, size)) for case, size in cases.items()}


def _cpu_seconds(one: Callable[[str], list[int]], text: str) -> list:
    start = time.process_time()
    ids = one(text)
    taken = time.process_time() - start
    return [taken, len(ids), hash(tuple(ids))]


def growth(library: str, vocabulary: str, megabytes: int, threads: int) -> dict:
    """How many megabytes a tokenizer keeps after `megabytes` of words that it never saw, and its speed."""
    roads = peers.load(library, vocabulary, threads)
    encode = roads.flat or roads.batch
    encode([WARM_UP])
    held, taken = _kept(), 0.0
    for part in _unique_words(megabytes):
        start = time.process_time()
        encode(part)
        taken += time.process_time() - start
        del part
    return {"growth": _kept() - held, "seconds": taken}


def _unique_words(megabytes: int) -> Iterator[list[str]]:
    for part in range(megabytes):
        yield [hostile_texts.HOSTILE["unique words"](random.Random(f"growth {part}"))]


def _kept() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory.resident()


_WORK: dict[str, Callable[..., Any]] = {"race": race, "train": train, "hostile": hostile, "growth": growth}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work, options = json.loads(sys.argv[1])
    try:
        print(json.dumps(_WORK[work](**options)))
    except peers.UnavailableError as error:
        print(error, file=sys.stderr)
        sys.exit(_UNAVAILABLE)
