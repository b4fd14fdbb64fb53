"""The GPU kernels on a CPU: `_simt`, built here from the kernels' own files."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Orders of threads and of copies. One warp as far ahead as it can get sees what lockstep hides.
SCHEDULES = [("in turn", 0, "late"), ("warp ahead", 1, "late"), ("shuffled", 2, "random"), ("warp ahead", 3, "early")]


def build_simt(folder: Path, *options: str) -> Path:
    """The module, compiled where its sources are newer."""
    import pybind11

    tools = Path(sys.executable).parent
    cmake, ninja = (shutil.which(name, path=f"{tools}:{os.environ['PATH']}") for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        pytest.skip("needs cmake and ninja, as building the package does")
    configure = [
        cmake, "-S", ROOT / "csrc", "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=Release", "-DWORDKILN_SIMT=ON", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options,
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        for command in (configure, [ninja, "-C", folder, "_simt"]):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    return next((folder / "simt").glob("_simt*.so"))


def load_module(name: str, path: Path | str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def _simt_module():
    path = os.environ.get("WORDKILN_SIMT")  # `make cuda-check` names a build with sanitizers here
    return load_module("_simt", path or build_simt(ROOT / "target" / "simt"))


@pytest.fixture
def simt(_simt_module):
    """The module, with nothing counted and the plainest schedule."""
    _simt_module.set_schedule()
    _simt_module.take_counters()
    yield _simt_module
    assert _simt_module.take_counters()["bank_conflicts"] == 0


@pytest.fixture(params=SCHEDULES, ids=lambda s: "-".join(map(str, s)).replace(" ", "_"))
def scheduled(simt, request):
    """The module, under one schedule after the other."""
    order, seed, copies = request.param
    simt.set_schedule(order, seed, copies)
    return simt
