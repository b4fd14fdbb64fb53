"""What all tests share: hypothesis budgets, and where the real data lies."""

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

# As if these packages were not installed: importing one raises.
for package in filter(None, os.environ.get("WORDKILN_TESTS_WITHOUT", "").split(",")):
    sys.modules[package] = None

# derandomize: CI must fail for a change, not for a die. `thorough` is for the days one goes looking.
hypothesis.settings.register_profile("default", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped (and counted) where there is none."""
    folder = Path(os.environ.get("WORDKILN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set WORDKILN_DATA)")
    return folder
