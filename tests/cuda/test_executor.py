"""The CPU executor finds what is wrong with a kernel, and says where (csrc/simt/faults.cpp)."""

import re
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "csrc" / "simt" / "faults.cpp"


def line_of(function, call, which=0):
    """The line of a call within a kernel."""
    lines = FAULTS.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"void {function}("))
    return [i + 1 for i, line in enumerate(lines) if i >= start and call in line][which]


def test_a_kernel_without_a_fault_runs(scheduled):
    scheduled.run_fault("none")
    counters = scheduled.take_counters()
    assert (counters["block_barriers"], counters["grid_barriers"], counters["async_copies"]) == (2, 2, 128)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("copy never waited for", "never waited for"),
        ("copy misaligned", "cp_async16: an address is no multiple of 16"),
        ("copy outside", "cp_async16: the destination is outside shared memory"),
        ("matrix outside", "ldmatrix: a row is outside shared memory"),
        ("shared too small", "less shared memory than the kernel uses"),
        ("grid phase left out", "the counter does not fit the phase"),
    ],
)
def test_faults_are_named(scheduled, fault, message):
    with pytest.raises(RuntimeError, match=re.escape(message)):
        scheduled.run_fault(fault)
    scheduled.run_fault("none")  # and the next launch is as if nothing had been


@pytest.mark.parametrize(
    ("fault", "places"),
    [
        ("barrier in a branch", [("sync_block", 0), None]),
        ("barriers in two places", [("sync_block", 0), ("sync_block", 1)]),
        ("shuffle in a branch", [("shfl_xor", 0), None]),
    ],
)
def test_threads_that_wait_for_each_other_are_told_by_file_and_line(scheduled, fault, places):
    with pytest.raises(RuntimeError, match="deadlock") as raised:
        scheduled.run_fault(fault)
    text = str(raised.value)
    for place in places:
        wanted = "has returned" if place is None else f"faults.cpp:{line_of(fault.replace(' ', '_'), *place)}"
        assert wanted in text


@pytest.mark.parametrize(
    ("fault", "one", "other"),
    [
        ("warp barrier between warps", "[0] = 1", "+ 32"),
        ("shuffle as a barrier", "[0] = 1", "^ 1"),
        ("copy read too soon", "cp_async16", "+ 1"),
        ("blocks write the same", "*a.word", "*a.word"),
    ],
)
def test_races_are_told_by_both_places(scheduled, fault, one, other):
    if not scheduled.finds_races:
        pytest.skip("needs the build that looks for races: make cuda-check")
    with pytest.raises(RuntimeError, match="race on") as raised:
        scheduled.run_fault(fault)
    places = set(re.findall(r"faults.cpp:(\d+)", str(raised.value)))
    assert places == {str(line_of(fault.replace(" ", "_"), call)) for call in (one, other)}
