"""Text made to hurt: the worst CPU seconds for a megabyte, growth with length, and what caches keep."""

import hostile_texts
import pairs
import peers_tokenizer as peers
import pytest
import tokenizer_worker
from tokenizer_rows import chosen, need

PEERS = ("tiktoken", "splintr", "gigatoken", "snaptokens", "toktok", "tuetoken", "tokenizers")
LONG_MEGABYTES = 64


def test_hostile_megabytes():
    need("multilingual")
    found = {}
    for library in [peers.OURS, *chosen(PEERS)]:
        try:
            found[library] = measure(library)
        except peers.UnavailableError as error:
            pairs.NOTES.append(f"hostile megabytes: {library}: {error}")
    ours = found.pop(peers.OURS)
    failed = {case: why for case, why in ours.items() if isinstance(why, str)}
    assert not failed
    our_case = max(ours, key=lambda case: ours[case][0])
    our_worst = ours[our_case][0]
    for peer, cases in found.items():
        done = {case: taken for case, taken in cases.items() if not isinstance(taken, str)}
        lost = {case: why for case, why in cases.items() if isinstance(why, str)}
        wrong = [case for case, taken in done.items() if taken[1:] != ours[case][1:]]
        assert peer != "tiktoken" or not wrong
        worst = max(done, key=lambda case: done[case][0])
        pairs.NOTES.extend(f"hostile megabytes: {peer}: {case}: {why}" for case, why in lost.items())
        pairs.NOTES.extend(f"hostile megabytes: {peer}: {case}: its ids are others" for case in wrong)
        pairs.ROWS.append(
            pairs.Row(
                work=f"{len(ours)} hostile megabytes, the worst ({our_case}; {worst})",
                peer=peers.describe(peer),
                ours=f"{our_worst:.3f} s",
                theirs=f"{done[worst][0]:.3f} s",
                ratio=done[worst][0] / our_worst,
                verdict=f"ours {pairs.judge(our_worst, 0.15, 0.05, least=False)}",
                rate=f"{len(lost)} lost, {len(wrong)} wrong",
            )
        )


def measure(library):
    """[CPU seconds, number of ids, fingerprint] of each case, or in words why there is none."""
    every = dict.fromkeys(hostile_texts.HOSTILE, 1)
    try:
        return run(library, every)
    except tokenizer_worker.DiedError:
        return {case: measure_alone(library, case) for case in every}


def measure_alone(library, case):
    try:
        return run(library, {case: 1})[case]
    except tokenizer_worker.DiedError as error:
        return str(error)


def run(library, cases):
    return tokenizer_worker.run(
        "hostile", library=library, vocabulary="cl100k", cases=cases, timeout=20 + sum(cases.values())
    )


@pytest.mark.parametrize("case", ["one letter", "spaces", "base64", "random lower case", "unique words", "Chinese"])
def test_linear(case):
    need("multilingual")
    short, long = (run(peers.OURS, {case: size})[case][0] for size in (1, LONG_MEGABYTES))
    ratio = long / LONG_MEGABYTES / short
    pairs.ROWS.append(
        pairs.Row(
            work=f"{LONG_MEGABYTES} MB of {case}, a megabyte, against 1 MB",
            peer="ourselves",
            ours=f"{long / LONG_MEGABYTES:.4f} s",
            theirs=f"{short:.4f} s",
            ratio=1 / ratio,
            verdict=pairs.judge(ratio, 1.5, least=False),
        )
    )


def test_cache_growth():
    need("english")
    found = {}
    for library in [peers.OURS, *chosen(PEERS)]:
        try:
            found[library] = tokenizer_worker.run("growth", library=library, vocabulary="cl100k", megabytes=30)
        except (peers.UnavailableError, tokenizer_worker.DiedError) as error:
            pairs.NOTES.append(f"cache growth: {library}: {error}")
    ours = found.pop(peers.OURS)
    for peer, theirs in found.items():
        pairs.ROWS.append(
            pairs.Row(
                work="30 MB of unique words: memory kept",
                peer=peers.describe(peer),
                ours=f"{ours['growth']:.1f} MB",
                theirs=f"{theirs['growth']:.1f} MB",
                ratio=theirs["growth"] / max(ours["growth"], 0.1),
                verdict=f"ours {pairs.judge(ours['growth'], 64, 16, least=False)}",
                rate=f"{30 / ours['seconds']:.1f} MB/s, theirs {30 / theirs['seconds']:.1f}",
            )
        )
