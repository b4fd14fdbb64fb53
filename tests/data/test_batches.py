from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.data import ContiguousBatches, RandomWindows, Split
from wordkiln.data.shards import ShardWriter
from wordkiln.errors import ArgumentError

SIZES = {"batch_size": st.integers(1, 6), "sequence_length": st.integers(1, 9), "extra": st.integers(0, 120)}


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    """Gives a split of the ids 0, 1, 2, ...: an id tells its place."""
    folder = tmp_path_factory.mktemp("counting")
    lengths = np.ones(1 << 16, np.uint32)

    def split(count):
        name = f"t{count}"
        if not (folder / f"{name}-00000.bin").exists():
            writer = ShardWriter(folder, name, "uint16", lengths, 50)
            writer.append(np.arange(count))
            writer.close()
        paths = sorted(folder.glob(f"{name}-*.bin"))
        return Split(name, paths, [path.stat().st_size // 2 for path in paths], count, "uint16", lengths)

    return split


@pytest.mark.property
@given(**SIZES, seed=st.integers(0, 2**64 - 1), step=st.integers(0, 10**6))
def test_random_windows_shift_right_and_repeat(counting, batch_size, sequence_length, extra, seed, step):
    split = counting(sequence_length + 1 + extra)
    inputs, targets, starts_new_state = RandomWindows(split, batch_size, sequence_length, seed).batch(step)
    assert inputs.shape == targets.shape == (batch_size, sequence_length)
    assert inputs.dtype == targets.dtype == np.int64
    assert starts_new_state
    assert np.array_equal(targets, inputs + 1)
    assert np.array_equal(np.diff(inputs, axis=1), np.ones((batch_size, sequence_length - 1)))
    again = RandomWindows(split, batch_size, sequence_length, seed).batch(step)
    assert np.array_equal(again.inputs, inputs)


def test_random_windows_see_every_token_and_differ_by_seed_and_step(counting):
    split = counting(40)
    windows = RandomWindows(split, 8, 5, seed=3)
    batches = [windows.batch(step) for step in range(60)]
    assert set(np.concatenate([batch.targets.ravel() for batch in batches])) == set(range(1, 40))
    assert not np.array_equal(batches[0].inputs, batches[1].inputs)
    assert not np.array_equal(batches[0].inputs, RandomWindows(split, 8, 5, seed=4).batch(0).inputs)


@pytest.mark.property
@given(**SIZES)
def test_contiguous_rows_go_on_and_two_walks_see_every_token(counting, batch_size, sequence_length, extra):
    split = counting(batch_size * sequence_length + 1 + extra)
    batches = ContiguousBatches(split, batch_size, sequence_length)
    seen, last = set(), None
    for step in range(2 * batches.steps_per_walk):
        inputs, targets, starts_new_state = batches.batch(step)
        assert inputs.shape == (batch_size, sequence_length)
        assert np.array_equal(targets, inputs + 1)
        assert starts_new_state == (step % batches.steps_per_walk == 0)
        if not starts_new_state:
            assert np.array_equal(inputs[:, 0], last + 1)
        last = inputs[:, -1]
        seen.update(targets.ravel().tolist())
    assert seen == set(range(1, split.num_tokens))
    assert np.array_equal(batches.batch(0).inputs, batches.batch(2 * batches.steps_per_walk).inputs)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("tokens", "options", "reason"),
    [
        (10, {"batch_size": 2, "sequence_length": 10}, "needs"),
        (10, {"batch_size": 0, "sequence_length": 2}, "batch_size=0"),
        (10, {"batch_size": 2, "sequence_length": -1}, "sequence_length=-1"),
    ],
)
def test_splits_too_short_and_wrong_sizes(counting, tokens, options, reason):
    with pytest.raises(ArgumentError, match=reason):
        RandomWindows(counting(tokens), seed=0, **options)
    with pytest.raises(ArgumentError, match=reason):
        ContiguousBatches(counting(tokens), **options)


def test_seed_has_64_bits(counting):
    with pytest.raises(ArgumentError, match="seed=-1"):
        RandomWindows(counting(10), 2, 3, seed=-1)
