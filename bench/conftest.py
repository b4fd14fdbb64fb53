"""Prints the report of all comparisons at the end of the run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter):
    import pairs

    if pairs.ROWS:
        terminalreporter.section("ours beside our peers'")
        terminalreporter.write_line(pairs.report())
