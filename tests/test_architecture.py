"""DESIGN, section 3: who may know whom. Read from the source, so that nothing has to be imported."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "wordkiln"

# A room may import the rooms of its own level that are named here, and everything below.
LEVELS = [
    {"cli"},
    {"tasks"},
    {"training", "generation", "data", "interop"},
    {"models", "runtime", "tokenizer"},
    {"ops", "nn"},
]
# Leaf modules of the package root (errors, _files, _threads) are open to all.
MAY_IMPORT_NATIVE = {
    "_cuda": {"ops"},
    "_kernels": {"ops", "runtime", "_threads"},
    "_rust": {"tokenizer", "generation", "_threads"},
}
FORBIDDEN_SIBLINGS = {("training", "generation"), ("generation", "training"), ("models", "tokenizer")}
# Rooms that must work in an environment without torch; generation may drive a torch model, on request alone.
TORCH_FREE = {"tokenizer", "data", "runtime", "generation", "interop", "cli"}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path, *, top_level_only: bool = False):
    """The modules a file imports, as absolute names; names behind `if TYPE_CHECKING` are annotations, not imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        pending.extend(ast.iter_child_nodes(node))


def level_of(room: str) -> int | None:
    return next((number for number, rooms in enumerate(LEVELS) if room in rooms), None)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_to_the_plan(path):
    room = room_of(path)
    for module in imports_of(path):
        if not module.startswith("wordkiln."):
            continue
        target = module.split(".")[1]
        if target in MAY_IMPORT_NATIVE:
            assert room in MAY_IMPORT_NATIVE[target], f"{room} imports {target}"
        assert (room, target) not in FORBIDDEN_SIBLINGS, f"{room} imports {target}"
        above, below = level_of(room), level_of(target)
        if above is not None and below is not None:
            assert above <= below, f"{room} imports {target}, which stands above it"


@pytest.mark.parametrize("room", sorted(TORCH_FREE))
def test_rooms_without_torch_do_not_import_it_on_loading(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imports_of(path, top_level_only=True):
            assert module.split(".")[0] not in {"torch", "matplotlib"}, f"{path}: {module}"


def test_every_room_of_the_package_has_a_level():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set().union(*LEVELS)


def test_import_wordkiln_loads_nothing_slow():
    script = "import sys, wordkiln; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "matplotlib", "typer", "rich"}.isdisjoint(result.stdout.split())


def test_light_rooms_import_with_torch_blocked():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import wordkiln.tokenizer, wordkiln.data, wordkiln.runtime, wordkiln.generation\n"
        "import wordkiln.interop, wordkiln.cli"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONWARNINGS": "error"})


@pytest.mark.parametrize("crate", ["bpe", "decode"])
def test_pure_crates_know_neither_python_nor_each_other(crate):
    other = {"bpe": "decode", "decode": "bpe"}[crate]
    manifest = (ROOT / "rust" / crate / "Cargo.toml").read_text()
    assert "pyo3" not in manifest
    assert f"wordkiln-{other}" not in manifest


def included_headers(path: Path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "csrc").rglob("*.[hc]*")), ids=lambda path: str(path.relative_to(ROOT / "csrc"))
)
def test_kernels_include_what_the_plan_allows(path):
    if path.name == "CMakeLists.txt":
        return
    folder = path.relative_to(ROOT / "csrc").parts[0]
    for header in included_headers(path):
        assert not header.startswith(("torch/", "ATen/", "c10/")), header
        if folder != "bindings":
            assert not header.startswith(("pybind11", "Python.h")), header
        if folder == "common":
            assert "/" not in header or header.startswith("common/"), header
        if folder == "include":
            assert "/" not in header or header.startswith("wordkiln/"), header
        if folder == "bindings":
            # The executor's own settings are part of the test module.
            allowed = ("simt/executor.h", "simt/faults.h", "simt/observer.h") if path.name == "module_simt.cpp" else ()
            assert header in allowed or not header.startswith(("cpu/", "cuda/", "simt/")), header
        if folder in ("cuda", "simt"):
            assert not header.startswith(("cpu/", "bindings/")), header
        if folder == "cuda" and path.parent.name != "device":
            assert not header.startswith(("cuda_", "simt/")), f"{header}: only cuda/device speaks to a GPU"
