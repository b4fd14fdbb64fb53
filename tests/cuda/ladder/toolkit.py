"""NVIDIA's tools from PyPI, what they take out of the built module, and the CPU executor's module."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]
PACKAGES = "nvidia-cuda-nvcc, nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm"


def folder() -> Path | None:
    """Where the toolkit's bin/ and include/ lie: in this Python's packages, or around an nvcc on the PATH."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = next(iter(sorted(packages.glob("cu*/bin/cuobjdump"), reverse=True)), None) or shutil.which("cuobjdump")
    return None if found is None else Path(found).resolve().parents[1]


def tool(name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """What a tool prints."""
    place = folder()
    if place is None:
        raise FileNotFoundError(f"no CUDA toolkit: install {PACKAGES}")
    command = [place / "bin" / name, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if result.returncode != 0:
        raise RuntimeError(f"{name}: {result.stdout}{result.stderr}")
    return result.stdout


def extract(module: Path, kind: str, to: Path) -> list[Path]:
    """The module's PTX (`kind` "ptx") or cubins ("elf", one an architecture and source) as files in `to`."""
    to.mkdir(parents=True, exist_ok=True)
    suffix = {"ptx": "ptx", "elf": "cubin"}[kind]
    stamp = to / "of"
    version = f"{module.resolve()} {module.stat().st_mtime_ns}"
    if not stamp.exists() or stamp.read_text() != version:
        for old in to.glob(f"*.{suffix}"):
            old.unlink()
        tool("cuobjdump", f"-x{kind}", "all", module.resolve(), cwd=to)
        stamp.write_text(version)
    return sorted(to.glob(f"*.{suffix}"))


def load_simt(path: Path) -> ModuleType:
    """The CPU executor's module."""
    spec = importlib.util.spec_from_file_location("_simt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
