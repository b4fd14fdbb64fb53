"""The command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wordkiln():
    """Runs `wordkiln ARGUMENTS` in a folder and gives what came of it."""

    def call(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wordkiln", *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call
