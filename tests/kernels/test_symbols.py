"""Kernel objects of one instruction set share no function with another: the linker could keep the wrong copy."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kernel_objects():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return sorted(target.glob("**/cmake/**/kernels_*.dir/**/*.o"))


def test_kernel_objects_leave_no_weak_symbols():
    objects = kernel_objects()
    if not objects or shutil.which("nm") is None:
        pytest.skip("needs nm and the CMake folder of a build")
    listing = subprocess.run(["nm", "-A", *objects], capture_output=True, text=True, check=True, timeout=60).stdout
    weak = [line for line in listing.splitlines() if re.search(r" [WwVvu] ", line)]
    # A pointer to the C++ runtime's own unwinder hook: data, the same on every instruction set.
    assert [line for line in weak if "DW.ref.__gxx_personality_v0" not in line] == []
